"""The writes that move a record through its delivery: queue, claim, outcome. Each is guarded by a token."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError

from syncctl.core.fingerprint import fingerprint
from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.ledger.client import edge, is_only_duplicates, new_token, update_many_safely
from syncctl.ledger.expressions import IN_FLIGHT_FIELDS, REOPENED, ClockReading, grown, in_future, is_past, or_zero
from syncctl.ledger.records import record_of

Doc = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A batch of records that this worker alone may send, until its lease ends (invariant 3)."""

    stream: str
    token: str
    worker: str
    records: tuple[Record, ...]
    #: The key id of each record, by record id.
    key_ids: Mapping[str, str]
    #: The lease's end by this machine's monotonic clock, measured from before MongoDB was asked: never too late.
    ends_at: float
    clock: ClockReading


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """The change of state of a claimed record."""

    record: Record
    #: PENDING to be sent again, DELIVERED, FAILED or SUPERSEDED.
    state: State
    #: The call's outcome; None where no call was made.
    outcome: Outcome | None = None
    #: For PENDING: how long from now it is due, by MongoDB's clock.
    delay_seconds: float = 0.0
    #: For PENDING: when it is due, instead of a delay.
    due_at: datetime | None = None
    #: Send it under a new `Idempotency-Key` from now on.
    new_key: bool = False
    #: Count the call as an attempt, but not as a try of the retry schedule: the record is not to blame.
    counts_as_attempt_only: bool = False
    #: For SUPERSEDED: the newer record.
    superseded_by: str | None = None
    #: For FAILED without an outcome: why.
    reason: str | None = None


def _unless_resent(otherwise: Any, resent: Any) -> Doc:
    return {"$cond": [{"$eq": ["$resend", True]}, resent, otherwise]}


