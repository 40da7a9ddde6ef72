"""The writes that turn the outcome of a call into the state of its record. Each is guarded by the batch's token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.fingerprint import fingerprint
from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.remote_values import LostObject
from syncctl.core.rows import Value
from syncctl.core.states import State
from syncctl.ledger.attempt_history import REOPENED, appended, grown
from syncctl.ledger.batches import Claim
from syncctl.ledger.codec import encode_values
from syncctl.ledger.expressions import IN_FLIGHT_FIELDS, SYNCCTL, in_future, or_absent, or_zero
from syncctl.ledger.mongo_client import edge, update_many_safely
from syncctl.ledger.records import REFUSED_ALONE
from syncctl.ledger.write_backs import WRITE_BACK, marked_if

Doc = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """The change of state of a claimed record."""

    record: Record
    #: PENDING to be sent again, DELIVERED, FAILED, SUPERSEDED or DISCARDED.
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
    #: For PENDING: it was refused as all others were; if it is refused again when others are not, it is to blame.
    refused: bool = False
    #: For PENDING: it was refused while others were accepted.
    refused_alone: bool = False
    #: For SUPERSEDED: the newer record.
    superseded_by: str | None = None
    #: For FAILED and DISCARDED without an outcome: why.
    reason: str | None = None
    #: For PENDING: the partner was asked, now or before a call that changed nothing, and has no object for the row.
    looked_up: bool = False
    #: For PENDING: the object that the partner no longer has, and that is created anew.
    recreates: LostObject | None = None


_TRIED_AT: Doc = {"$cond": [{"$gt": [or_zero("tries"), 0]}, {"$ifNull": ["$tried_at", "$$NOW"]}, "$$NOW"]}


def _describe_marks(transition: Transition) -> Doc:
    """Return the marks about the partner's object that a record keeps until its next call."""
    marks: Doc = {"looked_up": True} if transition.looked_up else {}
    if (lost := transition.recreates) is not None:
        marks["recreates"] = {"$literal": {"values": encode_values(lost.values), "seq": lost.seq}}
    return marks


def _is_plain_delivery(transition: Transition) -> bool:
    return (
        transition.state is State.DELIVERED
        and transition.outcome is not None
        and not transition.counts_as_attempt_only
        and not transition.new_key
        and transition.outcome.lookup is None
    )


def _unless_resent(otherwise: Any, resent: Any) -> Doc:
    return {"$cond": [{"$eq": ["$resend", True]}, resent, otherwise]}


