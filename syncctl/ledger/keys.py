"""The `keys` collection: the known state of each row, with which a poll tells new rows and changes from known ones.

Only the key of a deleted row is ever removed, long after its last record, and once the partner has no object for it.

Dispatch sends a record only once its key knows it: `keys` is written after the record and before the cursor
(invariant 1), each document only if its `seq` is still the one that the poll read. A poll that was taken over can
therefore neither replace a newer content with an older one nor hide the next change (invariant 8).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import InsertOne, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from syncctl.core.remote_values import RemoteChange
from syncctl.core.rows import Operation, Value
from syncctl.ledger.codec import decode_values, encode_values
from syncctl.ledger.expressions import in_future
from syncctl.ledger.mongo_client import edge, is_only_duplicates, update_many_safely

Doc = dict[str, Any]

BY_OPERATION = "by_operation"

KEPT_SECONDS = 3600.0
"""How long an unsettled call is remembered after its `until`: a call that began before it may be found lost later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SentCall:
    """A call that was made for a record, or may have been."""

    key_id: str
    seq: int
    #: Its `Idempotency-Key`: once a call under it was accepted, other calls under it have no effect.
    call: str
    #: The mapping that shaped its bytes.
    mapping_hash: str
    #: The change of the partner's object for the row, according to its answer; None if the stream does not keep that.
    remote: RemoteChange | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsettled:
    """A call that may still take effect at the partner."""

    seq: int
    #: Its `Idempotency-Key`.
    call: str
    #: Empty if an earlier version noted the call.
    mapping_hash: str
    #: By MongoDB's clock.
    until: datetime

    def is_outdated(self, *, seq: int, mapping_hash: str) -> bool:
        """Tell whether its content is older than that of a call of this version in this mapping (invariant 5)."""
        return self.seq < seq or (self.seq == seq and self.mapping_hash not in ("", mapping_hash))


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """The partner's object for a row, as accepted answers described it."""

    #: Its values, by name.
    values: Mapping[str, Value]
    #: The version whose answer described it last.
    seq: int
    #: It is deleted; the values are those that it had.
    is_gone: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownKey:
    """The known state of one row."""

    key_id: str
    #: When it was last observed.
    seq: int
    #: The id of its newest record.
    version: str
    #: When that version was first observed.
    version_seq: int
    hash: str
    op: Operation
    #: The newest version that was delivered.
    delivered_seq: int = 0
    #: The newest version that may have reached the partner without being known as delivered.
    reached_seq: int = 0
    #: Mode flag: the newest epoch that may have read the row before its ending was reported to the source.
    acknowledged_epoch: int | None = None
    unsettled: tuple[Unsettled, ...] = field(default=())
    #: None if no answer has described the object yet.
    remote: Remote | None = None
    #: The oldest version whose call may have created the partner's object while none was known; 0 if it may be the
    #: object of any version; None if no call may have created one.
    doubt_seq: int | None = None

    @property
    def remote_values(self) -> Mapping[str, Value]:
        """The known values of the partner's object, by name; none once it is deleted."""
        return self.remote.values if self.remote is not None and not self.remote.is_gone else {}

    @property
    def has_object(self) -> bool:
        """Whether the partner has an object for the row."""
        return self.delivered_seq > 0 if self.remote is None else not self.remote.is_gone

    @property
    def may_have_another_object(self) -> bool:
        """Whether a call may have created another object since the known one was deleted."""
        return self.remote is not None and self.remote.is_gone and self.may_have_object

    @property
    def may_have_object(self) -> bool:
        """Whether a call may have created an object at the partner that was not deleted since."""
        gone_seq = self.remote.seq if self.remote is not None and self.remote.is_gone else 0
        return max(self.delivered_seq, self.reached_seq) > gone_seq


@dataclass(kw_only=True, slots=True)  # one for each row that is read: frozen, it costs twice as much
class Observation:
    """One row as a poll has just read it."""

    key_id: str
    key: Mapping[str, Value]
    #: The seq of its key when the poll read it; None if there was no key.
    previous_seq: int | None
    seq: int
    version: str
    hash: str
    op: Operation
    #: When its version was first observed; None if that is now.
    version_seq: int | None = None
    #: No row can be looked up by this key.
    nameless: bool = False


def _identity(stream: str, key_id: str) -> str:
    return f"{stream}:{key_id}"


def _behind(stream: str, after: str) -> Doc:
    """Return the condition for the ids of a stream's keys after one of them."""
    return {"$gt": _identity(stream, after), "$lt": f"{stream};"}


