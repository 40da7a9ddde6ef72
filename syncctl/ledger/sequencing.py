"""Records that wait for an older version of their key or, under any order, for a poll.

Under order `strict` a version waits until the older ones are done; under `latest`, if the partner has its own ids,
until an older version is done whose call may have created the partner's object.

Waiting records have `waits_for` and are not due.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import UNFINISHED, State
from syncctl.ledger.expressions import in_future, or_zero
from syncctl.ledger.mongo_client import edge, find_streams, update_many_safely
from syncctl.ledger.records import A_POLL

Doc = dict[str, Any]
Place = tuple[str, str]
"""The place where `release_unheld` stopped: the id that a record waits for, and the record's own id."""

HOLDING = (*UNFINISHED, State.FAILED)
WAITING_COUNTED_AT_MOST = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The oldest version of a key that is neither delivered nor given up; newer versions wait for it."""

    id: str
    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """How many records of a stream wait."""

    #: Those that wait for older versions of their rows.
    held: int = 0
    #: Those that an interrupted poll logged, and that wait for another poll.
    awaiting_poll: int = 0


def _holds(hold_seconds: float | None, *, of: str = "") -> list[Doc]:
    """Return the conditions under which a version holds newer ones back.

    Args:
        hold_seconds: How long a failed version holds others back; None: forever.
        of: The path to its document.
    """
    conditions: list[Doc] = [{"$in": [f"${of}state", [state.value for state in HOLDING]]}]
    if hold_seconds is not None:
        is_failed = {"$eq": [f"${of}state", State.FAILED.value]}
        is_over = {"$lte": [f"${of}failed_at", in_future(-hold_seconds)]}
        conditions.append({"$not": [{"$and": [is_failed, is_over]}]})
    return conditions


class Sequencing:
    """Holds and releases records, guarded by the state: only a pending record waits.

    A release is safe to repeat, because dispatch judges each record again.
    """

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self._keys: Collection[Doc] = database["keys"]
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def find_holders(self, stream: str, key_ids: Sequence[str], *, hold_seconds: float | None) -> dict[str, Holder]:
        """Return, by key id, the oldest version that holds newer ones back.

        Only versions from the newest delivered one on are read, so that the cost does not grow with finished records
        (invariant 11).
        """
        wanted = [f"{stream}:{key_id}" for key_id in sorted(set(key_ids))]
        of_key = [{"$eq": ["$key_id", "$$key"]}, {"$gte": ["$seq", "$$delivered"]}]
        oldest = [
            {"$match": {"stream": stream, "$expr": {"$and": of_key}}},
            {"$match": {"$expr": {"$and": _holds(hold_seconds)}}},
            {"$sort": {"seq": 1}},
            {"$limit": 1},
            {"$project": {"seq": True}},
        ]
        key_id = {"$substrCP": ["$_id", len(stream) + 1, {"$strLenCP": "$_id"}]}
        lookup = {
            "from": self._records.name,
            "let": {"key": key_id, "delivered": or_zero("delivered_seq")},
            "pipeline": oldest,
            "as": "holder",
        }
        keys = self._keys.aggregate(
            [
                {"$match": {"_id": {"$in": wanted}}},
                {"$lookup": lookup},
                {"$unwind": "$holder"},
                {"$project": {"holder": 1}},
            ]
        )
        return {
            key["_id"].partition(":")[2]: Holder(id=key["holder"]["_id"], seq=int(key["holder"]["seq"])) for key in keys
        }

    @edge
    def find_tried_unfinished(self, stream: str, between: Mapping[str, tuple[int, int]]) -> dict[str, Holder]:
        """Return, by key id, the oldest unfinished version that was tried.

        Args:
            between: By key id, the seq after which and the seq up to which versions are read (invariant 11).
        """
        if not between:
            return {}
        tried = {"state": {"$in": [state.value for state in UNFINISHED]}, "claims": {"$gt": 0}}
        of_keys = [
            {"stream": stream, "key_id": key_id, "seq": {"$gt": after, "$lte": up_to}, **tried}
            for key_id, (after, up_to) in between.items()
        ]
        records = self._records.find({"$or": of_keys}, {"key_id": True, "seq": True}, hint="by_key")
        holders: dict[str, Holder] = {}
        for record in sorted(records, key=lambda record: int(record["seq"])):
            holders.setdefault(record["key_id"], Holder(id=record["_id"], seq=int(record["seq"])))
        return holders

    @edge
    def hold(self, behind: Mapping[str, str]) -> int:
        """Let due records (id → the id that it waits for) wait instead of being due; return how many do so."""
        writes = [
            UpdateOne(
                {"_id": record, "state": State.PENDING.value, "due_at": {"$type": "date"}},
                [{"$set": {"waits_for": holder}}, {"$unset": ["due_at"]}],
            )
            for record, holder in behind.items()
        ]
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @edge
    def hold_for_poll(self, ids: Sequence[str]) -> int:
        """Let due records that their keys do not know wait for a poll instead of being due; return how many do so."""
        guard = {"_id": {"$in": list(ids)}, "state": State.PENDING.value, "due_at": {"$type": "date"}}
        return update_many_safely(self._records, guard, [{"$set": {"waits_for": A_POLL}}, {"$unset": ["due_at"]}])

    @edge
    def release(self, stream: str, holders: Sequence[str]) -> int:
        """Make the records due that wait for these holders; return how many."""
        if not holders:
            return 0
        return self._release({"stream": stream, "waits_for": {"$in": list(holders)}}, hint="waiting")

    @edge
    def release_if_free(self, stream: str, holders: Sequence[str], *, hold_seconds: float | None) -> int:
        """Make the records due that wait for given holders which no longer hold them back; return how many."""
        if not holders:
            return 0
        waiting = {"stream": stream, "waits_for": {"$in": list(holders)}}
        ids = [record["_id"] for record in self._load_waiting(waiting, hold_seconds) if not record["held"]]
        return self._release({"_id": {"$in": ids}}) if ids else 0

    @edge
    def release_unheld(self, stream: str, *, has_sequence: bool, hold_seconds: float | None, limit: int) -> int:
        """Make the waiting records due that no older version holds back; return how many.

        For records whose release was lost in a crash, for those whose holder was cleaned up or has been failed for long
        enough, for those that wait for a poll, and for all records of a stream in which none has to wait any more. Each
        call judges `limit` records, from where the last call stopped (invariant 11).
        """
        query: Doc = {"stream": stream, "waits_for": {"$gt": ""}}
        place = self._load_place(stream)
        if place is not None:
            further = [{"waits_for": {"$gt": place[0]}}, {"waits_for": place[0], "_id": {"$gt": place[1]}}]
            query |= {"waits_for": {"$gte": place[0]}, "$or": further}
        records = self._load_waiting(query, hold_seconds, limit=limit)
        ids = [record["_id"] for record in records if not (has_sequence and record["held"])]
        released = self._release({"_id": {"$in": ids}}) if ids else 0
        after = (records[-1]["waits_for"], records[-1]["_id"]) if len(records) == limit else None
        if after != place:
            change: Doc = {"$set": {"swept": list(after)}} if after else {"$unset": {"swept": True}}
            self._streams.update_one({"_id": stream}, change)
        return released

    def _load_place(self, stream: str) -> Place | None:
        place = (self._streams.find_one({"_id": stream}, {"swept": True}) or {}).get("swept")
        return (place[0], place[1]) if place else None

    def _load_waiting(self, waiting: Doc, hold_seconds: float | None, *, limit: int = 0) -> list[Doc]:
        """Return waiting records, each with `held`: whether its holder is older, not overtaken, and unfinished."""
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
    def renew_keys_of_newer(self, sent_again: Sequence[tuple[str, str, int]]) -> None:
        """Give a new `Idempotency-Key` to versions newer than each (stream, key id, seq) that were tried before.

        The older version is sent once more, so the partner must treat the newer one's next call as one it has not seen.
        """
        writes = [
            UpdateOne({"_id": newer["_id"]}, [{"$set": {"generation": {"$add": [or_zero("generation"), 1]}}}])
            for stream, key_id, seq in sent_again
            for newer in self._records.find(self._tried(stream, key_id, seq), {"_id": True})
        ]
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def find_tried(self, stream: str, key_id: str, *, from_seq: int) -> list[str]:
        """Return the versions of a key, from a seq on, that may have reached the partner."""
        query = {"stream": stream, "key_id": key_id, "seq": {"$gte": from_seq}, "claims": {"$gt": 0}}
        return [record["_id"] for record in self._records.find(query, {"_id": True})]

    @staticmethod
    def _tried(stream: str, key_id: str, seq: int) -> Doc:
        states = [State.PENDING.value, State.FAILED.value]
        return {
            "stream": stream, "key_id": key_id, "seq": {"$gt": seq}, "state": {"$in": states}, "claims": {"$gt": 0},
        }  # fmt: skip

    @edge
    def count(self, streams: Iterable[str]) -> dict[str, Waiting]:
        """Return, by stream, how many records wait, and for what."""
        names = list(streams)
        waiting = find_streams(self._records, {"waits_for": {"$gt": ""}}, names, hint="waiting")
        return {
            name: Waiting(
                held=self._count(name, {"$gt": "", "$ne": A_POLL}), awaiting_poll=self._count(name, {"$eq": A_POLL})
            )
            if name in waiting
            else Waiting()
            for name in names
        }

    def _count(self, stream: str, waits_for: Doc) -> int:
        return self._records.count_documents({"stream": stream, "waits_for": waits_for}, hint="waiting")

    @edge
    def count_failed_holders(self, stream: str) -> int:
        """Return how many failed records hold others back, counted over the first that wait."""
        holder: Doc = {"from": self._records.name, "localField": "_id", "foreignField": "_id", "as": "holder"}
        stages: list[Doc] = [
            {"$match": {"stream": stream, "waits_for": {"$gt": ""}}},
            {"$limit": WAITING_COUNTED_AT_MOST},
            {"$group": {"_id": "$waits_for"}},
            {"$lookup": holder},
            {"$match": {"holder.state": State.FAILED.value}},
            {"$count": "holders"},
        ]
        counts = next(self._records.aggregate(stages, hint="waiting"), None)
        return int(counts["holders"]) if counts else 0
