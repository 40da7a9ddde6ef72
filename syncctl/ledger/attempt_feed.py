"""Attempts in the order in which they were written, as `tail` follows them, and the newest failures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import State, name_state
from syncctl.ledger.codec import decode_values
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

ATTEMPT = "attempt"
NOT_ATTEMPTS = ("unsendable", "lost")
"""The actions of the entries in a history, besides attempts, that report a failure."""
LAST_ENTRIES = 3
"""How many entries of a record's history are searched for failures."""
_RECORD_FIELDS: Doc = dict.fromkeys(("stream", "key", "updated_at"), True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One call for one record, as `syncctl tail --json` prints it."""

    at: datetime
    stream: str
    key: Mapping[str, Any]
    #: The record's id.
    id: str
    attempt: int
    outcome: str | None
    #: The state that followed; None if the outcome came late, after another process had taken the record over.
    state: str | None
    status: int | None
    latency_ms: float | None
    error: str | None
    fingerprint: str | None
    excerpt: str | None
    #: The partner's answer about its object, if the call asked for it.
    lookup: str | None
    late: bool
    worker: str | None
    idempotency_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedRecord:
    """A record with its attempts since a time."""

    id: str
    updated_at: datetime
    attempts: tuple[Attempt, ...]


class Attempts:
    """Reads only. Every write of an attempt sets the record's `updated_at`, which an index keeps in order."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def read_page(
        self,
        *,
        changed_since: datetime,
        attempts_since: datetime,
        streams: Sequence[str] = (),
        key_ids: Sequence[str] | None = None,
        without: Sequence[str] = (),
        limit: int,
    ) -> list[ChangedRecord]:
        """Return records that have changed and have attempts since a time, in the order of their last change.

        Args:
            streams: Empty: every stream.
            key_ids: Only the versions of these rows; then their streams must be named.
            without: Records that are left out: those of the previous page that changed last.
        """
        query: Doc = {"updated_at": {"$gte": changed_since}, **_with_attempts(attempts_since)}
        if streams:
            query["stream"] = {"$in": list(streams)}
        if key_ids is not None:
            query["key_id"] = {"$in": list(key_ids)}
        if without:
            query["_id"] = {"$nin": list(without)}
        is_attempt = {"$and": [{"$eq": ["$$this.action", ATTEMPT]}, {"$gte": ["$$this.at", attempts_since]}]}
        fields = {**_RECORD_FIELDS, "history": {"$filter": {"input": "$history", "cond": is_attempt}}}
        hint = "updated" if key_ids is None else "by_key"
        records = self._records.find(query, fields, sort=[("updated_at", 1)], limit=limit, hint=hint)
        return [_read(record) for record in records]

    @edge
    def find_failures(self, stream: str, *, limit: int) -> list[Attempt]:
        """Return the failures of records that have failed lately, and of some that are retried, newest first.

        An index finds them, at a cost that does not grow with the number of records.
        """
        failed: Doc = {"stream": stream, "state": State.FAILED.value, "finished_at": {"$exists": True}}
        retried: Doc = {"stream": stream, "state": State.PENDING.value, "fresh": False, "due_at": {"$type": "date"}}
        fields = {**_RECORD_FIELDS, "history": {"$slice": -LAST_ENTRIES}}
        records = [
            *self._records.find(failed, fields, sort=[("finished_at", -1)], limit=limit, hint="finished"),
            *self._records.find(retried, fields, sort=[("due_at", 1)], limit=limit, hint="due"),
            *self._records.find(retried, fields, sort=[("due_at", -1)], limit=limit, hint="due"),
        ]
        return _list_wrong(records)

    @edge
    def find_new_failures(self, *, limit: int) -> list[Attempt]:
        """Return the failures of the records that have changed last, newest first.

        Args:
            limit: How many records are examined.
        """
        changed = {"updated_at": {"$type": "date"}}
        fields = {**_RECORD_FIELDS, "history": {"$slice": -LAST_ENTRIES}}
        return _list_wrong(self._records.find(changed, fields, sort=[("updated_at", -1)], limit=limit, hint="updated"))


def _with_attempts(since: datetime) -> Doc:
    return {"history": {"$elemMatch": {"action": ATTEMPT, "at": {"$gte": since}}}}


def _read(record: Doc) -> ChangedRecord:
    attempts = tuple(_read_entry(record, entry) for entry in record.get("history") or ())
    return ChangedRecord(id=record["_id"], updated_at=record["updated_at"], attempts=attempts)


def _read_entry(record: Doc, entry: Mapping[str, Any]) -> Attempt:
    state = entry.get("state")
    return Attempt(
        at=entry["at"],
        stream=record["stream"],
        key=decode_values(record["key"]),
        id=record["_id"],
        attempt=int(entry.get("n", 0)),
        outcome=entry.get("outcome"),
        state=None if state is None else name_state(state, fresh=False),
        status=entry.get("status"),
        latency_ms=entry.get("latency_ms"),
        error=entry.get("error"),
        fingerprint=entry.get("fingerprint"),
        excerpt=entry.get("excerpt"),
        lookup=entry.get("lookup"),
        late=bool(entry.get("late")),
        worker=entry.get("worker"),
        idempotency_key=entry.get("idempotency_key"),
    )


def _list_wrong(records: Iterable[Doc]) -> list[Attempt]:
    """Return the last entries of these records that report a failure, each once, newest first."""
    entries: dict[tuple[str, datetime], Attempt] = {}
    for record in records:
        for entry in record.get("history") or ():
            if entry["action"] in NOT_ATTEMPTS or (entry["action"] == ATTEMPT and entry.get("error") is not None):
                entries[record["_id"], entry["at"]] = _read_entry(record, entry)
    return sorted(entries.values(), key=lambda attempt: attempt.at, reverse=True)