def _known(document: Doc) -> KnownKey:
    return KnownKey(
        key_id=document["_id"].partition(":")[2],
        seq=int(document["seq"]),
        version=document["version"],
        version_seq=int(document["version_seq"] if "version_seq" in document else document["seq"]),
        hash=document["hash"],
        op=document["op"],
        delivered_seq=int(document.get("delivered_seq", 0)),
        reached_seq=int(document.get("reached_seq", 0)),
        acknowledged_epoch=document.get("acknowledged", {}).get(document["version"]),
        unsettled=tuple(
            Unsettled(
                seq=int(call["seq"]), call=call["call"], mapping_hash=call.get("mapping_hash", ""), until=call["until"]
            )
            for call in document.get("unsettled", ())
        ),
        remote=_remote(document["remote"]) if "remote" in document else None,
        doubt_seq=document.get("doubt_seq"),
    )


def _remote(document: Doc) -> Remote:
    return Remote(
        values=decode_values(document.get("values", {})),
        seq=int(document.get("seq", 0)),
        is_gone=bool(document.get("gone")),
    )


class Keys:
    """One small document per stream and key."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._keys: Collection[Doc] = database["keys"]
        self.hosts = hosts

    @edge
    def load(self, stream: str, key_ids: Iterable[str]) -> dict[str, KnownKey]:
        """Return the known state of these rows, by key id; rows never seen are absent."""
        wanted = [_identity(stream, key_id) for key_id in set(key_ids)]
        # A batch with room for one more shows that these are all; a full one takes another round trip.
        documents = self._keys.find({"_id": {"$in": wanted}}, {"key": False}, batch_size=len(wanted) + 1)
        return {known.key_id: known for known in map(_known, documents)}

    @edge
    def observe(self, stream: str, observations: Sequence[Observation]) -> list[str]:
        """Write observations; return the ids of the keys that another poll has written since. Safe to repeat.

        Each key is written only if its seq is still the one that this poll read (invariant 8); the keys returned must
        be compared again.
        """
        if not observations:
            return []
        writes = [self._write(stream, observation) for observation in observations]
        conflicts: set[str] = set()
        try:
            written = self._keys.bulk_write(writes, ordered=False)
            clean = written.matched_count + written.inserted_count == len(observations)
        except BulkWriteError as error:
            if not is_only_duplicates(error):
                raise
            clean = False
        if clean:
            return []
        now = self.load(stream, [observation.key_id for observation in observations])
        for observation in observations:
            key = now.get(observation.key_id)
            if key is None or (key.seq, key.version) != (observation.seq, observation.version):
                conflicts.add(observation.key_id)
        return sorted(conflicts)

    def _write(self, stream: str, row: Observation) -> InsertOne[Doc] | UpdateOne:
        identity = _identity(stream, row.key_id)
        # Always written: a key from an earlier version of syncctl has none, and its seq is about to rise.
        version_seq = row.seq if row.version_seq is None else row.version_seq
        changes: Doc = {
            "seq": row.seq, "version": row.version, "version_seq": version_seq, "hash": row.hash, "op": row.op
        }  # fmt: skip
        if row.previous_seq is None:
            if row.nameless:
                changes["nameless"] = True
            return InsertOne({"_id": identity, "stream": stream, "key": encode_values(row.key), **changes})
        return UpdateOne({"_id": identity, "seq": row.previous_seq}, {"$set": changes})

    @edge
    def column_names(self, stream: str) -> tuple[str, ...]:
        """Return the key columns of a stream's known rows; empty when no row is known."""
        document = self._keys.find_one({"stream": stream}, {"key": True})
        return tuple(document["key"]) if document else ()

    @edge
    def note_acknowledged(self, stream: str, versions: Sequence[tuple[str, str]], *, epoch: int) -> None:
        """Remember that each (key id, version) was reported to the source before any poll of a later epoch began.

        A version that is no longer the row's newest is skipped: the note about the newest one stays.
        """
        if versions:
            self._keys.bulk_write(
                [
                    UpdateOne(
                        {"_id": _identity(stream, key_id), "version": version},
                        {"$set": {"acknowledged": {version: epoch}}},
                    )
                    for key_id, version in versions
                ],
                ordered=False,
            )

    @edge
    def load_live(self, stream: str, *, after: str, limit: int) -> list[tuple[str, dict[str, Value]]]:
        """Return (key id, key) of rows that can be looked up and are not known to be deleted, in the order of ids.

        Args:
            after: A key id; the empty text for the beginning.
        """
        query = {"stream": stream, "op": "upsert", "_id": _behind(stream, after), "nameless": {"$exists": False}}
        keys = self._keys.find(query, {"key": True}, sort=[("_id", 1)], limit=limit, hint=BY_OPERATION)
        return [(key["_id"].partition(":")[2], decode_values(key["key"])) for key in keys]

    @edge
    def load_contents(self, stream: str, *, after: str, limit: int) -> list[tuple[str, str, Operation]]:
        """Return (key id, content hash, operation) of rows, in the order of their ids.

        Args:
            after: A key id; the empty text for the beginning.
        """
        fields = {"hash": True, "op": True}
        keys = self._keys.find({"_id": _behind(stream, after)}, fields, sort=[("_id", 1)], limit=limit)
        return [(key["_id"].partition(":")[2], key["hash"], key["op"]) for key in keys]

    @edge
    def load_keys(self, stream: str, key_ids: Sequence[str]) -> dict[str, dict[str, Value]]:
        """Return the keys of rows, by key id."""
        query = {"_id": {"$in": [_identity(stream, key_id) for key_id in key_ids]}}
        return {key["_id"].partition(":")[2]: decode_values(key["key"]) for key in self._keys.find(query)}

    @edge
    def count_live(self, stream: str) -> int:
        """Return how many rows of a stream are not known to be deleted."""
        return self._keys.count_documents({"stream": stream, "op": "upsert"}, hint=BY_OPERATION)

    @edge
    def load_deleted(self, stream: str, *, after: str, limit: int) -> list[str]:
        """Return the key ids of rows that are known to be deleted, in their order.

        Args:
            after: A key id; the empty text for the beginning.
        """
        query = {"stream": stream, "op": "delete", "_id": _behind(stream, after)}
        keys = self._keys.find(query, {"_id": True}, sort=[("_id", 1)], limit=limit, hint=BY_OPERATION)
        return [key["_id"].partition(":")[2] for key in keys]

    @edge
    def note_deleted(self, stream: str, key_ids: Sequence[str]) -> None:
        """Note when a delete was first seen; for a row that has come back since, note it again. Safe to repeat."""
        query: Doc = {
            "_id": {"$in": [_identity(stream, key_id) for key_id in key_ids]},
            "op": "delete",
            "$expr": {"$ne": ["$gone.seq", "$seq"]},
        }
        self._keys.update_many(query, [{"$set": {"gone": {"seq": "$seq", "at": "$$NOW"}}}])

    @edge
    def find_long_deleted(self, stream: str, key_ids: Sequence[str], *, seconds: float) -> list[str]:
        """Return the ids of those keys that may be removed: their delete was noted at least this long ago."""
        keys = self._keys.find(_long_deleted(stream, key_ids, seconds), {"_id": True})
        return [key["_id"].partition(":")[2] for key in keys]

    @edge
    def forget_deleted(self, stream: str, key_ids: Sequence[str], *, seconds: float) -> int:
        """Remove the keys of rows whose delete was noted at least this long ago; return how many. Safe to repeat.

        A key stays as long as the partner may have an object for its row.
        """
        return self._keys.delete_many(_long_deleted(stream, key_ids, seconds)).deleted_count

    @edge
    def note_delivered(self, stream: str, delivered: Sequence[SentCall]) -> None:
        """Remember the newest delivered seq of each call's key, and that the call is settled."""
        if not delivered:
            return
        ids = [_identity(stream, call.key_id) for call in delivered]
        if len(set(ids)) < len(ids):
            for call in delivered:
                self.note_delivered(stream, [call])
            return
        # One update for all; the values that differ are looked up by the key's id.
        place = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
        seq = {"$arrayElemAt": [{"$literal": [call.seq for call in delivered]}, place]}
        settled = {"$arrayElemAt": [{"$literal": [call.call for call in delivered]}, place]}
        others = {"$filter": {"input": "$unsettled", "cond": {"$ne": ["$$this.call", settled]}}}
        changes = {
            "delivered_seq": {"$max": ["$delivered_seq", seq]},
            "unsettled": {"$cond": [{"$isArray": "$unsettled"}, others, "$$REMOVE"]},
        }
        stages = [{"$set": changes}]
        if any(call.remote is not None for call in delivered):
            stages += _describe_remote(ids, [(call.seq, call.remote or RemoteChange()) for call in delivered])
        update_many_safely(self._keys, {"_id": {"$in": ids}}, stages)

    @edge
    def note_found(self, stream: str, found: Sequence[tuple[str, int, RemoteChange]]) -> None:
        """Remember what lookups found for versions (key id, seq). Safe to repeat."""
        for key_id, seq, change in found:
            identity = _identity(stream, key_id)
            self._keys.update_one({"_id": identity}, _describe_remote([identity], [(seq, change)]))

    @edge
    def note_doubt(self, stream: str, doubts: Sequence[tuple[str, int, int]]) -> None:
        """Remember that calls may have created an object at the partner. Safe to repeat.

        Args:
            doubts: The key id and the seq of each call, and the oldest version whose object it may be; 0: any version.
        """
        if doubts:
            self._keys.bulk_write(
                [
                    UpdateOne(
                        {"_id": _identity(stream, key_id)}, {"$max": {"reached_seq": seq}, "$min": {"doubt_seq": since}}
                    )
                    for key_id, seq, since in doubts
                ],
                ordered=False,
            )

    @edge
    def note_unsettled(self, stream: str, calls: Sequence[SentCall], *, seconds: float) -> None:
        """Remember that each of these calls may take effect within `seconds`."""
        if calls:
            self._keys.bulk_write(
                [UpdateOne({"_id": _identity(stream, call.key_id)}, [_unsettle(call, seconds)]) for call in calls],
                ordered=False,
            )


