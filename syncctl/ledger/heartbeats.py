"""Heartbeats of workers and of Beat, and the leases of the jobs that Beat asks for."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.expressions import in_future, is_past
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

BEAT_ALIVE_MS = 60_000
ALIVE_SECONDS = 20.0
"""The age up to which a worker's heartbeat shows that the worker is alive."""


def _note_process(name: str) -> Doc:
    """Return the expression for the processes that sent a heartbeat lately, with the time of the first and the last."""
    known = {"$ifNull": ["$processes", []]}
    is_me = {"$eq": ["$$this.name", {"$literal": name}]}
    is_alive = {"$gt": [{"$add": ["$$this.at", round(ALIVE_SECONDS * 1000)]}, "$$NOW"]}
    others = {"$filter": {"input": known, "cond": {"$and": [is_alive, {"$not": [is_me]}]}}}
    mine = {"$filter": {"input": known, "cond": {"$and": [is_alive, is_me]}}}
    first = {"$ifNull": [{"$min": {"$map": {"input": mine, "in": "$$this.first"}}}, "$$NOW"]}
    return {"$concatArrays": [others, [{"name": {"$literal": name}, "first": first, "at": "$$NOW"}]]}


def find_doubled(processes: Iterable[Mapping[str, Any]], now: datetime) -> list[str]:
    """Return the processes that run beside another one, without those that have replaced one that ended."""
    alive = [process for process in processes if (now - process["at"]).total_seconds() < ALIVE_SECONDS]
    return sorted(
        process["name"]
        for process in alive
        if any(
            other["name"] != process["name"] and other["at"] > process["first"] and process["at"] > other["first"]
            for other in alive
        )
    )


class Heartbeats:
    """One document per worker, and one of Beat; ages are judged by MongoDB's clock (invariant 8)."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._workers: Collection[Doc] = database["workers"]
        self._beat: Collection[Doc] = database["beat"]
        self.hosts = hosts

    @edge
    def record_worker(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write a worker's heartbeat, with the time by its own clock beside MongoDB's."""
        heartbeat = {"clock": datetime.now(UTC), **facts}
        self._workers.update_one({"_id": name}, {"$set": heartbeat, "$currentDate": {"at": True}}, upsert=True)

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
    def load_host(self, host: str) -> dict[str, list[Doc]]:
        """Return the last heartbeat of each worker and of each Beat of a machine, under `worker` and `beat`.

        Each has the name of its process and `age_seconds`, by MongoDB's clock (invariant 8). The youngest comes first.
        """
        age = {"$divide": [{"$subtract": ["$$NOW", "$at"]}, 1000]}
        read: Doc = {"$project": {"_id": False, "process": "$process", "age_seconds": age}}
        youngest = {"$sort": {"age_seconds": 1, "process": 1}}
        workers = self._workers.aggregate(
            [{"$match": {"host": host, "at": {"$type": "date"}}}, {"$set": {"process": "$_id"}}, read, youngest]
        )
        beats = self._beat.aggregate(
            [
                {"$match": {"_id": "beat"}},
                {"$unwind": "$processes"},
                {"$project": {"process": "$processes.name", "at": "$processes.at"}},
                {"$match": {"$expr": {"$eq": [{"$first": {"$split": ["$process", ":"]}}, {"$literal": host}]}}},
                read,
                youngest,
            ]
        )
        return {"worker": list(workers), "beat": list(beats)}

    @edge
    def record_beat(self, facts: Mapping[str, Any], *, name: str = "") -> None:
        """Write Beat's heartbeat; `since` is the time of the first one after which none was missing.

        Args:
            name: The name of the process, so that a second Beat is noticed.
        """
        is_alive = {"$gt": [{"$add": ["$at", BEAT_ALIVE_MS]}, "$$NOW"]}
        since = {"$cond": [is_alive, {"$ifNull": ["$since", "$$NOW"]}, "$$NOW"]}
        facts = {"clock": datetime.now(UTC), **facts}
        changes = {**{key: {"$literal": value} for key, value in facts.items()}, "at": "$$NOW", "since": since}
        if name:
            changes["processes"] = _note_process(name)
        self._beat.update_one({"_id": "beat"}, [{"$set": changes}], upsert=True)

    @edge
    def load_beat(self) -> Doc | None:
        """Return Beat's last heartbeat; `late` tells whether it is older than a minute by MongoDB's clock."""
        beat = self._beat.find_one({"_id": "beat"})
        if beat is None:
            return None
        aged = {
            "_id": "beat",
            "$expr": {"$lt": [{"$add": ["$at", BEAT_ALIVE_MS]}, "$$NOW"]},
            "at": {"$type": "date"},
        }
        return {**beat, "late": self._beat.find_one(aged, {"_id": True}) is not None}


class MaintenanceLeases:
    """The right to do one of Beat's jobs, such as the roll-up; beside Beat's heartbeat in the `beat` collection."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._beat: Collection[Doc] = database["beat"]
        self.hosts = hosts

    @edge
    def acquire(self, name: str, *, seconds: float) -> bool:
        """Take a job for at most some seconds; False when another worker has it, or it rests."""
        self._beat.update_one({"_id": f"chore:{name}"}, {"$setOnInsert": {"created": True}}, upsert=True)
        free: Doc = {"$or": [{"until": {"$exists": False}}, is_past("until")]}
        changes = [{"$set": {"until": in_future(seconds)}}]
        return self._beat.update_one({"_id": f"chore:{name}", **free}, changes).matched_count == 1

    @edge
    def note_done(self, name: str) -> None:
        """Note that a job was done."""
        done: list[Doc] = [{"$set": {"done_at": "$$NOW"}}, {"$unset": "error"}]
        self._beat.update_one({"_id": f"chore:{name}"}, done, upsert=True)

    @edge
    def note_failed(self, name: str, error: str) -> None:
        """Note the error that ended a job before it was done."""
        self._beat.update_one({"_id": f"chore:{name}"}, {"$set": {"error": error}}, upsert=True)

    @edge
    def load(self) -> dict[str, Doc]:
        """Return the document of each job, by name."""
        jobs = self._beat.find({"_id": {"$regex": "^chore:"}})
        return {job["_id"].removeprefix("chore:"): job for job in jobs}

    @edge
    def release(self, name: str, *, rest_seconds: float = 0.0) -> None:
        """Let any worker take the job again, after a rest."""
        until = [{"$set": {"until": in_future(rest_seconds)}}]
        self._beat.update_one({"_id": f"chore:{name}"}, until)
