"""The finished records whose outcome has to be written back into the source.

A record is marked in the write that finishes it, so that no crash comes between; every write that reopens it removes
the mark. A poll writes the outcomes and removes the marks afterwards: it may write an outcome twice, but misses none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.rows import Value
from syncctl.core.states import State
from syncctl.core.write_backs import Ended, Written
from syncctl.ledger.codec import decode_values
from syncctl.ledger.expressions import in_future
from syncctl.ledger.indexes import TO_WRITE_BACK
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

WRITE_BACK = "write_back"
"""The field of the mark: `since`, `due_at`, and after a failure `error`."""
AGAIN_SECONDS = 60.0
"""How long after a failure an outcome is written again."""
_FIELDS = dict.fromkeys(("key_id", "key", "seq", "state", "delivered_at", "error.message", "reason", WRITE_BACK), True)
# Merged from one object, so that nothing of an older mark is left.
_MARK: Doc = {"$mergeObjects": [{"since": "$$NOW", "due_at": "$$NOW"}]}


def marked_if(condition: Any = True) -> Doc:
    """Return the expression for the mark of a record that gets its outcome; a deleted row can get none.

    Args:
        condition: An expression; where it is false, the record has no outcome and no mark.
    """
    return {"$cond": [{"$and": [condition, {"$eq": ["$op", "upsert"]}]}, _MARK, "$$REMOVE"]}


def mark(now: datetime) -> Doc:
    """Return the mark of a record that is inserted with its outcome."""
    return {"since": now, "due_at": now}


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRow:
    """The facts about a row that, with its record, decide which outcome is written."""

    #: The newest version whose outcome was written, or was about to be.
    seq: int = 0
    #: The values from the partner's answers, by name.
    remote: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lag:
    """How far the source is behind the ledger."""

    records: int = 0
    #: When the oldest of these records got its outcome.
    oldest: datetime | None = None
    #: How many outcomes could not be written.
    refused: int = 0
    #: Why one of these could not be written.
    error: str | None = None


class WriteBacks:
    """A record keeps `write_back` until the source has its outcome."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self._keys: Collection[Doc] = database["keys"]
        self.hosts = hosts

    @edge
    def find(self, stream: str, *, now: datetime, limit: int) -> list[Ended]:
        """Return records whose outcome is due to be written, those that wait longest first.

        A row that mode flag is about to acknowledge is left alone: a new version would look like an edit.

        Args:
            now: MongoDB's time.
        """
        query = {"stream": stream, f"{WRITE_BACK}.due_at": {"$lte": now}, "acknowledge.begun": {"$exists": False}}
        records = self._records.find(
            query, _FIELDS, sort=[(f"{WRITE_BACK}.due_at", 1)], limit=limit, hint=TO_WRITE_BACK
        )
        return [_read(record) for record in records]

    @edge
    def load_rows(self, stream: str, key_ids: Iterable[str]) -> dict[str, KnownRow]:
        """Return the known state of these rows, by key id."""
        ids = [f"{stream}:{key_id}" for key_id in set(key_ids)]
        keys = self._keys.find({"_id": {"$in": ids}}, {"written_seq": True, "remote.values": True})
        return {
            key["_id"].partition(":")[2]: KnownRow(
                seq=int(key.get("written_seq", 0)), remote=decode_values(key.get("remote", {}).get("values", {}))
            )
            for key in keys
        }

    @edge
    def note_written(self, stream: str, seqs: Mapping[str, int]) -> None:
        """Note the versions (key id → seq) whose outcomes are about to be written. Safe to repeat.

        From then on, no outcome of an older version is written over them.
        """
        writes = [
            UpdateOne({"_id": f"{stream}:{key_id}"}, {"$max": {"written_seq": seq}}) for key_id, seq in seqs.items()
        ]
        if writes:
            self._keys.bulk_write(writes, ordered=False)

    @edge
    def settle(self, ended: Sequence[Ended], results: Sequence[Written]) -> None:
        """Remove the marks, or note why an outcome could not be written. Safe to repeat.

        A record that has got another outcome since then keeps its new mark.
        """
        records = {record.id: record for record in ended}
        writes = []
        for result in results:
            guard = {"_id": result.id, f"{WRITE_BACK}.since": records[result.id].since}
            if result.error is None:
                note = {"state": {"$literal": records[result.id].state.value}, "rows": result.rows, "at": "$$NOW"}
                changes: list[Doc] = [{"$set": {"written_back": note}}, {"$unset": [WRITE_BACK]}]
            else:
                later = {"error": {"$literal": result.error}, "due_at": in_future(AGAIN_SECONDS)}
                changes = [{"$set": {WRITE_BACK: later}}]
            writes.append(UpdateOne(guard, changes))
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def read_lag(self, stream: str) -> Lag:
        """Return how many outcomes of a stream wait to be written, since when, and why some could not be."""
        marked = {"stream": stream, f"{WRITE_BACK}.due_at": {"$type": "date"}}
        group = {"_id": None, "records": {"$sum": 1}, "oldest": {"$min": f"${WRITE_BACK}.since"}}
        waiting = next(self._records.aggregate([{"$match": marked}, {"$group": group}], hint=TO_WRITE_BACK), None)
        if waiting is None:
            return Lag()
        refused = {**marked, f"{WRITE_BACK}.error": {"$exists": True}}
        one = self._records.find_one(refused, {WRITE_BACK: True}, hint=TO_WRITE_BACK)
        return Lag(
            records=int(waiting["records"]),
            oldest=waiting["oldest"],
            refused=self._records.count_documents(refused, hint=TO_WRITE_BACK) if one else 0,
            error=str(one[WRITE_BACK]["error"]) if one else None,
        )


def _read(record: Doc) -> Ended:
    state = State(record["state"])
    return Ended(
        id=record["_id"],
        key_id=record["key_id"],
        key=decode_values(record["key"]),
        seq=int(record["seq"]),
        state=state,
        since=record[WRITE_BACK]["since"],
        delivered_at=record.get("delivered_at"),
        error=record.get("reason") if state is State.DISCARDED else record.get("error", {}).get("message"),
    )