def _describe_remote(ids: Sequence[str], described: Sequence[tuple[int, RemoteChange]]) -> list[Doc]:
    """Return the stages that merge what answers said about the partner's objects into their keys (by id).

    The answer to a newer version wins, whichever comes first; an older one only adds values that the newer one lacks.
    """
    place = {"$indexOfArray": [{"$literal": list(ids)}, "$_id"]}
    changes = [
        {"seq": seq, "values": encode_values(change.values), "is_new": change.is_new, "is_gone": change.is_gone}
        for seq, change in described
    ]
    known = {"$ifNull": ["$remote.values", {}]}
    was_gone = {"$eq": ["$remote.gone", True]}
    is_newer = {"$gte": ["$said.seq", {"$ifNull": ["$remote.seq", 0]}]}
    added = {"$cond": [{"$or": ["$said.is_new", was_gone]}, "$said.values", {"$mergeObjects": [known, "$said.values"]}]}
    newer = {
        "$cond": [
            "$said.is_gone",
            # The values stay: if the answer that it is gone came from a wrong address, it is deleted once more.
            {"values": known, "seq": "$said.seq", "gone": True},
            {"values": added, "seq": "$said.seq"},
        ]
    }
    is_of_no_use = {"$or": ["$said.is_gone", was_gone]}
    filled = {"$mergeObjects": ["$remote", {"values": {"$mergeObjects": ["$said.values", known]}}]}
    older = {"$cond": [is_of_no_use, "$remote", filled]}
    return [
        {"$set": {"said": {"$arrayElemAt": [{"$literal": changes}, place]}}},
        {"$set": {"remote": {"$cond": [is_newer, newer, older]}}},
        {"$unset": ["said", "doubt_seq"]},
    ]


