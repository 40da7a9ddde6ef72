"""What an operator, or a newer version, does to records that are not in flight: supersede, replay, discard, remove."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import TERMINAL, State
from syncctl.ledger.client import edge
from syncctl.ledger.expressions import REOPENED, grown

Doc = dict[str, Any]


class Operations:
    """Guarded by the state: what changed meanwhile stays as it is."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def supersede(self, newer: Mapping[str, str]) -> int:
        """Set waiting records (id → the newer record's id) aside; return how many."""
        writes = [
            UpdateOne(
                {"_id": each, "state": State.PENDING.value},
                [
                    {"$set": {"state": State.SUPERSEDED.value, "superseded_by": by, "superseded_at": "$$NOW",
                              "finished_at": "$$NOW", "updated_at": "$$NOW"}},
                    {"$unset": ["due_at", "waits_for"]},
                ],
            )
            for each, by in newer.items()
        ]  # fmt: skip
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @edge
    def replay(self, ids: Iterable[str], *, states: Sequence[str], who: str, new_key: bool = False) -> int:
        """Make finished records due now; return how many.

        One that was delivered before takes a new `Idempotency-Key`: under the old one the partner would do nothing.

        Args:
            new_key: The others take a new one too.
        """
        was_delivered = {"$ne": [{"$type": "$delivered_at"}, "missing"]}
        changes = {
            "history": grown({"action": "replayed", "by": who}, **REOPENED),
            "generation": {"$add": [
                {"$ifNull": ["$generation", 0]},
                1 if new_key else {"$cond": [was_delivered, 1, 0]},
            ]},
            "replays": {"$add": [{"$ifNull": ["$replays", 0]}, 1]},
            "state": State.PENDING.value,
            "fresh": True,
            "tries": 0,
            "losses": 0,
            "due_at": "$$NOW",
            "updated_at": "$$NOW",
            # In mode flag: the source was told that it had failed, and is to learn how this ends.
            "acknowledge": {"$cond": [
                {"$eq": ["$acknowledged.ending", "failed"]},
                {"version": "$acknowledged.version"},
                {"$ifNull": ["$acknowledge", "$$REMOVE"]},
            ]},
        }  # fmt: skip
        gone = [
            "finished_at",
            "delivered_at",
            "failed_at",
            "superseded_at",
            "discarded_at",
            "superseded_by",
            "error",
            "reason",
        ]
        return self._change(ids, states, [{"$set": changes}, {"$unset": gone}])

    @edge
    def discard(self, ids: Iterable[str], *, states: Sequence[str], who: str, reason: str) -> int:
        """Give records up, with a reason; return how many."""
        changes = {
            "history": grown({"action": "discarded", "by": who, "reason": reason}, **{"from": "$state"}),
            "state": State.DISCARDED.value,
            "reason": {"$literal": reason},
            "discarded_at": "$$NOW",
            "finished_at": "$$NOW",
            "updated_at": "$$NOW",
        }
        return self._change(ids, states, [{"$set": changes}, {"$unset": ["due_at", "waits_for"]}])

    def _change(self, ids: Iterable[str], states: Sequence[str], changes: list[Doc]) -> int:
        writes = [UpdateOne({"_id": each, "state": {"$in": list(states)}}, changes) for each in ids]
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    def finished_before(self, stream: str, state: State, before: datetime) -> Doc:
        """Return the query for the finished records of a stream and state older than a time."""
        if state not in TERMINAL:
            raise ValueError(f"{state} is not a terminal state")
        query: Doc = {"stream": stream, "state": state.value, "finished_at": {"$lt": before}}
        if state is State.DELIVERED:
            # In mode flag: the source was not told of it yet.
            query["acknowledge"] = {"$exists": False}
        return query

    @edge
    def count_finished(self, stream: str, state: State, before: datetime) -> int:
        """Return how many records a clean-up would remove."""
        return self._records.count_documents(self.finished_before(stream, state, before), hint="finished")

    @edge
    def remove_finished(self, stream: str, state: State, before: datetime, *, limit: int) -> int:
        """Remove at most `limit` finished records, the oldest first; return how many. Their keys stay."""
        query = self.finished_before(stream, state, before)
        found = self._records.find(query, {"_id": True}, sort=[("finished_at", 1)], limit=limit, hint="finished")
        ids = [each["_id"] for each in found]
        if not ids:
            return 0
        return self._records.delete_many(
            {"_id": {"$in": ids}, "state": state.value, "finished_at": {"$lt": before}}
        ).deleted_count
