"""Runs, audit, heartbeats and maintenance leases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from syncctl.ledger.ledger import Ledger
from tests.harness.passing_time import PAST
from tests.harness.testbed import NASTY


def test_an_audit_entry_says_who_when_what_and_how_many(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        with ledger.audit.record(action="replay", who=NASTY, detail={"reason": "$error"}) as entry:
            entry.add(number)
    newest = ledger.audit.load(limit=2)
    assert len(newest) == 2
    assert newest[0].items() >= {"action": "replay", "who": "$state", "detail": {"reason": "$error"}}.items()
    assert newest[0]["at"] >= newest[1]["at"] > PAST


def test_a_worker_is_alive_while_its_heartbeat_is_fresh(ledger: Ledger, database: Any) -> None:
    ledger.heartbeats.record_worker("$one", {"pid": 1, "queues": ["poll"]})
    ledger.heartbeats.record_worker("two", {"pid": 2})
    ledger.heartbeats.record_worker("two", {"pid": 3})
    assert [(worker["_id"], worker["pid"]) for worker in ledger.heartbeats.load_workers(alive_seconds=60)] == [
        ("$one", 1), ("two", 3),
    ]  # fmt: skip
    database.workers.update_one({"_id": "$one"}, {"$set": {"at": datetime.now(UTC) - timedelta(minutes=5)}})
    assert [worker["_id"] for worker in ledger.heartbeats.load_workers(alive_seconds=60)] == ["two"]
    assert [worker["_id"] for worker in ledger.heartbeats.load_workers(alive_seconds=600)] == ["$one", "two"]
    ledger.heartbeats.forget_silent_workers(seconds=600)
    assert database.workers.count_documents({}) == 2
    ledger.heartbeats.forget_silent_workers(seconds=60)
    assert database.workers.count_documents({}) == 1
    ledger.heartbeats.forget_worker("two")
    assert ledger.heartbeats.load_workers(alive_seconds=60) == []


def test_a_heartbeat_without_a_time_does_not_count(ledger: Ledger, database: Any) -> None:
    database.workers.insert_one({"_id": "unstamped"})
    assert ledger.heartbeats.load_workers(alive_seconds=60) == []
    ledger.heartbeats.forget_silent_workers(seconds=60)
    assert database.workers.count_documents({}) == 1


def test_beat_is_late_after_a_minute_of_silence(ledger: Ledger, database: Any) -> None:
    assert ledger.heartbeats.load_beat() is None
    ledger.heartbeats.record_beat({"pid": 7})
    beat = ledger.heartbeats.load_beat()
    assert beat
    assert (beat["pid"], beat["late"]) == (7, False)
    database.beat.update_one({}, {"$set": {"at": PAST}})
    beat = ledger.heartbeats.load_beat()
    assert beat
    assert beat["late"]


def test_a_maintenance_lease_has_one_holder_until_it_is_released_or_expires(ledger: Ledger, database: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: ledger.maintenance.acquire("roll_up", seconds=60), range(8)))
    assert sum(taken) == 1
    assert ledger.maintenance.acquire("cleanup", seconds=60)
    ledger.maintenance.release("roll_up")
    assert ledger.maintenance.acquire("roll_up", seconds=60)
    assert not ledger.maintenance.acquire("roll_up", seconds=60)
    database.beat.update_one({"_id": "chore:roll_up"}, {"$set": {"until": PAST}})
    assert ledger.maintenance.acquire("roll_up", seconds=60)
    assert ledger.heartbeats.load_beat() is None


def test_old_runs_are_removed_and_empty_ones_sooner(ledger: Ledger, database: Any) -> None:
    def run(day: int, **fields: Any) -> None:
        ledger.runs.add({"stream": "orders", "started_at": PAST + timedelta(days=day), **fields})

    run(1, read=5, error=None)
    run(10, read=0, error=None)
    run(10, read=0, error="$broken")
    run(10, read=1, error=None)
    run(20, read=0, error=None)
    before, empty_before = PAST + timedelta(days=5), PAST + timedelta(days=15)
    assert ledger.runs.remove(before=before, empty_before=empty_before) == 2
    left = [(each["read"], each["error"]) for each in ledger.runs.load("orders", limit=10)]
    assert left[0] == (0, None)
    assert sorted(left[1:], key=str) == [(0, "$broken"), (1, None)]
