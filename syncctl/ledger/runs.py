"""The `runs` collection: one document per poll, repair and rewind, and where each stream stood at a time."""

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
        """Return the run of a stream with an epoch that began before a time; None if it is not known any more."""
        earlier = {"stream": stream, "started_at": {"$lte": before}}
        runs = self._runs.find(earlier, sort=[("started_at", -1)], limit=RUNS_LOOKED_AT)
        return next((run for run in runs if run.get("epoch") == epoch), None)

    @edge
    def find_cursor(self, stream: str, at: datetime) -> tuple[Cursor, str | None] | None:
        """Return where a stream stood at a time, and the hash of what that was a place in, if it is known.

        None where its history does not reach back so far.

        While a run was under way, that is where it began: how far it had read by then is not known.
        """
        runs = self._runs.find({"stream": stream, "started_at": {"$lte": at}}, sort=[("started_at", -1)])
        for run in runs:
            ended_at = run["started_at"] + timedelta(milliseconds=float(run.get("duration_ms", 0)))
            found: Cursor | None = run.get("cursors", {}).get("after" if ended_at <= at else "before")
            if found is not None:
                return found, run.get("place")
        return None

    @edge
    def find_cursor_since(self, stream: str, at: datetime) -> Cursor | None:
        """Return a cursor behind which every row was read after a time; None where the stream had never been read."""
        found = self.find_cursor(stream, at)
        if found is not None:
            return found[0]
        run = self._runs.find_one({"stream": stream}, {"cursors": True}, sort=[("started_at", 1)]) or {}
        before: Cursor | None = run.get("cursors", {}).get("before")
        return before

    @edge
    def find_history_start(self, stream: str) -> datetime | None:
        """Return the earliest time at which it is known where a stream stood; None where no run has ended."""
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
        # No poll will record again where a rewind has set the cursor.
        empty = {"started_at": {"$lt": empty_before}, "read": 0, "error": None, "action": {"$exists": False}}
        return (
            self._runs.delete_many({"started_at": {"$lt": before}}).deleted_count
            + self._runs.delete_many(empty).deleted_count
        )
