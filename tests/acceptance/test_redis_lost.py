"""Invariant 2: the ledger is the truth. Redis may be flushed, killed, emptied, hung: nothing is lost."""

from collections.abc import Callable

import pytest
from redis import Redis

from syncctl.local.partner import PartnerConfig
from tests.faults.harness.plant import Plant

ROWS = 2000
MakePlant = Callable[..., Plant]


def kill_and_start_empty(plant: Plant) -> None:
    plant.lose_redis()


def flush(plant: Plant) -> None:
    with Redis.from_url(plant.redis.url()) as redis:
        redis.flushall()


@pytest.mark.parametrize(
    ("lose", "lease_seconds"), [(kill_and_start_empty, 6), (kill_and_start_empty, 300), (flush, 300)]
)
def test_a_lost_redis_loses_no_row_and_no_worker(
    make_plant: MakePlant, eventually: Callable[..., object], lose: Callable[[Plant], None], lease_seconds: int
) -> None:
    """With long leases only the upkeep's look for messages that are gone can bring the queued records back in time."""
    plant = make_plant(
        lease_seconds=lease_seconds,
        partner=PartnerConfig(latency_seconds=0.02),
        partner_section={"rate": "500/second"},
    )
    plant.writer.insert(ROWS)
    worker = plant.start_worker("--beat")
    children = plant.pool_children(worker)
    eventually(lambda: plant.delivered() > ROWS // 10, 60)
    lose(plant)
    assert plant.delivered() < ROWS, "the backlog was gone before Redis was"
    plant.wait_until_quiet(90)
    assert plant.workers == [worker]
    assert worker.is_running()
    assert plant.pool_children(worker) == children
    plant.stop()
    account = plant.account()
    assert (account.rows, account.states) == (ROWS, {"delivered": ROWS})
    assert account.repeats == account.lost == 0


def test_a_redis_that_hangs_stops_nothing_for_long(make_plant: MakePlant, eventually: Callable[..., object]) -> None:
    plant = make_plant(partner=PartnerConfig(latency_seconds=0.02), partner_section={"rate": "200/second"})
    plant.writer.insert(ROWS // 2)
    worker = plant.start_worker("--beat")
    eventually(lambda: plant.delivered() > ROWS // 20, 60)
    plant.redis.freeze()
    # Longer than every socket timeout: polls, which need no Redis, still log what is written meanwhile.
    plant.writer.insert(10)
    plant.run("poll", "--once")
    plant.wait_until_read()
    plant.redis.thaw()
    plant.wait_until_quiet(90)
    assert worker.is_running()
    plant.stop()
    assert plant.account().states == {"delivered": ROWS // 2 + 10}
