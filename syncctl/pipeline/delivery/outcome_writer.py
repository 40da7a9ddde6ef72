"""Decide the transition that follows from each call's outcome, and write it under the token: keys, then records."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from syncctl.core.fingerprint import fingerprint
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.core.retry import decide_delay
from syncctl.core.states import BreakerState, State
from syncctl.ledger.batches import Claim
from syncctl.ledger.breakers import Tally
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import SentCall
from syncctl.logs import ATTEMPTS, get_logger
from syncctl.pipeline.delivery.delivery_gate import Batch
from syncctl.pipeline.delivery.refusals import judge_pauses, judge_run
from syncctl.pipeline.delivery.remote_steps import (
    decide_remote,
    describe_remote,
    keep_remote_marks,
    list_doubts,
    list_found,
    warn_not_captured,
)
from syncctl.pipeline.delivery.version_order import find_overwritten

log = get_logger(__name__)
attempts = get_logger(ATTEMPTS)

ERRORS_AT_ONCE = 5
"""How many different errors are logged for one write of outcomes; `syncctl failures` has all of them."""

COUNTED_AS = {
    State.DELIVERED: "delivered",
    State.PENDING: "retrying",
    State.FAILED: "failed",
    State.SUPERSEDED: "superseded",
    State.DISCARDED: "discarded",
}


def decide_transition(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    """Decide what follows from a call's outcome."""
    keeps_remote = batch.stream.keeps_remote
    if keeps_remote and (transition := decide_remote(batch, record, outcome)) is not None:
        return transition
    transition = _decide(batch, record, outcome)
    if keeps_remote:
        transition = keep_remote_marks(record, transition)
    if outcome.may_take_effect_later and _find_outdated(batch, record, outcome):
        # Invariant 5: even if the partner has acted on this call, an outdated one may still take effect after it. Under
        # the same key the partner would treat the next call as a repeat, and keep the older version.
        return replace(transition, new_key=True)
    return transition


