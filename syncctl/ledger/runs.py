"""The `runs` collection: one document per poll, repair and rewind, and how far each stream had been read at a time."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.rows import Cursor
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]
RUNS_LOOKED_AT = 20
"""How many runs before a time are searched for one with a certain epoch."""


class Runs:
    """Only ever appended to, and cleaned; no run decides what is sent."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._runs: Collection[Doc] = database["runs"]
        self.hosts = hosts

    @edge
    def add(self, run: Mapping[str, Any]) -> None:
        """Record one run of one stream."""
        self._runs.insert_one(dict(run))

    @edge
    def load(self, stream: str, *, limit: int) -> list[Doc]:
        """Return the newest runs of a stream, newest first."""
        return list(self._runs.find({"stream": stream}, {"_id": False}, sort=[("started_at", -1)], limit=limit))

    @edge
    def find_epoch(self, stream: str, epoch: int, *, before: datetime) -> Doc | None:
        """Return the run of a stream that has this epoch and began before a time; None if it is no longer known."""
        earlier = {"stream": stream, "started_at": {"$lte": before}}
        runs = self._runs.find(earlier, sort=[("started_at", -1)], limit=RUNS_LOOKED_AT)
        return next((run for run in runs if run.get("epoch") == epoch), None)

    @edge
    def find_cursor(self, stream: str, at: datetime) -> tuple[Cursor, str | None] | None:
        """Return the cursor of a stream at a time, and the hash of the place's basis, if it is known.

        None if the stream's history does not reach back to that time.

        For a time within a run, this is the cursor at its beginning: how far the run had read by then is not known.
        """
        runs = self._runs.find({"stream": stream, "started_at": {"$lte": at}}, sort=[("started_at", -1)])
        for run in runs:
            ended_at = run["started_at"] + timedelta(milliseconds=float(run.get("duration_ms", 0)))
            cursor = _cursor_of(run, "after" if ended_at <= at else "before")
            if cursor is not None:
                return cursor, run.get("place")
        return None

    @edge
    def find_cursor_since(self, stream: str, at: datetime) -> Cursor | None:
        """Return a cursor with every row after it read later than a time; None if the stream had never been read then.

        A run that was in progress at that time may have read any of its rows earlier, so they are before the cursor.
        """
        first = self._runs.find_one({"stream": stream}, sort=[("started_at", 1)]) or {}
        if first and first["started_at"] <= at:
            # Where nothing had been read, `before` is there and null.
            later = {"stream": stream, "started_at": {"$gt": at}, "cursors.before": {"$exists": True}}
            if (run := self._runs.find_one(later, sort=[("started_at", 1)])) is not None:
                return _cursor_of(run, "before")
            earlier = {"stream": stream, "started_at": {"$lte": at}, "cursors.after": {"$type": "object"}}
            if (run := self._runs.find_one(earlier, sort=[("started_at", -1)])) is not None:
                return _cursor_of(run, "after")
        return _cursor_of(first, "before")

    @edge
    def find_history_start(self, stream: str) -> datetime | None:
        """Return the earliest time for which the cursor of a stream is known; None if no run has ended."""
        query = {"stream": stream, "cursors.after": {"$type": "object"}}
        run = self._runs.find_one(query, sort=[("started_at", 1)])
        if run is None:
            return None
        started_at: datetime = run["started_at"]
        if run["cursors"].get("before") is not None:
            return started_at
        return started_at + timedelta(milliseconds=float(run.get("duration_ms", 0)))

    @edge
    def remove(self, *, before: datetime, empty_before: datetime) -> int:
        """Remove old runs, and sooner those that found nothing; return how many."""
        # Not rewinds: no other run records the place to which one has set the cursor.
        empty = {"started_at": {"$lt": empty_before}, "read": 0, "error": None, "action": {"$exists": False}}
        return (
            self._runs.delete_many({"started_at": {"$lt": before}}).deleted_count
            + self._runs.delete_many(empty).deleted_count
        )


def _cursor_of(run: Mapping[str, Any], place: str) -> Cursor | None:
    cursor: Cursor | None = run.get("cursors", {}).get(place)
    return cursor
