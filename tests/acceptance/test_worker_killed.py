"""Invariant 7: a crash can at worst repeat calls under the same key with the same bytes."""

from collections.abc import Callable

from syncctl.local.partner import PartnerConfig
from tests.faults.harness.plant import Plant

ROWS = 1500
KILLS = 5


def test_five_killed_workers_lose_no_row_and_repeat_no_more_than_was_in_flight(
    make_plant: Callable[..., Plant], eventually: Callable[..., object]
) -> None:
    plant = make_plant(lease_seconds=10, timeout_seconds=2, partner=PartnerConfig(latency_seconds=0.05))
    plant.writer.insert(ROWS)
    assert plant.run("poll", "--once").exit_code == 0
    plant.start_beat()
    for _ in range(KILLS):
        worker = plant.start_worker()
        before = len(plant.partner.calls())
        eventually(lambda before=before: len(plant.partner.calls()) > before + 60, 60)
        assert plant.delivered() < ROWS, "the backlog was gone before all the kills"
        plant.kill(worker)
    plant.start_worker()
    plant.wait_until_quiet(90)
    plant.stop()
    account = plant.account()
    assert account.states == {"delivered": ROWS}
    assert account.distinct_keys == ROWS
    assert 0 < account.lost <= KILLS * plant.layout.at_once
    assert account.repeats <= KILLS * plant.layout.at_once
    assert account.calls == ROWS + account.repeats
