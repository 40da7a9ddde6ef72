"""A partner that assigns its own ids: the next call for a record, and what the answers say about the partner's object.

A record creates the partner's object, updates or deletes it with its known values, or first asks whether it exists:
after a call that may have created the object, its id may be lost with the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from syncctl.core.outcome import CONFLICT, GONE_STATUSES, Outcome, Verdict
from syncctl.core.records import Record
from syncctl.core.remote_values import LostObject, RemoteChange, find_remote_names
from syncctl.core.states import State
from syncctl.core.stream import Stream
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import KnownKey
from syncctl.logs import get_logger
from syncctl.pipeline.delivery.delivery_gate import Batch

log = get_logger(__name__)

NOTHING_TO_DELETE = "nothing to delete: no version of this row has reached the partner"


def is_known(stream: Stream, key: KnownKey) -> bool:
    """Tell whether the partner's object for a row is known well enough to update it."""
    names = find_remote_names(stream.update_path) if stream.update_method is not None else ()
    return key.has_object and all(name in key.remote_values for name in names)


def is_in_doubt(stream: Stream, key: KnownKey) -> bool:
    """Tell whether the partner may have an object for a row that is not known well enough to update it."""
    return key.may_have_object and not is_known(stream, key)


def is_holder(stream: Stream, record: Record, key: KnownKey) -> bool:
    """Tell whether, under order `latest`, a claimed record is sent although it is not the newest of its key.

    Its call may have created the partner's object. If it is repeated under the same `Idempotency-Key`, it returns the
    object's id; the newest version would create a second object.
    """
    was_tried = record.attempt > 1 and key.delivered_seq < record.seq <= key.reached_seq
    return stream.waits_in_doubt and was_tried and is_in_doubt(stream, key)


def choose_step(stream: Stream, record: Record, key: KnownKey | None) -> Record | Transition:
    """Return a record with its next call, or the transition that ends it if there is no call to make."""
    if key is None:
        key = KnownKey(key_id="", seq=0, version="", version_seq=0, hash="", op=record.op)
    if record.op == "delete":
        return _choose_delete(stream, record, key)
    record = replace(record, remote=key.remote_values)
    if record.recreates is not None and record.recreates != _describe_object(key):
        # Its own call has since created another object, and the answer came late.
        record = replace(record, recreates=None)
    if stream.update_method is not None and is_known(stream, key) and record.recreates is None:
        return replace(record, step="update")
    if _must_ask(stream, record, key):
        return replace(record, step="look_up")
    if missing := _find_missing(stream.path, key.remote_values):
        return _fail(record, missing, f"{stream.method} {stream.path}")
    return record


def _choose_delete(stream: Stream, record: Record, key: KnownKey) -> Record | Transition:
    # A deleted object's values are used too, as an operator may send the delete again; but not if there may be another.
    values = key.remote.values if key.remote is not None and not key.may_have_another_object else {}
    method, path = stream.delete_method or stream.method, stream.delete_path
    if stream.delete_method is None:
        path = stream.path
    missing = _find_missing(path, values)
    is_doubtful = stream.lookup is not None and key.doubt_seq is not None and not record.looked_up
    if not missing and not (is_doubtful and find_remote_names(path)):
        return replace(record, remote=values)
    if not key.may_have_object and not _always_asks(stream):
        return Transition(record=record, state=State.DISCARDED, reason=NOTHING_TO_DELETE)
    if stream.lookup is not None and not record.looked_up:
        return replace(record, remote=values, step="look_up")
    return _fail(record, missing or find_remote_names(path)[0], f"{method} {path}")


def _must_ask(stream: Stream, record: Record, key: KnownKey) -> bool:
    """Tell whether a record that would create an object first asks whether there is one."""
    if stream.lookup is None or record.looked_up:
        return False
    if record.recreates is not None:
        return _always_asks(stream) or key.doubt_seq is not None
    return not is_known(stream, key) and (key.may_have_object or _always_asks(stream))


def _always_asks(stream: Stream) -> bool:
    return stream.lookup is not None and stream.lookup.when == "always"


def _find_missing(path: str, values: Mapping[str, object]) -> str | None:
    return next((name for name in find_remote_names(path) if name not in values), None)


def _fail(record: Record, name: str, endpoint: str) -> Transition:
    reason = f"{endpoint} needs remote.{name}, which no answer has brought for this row, and none can any more"
    return Transition(record=record, state=State.FAILED, reason=reason)


def shape_by_remote(record: Record, remote_hash: str) -> Record:
    """Return a record whose call is built with these remote values: the same record if the last call was, too.

    Otherwise its bytes differ from those of a call that may have been made, and it goes under a new `Idempotency-Key`
    (invariant 7).
    """
    if record.step == "look_up" or record.remote_hash == remote_hash:
        return record
    return replace(record, remote_hash=remote_hash, generation=record.generation + (record.attempt > 1))


