"""Let time pass for a ledger, by moving the dates in its documents."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import ReplaceOne

from syncctl.core import clock

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def expire_batch_leases(database: Any) -> int:
    """Let the leases of all batches in flight run out; return how many there were."""
    return int(database.batches.update_many({"until": {"$ne": PAST}}, {"$set": {"until": PAST}}).modified_count)


def stand_still(database: Any, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 3600.0) -> None:
    """Make it seem that this process stood still for that long, by its own clock for leases and by MongoDB's."""
    sleep(monkeypatch, seconds=seconds)
    expire_batch_leases(database)


def sleep(monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    """Make it seem that this machine was suspended, during which only its CLOCK_BOOTTIME advances."""

    def read(number: int) -> float:
        return time.clock_gettime(number) + (seconds if number == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(clock, "time", SimpleNamespace(clock_gettime=read))


def expire_stream_lease(database: Any, kind: str) -> None:
    """Let the lease of each poll, or of each dispatch, run out."""
    database.streams.update_many({f"{kind}.until": {"$exists": True}}, {"$set": {f"{kind}.until": PAST}})


def settle_calls(database: Any) -> None:
    """Let the time run out in which a call without an answer may still take effect."""
    database["keys"].update_many({"unsettled": {"$exists": True}}, {"$set": {"unsettled.$[].until": PAST}})


def make_retries_due(database: Any) -> None:
    """Make every pending record due now."""
    due_now = [{"$set": {"due_at": {"$min": ["$due_at", "$$NOW"]}}}]
    database.records.update_many({"state": "pending", "due_at": {"$type": "date"}}, due_now)


def shift(value: Any, by: timedelta) -> Any:
    """Return a document with every date in it moved."""
    if isinstance(value, datetime):
        return value + by
    if isinstance(value, dict):
        return {name: shift(inner, by) for name, inner in value.items()}
    if isinstance(value, list):
        return [shift(inner, by) for inner in value]
    return value


def let_hours_pass(database: Any, hours: float) -> None:
    """Move everything in the ledger into the past, as if nothing had run since."""
    by = timedelta(hours=-hours)
    for name in ("records", "keys", "streams", "partners", "runs", "alerts", "workers"):
        moved = [ReplaceOne({"_id": document["_id"]}, shift(document, by)) for document in database[name].find()]
        if moved:
            database[name].bulk_write(moved, ordered=False)
    # The days are removed, so that they are added up from the moved hours again.
    database.report_days.delete_many({})
    reports = [shift(document, by) for document in database.reports.find()]
    database.reports.delete_many({})
    for document in reports:
        if "stream" in document:
            document["_id"] = f"{document['stream']}:{document['window_start']:%Y-%m-%dT%H}"
        # Beat may have written some of them in between.
        database.reports.replace_one({"_id": document["_id"]}, document, upsert=True)
