"""Order `strict`: records that wait for an older version of their key. They have `waits_for` and are never due."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import UNFINISHED, State
from syncctl.ledger.client import edge, update_many_safely
from syncctl.ledger.expressions import in_future, or_zero

Doc = dict[str, Any]
Place = tuple[str, str]
"""Where a sweep stands: the id that a record waits for, and the record's own."""

HOLDING = (*UNFINISHED, State.FAILED)
FAILED_AT_MOST = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The oldest version of a key that is neither delivered nor given up: those behind it wait."""

    id: str
    seq: int


def _holds(hold_seconds: float | None, *, of: str = "") -> list[Doc]:
    """Return the conditions under which a version holds what is newer; a failed one only for so long.

    Args:
        hold_seconds: None means for ever.
        of: The path to its document.
    """
    conditions: list[Doc] = [{"$in": [f"${of}state", [state.value for state in HOLDING]]}]
    if hold_seconds is not None:
        is_failed = {"$eq": [f"${of}state", State.FAILED.value]}
        is_over = {"$lte": [f"${of}failed_at", in_future(-hold_seconds)]}
        conditions.append({"$not": [{"$and": [is_failed, is_over]}]})
    return conditions


class Waiting:
    """Guarded by the state: only a pending record waits. Releasing is safe to repeat: dispatch looks again."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self._keys: Collection[Doc] = database["keys"]
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def find_holders(self, stream: str, key_ids: Sequence[str], *, hold_seconds: float | None) -> dict[str, Holder]:
        """Return, by key id, the oldest version that holds those behind it.

        Only versions from the newest delivered one on are looked at, so that the cost does not grow with what is
        finished.
        """
        wanted = [f"{stream}:{each}" for each in sorted(set(key_ids))]
        of_key = [{"$eq": ["$key_id", "$$key"]}, {"$gte": ["$seq", "$$delivered"]}]
        oldest = [
            {"$match": {"stream": stream, "$expr": {"$and": of_key}}},
            {"$match": {"$expr": {"$and": _holds(hold_seconds)}}},
            {"$sort": {"seq": 1}},
            {"$limit": 1},
            {"$project": {"seq": True}},
        ]
        key = {"$substrCP": ["$_id", len(stream) + 1, {"$strLenCP": "$_id"}]}
        lookup = {
            "from": self._records.name,
            "let": {"key": key, "delivered": or_zero("delivered_seq")},
            "pipeline": oldest,
            "as": "holder",
        }
        found = self._keys.aggregate(
            [
                {"$match": {"_id": {"$in": wanted}}},
                {"$lookup": lookup},
                {"$unwind": "$holder"},
                {"$project": {"holder": 1}},
            ]
        )
        return {
            each["_id"].partition(":")[2]: Holder(id=each["holder"]["_id"], seq=int(each["holder"]["seq"]))
            for each in found
        }

    @edge
    def hold(self, behind: Mapping[str, str]) -> int:
        """Let due records (id → the id it waits for) wait; return how many do. They are due no more."""
        writes = [
            UpdateOne(
                {"_id": each, "state": State.PENDING.value, "due_at": {"$type": "date"}},
                [{"$set": {"waits_for": holder}}, {"$unset": ["due_at"]}],
            )
            for each, holder in behind.items()
        ]
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @edge
    def release(self, stream: str, holders: Sequence[str]) -> int:
        """Make due what waits for these records; return how many."""
        if not holders:
            return 0
        return self._release({"stream": stream, "waits_for": {"$in": list(holders)}}, hint="waiting")

    @edge
    def release_all(self, stream: str, *, limit: int) -> int:
        """Make due what waits in a stream that is not strict any more, at most so many; return how many."""
        query = {"stream": stream, "waits_for": {"$gt": ""}}
        found = self._records.find(query, {"_id": True}, limit=limit, hint="waiting")
        ids = [each["_id"] for each in found]
        return self._release({"_id": {"$in": ids}}) if ids else 0

    @edge
    def release_if_free(self, stream: str, holders: Sequence[str], *, hold_seconds: float | None) -> int:
        """Make due what waits for those of these records that hold nothing any more; return how many."""
        if not holders:
            return 0
        waiting = {"stream": stream, "waits_for": {"$in": list(holders)}}
        ids = [each["_id"] for each in self._look(waiting, hold_seconds) if not each["held"]]
        return self._release({"_id": {"$in": ids}}) if ids else 0

    @edge
    def sweep(self, stream: str, *, hold_seconds: float | None, limit: int) -> int:
        """Make due what waits for nothing any more, looking at so many records where the last sweep ended.

        For those whose release was lost in a crash, whose holder was cleaned up, or has been failed for long enough.
        """
        query: Doc = {"stream": stream, "waits_for": {"$gt": ""}}
        place = self._load_place(stream)
        if place is not None:
            further = [{"waits_for": {"$gt": place[0]}}, {"waits_for": place[0], "_id": {"$gt": place[1]}}]
            query |= {"waits_for": {"$gte": place[0]}, "$or": further}
        found = self._look(query, hold_seconds, limit=limit)
        ids = [each["_id"] for each in found if not each["held"]]
        released = self._release({"_id": {"$in": ids}}) if ids else 0
        after = (found[-1]["waits_for"], found[-1]["_id"]) if len(found) == limit else None
        if after != place:
            change: Doc = {"$set": {"swept": list(after)}} if after else {"$unset": {"swept": True}}
            self._streams.update_one({"_id": stream}, change)
        return released

    def _load_place(self, stream: str) -> Place | None:
        found = (self._streams.find_one({"_id": stream}, {"swept": True}) or {}).get("swept")
        return (found[0], found[1]) if found else None

    def _look(self, waiting: Doc, hold_seconds: float | None, *, limit: int = 0) -> list[Doc]:
        """Return waiting records, and whether what they wait for holds them: it is older, and not overtaken."""
        holder: Doc = {"from": self._records.name, "localField": "waits_for", "foreignField": "_id", "as": "holder"}
        key = {"$concat": ["$stream", ":", "$key_id"]}
        known: Doc = {
            "from": self._keys.name,
            "let": {"key": key},
            "pipeline": [{"$match": {"$expr": {"$eq": ["$_id", "$$key"]}}}, {"$project": {"delivered_seq": True}}],
            "as": "known",
        }
        delivered = {"$ifNull": [{"$first": "$known.delivered_seq"}, 0]}
        of_older = [{"$lt": ["$holder.seq", "$seq"]}, {"$gte": ["$holder.seq", delivered]}]
        held = {"$and": [*_holds(hold_seconds, of="holder."), *of_older]}
        stages: list[Doc] = [{"$match": waiting}, {"$sort": {"waits_for": 1, "_id": 1}}]
        stages += [{"$limit": limit}] if limit else []
        stages += [
            {"$project": {"waits_for": True, "stream": True, "key_id": True, "seq": True}},
            {"$lookup": holder},
            {"$set": {"holder": {"$first": "$holder"}}},
            {"$lookup": known},
            {"$project": {"waits_for": True, "held": held}},
        ]
        return list(self._records.aggregate(stages, hint="waiting"))

    def _release(self, guard: Doc, *, hint: str | None = None) -> int:
        still = {**guard, "state": State.PENDING.value}
        still.setdefault("waits_for", {"$gt": ""})
        changes: list[Doc] = [{"$set": {"due_at": "$$NOW"}}, {"$unset": ["waits_for"]}]
        return update_many_safely(self._records, still, changes, hint=hint)

    @edge
    def renew(self, overtakers: Sequence[tuple[str, str, int]]) -> None:
        """Give what was tried before of each (stream, key id, seq), and is newer, a new `Idempotency-Key`.

        An older version is sent once more: the partner must take the newer one for a call it has not seen.
        """
        writes = [
            UpdateOne({"_id": each["_id"]}, [{"$set": {"generation": {"$add": [or_zero("generation"), 1]}}}])
            for stream, key_id, seq in overtakers
            for each in self._records.find(self._tried(stream, key_id, seq), {"_id": True})
        ]
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def find_tried(self, stream: str, key_id: str, *, from_seq: int) -> list[str]:
        """Return the versions of a key, from one on, that may have reached the partner."""
        query = {"stream": stream, "key_id": key_id, "seq": {"$gte": from_seq}, "claims": {"$gt": 0}}
        return [each["_id"] for each in self._records.find(query, {"_id": True})]

    @staticmethod
    def _tried(stream: str, key_id: str, seq: int) -> Doc:
        states = [State.PENDING.value, State.FAILED.value]
        return {
            "stream": stream, "key_id": key_id, "seq": {"$gt": seq}, "state": {"$in": states}, "claims": {"$gt": 0},
        }  # fmt: skip

    @edge
    def count(self, stream: str) -> int:
        """Return how many records of a stream wait for another."""
        return self._records.count_documents({"stream": stream, "waits_for": {"$gt": ""}}, hint="waiting")

    @edge
    def count_failed_holders(self, stream: str) -> int:
        """Return how many failed records hold others, among the first that wait."""
        holder: Doc = {"from": self._records.name, "localField": "_id", "foreignField": "_id", "as": "holder"}
        stages: list[Doc] = [
            {"$match": {"stream": stream, "waits_for": {"$gt": ""}}},
            {"$limit": FAILED_AT_MOST},
            {"$group": {"_id": "$waits_for"}},
            {"$lookup": holder},
            {"$match": {"holder.state": State.FAILED.value}},
            {"$count": "holders"},
        ]
        found = next(self._records.aggregate(stages, hint="waiting"), None)
        return int(found["holders"]) if found else 0
