"""Invariant 8: two of everything at once do no harm."""

from collections.abc import Callable

from syncctl.local.partner import PartnerConfig
from tests.faults.harness.plant import Plant


def test_two_workers_two_beats_and_two_pollers_make_one_account(
    make_plant: Callable[..., Plant], eventually: Callable[..., object]
) -> None:
    mood = PartnerConfig(latency_seconds=0.01, error_rate=0.05, drop_before_rate=0.03, drop_after_rate=0.03)
    plant = make_plant(partner=mood, concurrency=2, lease_seconds=10)
    plant.writer.insert(300)
    for start in (plant.start_worker, plant.start_beat, plant.start_poller):
        start()
        start()
    plant.writer.start(rows=12, pause_seconds=0.1)
    eventually(lambda: plant.delivered() > 600, 90)
    plant.writer.stop()
    plant.wait_until_quiet(90)
    polled_by = {each["worker"] for each in plant.ledger.records.aggregate(_SENDERS)}
    assert len(polled_by) > 1, "only one worker has sent anything"
    plant.stop()
    account = plant.account()
    assert set(account.states) <= {"delivered", "superseded"}
    assert account.lost == account.late == 0


_SENDERS = [
    {"$unwind": "$history"},
    {"$match": {"history.action": "attempt"}},
    {"$group": {"_id": "$history.worker"}},
    {"$project": {"worker": "$_id"}},
]