def _long_deleted(stream: str, key_ids: Sequence[str], seconds: float) -> Doc:
    return {
        "_id": {"$in": [_identity(stream, key_id) for key_id in key_ids]},
        "op": "delete",
        # Unless the partner may still have the object, whose id only this key knows: its delete failed or is not sent.
        "$nor": [{"doubt_seq": {"$exists": True}}, {"remote": {"$exists": True}, "remote.gone": {"$ne": True}}],
        "gone.at": {"$type": "date"},
        "$expr": {"$and": [{"$eq": ["$gone.seq", "$seq"]}, {"$lte": ["$gone.at", in_future(-seconds)]}]},
    }


def _unsettle(call: SentCall, seconds: float) -> Doc:
    """Return the change that adds an unsettled call, and drops those whose `until` passed long ago."""
    others = {
        "$filter": {
            "input": {"$ifNull": ["$unsettled", []]},
            "cond": {
                "$and": [{"$gt": ["$$this.until", in_future(-KEPT_SECONDS)]}, {"$ne": ["$$this.call", call.call]}]
            },
        }
    }
    entry = {"seq": call.seq, "call": call.call, "mapping_hash": call.mapping_hash, "until": in_future(seconds)}
    reached = {"$max": ["$reached_seq", call.seq]}
    return {"$set": {"unsettled": {"$concatArrays": [others, [entry]]}, "reached_seq": reached}}
