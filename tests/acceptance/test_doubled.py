"""Invariant 8: two workers, two Beats and two pollers do no harm."""

from collections.abc import Callable

from syncctl.local.mock_partner import PartnerConfig
from tests.harness.deployment import Deployment


def test_two_workers_two_beats_and_two_pollers_make_one_account(
    make_deployment: Callable[..., Deployment], eventually: Callable[..., object]
) -> None:
    mood = PartnerConfig(latency_seconds=0.01, error_rate=0.05, drop_before_rate=0.03, drop_after_rate=0.03)
    deployment = make_deployment(partner=mood, concurrency=2, lease_seconds=10)
    deployment.writer.insert(300)
    for start in (deployment.start_worker, deployment.start_beat, deployment.start_poller):
        start()
        start()
    deployment.writer.start(rows=12, pause_seconds=0.1)
    eventually(lambda: deployment.delivered() > 600, 90)
    deployment.writer.stop()
    deployment.wait_until_quiet(90)
    polled_by = {group["worker"] for group in deployment.ledger.records.aggregate(_SENDERS)}
    assert len(polled_by) > 1, "only one worker has sent anything"
    deployment.stop()
    account = deployment.account()
    assert set(account.states) <= {"delivered", "superseded"}
    assert account.lost == account.late == 0


_SENDERS = [
    {"$unwind": "$history"},
    {"$match": {"history.action": "attempt"}},
    {"$group": {"_id": "$history.worker"}},
    {"$project": {"worker": "$_id"}},
]
