"""The `records` collection: logging records, finding due ones, and reading them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from syncctl.core.fingerprint import fingerprint
from syncctl.core.records import Record
from syncctl.core.remote_values import LostObject
from syncctl.core.rows import Operation, Value
from syncctl.core.states import State
from syncctl.core.time_zone import LONG_AGO
from syncctl.ledger.codec import decode_values, encode_document, encode_values
from syncctl.ledger.expressions import is_past, or_absent
from syncctl.ledger.indexes import FAILED_BY_KEY, ONE_IN_FLIGHT
from syncctl.ledger.mongo_client import edge, find_streams, is_only_duplicates, update_many_safely
from syncctl.ledger.write_backs import WRITE_BACK, mark

Doc = dict[str, Any]

A_POLL = "poll"
"""`waits_for` of a record that its key does not know: it waits for a poll that finds its row, or reads to the end."""
_FINISHED: Doc = {"finished_at": {"$gt": LONG_AGO}}
_COUNTED: Mapping[str, tuple[Doc, str | None]] = {
    "pending": ({"state": State.PENDING.value, "fresh": True}, None),
    "retrying": ({"state": State.PENDING.value, "fresh": False}, None),
    "sending": ({"in_flight_key": {"$gt": ""}}, ONE_IN_FLIGHT),
    "failed": ({"state": State.FAILED.value, **_FINISHED}, None),
    "discarded": ({"state": State.DISCARDED.value, **_FINISHED}, None),
}
"""The states that are counted live, each with the query for its records and, where MongoDB needs it, the index."""
REFUSED_ALONE = "alone"
"""`refused` of a record that was refused while others were accepted; for other refused records it is true."""


@dataclass(kw_only=True, slots=True)  # one for each row that is read: frozen, it costs twice as much
class NewRecord:
    """A record about to be logged."""

    id: str
    stream: str
    key_id: str
    key: Mapping[str, Value]
    seq: int
    version: str
    hash: str
    columns_fingerprint: str
    op: Operation
    payload: Mapping[str, Value] | None
    #: Why it cannot be sent: it is logged as failed.
    error: str | None = None
    #: Mode flag: the version that is reported to the source once the record is finished.
    acknowledge: str | None = None
    #: Its outcome is written back into the source.
    writes_back: bool = False
    #: Why it must not be sent: it is logged as discarded.
    not_sent: str | None = None
    #: Every poll reads its row, which has no key: cleanup keeps it.
    kept: bool = False
    #: The number in its first `Idempotency-Key`; above 0 if the partner may know those before.
    generation: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A record that existed in the ledger when it was logged again."""

    id: str
    seq: int
    hash: str
    columns_fingerprint: str
    logged_at: datetime
    #: Cleanup keeps it.
    kept: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DueRecord:
    """A record that could be sent now, as dispatch needs it."""

    id: str
    key_id: str
    key: Mapping[str, Value]
    seq: int
    hash: str
    op: Operation
    #: It was lost while it was sent, and must be sent alone.
    alone: bool
    #: Since when it has been due.
    due_at: datetime
    #: The size of its row if that is large, otherwise 0.
    size: int = 0


_DUE_FIELDS = dict.fromkeys(("key_id", "key", "seq", "hash", "op", "losses", "solo", "due_at", "size"), True)


def _due_record(document: Mapping[str, Any]) -> DueRecord:
    return DueRecord(
        id=document["_id"],
        key_id=document["key_id"],
        key=decode_values(document["key"]),
        seq=int(document["seq"]),
        hash=document["hash"],
        op=document["op"],
        alone=bool(document.get("losses") or document.get("solo")),
        due_at=document["due_at"],
        size=int(document.get("size", 0)),
    )


LARGE_ROW_BYTES = 16 * 1024


def to_document(new: NewRecord, now: datetime) -> tuple[Doc, bytes]:
    """Return the document to store, and its BSON: a record to be sent, or one that is failed or discarded, with why."""
    document: Doc = {
        "_id": new.id,
        "stream": new.stream,
        "key": encode_values(new.key),
        "key_id": new.key_id,
        "seq": new.seq,
        "version": new.version,
        "hash": new.hash,
        "shape": new.columns_fingerprint,
        "op": new.op,
        "payload": None if new.payload is None else encode_values(new.payload),
        "logged_at": now,
        "attempts": 0,
        "tries": 0,
        "claims": 0,
    }
    if new.kept:
        document["kept"] = True
    if new.generation:
        document["generation"] = new.generation
    if new.acknowledge is not None:
        document["acknowledge"] = {"version": new.acknowledge}
    error = new.error
    if error is None:
        ending = {"state": State.PENDING.value, "fresh": True, "due_at": now}
        if new.not_sent is not None:
            ending = _discarded(new.not_sent, now)
        document |= ending
        try:
            encoded = encode_document(document)
            if len(encoded) <= LARGE_ROW_BYTES:
                return document, encoded
            document["size"] = len(encoded)
            return document, encode_document(document)
        except ValueError as unstorable:
            # Invariant 9: the record is logged nevertheless, without its payload.
            error = str(unstorable)
            document["payload"] = None
            for name in ending:
                del document[name]
    document |= _failed(new, error, now)
    if new.writes_back:
        document[WRITE_BACK] = mark(now)
    try:
        return document, encode_document(document)
    except ValueError:
        document |= {"payload": None, "key": {name: repr(value)[:200] for name, value in new.key.items()}}
        return document, encode_document(document)