def decide_remote(batch: Batch, record: Record, outcome: Outcome) -> Transition | None:
    """Decide what follows from the outcome of a call about the partner's object; None if nothing special does."""
    stream = batch.stream
    if outcome.lookup is not None:
        return None if outcome.lookup == "failed" else _decide_lookup(batch, record, outcome)
    if record.op == "delete" or outcome.status in stream.outcomes.list_rules("upsert", names_row=False):
        return None
    if record.step == "update" and outcome.status in GONE_STATUSES and stream.missing == "create":
        error = f"{outcome.error}; its object is gone, so it will be created"
        # This concerns this row alone, even if it is a 410.
        lost = _describe_object(batch.known.get(batch.claim.key_ids[record.id]))
        return _go_on(record, replace(outcome, error=error, has_own_rule=True), recreates=lost)
    is_conflict = outcome.verdict is Verdict.REJECTED and outcome.status == CONFLICT
    if record.step == "send" and is_conflict and stream.lookup is not None and not record.looked_up:
        error = f"{outcome.error}; the partner will be asked for its object"
        return _go_on(record, replace(outcome, error=error), recreates=record.recreates)
    return None


def _describe_object(key: KnownKey | None) -> LostObject:
    remote = key.remote if key is not None else None
    return LostObject() if remote is None else LostObject(values=remote.values, seq=remote.seq)


def _go_on(record: Record, outcome: Outcome, *, recreates: LostObject | None, looked_up: bool = False) -> Transition:
    """Return the transition of a record that continues at once with another call."""
    return Transition(
        record=record,
        state=State.PENDING,
        outcome=outcome,
        counts_as_attempt_only=True,
        looked_up=looked_up,
        recreates=recreates,
    )


def _decide_lookup(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    """Decide what follows from the answer to a lookup: whether the partner has an object for the row."""
    key = batch.known.get(batch.claim.key_ids[record.id])
    is_found = outcome.lookup == "found"
    if is_found and record.recreates is not None and outcome.captured.items() <= record.remote.items():
        # This is the object that the partner did not have when it was to be updated.
        is_found = False
    if is_found:
        # A single endpoint that needs the object's values is an endpoint for updates.
        has_update = batch.stream.update_method is not None or bool(find_remote_names(batch.stream.path))
        is_done = record.op == "upsert" and (not has_update or _is_own(record, key))
        if is_done:
            return Transition(record=record, state=State.DELIVERED, outcome=outcome)
        return _go_on(record, outcome, recreates=None)
    asked_at = batch.claim.clock.at_boot_time(outcome.ended).timestamp() - outcome.latency_ms / 1000
    pending = [call.until for call in key.unsettled if call.until.timestamp() > asked_at] if key is not None else []
    if pending:
        # This answer proves nothing yet: a call that may still take effect may create the object.
        until = f"{max(pending):%H:%M:%S} UTC"
        error = f"not found; the partner is asked again once no earlier call can take effect any more, at {until}"
        going_on = _go_on(record, replace(outcome, error=error), recreates=record.recreates)
        return replace(going_on, due_at=max(pending))
    if record.op == "delete":
        return Transition(record=record, state=State.DELIVERED, outcome=outcome)
    return _go_on(record, outcome, recreates=record.recreates, looked_up=True)


def _is_own(record: Record, key: KnownKey | None) -> bool:
    """Tell whether the found object can only have been created by a call of this record with the same bytes."""
    if key is None or key.doubt_seq is None or record.generation or record.recreates is not None:
        return False
    return key.doubt_seq >= record.seq and not key.has_object


def keep_remote_marks(record: Record, transition: Transition) -> Transition:
    """Return the transition of a call, with the record's marks about the partner's object that are still valid."""
    outcome = transition.outcome
    if transition.state is not State.PENDING or outcome is None:
        return transition
    looked_up = record.looked_up and not outcome.may_have_created
    return replace(transition, looked_up=looked_up, recreates=record.recreates)


def describe_remote(transition: Transition) -> RemoteChange:
    """Return what an accepted answer says about the partner's object."""
    outcome, record = transition.outcome, transition.record
    if record.op == "delete":
        return RemoteChange(is_gone=True)
    return RemoteChange(
        values=outcome.captured if outcome is not None else {},
        is_new=record.step == "send" and record.recreates is not None,
    )


def list_found(key_ids: Mapping[str, str], transitions: Sequence[Transition]) -> list[tuple[str, int, RemoteChange]]:
    """Return the objects that lookups found for records that continue (key id, seq, the object's values)."""
    return [
        (
            key_ids[transition.record.id],
            transition.record.seq,
            RemoteChange(values=transition.outcome.captured, is_new=transition.record.recreates is not None),
        )
        for transition in transitions
        if transition.outcome is not None
        and transition.outcome.lookup == "found"
        and transition.state is State.PENDING
        and transition.recreates is None
    ]


def list_doubts(key_ids: Mapping[str, str], transitions: Sequence[Transition]) -> list[tuple[str, int, int]]:
    """Return the calls that may have created an object (key id, seq, the first version that may have created it)."""
    return [
        (
            key_ids[transition.record.id],
            transition.record.seq,
            # The object that caused a conflict existed before this call: an earlier version may have created it.
            0 if transition.outcome.status == CONFLICT else transition.record.seq,
        )
        for transition in transitions
        if transition.outcome is not None and transition.record.step == "send" and transition.outcome.may_have_created
    ]


def warn_not_captured(stream: str, transitions: Sequence[Transition]) -> None:
    """Log, in one line for all of them, that values of accepted answers could not be captured."""
    reasons = {
        transition.record.id: transition.outcome.not_captured
        for transition in transitions
        if transition.outcome is not None and transition.outcome.not_captured is not None
    }
    if reasons:
        record, reason = next(iter(reasons.items()))
        log.warning("deliver.not_captured", stream=stream, records=len(reasons), first=record, reason=reason)