class DeliveryStates:
    """The way of a record from due to its outcome."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def queue(self, ids: Sequence[str], *, batch: str, seconds: float, exclusive: bool) -> int:
        """Mark due records as queued under the batch's token; return how many are.

        With `exclusive`, the unique index refuses a record whose key has another version in flight (invariant 5); it
        stays due. Whether a record is due is judged by MongoDB's clock (invariants 6 and 8).
        """
        changes: Doc = {
            "state": State.QUEUED.value,
            "in_flight": True,
            "lease": {"token": batch, "until": in_future(seconds), "worker": "dispatch"},
        }
        if exclusive:
            changes["exclusive"] = True
        due = {"state": State.PENDING.value, **is_past("due_at")}
        try:
            return self._records.update_many({"_id": {"$in": list(ids)}, **due}, [{"$set": changes}]).modified_count
        except (DuplicateKeyError, AutoReconnect):
            # One by one, which the driver repeats where it must: a key in flight keeps only its own record back.
            self._queue_each([UpdateOne({"_id": record, **due}, [{"$set": changes}]) for record in ids])
        return self._records.count_documents({"_id": {"$in": list(ids)}, "lease.token": batch})

    def _queue_each(self, writes: Sequence[UpdateOne]) -> None:
        try:
            self._records.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            if not is_only_duplicates(error):
                raise

    @edge
    def unqueue(self, ids: Sequence[str], *, batch: str) -> int:
        """Put queued records back at once, because their message could not be sent or taken."""
        guard = {"_id": {"$in": list(ids)}, "lease.token": batch, "state": State.QUEUED.value}
        changes: list[Doc] = [{"$set": {"state": State.PENDING.value}}, {"$unset": IN_FLIGHT_FIELDS}]
        return update_many_safely(self._records, guard, changes)

    @edge
    def claim(
        self, stream: str, ids: Sequence[str], *, batch: str, mapping_hash: str, seconds: float, worker: str
    ) -> Claim:
        """Claim a queued batch with one write, and load it with one read. Safe to repeat; a stale batch gives nothing.

        Where the mapping has changed since a record's first claim, its bytes have too, so that it takes a new
        `Idempotency-Key` (invariant 7).
        """
        token = new_token()
        started = time.monotonic()
        remapped = {"$ne": [{"$ifNull": ["$mapping_hash", mapping_hash]}, mapping_hash]}
        changes = {
            "state": State.SENDING.value,
            "lease": {"token": token, "until": in_future(seconds), "worker": {"$literal": worker}},
            "claims": {"$add": [or_zero("claims"), 1]},
            "generation": {"$add": [or_zero("generation"), {"$cond": [remapped, 1, 0]}]},
            "mapping_hash": mapping_hash,
        }
        # Invariant 3: only records that are still queued under this batch's token.
        guard = {"_id": {"$in": list(ids)}, "lease.token": batch, "state": State.QUEUED.value}
        update_many_safely(self._records, guard, [{"$set": changes}])
        fields = {"history": False, "error": False}
        found = list(self._records.find({"_id": {"$in": list(ids)}, "lease.token": token}, fields).sort("seq", 1))
        until: datetime | None = found[0]["lease"]["until"] if found else None
        at = until - timedelta(seconds=seconds) if until else datetime.fromtimestamp(0).astimezone()
        return Claim(
            stream=stream,
            token=token,
            worker=worker,
            records=tuple(record_of(document) for document in found),
            key_ids={document["_id"]: document["key_id"] for document in found},
            ends_at=started + seconds,
            clock=ClockReading(at, time.monotonic()),
        )

    @edge
    def release(self, claim: Claim, ids: Sequence[str]) -> None:
        """Give back claimed records that were never sent, as if they had not been claimed."""
        if ids:
            guard = {"_id": {"$in": list(ids)}, "lease.token": claim.token}
            changes = {"state": State.PENDING.value, "claims": {"$subtract": ["$claims", 1]}}
            update_many_safely(self._records, guard, [{"$set": changes}, {"$unset": IN_FLIGHT_FIELDS}])

    @edge
    def write_transitions(self, claim: Claim, transitions: Sequence[Transition]) -> list[Record]:
        """Write transitions in one bulk; return the records whose lease was lost before. Safe to repeat.

        Guarded by the claim's token: a late outcome changes no state (invariant 3).
        """
        if not transitions:
            return []
        writes = [
            UpdateOne({"_id": transition.record.id, "lease.token": claim.token}, self._changes(claim, transition))
            for transition in transitions
        ]
        if self._records.bulk_write(writes, ordered=False).matched_count == len(writes):
            return []
        ids = [transition.record.id for transition in transitions]
        # A transition was written if its claim is in the history, or if it needed no entry.
        called = {"$elemMatch": {"claim": claim.token, "action": {"$ne": "lost"}}}
        written = {
            found["_id"] for found in self._records.find({"_id": {"$in": ids}, "history": called}, {"_id": True})
        }
        return [
            transition.record
            for transition in transitions
            if transition.record.id not in written and transition.outcome is not None
        ]

    def _changes(self, claim: Claim, transition: Transition) -> list[Doc]:
        state, outcome = transition.state, transition.outcome
        changes: Doc = {"state": state.value, "updated_at": "$$NOW"}
        gone = list(IN_FLIGHT_FIELDS)
        if outcome is not None:
            changes |= self._attempt(claim, transition)
            gone.append("losses")
        elif transition.reason is not None:
            error = {
                "fingerprint": fingerprint(None, transition.reason, transition.record.key.values()),
                "status": None,
                "message": transition.reason,
            }
            entry = {
                "action": "unsendable",
                "n": transition.record.attempt,
                "claim": claim.token,
                "state": state.value,
            }
            entry |= {"error": transition.reason, "fingerprint": error["fingerprint"]}
            changes |= {"history": grown(entry), "error": {"$literal": error}}
        if state is State.PENDING:
            changes |= {"fresh": False, "due_at": transition.due_at or in_future(transition.delay_seconds)}
        elif state is State.DELIVERED:
            changes |= self._delivered()
            gone += ["error", "resend", "solo"]
        else:
            changes |= {f"{state.value}_at": "$$NOW", "finished_at": "$$NOW", "due_at": "$$REMOVE"}
        if state is State.SUPERSEDED:
            changes |= {"superseded_by": transition.superseded_by, "claims": {"$subtract": ["$claims", 1]}}
        if transition.new_key:
            changes["generation"] = {"$add": [or_zero("generation"), 1]}
        return [{"$set": changes}, {"$unset": gone}]

    @staticmethod
    def _delivered() -> Doc:
        """Finish a record; one that got `resend` in flight is sent once more under a new key (invariant 5)."""
        return {
            "state": _unless_resent(State.DELIVERED.value, State.PENDING.value),
            "delivered_at": "$$NOW",
            "finished_at": _unless_resent("$$NOW", "$$REMOVE"),
            "due_at": _unless_resent("$$REMOVE", "$$NOW"),
            "fresh": _unless_resent("$fresh", False),
            "generation": {"$add": [or_zero("generation"), _unless_resent(0, 1)]},
        }

    def _attempt(self, claim: Claim, transition: Transition) -> Doc:
        outcome, record = transition.outcome, transition.record
        assert outcome is not None  # noqa: S101 - the caller has looked
        state: Any = transition.state.value
        if transition.state is State.DELIVERED:
            state = _unless_resent(State.DELIVERED.value, State.PENDING.value)
        entry = attempt_entry(claim, record, outcome)
        changes: Doc = {
            **counted(outcome),
            "history": grown(entry, state=state),
            "tries": {"$add": [or_zero("tries"), 0 if transition.counts_as_attempt_only else 1]},
            "tried_at": {"$cond": [{"$gt": [or_zero("tries"), 0]}, {"$ifNull": ["$tried_at", "$$NOW"]}, "$$NOW"]},
        }
        if outcome.send_alone:
            changes["solo"] = True
        if outcome.error is not None:
            error = {"fingerprint": entry["fingerprint"], "status": outcome.status, "message": outcome.error}
            changes["error"] = {"$literal": error}
        return changes

    @edge
    def add_late_outcomes(self, claim: Claim, late: Sequence[tuple[Record, Outcome]]) -> None:
        """Add late outcomes to the history, never to the state (invariant 3). Safe to repeat."""
        writes = []
        for record, outcome in late:
            guard = {
                "_id": record.id,
                "history": {"$not": {"$elemMatch": {"claim": claim.token, "action": "attempt"}}},
            }
            entry = attempt_entry(claim, record, outcome) | {"late": True}
            changes = {**counted(outcome), "history": grown(entry), "updated_at": "$$NOW"}
            writes.append(UpdateOne(guard, [{"$set": changes}]))
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def resend(self, ids: Sequence[str]) -> None:
        """Send records again under a new key: an older call may have taken effect after theirs (invariant 5).

        A delivered record becomes due; a pending one that was tried before takes a new key; a record in flight is sent
        once more after it has been accepted.
        """
        is_delivered = {"$eq": ["$state", State.DELIVERED.value]}
        was_tried = {"$and": [{"$eq": ["$state", State.PENDING.value]}, {"$gt": [or_zero("claims"), 0]}]}

        def if_delivered(then: Any, otherwise: Any) -> Doc:
            return {"$cond": [is_delivered, then, otherwise]}

        changes = {
            "resend": {"$cond": [{"$eq": ["$in_flight", True]}, True, "$$REMOVE"]},
            "generation": {"$add": [or_zero("generation"), {"$cond": [{"$or": [is_delivered, was_tried]}, 1, 0]}]},
            "history": if_delivered(grown({"action": "resent"}, **REOPENED), {"$ifNull": ["$history", "$$REMOVE"]}),
            "state": if_delivered(State.PENDING.value, "$state"),
            "fresh": if_delivered(False, "$fresh"),
            "due_at": if_delivered("$$NOW", {"$ifNull": ["$due_at", "$$REMOVE"]}),
            "updated_at": if_delivered("$$NOW", {"$ifNull": ["$updated_at", "$$REMOVE"]}),
            "finished_at": if_delivered("$$REMOVE", {"$ifNull": ["$finished_at", "$$REMOVE"]}),
        }
        # One write each, which judges the state and changes it at once, and which the driver repeats where it must.
        if ids:
            self._records.bulk_write([UpdateOne({"_id": record}, [{"$set": changes}]) for record in ids], ordered=False)


def counted(outcome: Outcome) -> Doc:
    """Return the changes that count one call, also for when the history has dropped its entry (invariant 4)."""
    verdict = f"outcomes.{outcome.verdict.value}"
    return {
        "attempts": {"$add": [or_zero("attempts"), 1]},
        verdict: {"$add": [or_zero(verdict), 1]},
        "sent_at": {"$ifNull": ["$sent_at", {"$subtract": ["$$NOW", round(outcome.latency_ms)]}]},
    }


def attempt_entry(claim: Claim, record: Record, outcome: Outcome) -> Doc:
    """Return the history entry of one call (invariant 4)."""
    entry: Doc = {
        "action": "attempt",
        "n": record.attempt,
        "claim": claim.token,
        "worker": claim.worker,
        "outcome": outcome.verdict.value,
        "status": outcome.status,
        "latency_ms": round(outcome.latency_ms, 2),
        "idempotency_key": record.idempotency_key,
    }
    if outcome.error is not None:
        entry["error"] = outcome.error
        entry["fingerprint"] = fingerprint(outcome.status, outcome.error, record.key.values())
    if outcome.batch_key is not None:
        entry["batch_key"] = outcome.batch_key
    if outcome.excerpt:
        entry["excerpt"] = outcome.excerpt
    return entry