def _failed(new: NewRecord, error: str, now: datetime) -> Doc:
    failed = {"fingerprint": fingerprint(None, error, new.key.values()), "status": None, "message": error}
    entry = {
        "action": "unsendable",
        "state": State.FAILED.value,
        "at": now,
        "error": error,
        "fingerprint": failed["fingerprint"],
    }
    return {
        "state": State.FAILED.value,
        "error": failed,
        "history": [entry],
        "failed_at": now,
        "finished_at": now,
        "updated_at": now,
    }


def _discarded(reason: str, now: datetime) -> Doc:
    return {
        "state": State.DISCARDED.value,
        "reason": reason,
        "history": [{"action": "discarded", "by": "syncctl", "reason": reason, "at": now}],
        "discarded_at": now,
        "finished_at": now,
        "updated_at": now,
    }


def lost_object_of(document: Mapping[str, Any]) -> LostObject | None:
    """Return the lost object that a record replaces with a new one; None if there is none."""
    if (lost := document.get("recreates")) is None:
        return None
    return LostObject(values=decode_values(lost["values"]), seq=int(lost["seq"]))


RECORD_FIELDS = (
    *("stream", "key", "seq", "op", "payload", "state", "claims", "attempts_before", "tries", "tried_at", "replays"),
    *("mapping_hash", "generation", "refused", "rows_at_most", "remote_hash", "looked_up", "recreates"),
)
"""All fields that `record_of` reads: decoding the rest of a document would take as long again."""


def record_of(document: Mapping[str, Any]) -> Record:
    """Return the record that a stored document holds."""
    payload = document.get("payload")
    return Record(
        id=document["_id"],
        stream=document["stream"],
        key=decode_values(document["key"]),
        seq=int(document["seq"]),
        op=document["op"],
        payload=None if payload is None else decode_values(payload),
        state=State(document["state"]),
        attempt=max(1, int(document.get("claims", 0))),
        attempts_before=int(document.get("attempts_before", 0)),
        tries=int(document.get("tries", 0)),
        tried_since=document.get("tried_at"),
        was_replayed=bool(document.get("replays")),
        mapping_hash=document.get("mapping_hash", ""),
        generation=int(document.get("generation", 0)),
        was_refused=bool(document.get("refused")),
        refused_alone=document.get("refused") == REFUSED_ALONE,
        rows_at_most=document.get("rows_at_most"),
        remote_hash=document.get("remote_hash", ""),
        looked_up=bool(document.get("looked_up")),
        recreates=lost_object_of(document),
    )