class DeliveryStates:
    """Writes the outcomes of calls to their records."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def write_transitions(
        self, claim: Claim, transitions: Sequence[Transition], *, writes_back: bool = False
    ) -> list[Record]:
        """Write transitions; return the records whose lease was lost before. Safe to repeat.

        Guarded by the claim's token: a late outcome changes no state (invariant 3).

        Args:
            writes_back: The outcomes are written back into the source later.
        """
        accepted = [transition for transition in transitions if _is_plain_delivery(transition)]
        others = [transition for transition in transitions if not _is_plain_delivery(transition)]
        count = 0
        if accepted:
            ids = [transition.record.id for transition in accepted]
            guard = {"_id": {"$in": ids}, "lease.token": claim.token}
            count += update_many_safely(
                self._records, guard, self._deliver_many(claim, accepted, writes_back=writes_back)
            )
        if others:
            writes = [
                UpdateOne(
                    {"_id": transition.record.id, "lease.token": claim.token},
                    self._changes(claim, transition, writes_back=writes_back),
                )
                for transition in others
            ]
            count += self._records.bulk_write(writes, ordered=False).matched_count
        if count == len(transitions):
            return []
        ids = [transition.record.id for transition in transitions]
        # A transition was written if its claim is in the history, or if it needed no entry.
        called = {"$elemMatch": {"claim": claim.token, "action": {"$ne": "lost"}}}
        written = {
            document["_id"] for document in self._records.find({"_id": {"$in": ids}, "history": called}, {"_id": True})
        }
        return [
            transition.record
            for transition in transitions
            if transition.record.id not in written and transition.outcome is not None
        ]

    def _deliver_many(self, claim: Claim, transitions: Sequence[Transition], *, writes_back: bool) -> list[Doc]:
        """Return one change for many delivered records; the values that differ are looked up by the record's id.

        One update of many records costs MongoDB a third of as many updates of one.
        """
        ids = [transition.record.id for transition in transitions]
        outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
        entries = [
            attempt_entry(claim, transition.record, outcome)
            for transition, outcome in zip(transitions, outcomes, strict=True)
        ]
        place = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
        computed = {"at": "$$NOW", "state": _unless_resent(State.DELIVERED.value, State.PENDING.value)}
        entry = {"$mergeObjects": [{"$arrayElemAt": [{"$literal": entries}, "$place"]}, computed]}
        latency_ms = {"$arrayElemAt": [{"$literal": [round(outcome.latency_ms) for outcome in outcomes]}, "$place"]}
        changes: Doc = {
            **counted(outcomes[0]),
            **self._delivered(writes_back=writes_back),
            "sent_at": {"$ifNull": ["$sent_at", {"$subtract": ["$$NOW", latency_ms]}]},
            "updated_at": "$$NOW",
            "tries": _unless_resent({"$add": [or_zero("tries"), 1]}, 0),
            "tried_at": _TRIED_AT,
            **appended(entry),
        }
        gone = ["place", *IN_FLIGHT_FIELDS, "losses", "error", "resend", "solo", "rows_at_most", "refused"]
        gone += ["looked_up", "recreates"]
        return [{"$set": {"place": place}}, {"$set": changes}, {"$unset": gone}]

    def _changes(self, claim: Claim, transition: Transition, *, writes_back: bool) -> list[Doc]:
        state, outcome = transition.state, transition.outcome
        changes: Doc = {"state": state.value, "updated_at": "$$NOW"}
        gone = list(IN_FLIGHT_FIELDS)
        if outcome is not None:
            changes |= self._attempt(claim, transition)
            marks = _describe_marks(transition)
            changes |= marks
            gone += ["losses", *({"looked_up", "recreates"} - marks.keys())]
        elif state is State.DISCARDED:
            entry: Doc = {"action": "discarded", "by": SYNCCTL, "reason": transition.reason, "claim": claim.token}
            changes |= {**grown(entry), "reason": {"$literal": transition.reason}}
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
            changes |= {**grown(entry), "error": {"$literal": error}}
        if state is State.PENDING:
            changes |= {"fresh": False, "due_at": transition.due_at or in_future(transition.delay_seconds)}
        elif state is State.DELIVERED:
            changes |= self._delivered(writes_back=writes_back)
            gone += ["error", "resend", "solo", "rows_at_most", "refused"]
        else:
            changes |= {f"{state.value}_at": "$$NOW", "finished_at": "$$NOW", "due_at": "$$REMOVE"}
            if state is State.FAILED and writes_back:
                changes[WRITE_BACK] = marked_if()
        if state is State.SUPERSEDED:
            changes |= {"superseded_by": transition.superseded_by, "claims": {"$subtract": ["$claims", 1]}}
            gone.append("acknowledge")
        if transition.new_key:
            changes["generation"] = {"$add": [or_zero("generation"), 1]}
        return [{"$set": changes}, {"$unset": gone}]

    @staticmethod
    def _delivered(*, writes_back: bool) -> Doc:
        """Finish a record; one that was marked `resend` in flight is sent once more under a new key (invariant 5)."""
        marked = {WRITE_BACK: marked_if({"$ne": ["$resend", True]})} if writes_back else {}
        return {
            **marked,
            "state": _unless_resent(State.DELIVERED.value, State.PENDING.value),
            "delivered_at": "$$NOW",
            "finished_at": _unless_resent("$$NOW", "$$REMOVE"),
            "due_at": _unless_resent("$$REMOVE", "$$NOW"),
            "fresh": _unless_resent("$fresh", True),
            "attempts_before": _unless_resent(or_absent("attempts_before"), "$claims"),
            "generation": {"$add": [or_zero("generation"), _unless_resent(0, 1)]},
        }

    def _attempt(self, claim: Claim, transition: Transition) -> Doc:
        outcome, record = transition.outcome, transition.record
        assert outcome is not None  # noqa: S101 - the caller has checked
        state: Any = transition.state.value
        if transition.state is State.DELIVERED:
            state = _unless_resent(State.DELIVERED.value, State.PENDING.value)
        entry = attempt_entry(claim, record, outcome)
        changes: Doc = {
            **counted(outcome),
            **grown(entry, state=state),
            "tries": {"$add": [or_zero("tries"), 0 if transition.counts_as_attempt_only else 1]},
            "tried_at": _TRIED_AT,
        }
        if outcome.rows_at_most is not None:
            changes["rows_at_most"] = outcome.rows_at_most
        if transition.refused or transition.refused_alone:
            changes["refused"] = REFUSED_ALONE if transition.refused_alone else {"$ifNull": ["$refused", True]}
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
            changes = {**counted(outcome), **grown(entry), "updated_at": "$$NOW"}
            writes.append(UpdateOne(guard, [{"$set": changes}]))
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def resend(self, ids: Sequence[str], *, unless_in: Mapping[str, str] | None = None) -> None:
        """Send records again under a new key: an older call may have taken effect after theirs (invariant 5).

        A delivered record becomes due; a pending one that was tried before takes a new key; a record in flight is sent
        once more after it has been accepted.

        Args:
            unless_in: By record id, the mapping of the record's own call that came late: if its last call had that
                mapping too, the record is left alone, because the partner holds the same bytes.
        """
        is_delivered = {"$eq": ["$state", State.DELIVERED.value]}
        was_tried = {"$and": [{"$eq": ["$state", State.PENDING.value]}, {"$gt": [or_zero("claims"), 0]}]}

        def if_delivered(then: Any, otherwise: Any) -> Doc:
            return {"$cond": [is_delivered, then, otherwise]}

        changes = {
            "resend": {"$cond": [{"$eq": ["$state", State.SENDING.value]}, True, "$$REMOVE"]},
            "generation": {"$add": [or_zero("generation"), {"$cond": [{"$or": [is_delivered, was_tried]}, 1, 0]}]},
            **{
                name: if_delivered(value, or_absent(name))
                for name, value in grown({"action": "resent"}, **REOPENED).items()
            },
            "state": if_delivered(State.PENDING.value, "$state"),
            "fresh": if_delivered(True, "$fresh"),
            "tries": if_delivered(0, or_zero("tries")),
            "attempts_before": if_delivered("$claims", or_absent("attempts_before")),
            "due_at": if_delivered("$$NOW", or_absent("due_at")),
            "updated_at": if_delivered("$$NOW", or_absent("updated_at")),
            "finished_at": if_delivered("$$REMOVE", or_absent("finished_at")),
            WRITE_BACK: if_delivered("$$REMOVE", or_absent(WRITE_BACK)),
        }
        # One write per record, which judges and changes the state at once, and which the driver can repeat.
        mappings = unless_in or {}
        writes = [
            UpdateOne(
                {"_id": record, **({"mapping_hash": {"$ne": mappings[record]}} if record in mappings else {})},
                [{"$set": changes}],
            )
            for record in ids
        ]
        if writes:
            self._records.bulk_write(writes, ordered=False)


def counted(outcome: Outcome) -> Doc:
    """Return the changes that count one call, which outlast its entry in the history (invariant 4)."""
    verdict = f"outcomes.{outcome.verdict.value}"
    changes: Doc = {"attempts": {"$add": [or_zero("attempts"), 1]}, verdict: {"$add": [or_zero(verdict), 1]}}
    if outcome.lookup is None:
        changes["sent_at"] = {"$ifNull": ["$sent_at", {"$subtract": ["$$NOW", round(outcome.latency_ms)]}]}
    return changes


def _show_captured(value: Value) -> str:
    """Return a captured value as it stands in a path."""
    return str(value).lower() if isinstance(value, bool) else str(value)


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
    if record.attempt > 1:
        entry["retry"] = record.is_retry
    if outcome.error is not None:
        entry["error"] = outcome.error
        entry["fingerprint"] = fingerprint(outcome.status, outcome.error, record.key.values())
    if outcome.batch_key is not None:
        entry["batch_key"] = outcome.batch_key
    if outcome.lookup is not None:
        entry["lookup"] = outcome.lookup
    if outcome.captured:
        entry["captured"] = {name: _show_captured(value) for name, value in outcome.captured.items()}
    if outcome.not_captured is not None:
        entry["not_captured"] = outcome.not_captured
    if outcome.excerpt:
        entry["excerpt"] = outcome.excerpt
    return entry
