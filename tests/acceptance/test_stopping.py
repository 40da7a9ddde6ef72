"""SIGTERM and Ctrl-C: calls in progress end and are recorded, unsent records are given back."""

import signal
from collections.abc import Callable

import pytest

from syncctl.local.mock_partner import PartnerConfig
from tests.harness.deployment import Deployment
from tests.harness.process_groups import group_members

MakePlant = Callable[..., Deployment]
Eventually = Callable[..., object]


@pytest.mark.parametrize("how", ["terminate", "interrupt"])
def test_a_graceful_stop_in_a_backlog_gives_back_what_was_not_sent(
    make_deployment: MakePlant, eventually: Eventually, how: str
) -> None:
    deployment = make_deployment(
        lease_seconds=60, timeout_seconds=5, batch_size=100, partner=PartnerConfig(latency_seconds=0.3)
    )
    deployment.writer.insert(300)
    assert deployment.run("poll", "--once").exit_code == 0
    beat, worker = deployment.start_beat(), deployment.start_worker()
    eventually(lambda: len(deployment.partner.calls()) > 20, 60)
    getattr(worker, how)()
    getattr(beat, how)()
    assert (worker.wait(), beat.wait()) == (0, 0)
    called = len(deployment.partner.calls())
    sending = deployment.ledger.records.count_documents({"state": "sending"})
    assert (deployment.delivered(), sending) == (called, 0)
    assert called < 300
    assert deployment.ledger.workers.count_documents({}) == 0
    deployment.workers.clear()
    deployment.beats.clear()
    deployment.start_worker("--beat")
    deployment.wait_until_quiet(90)
    deployment.stop()
    account = deployment.account()
    assert (account.calls, account.lost, account.late) == (300, 0, 0)


def test_the_second_ctrl_c_ends_it_at_once_and_the_leases_bring_back_the_rest(
    make_deployment: MakePlant, eventually: Eventually
) -> None:
    deployment = make_deployment(timeout_seconds=2.5, partner=PartnerConfig(latency_seconds=2))
    deployment.writer.insert(60)
    worker = deployment.start_worker("--beat")
    eventually(deployment.partner.calls, 60)
    worker.interrupt()
    worker.wait_for_log("press Ctrl-C again to stop at once")
    worker.interrupt()
    assert worker.wait() == 128 + signal.SIGINT
    eventually(lambda: group_members(worker.pid) == [], 60)
    deployment.workers.clear()
    deployment.start_worker("--beat")
    deployment.wait_until_quiet(90)
    deployment.stop()
    account = deployment.account()
    assert account.lost > 0
    # On a busy machine an answer may come after its deadline: that call is made again too.
    assert account.repeats <= account.lost + account.unanswered