class Records:
    """One document per version of a source row. Changes of state are in `delivery_states` and `operations`."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def log(self, new: Sequence[NewRecord], now: datetime) -> tuple[int, int, list[Duplicate]]:
        """Insert records, acknowledged by a majority (invariant 1); an existing record stays as it is.

        Args:
            now: MongoDB's time.

        Returns:
            How many were inserted to be sent, how many as failed, and the duplicates.
        """
        documents = [to_document(record, now) for record in new]
        if not documents:
            return 0, 0, []
        there: set[int] = set()
        try:
            self._records.insert_many([RawBSONDocument(encoded) for _, encoded in documents], ordered=False)
        except BulkWriteError as error:
            failures = error.details.get("writeErrors", [])
            if not is_only_duplicates(error):
                raise
            there = {int(failure["index"]) for failure in failures}
        inserted = [document["state"] for index, (document, _) in enumerate(documents) if index not in there]
        duplicates = self.load_logged([new[index].id for index in there])
        failed = inserted.count(State.FAILED.value)
        return len(inserted) - failed, failed, duplicates

    @edge
    def load_logged(self, ids: Sequence[str]) -> list[Duplicate]:
        """Return the given records that are in the ledger."""
        if not ids:
            return []
        fields = {"seq": True, "hash": True, "shape": True, "logged_at": True, "kept": True}
        return [
            Duplicate(
                id=document["_id"],
                seq=int(document["seq"]),
                hash=document["hash"],
                columns_fingerprint=document.get("shape", ""),
                logged_at=document["logged_at"],
                kept=bool(document.get("kept")),
            )
            for document in self._records.find({"_id": {"$in": list(ids)}}, fields)
        ]

    @edge
    def let_go(self, ids: Sequence[str]) -> None:
        """Let cleanup remove records that it has kept, because no poll reads their rows again. Safe to repeat."""
        if ids:
            update_many_safely(self._records, {"_id": {"$in": list(ids)}, "kept": True}, [{"$unset": "kept"}])

    @edge
    def raise_seq(self, seqs: Mapping[str, int]) -> set[str]:
        """Give records that an interrupted poll had logged the seq of the poll that found them again. Safe to repeat.

        Returns:
            The records that have been superseded since then, which stay as they are.
        """
        if not seqs:
            return set()
        superseded = State.SUPERSEDED.value
        waits = {"$eq": ["$waits_for", A_POLL]}
        due_at = {"$cond": [waits, "$$NOW", or_absent("due_at")]}
        waits_for = {"$cond": [waits, "$$REMOVE", or_absent("waits_for")]}
        writes = [
            UpdateOne(
                {"_id": record, "seq": {"$lt": seq}, "state": {"$ne": superseded}},
                [{"$set": {"seq": seq, "due_at": due_at, "waits_for": waits_for}}],
            )
            for record, seq in seqs.items()
        ]
        if self._records.bulk_write(writes, ordered=False).matched_count == len(writes):
            return set()
        query = {"_id": {"$in": list(seqs)}, "state": superseded}
        return {document["_id"] for document in self._records.find(query, {"_id": True})}

    @edge
    def find_due(
        self, stream: str, *, fresh: bool, limit: int, newest: bool = False, before: datetime | None = None
    ) -> list[DueRecord]:
        """Return records due by MongoDB's clock, the oldest or the newest first (invariants 6, 8 and 11).

        Args:
            before: Only records that became due before this time.
        """
        if limit <= 0:
            return []
        query: Doc = {"stream": stream, "state": State.PENDING.value, "fresh": fresh, **is_past("due_at")}
        if before is not None:
            query["due_at"] = {"$lt": before}
        order = -1 if newest else 1
        sort = [("due_at", order), ("seq", order)]
        cursor = self._records.find(query, _DUE_FIELDS, sort=sort, limit=limit, batch_size=limit, hint="due")
        return [_due_record(document) for document in cursor]

    @edge
    def find_oldest_due(self, stream: str) -> datetime | None:
        """Return since when the oldest due record of a stream has been due, by MongoDB's clock; None if none is due."""
        query = {"stream": stream, "state": State.PENDING.value, **is_past("due_at")}
        firsts = [
            self._records.find_one({**query, "fresh": fresh}, {"due_at": True}, sort=[("due_at", 1)])
            for fresh in (True, False)
        ]
        return min((first["due_at"] for first in firsts if first is not None), default=None)

    @edge
    def find_due_record(self, record: str) -> DueRecord | None:
        """Return one record by its id if it is due by MongoDB's clock, otherwise None."""
        query = {"_id": record, "state": State.PENDING.value, **is_past("due_at")}
        document = self._records.find_one(query, _DUE_FIELDS)
        return None if document is None else _due_record(document)

    @edge
    def find_first_retry(self, stream: str) -> Doc | None:
        """Return the id, due time and error of the record that is retried next; None if none is retried."""
        query = {"stream": stream, "state": State.PENDING.value, "fresh": False, "due_at": {"$type": "date"}}
        fields = {"due_at": True, "error": True}
        return self._records.find_one(query, fields, sort=[("due_at", 1)], hint="due")

    @edge
    def has_due(self, stream: str) -> bool:
        """Return whether any record of a stream is due, by MongoDB's clock."""
        pending = {"stream": stream, "state": State.PENDING.value, **is_past("due_at")}
        return any(
            self._records.find_one({**pending, "fresh": fresh}, {"_id": True}, hint="due") is not None
            for fresh in (True, False)
        )

    @edge
    def find_due_streams(self, streams: Iterable[str]) -> set[str]:
        """Return the given streams that have a due record: one lookup in an index for each, in one query."""
        names = [{"stream": stream} for stream in streams]
        if not names:
            return set()
        stages: list[Doc] = [{"$documents": names}]
        for number, fresh in enumerate((True, False)):
            pending = {"state": State.PENDING.value, "fresh": fresh, **is_past("due_at")}
            first: list[Doc] = [{"$match": pending}, {"$limit": 1}, {"$project": {"_id": True}}]
            lookup = {"from": self._records.name, "localField": "stream", "foreignField": "stream"}
            stages.append({"$lookup": {**lookup, "pipeline": first, "as": f"due{number}"}})
        stages.append({"$match": {"$or": [{"due0": {"$ne": []}}, {"due1": {"$ne": []}}]}})
        return {document["stream"] for document in self._records.database.aggregate(stages)}

    @edge
    def find_recorded_keys(self, stream: str, key_ids: Sequence[str]) -> set[str]:
        """Return the given keys (by their id) that have a record, in any state."""
        pipeline: list[Doc] = [
            {"$match": {"stream": stream, "key_id": {"$in": list(key_ids)}}},
            {"$group": {"_id": "$key_id"}},
        ]
        return {group["_id"] for group in self._records.aggregate(pipeline, hint="by_key")}

    @edge
    def find_failed(self, stream: str, seqs: Mapping[str, int]) -> list[tuple[str, str]]:
        """Return (id, key id) of failed records that are older than a seq of their key (key id → seq)."""
        query = {"stream": stream, "state": State.FAILED.value, "key_id": {"$in": list(seqs)}}
        records = self._records.find(query, {"key_id": True, "seq": True}, hint=FAILED_BY_KEY)
        return [(record["_id"], record["key_id"]) for record in records if int(record["seq"]) < seqs[record["key_id"]]]

    @edge
    def column_names(self, stream: str) -> tuple[str, ...]:
        """Return the key columns of a stream, as its records have them; empty when there is none."""
        document = self._records.find_one({"stream": stream}, {"key": True})
        return tuple(document["key"]) if document else ()

    @edge
    def count_by_state(self, ids: Sequence[str]) -> dict[str, int]:
        """Return how many of these records are in each state; states without a record are absent."""
        counts: Counter[str] = Counter()
        for start in range(0, len(ids), 1000):
            match = {"_id": {"$in": list(ids[start : start + 1000])}}
            for group in self._records.aggregate([{"$match": match}, {"$sortByCount": "$state"}]):
                counts[group["_id"]] += int(group["count"])
        return dict(counts)

    @edge
    def find(
        self, *, record_id: str | None = None, stream: str | None = None, key_id: str | None = None, limit: int = 100
    ) -> list[Doc]:
        """Return whole documents: one by id, or the versions of one row, newest first, values decoded."""
        query: Doc = {"_id": record_id} if record_id is not None else {"stream": stream, "key_id": key_id}
        documents = self._records.find(query, sort=[("seq", -1)], limit=limit)
        return [self._decoded(document) for document in documents]

    @edge
    def find_beginning(self, text: str, *, stream: str, limit: int) -> list[str]:
        """Return the ids of a stream's records that begin with a text that ends in a hex digit."""
        query: Doc = {"_id": {"$gte": text, "$lt": f"{text}g"}, "stream": stream}
        records = self._records.find(query, {"_id": True}, sort=[("_id", 1)], limit=limit)
        return [record["_id"] for record in records]

    @staticmethod
    def _decoded(document: Doc) -> Doc:
        payload = document.get("payload")
        return {
            **document,
            "key": decode_values(document["key"]),
            "payload": None if payload is None else decode_values(payload),
        }

    @edge
    def list_oldest_due(self, streams: Iterable[str]) -> dict[str, datetime]:
        """Return, for each of these streams with due records, since when the oldest has been due."""
        pending = find_streams(self._records, {"state": State.PENDING.value}, streams)
        return {stream: due for stream in pending if (due := self.find_oldest_due(stream)) is not None}

    @edge
    def count_states(self, streams: Iterable[str]) -> dict[str, Doc]:
        """Return, by stream, the live counts: pending, retrying, queued, sending, failed, discarded, oldest due."""
        names = list(streams)
        counts = self._count_each(names, _COUNTED)
        oldest = self.list_oldest_due(names)
        return {name: {**counts[name], "queued": 0, "oldest_due_at": oldest.get(name)} for name in names}

    @edge
    def count_unfinished(self, streams: Iterable[str], *, at_most: int) -> dict[str, dict[str, int]]:
        """Return, by stream, how many records wait, are in flight or have failed, each counted up to `at_most`."""
        states = ("pending", "retrying", "sending", "failed")
        return self._count_each(list(streams), states, at_most=at_most)

    def _count_each(
        self, streams: Sequence[str], states: Iterable[str], *, at_most: int | None = None
    ) -> dict[str, dict[str, int]]:
        counts = {stream: dict.fromkeys(states, 0) for stream in streams}
        for state in states:
            query, index = _COUNTED[state]
            options: Doc = {} if index is None else {"hint": index}
            if at_most is not None:
                options["limit"] = at_most
            for stream in find_streams(self._records, query, streams, hint=index):
                counts[stream][state] = self._records.count_documents({"stream": stream, **query}, **options)
        return counts
