"""What happened and who is there: runs, audit, and the heartbeats of workers and Beat."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.rows import Cursor
from syncctl.ledger.client import edge, new_token
from syncctl.ledger.clock import in_future, is_past

Doc = dict[str, Any]

ALIVE_SECONDS = 20.0
"""How old a worker's heartbeat may be while it counts as alive."""


class Journal:
    """Append-only notes and heartbeats; none of it decides what is sent."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._runs: Collection[Doc] = database["runs"]
        self._audit: Collection[Doc] = database["audit"]
        self._workers: Collection[Doc] = database["workers"]
        self._beat: Collection[Doc] = database["beat"]
        self.hosts = hosts

    @edge
    def note_run(self, run: Mapping[str, Any]) -> None:
        """Write down one poll of one stream."""
        self._runs.insert_one(dict(run))

    @edge
    def load_runs(self, stream: str, *, limit: int) -> list[Doc]:
        """Return the newest runs of a stream, newest first."""
        return list(self._runs.find({"stream": stream}, {"_id": False}, sort=[("started_at", -1)], limit=limit))

    @edge
    def find_cursor(self, stream: str, at: datetime) -> Cursor | None:
        """Return where a stream stood at a time, None where its history does not tell.

        Of a run that was under way, that is where it began: what it had read by then is not known.
        """
        runs = self._runs.find({"stream": stream, "started_at": {"$lte": at}}, sort=[("started_at", -1)])
        for run in runs:
            ended_at = run["started_at"] + timedelta(milliseconds=float(run.get("duration_ms", 0)))
            found: Cursor | None = run.get("cursors", {}).get("after" if ended_at <= at else "before")
            if found is not None:
                return found
        return None

    @edge
    def find_first_cursor(self, stream: str) -> Cursor | None:
        """Return where a stream stood before the first run that is known; None where it was never read before."""
        run = self._runs.find_one({"stream": stream}, {"cursors": True}, sort=[("started_at", 1)]) or {}
        before: Cursor | None = run.get("cursors", {}).get("before")
        return before

    @edge
    def find_history_start(self, stream: str) -> datetime | None:
        """Return from when on it is known where a stream stood."""
        query = {"stream": stream, "cursors.after": {"$type": "object"}}
        run = self._runs.find_one(query, sort=[("started_at", 1)])
        if run is None:
            return None
        started_at: datetime = run["started_at"]
        if run["cursors"].get("before") is not None:
            return started_at
        return started_at + timedelta(milliseconds=float(run.get("duration_ms", 0)))

    @edge
    def remove_runs(self, *, before: datetime, empty_before: datetime) -> int:
        """Remove old runs, and sooner those that found nothing; return how many."""
        # Where a rewind has set the cursor, no poll will say again.
        empty = {"started_at": {"$lt": empty_before}, "read": 0, "error": None, "action": {"$exists": False}}
        return (
            self._runs.delete_many({"started_at": {"$lt": before}}).deleted_count
            + self._runs.delete_many(empty).deleted_count
        )

    @edge
    def note_audit(self, *, action: str, who: str, count: int, detail: Mapping[str, Any]) -> None:
        """Write down what an operator did: who, what, how many; MongoDB says when."""
        entry = {"action": action, "who": who, "count": count, "detail": dict(detail)}
        self._audit.update_one({"_id": new_token()}, {"$set": entry, "$currentDate": {"at": True}}, upsert=True)

    @edge
    def load_audit(self, *, limit: int) -> list[Doc]:
        """Return the newest audit entries, newest first."""
        return list(self._audit.find({}, {"_id": False}, sort=[("at", -1)], limit=limit))

    @edge
    def record_worker_heartbeat(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write a worker's heartbeat."""
        self._workers.update_one({"_id": name}, {"$set": dict(facts), "$currentDate": {"at": True}}, upsert=True)

    @edge
    def forget_worker(self, name: str) -> None:
        """Remove the heartbeat of a worker that has stopped."""
        self._workers.delete_one({"_id": name})

    @edge
    def forget_silent_workers(self, *, seconds: float) -> None:
        """Remove heartbeats of workers that died long ago."""
        aged = {"$expr": {"$lt": [{"$add": ["$at", round(seconds * 1000)]}, "$$NOW"]}}
        self._workers.delete_many({"at": {"$type": "date"}, **aged})

    @edge
    def load_workers(self, *, alive_seconds: float = ALIVE_SECONDS) -> list[Doc]:
        """Return the workers whose heartbeat is at most this old by MongoDB's clock."""
        fresh = {"$expr": {"$gte": [{"$add": ["$at", round(alive_seconds * 1000)]}, "$$NOW"]}}
        return list(self._workers.find({"at": {"$type": "date"}, **fresh}, sort=[("_id", 1)]))

    @edge
    def record_beat_heartbeat(self, facts: Mapping[str, Any]) -> None:
        """Write Beat's heartbeat."""
        self._beat.update_one({"_id": "beat"}, {"$set": dict(facts), "$currentDate": {"at": True}}, upsert=True)

    @edge
    def load_beat(self) -> Doc | None:
        """Return Beat's last heartbeat; `late` tells whether it is older than a minute by MongoDB's clock."""
        found = self._beat.find_one({"_id": "beat"})
        if found is None:
            return None
        aged = {
            "_id": "beat",
            "$expr": {"$lt": [{"$add": ["$at", 60_000]}, "$$NOW"]},
            "at": {"$type": "date"},
        }
        return {**found, "late": self._beat.find_one(aged, {"_id": True}) is not None}

    @edge
    def acquire_maintenance(self, name: str, *, seconds: float) -> bool:
        """Take one of Beat's chores for some seconds at most; False when another has it."""
        self._beat.update_one({"_id": f"chore:{name}"}, {"$setOnInsert": {"created": True}}, upsert=True)
        free: Doc = {"$or": [{"until": {"$exists": False}}, is_past("until")]}
        changes = [{"$set": {"until": in_future(seconds)}}]
        return self._beat.update_one({"_id": f"chore:{name}", **free}, changes).matched_count == 1

    @edge
    def release_maintenance(self, name: str, *, rest_seconds: float = 0.0) -> None:
        """Let others do this maintenance job, after a rest."""
        until = [{"$set": {"until": in_future(rest_seconds)}}]
        self._beat.update_one({"_id": f"chore:{name}"}, until)