def _decide(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    if outcome.verdict is Verdict.ACCEPTED:
        return _decide_accepted(batch, record, outcome)
    if outcome.verdict is Verdict.REJECTED:
        return Transition(record=record, state=State.FAILED, outcome=outcome)
    if outcome.may_take_effect_later and batch.stream.ambiguous == "fail":
        held = f"{outcome.error or 'no answer'}; not sent again, because the partner may have it"
        return Transition(record=record, state=State.FAILED, outcome=replace(outcome, error=held))
    if outcome.pauses or batch.is_probe or outcome.rows_at_most is not None:
        # The fault lies with the partner or with another row of the batch, so this uses up none of the record's tries.
        # `write_transitions` finds out whether a refusal is this record's own fault.
        wait = outcome.retry_after_seconds or 0.0
        return Transition(
            record=record, state=State.PENDING, outcome=outcome, counts_as_attempt_only=True, delay_seconds=wait
        )
    transition = _decide_retry(batch, record, outcome)
    is_last = transition.state is State.FAILED
    if outcome.may_be_of_another_row and (record.tries or is_last):
        return _split(batch, record, outcome)
    return transition


def _split(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    """Send a row that failed together with others for the second time in half as large a group, until it is alone.

    This uses up none of the record's tries, as another row may be to blame (invariant 12); the halving always ends.
    """
    at_most = outcome.shared_by // 2
    others = "alone" if at_most == 1 else f"with at most {at_most - 1} others"
    error = f"{outcome.error}; failed with {outcome.shared_by - 1} others, will be sent {others} next"
    first = replace(batch.stream.retry, give_up_after_seconds=None)
    delay = decide_delay(
        first,
        tries=1,
        retry_after_seconds=outcome.retry_after_seconds,
        random=random.random(),  # noqa: S311 - jitter
    )
    return Transition(
        record=record,
        state=State.PENDING,
        outcome=replace(outcome, error=error, rows_at_most=at_most),
        counts_as_attempt_only=True,
        delay_seconds=delay or outcome.retry_after_seconds or 0.0,
    )


def _decide_retry(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    delay = decide_delay(
        batch.stream.retry,
        tries=record.tries + 1,
        retry_after_seconds=outcome.retry_after_seconds,
        random=random.random(),  # noqa: S311 - jitter
        elapsed_seconds=_elapsed_seconds(batch, record),
    )
    if delay is None:
        return Transition(record=record, state=State.FAILED, outcome=outcome)
    return Transition(record=record, state=State.PENDING, outcome=outcome, delay_seconds=delay)


def _elapsed_seconds(batch: Batch, record: Record) -> float:
    """Return how long ago the first try was; the time starts anew after a pause or an outage."""
    if record.tries == 0 or record.tried_since is None:
        return 0.0
    since = max(filter(None, (record.tried_since, batch.gate.back_at)))
    return (batch.claim.clock.now() - since).total_seconds()


def _decide_accepted(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    # Invariant 5: while an outdated call may still take effect after this one, the record is not delivered; it is sent
    # again under a new key once that time is over.
    outdated = _find_outdated(batch, record, outcome)
    if outdated:
        return Transition(record=record, state=State.PENDING, outcome=outcome, due_at=max(outdated), new_key=True)
    return Transition(record=record, state=State.DELIVERED, outcome=outcome)


def _find_outdated(batch: Batch, record: Record, outcome: Outcome) -> list[datetime]:
    """Return the times until which outdated calls may still take effect after this one.

    A call is outdated if it sent an older version, or this version in another mapping.
    """
    key = batch.known.get(batch.claim.key_ids[record.id])
    if batch.stream.order == "none" or key is None:
        return []
    called_at = batch.claim.clock.at_boot_time(outcome.ended).timestamp() - outcome.latency_ms / 1000
    return [
        call.until
        for call in key.unsettled
        if call.is_outdated(seq=record.seq, mapping_hash=record.mapping_hash) and call.until.timestamp() > called_at
    ]


def write_transitions(batch: Batch, transitions: Sequence[Transition], counts: Mapping[str, int]) -> dict[str, int]:
    """Write transitions, first calls that may have reached the partner to the keys, then records; return new counts."""
    if not transitions:
        return dict(counts)
    ledger, stream, claim = batch.ledger, batch.stream, batch.claim
    transitions = judge_refusals(batch, transitions)
    note_too_large(batch, transitions)
    note_pace(batch, transitions)
    if stream.capture:
        warn_not_captured(stream.name, transitions)
    report_outcomes(batch, [transition.outcome for transition in transitions if transition.outcome is not None])
    if not stream.append_only:
        # Invariant 5: before the state changes, so that the sender of a newer version knows of these calls.
        accepted = [_describe_accepted(batch, transition) for transition in transitions if _is_accepted(transition)]
        ledger.keys.note_delivered(stream.name, accepted)
        if stream.lookup is not None:
            ledger.keys.note_found(stream.name, list_found(claim.key_ids, transitions))
            ledger.keys.note_doubt(stream.name, list_doubts(claim.key_ids, transitions))
        _supersede_failed(batch, transitions)
        unsettled = [_describe_call(claim, transition) for transition in transitions if _is_unsettled(transition)]
        ledger.keys.note_unsettled(stream.name, unsettled, seconds=batch.partner.timeout_seconds)
    late = {
        record.id
        for record in ledger.delivery_states.write_transitions(claim, transitions, writes_back=bool(stream.write_back))
    }
    if late:
        write_late(batch, [transition for transition in transitions if transition.record.id in late])
    on_time = [transition for transition in transitions if transition.record.id not in late]
    log_failures(stream.name, on_time)
    if attempts.shows_info():
        log_attempts(stream.name, on_time)
    if stream.has_sequence:
        release_waiting(batch, on_time, [transition for transition in transitions if transition.record.id in late])
    new = dict(counts)
    for transition in on_time:
        name = COUNTED_AS[transition.state]
        new[name] = new.get(name, 0) + 1
    if late:
        new["late"] = new.get("late", 0) + len(late)
    return new


def log_failures(stream: str, transitions: Sequence[Transition]) -> None:
    """Log the errors with which records failed, each with one of its records, as warnings: an operator must act."""
    failed = [transition for transition in transitions if transition.state is State.FAILED]
    if not failed:
        return
    by_error: dict[str, list[Transition]] = {}
    for transition in failed:
        status, error = _describe_error(transition)
        by_error.setdefault(fingerprint(status, error, transition.record.key.values()), []).append(transition)
    for mark, group in list(by_error.items())[:ERRORS_AT_ONCE]:
        status, error = _describe_error(group[0])
        log.warning(
            "deliver.failed", stream=stream, records=len(group), record=group[0].record.id, status=status, error=error,
            fingerprint=mark,
        )  # fmt: skip


def log_attempts(stream: str, transitions: Sequence[Transition]) -> None:
    """Log each call with its outcome."""
    for transition in transitions:
        outcome = transition.outcome
        if outcome is not None:
            attempts.info(
                "deliver.attempt", stream=stream, record=transition.record.id, outcome=outcome.verdict.value,
                status=outcome.status, latency_ms=outcome.latency_ms, now=COUNTED_AS[transition.state],
                error=outcome.error,
            )  # fmt: skip


def _describe_error(transition: Transition) -> tuple[int | None, str]:
    outcome = transition.outcome
    return (None, transition.reason or "") if outcome is None else (outcome.status, outcome.error or "")


def release_waiting(batch: Batch, on_time: Sequence[Transition], late: Sequence[Transition]) -> None:
    """Make due the versions that waited for records which are done, or whose late answer may have brought an id."""
    ends = (State.DELIVERED, State.SUPERSEDED, State.DISCARDED)
    done = [transition for transition in on_time if transition.state in ends]
    if batch.stream.waits_in_doubt:
        done = [*(transition for transition in on_time if transition.state is not State.PENDING), *late]
    batch.ledger.sequencing.release(batch.stream.name, [transition.record.id for transition in done])


def _supersede_failed(batch: Batch, transitions: Sequence[Transition]) -> None:
    """Under `latest`, supersede failed versions that a delivered one makes out of date: they need no attention.

    This precedes the transitions: after a crash in between, the delivery is repeated, and so is this.
    """
    if batch.stream.order != "latest":
        return
    delivered = {
        batch.claim.key_ids[transition.record.id]: transition.record
        for transition in transitions
        if transition.state is State.DELIVERED
    }
    seqs = {key_id: record.seq for key_id, record in delivered.items()}
    older = batch.ledger.records.find_failed(batch.stream.name, seqs) if seqs else []
    if older:
        batch.ledger.operations.supersede_failed({record: delivered[key_id].id for record, key_id in older})


def judge_refusals(batch: Batch, transitions: Sequence[Transition]) -> list[Transition]:
    """Find out whether refusals concern single records or all, pause what refuses all; return the transitions.

    This precedes the writes: no record is due again before all workers can know of a pause.
    """
    judged = judge_pauses(
        batch, transitions, retry=lambda transition, outcome: _decide_retry(batch, transition.record, outcome)
    )
    return judge_run(batch, judged)


def note_too_large(batch: Batch, transitions: Sequence[Transition]) -> None:
    """Remember the size of a body that was too large for the partner, so that the next bodies are built smaller."""
    refused = [
        (outcome.too_large_bytes, outcome.shared_by)
        for transition in transitions
        if (outcome := transition.outcome) is not None and outcome.too_large_bytes is not None
    ]
    if refused:
        size, rows = min(refused)
        at_most = batch.ledger.streams.limit_body(batch.stream.name, refused_bytes=size, rows=rows)
        batch.gate.of_stream = replace(batch.gate.of_stream, body_at_most=at_most)
        log.warning("deliver.too_large", stream=batch.stream.name, bytes=size, rows=rows, at_most_bytes=at_most)


def note_pace(batch: Batch, transitions: Sequence[Transition]) -> None:
    """Count calls while the partner limits them: `doctor` proposes a rate from the number that it lets through."""
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    calls = [outcome for outcome in outcomes if outcome.breaker_signal != "none"]
    limited = sum(outcome.is_limit for outcome in calls)
    if limited or (calls and batch.gate.of_partner.is_limiting):
        passed = sum(outcome.status is not None and outcome.status < 500 and not outcome.is_limit for outcome in calls)
        batch.ledger.partners.note_pace(batch.partner.name, passed=passed, limited=limited)
    if limited:
        # This process knows it before its next look at the ledger.
        batch.gate.of_partner = replace(batch.gate.of_partner, is_limiting=True)


def report_outcomes(batch: Batch, outcomes: Sequence[Outcome]) -> None:
    """Report all outcomes to the circuit breaker.

    This precedes the transitions: no record is due again before all workers can know that the breaker is open.
    """
    if not outcomes:
        return
    ledger, stream, partner = batch.ledger, batch.stream, batch.partner
    failures = [outcome for outcome in outcomes if outcome.is_breaker_failure]
    tally = Tally(
        calls=sum(outcome.breaker_signal != "none" for outcome in outcomes),
        failures=len(failures),
        reason=(failures[-1].error or "no answer") if failures else "",
        rest_seconds=max(
            (failure.retry_after_seconds for failure in failures if failure.retry_after_seconds), default=None
        ),
        attempts=len(outcomes),
        accepted=sum(outcome.verdict is Verdict.ACCEPTED and outcome.lookup is None for outcome in outcomes),
        is_retry=all(record.is_retry for record in batch.claim.records),
    )
    state = ledger.breakers.report(stream.name, tally, token=batch.claim.token, rules=partner.breaker)
    if state is BreakerState.OPEN:
        batch.gate.close()
        log.warning("deliver.partner_down", partner=partner.name, stream=stream.name, reason=tally.reason)


def _describe_accepted(batch: Batch, transition: Transition) -> SentCall:
    call = _describe_call(batch.claim, transition)
    return replace(call, remote=describe_remote(transition)) if batch.stream.keeps_remote else call


def _describe_call(claim: Claim, transition: Transition) -> SentCall:
    record = transition.record
    return SentCall(
        key_id=claim.key_ids[record.id],
        seq=record.seq,
        call=record.idempotency_key,
        mapping_hash=record.mapping_hash,
    )


def _is_accepted(transition: Transition) -> bool:
    outcome = transition.outcome
    if outcome is None or outcome.verdict is not Verdict.ACCEPTED:
        return False
    return outcome.lookup is None or transition.state is State.DELIVERED


def _is_unsettled(transition: Transition) -> bool:
    return transition.outcome is not None and transition.outcome.may_take_effect_later


def write_late(batch: Batch, transitions: Sequence[Transition]) -> None:
    """Add late outcomes to the history, never to the state (invariant 3), and send overwritten versions again.

    A call that outlived its lease may have overwritten a newer version at the partner, or the same one in another
    mapping: the overwritten version is sent again under a new key (invariant 5).
    """
    ledger, stream, claim = batch.ledger, batch.stream, batch.claim
    log.warning("deliver.late", stream=stream.name, records=len(transitions))
    if stream.order != "none" and not stream.append_only:
        known = ledger.keys.load(stream.name, [claim.key_ids[transition.record.id] for transition in transitions])
        newest: list[str] = []
        remapped: dict[str, str] = {}
        for transition in transitions:
            record = transition.record
            key = known.get(claim.key_ids[record.id])
            is_question = transition.outcome is not None and transition.outcome.lookup is not None
            if key is None or is_question or not (_is_accepted(transition) or _is_unsettled(transition)):
                continue
            if key.version == record.id:
                remapped[record.id] = record.mapping_hash
                continue
            newest.append(key.version)
            if stream.order == "strict":
                newest += find_overwritten(ledger, stream, record, key)
        ledger.delivery_states.resend(newest)
        ledger.delivery_states.resend(list(remapped), unless_in=remapped)
    ledger.delivery_states.add_late_outcomes(
        claim,
        [(transition.record, transition.outcome) for transition in transitions if transition.outcome is not None],
    )
