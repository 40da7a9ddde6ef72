"""Invariant 2: the ledger is the truth. Redis may be flushed, killed, emptied, hung: nothing is lost."""

from collections.abc import Callable

import pytest
from redis import Redis

from syncctl.local.mock_partner import PartnerConfig
from tests.harness.deployment import Deployment

ROWS = 2000
MakePlant = Callable[..., Deployment]


def kill_and_start_empty(deployment: Deployment) -> None:
    deployment.lose_redis()


def flush(deployment: Deployment) -> None:
    with Redis.from_url(deployment.redis.url()) as redis:
        redis.flushall()


@pytest.mark.parametrize(
    ("lose", "lease_seconds"), [(kill_and_start_empty, 6), (kill_and_start_empty, 300), (flush, 300)]
)
def test_a_lost_redis_loses_no_row_and_no_worker(
    make_deployment: MakePlant,
    eventually: Callable[..., object],
    lose: Callable[[Deployment], None],
    lease_seconds: int,
) -> None:
    """With long leases, only maintenance's check for lost messages can bring the queued records back in time."""
    deployment = make_deployment(
        lease_seconds=lease_seconds,
        partner=PartnerConfig(latency_seconds=0.02),
        # No call is repeated because a busy machine answers it late.
        timeout_seconds=30.0,
        partner_section={"rate": "500/second"},
    )
    deployment.writer.insert(ROWS)
    worker = deployment.start_worker("--beat")
    children = deployment.pool_children(worker)
    eventually(lambda: deployment.delivered() > ROWS // 10, 60)
    lose(deployment)
    assert deployment.delivered() < ROWS, "the backlog was gone before Redis was"
    deployment.wait_until_quiet(90)
    assert deployment.workers == [worker]
    assert worker.is_running()
    assert deployment.pool_children(worker) == children
    deployment.stop()
    account = deployment.account()
    assert (account.rows, account.states) == (ROWS, {"delivered": ROWS})
    assert account.repeats == account.lost == 0


def test_a_redis_that_hangs_stops_nothing_for_long(
    make_deployment: MakePlant, eventually: Callable[..., object]
) -> None:
    deployment = make_deployment(partner=PartnerConfig(latency_seconds=0.02), partner_section={"rate": "200/second"})
    deployment.writer.insert(ROWS // 2)
    worker = deployment.start_worker("--beat")
    eventually(lambda: deployment.delivered() > ROWS // 20, 60)
    deployment.redis.freeze()
    # Longer than every socket timeout: polls, which need no Redis, still log new rows.
    deployment.writer.insert(10)
    deployment.run("poll", "--once")
    deployment.wait_until_read()
    deployment.redis.thaw()
    deployment.wait_until_quiet(90)
    assert worker.is_running()
    deployment.stop()
    assert deployment.account().states == {"delivered": ROWS // 2 + 10}
