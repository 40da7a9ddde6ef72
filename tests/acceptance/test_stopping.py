"""SIGTERM and Ctrl-C: what is under way ends and is written down, what was not sent is given back."""

import signal
from collections.abc import Callable

import pytest

from syncctl.local.partner import PartnerConfig
from tests.faults.harness.groups import group_members
from tests.faults.harness.plant import Plant

MakePlant = Callable[..., Plant]
Eventually = Callable[..., object]


@pytest.mark.parametrize("how", ["terminate", "interrupt"])
def test_a_graceful_stop_in_a_backlog_gives_back_what_was_not_sent(
    make_plant: MakePlant, eventually: Eventually, how: str
) -> None:
    plant = make_plant(lease_seconds=60, timeout_seconds=5, batch_size=100, partner=PartnerConfig(latency_seconds=0.3))
    plant.writer.insert(300)
    assert plant.run("poll", "--once").exit_code == 0
    beat, worker = plant.start_beat(), plant.start_worker()
    eventually(lambda: len(plant.partner.calls()) > 20, 60)
    getattr(worker, how)()
    getattr(beat, how)()
    assert (worker.wait(), beat.wait()) == (0, 0)
    called = len(plant.partner.calls())
    sending = plant.ledger.records.count_documents({"state": "sending"})
    assert (plant.delivered(), sending) == (called, 0)
    assert called < 300
    assert plant.ledger.workers.count_documents({}) == 0
    plant.workers.clear()
    plant.beats.clear()
    plant.start_worker("--beat")
    plant.wait_until_quiet(90)
    plant.stop()
    account = plant.account()
    assert (account.calls, account.lost, account.late) == (300, 0, 0)


def test_the_second_ctrl_c_ends_it_at_once_and_the_leases_bring_back_the_rest(
    make_plant: MakePlant, eventually: Eventually
) -> None:
    plant = make_plant(timeout_seconds=2.5, partner=PartnerConfig(latency_seconds=2))
    plant.writer.insert(60)
    worker = plant.start_worker("--beat")
    eventually(plant.partner.calls, 60)
    worker.interrupt()
    worker.wait_for_log("once more to stop at once")
    worker.interrupt()
    assert worker.wait() == 128 + signal.SIGINT
    eventually(lambda: group_members(worker.pid) == [], 60)
    plant.workers.clear()
    plant.start_worker("--beat")
    plant.wait_until_quiet(90)
    plant.stop()
    account = plant.account()
    assert account.lost > 0
    assert account.repeats <= account.lost
