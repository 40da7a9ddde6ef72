"""Whether a refusal is about one record, or about all: then what refuses is paused, and a probe ends the pause."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from syncctl.core.fingerprint import fingerprint
from syncctl.core.outcome import CONTENT_STATUSES, Outcome, Verdict
from syncctl.core.states import State
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.streams import Refusals
from syncctl.logs import get_logger
from syncctl.pipeline.delivery_gate import DeliveryGate

log = get_logger(__name__)

NOTE_ACCEPTED_EVERY_SECONDS = 10.0
NOT_FOUND = 404
BY_STATUS_ALONE = frozenset({NOT_FOUND, 405})
"""Statuses of a wrong address: whatever their bodies say, they are one refusal, as redirects of the same status are."""


def judge_pauses(
    ledger: Ledger,
    gate: DeliveryGate,
    stream: Stream,
    partner: Partner,
    token: str,
    transitions: Sequence[Transition],
    *,
    retry: Callable[[Transition, Outcome], Transition],
) -> list[Transition]:
    """Judge refused credentials (401, 403) by what other calls got, pause partner or stream, end pauses by probes.

    Args:
        retry: Returns the transition of a record that is itself refused: the next try of its schedule, or its end.
    """
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    if not outcomes:
        return list(transitions)
    transitions = _judge_gone(ledger, gate, stream, partner, token, transitions, retry)
    if gate.partner_hold.probe == token:
        return _judge_partner_probe(ledger, partner, token, transitions)
    calls = sorted((outcome for outcome in outcomes if outcome.breaker_signal != "none"), key=lambda call: call.ended)
    accepted = any(outcome.verdict is Verdict.ACCEPTED for outcome in outcomes)
    transitions = [
        _refuse_alone(transition, retry) if transition.record.refused_alone else transition
        for transition in transitions
    ]
    proven = {id(transition.outcome) for transition in transitions if transition.record.refused_alone}
    refused = [outcome for outcome in outcomes if outcome.pauses == "partner" and id(outcome) not in proven]
    now = time.monotonic()
    if not refused:
        is_old = now - gate.noted_accepted_at > NOTE_ACCEPTED_EVERY_SECONDS
        if accepted and (is_old or gate.has_partner_refusals):
            gate.noted_accepted_at = now
            ledger.partners.note_accepted(partner.name)
        return list(transitions)
    known = {id(transition.outcome) for transition in transitions if transition.record.was_refused}
    if not (accepted or gate.partner_accepted_lately):
        known = proven
    in_a_row = 0
    for outcome in calls:
        if outcome.verdict is Verdict.ACCEPTED:
            in_a_row = 0
        elif outcome.pauses == "partner" and id(outcome) not in known:
            in_a_row += 1
    if ledger.partners.judge_refusals(partner.name, accepted=accepted, calls=in_a_row):
        log.warning("deliver.refused_alone", stream=stream.name, partner=partner.name, reason=_reason(refused[-1]))
        return [_refuse_alone(transition, retry) for transition in transitions]
    gate.close()
    wait = partner.breaker.open_seconds
    ledger.partners.pause(partner.name, who=SYNCCTL, reason=_reason(refused[-1]), probe_after_seconds=wait)
    log.error("deliver.paused", partner=partner.name, reason=_reason(refused[-1]), next_probe_seconds=wait)
    return [
        transition if transition.record.refused_alone else _mark_refused(transition, "partner")
        for transition in transitions
    ]


def _judge_gone(
    ledger: Ledger,
    gate: DeliveryGate,
    stream: Stream,
    partner: Partner,
    token: str,
    transitions: Sequence[Transition],
    retry: Callable[[Transition, Outcome], Transition],
) -> list[Transition]:
    """Hold the stream on a 410, unless another record has been accepted since: then it is about this record alone."""
    accepted_at = max(
        (
            transition.outcome.ended
            for transition in transitions
            if transition.outcome is not None and transition.outcome.verdict is Verdict.ACCEPTED
        ),
        default=float("-inf"),
    )
    judged: list[Transition] = []
    for transition in transitions:
        outcome = transition.outcome
        if outcome is None or outcome.pauses != "stream":
            judged.append(transition)
        elif (
            transition.record.refused_alone
            or (transition.record.was_refused and gate.accepted_lately)
            or outcome.ended < accepted_at
        ):
            judged.append(replace(retry(transition, outcome), refused_alone=True))
        else:
            judged.append(replace(transition, refused=True))
            if gate.stream_hold.probe != token:
                _pause_stream(ledger, gate, stream, partner, _reason(outcome))
    return judged


def _refuse_alone(transition: Transition, retry: Callable[[Transition, Outcome], Transition]) -> Transition:
    outcome = transition.outcome
    if outcome is None or outcome.pauses != "partner":
        return transition
    if outcome.batch_key is not None and not outcome.send_alone:
        # One of its rows is refused, nobody knows which.
        return replace(transition, outcome=replace(outcome, send_alone=True))
    return replace(retry(transition, outcome), refused_alone=True)


def _mark_refused(transition: Transition, what: str) -> Transition:
    is_refused = transition.outcome is not None and transition.outcome.pauses == what
    return replace(transition, refused=True) if is_refused else transition


def _judge_partner_probe(
    ledger: Ledger, partner: Partner, token: str, transitions: Sequence[Transition]
) -> list[Transition]:
    """End the pause of a partner whose probe was not refused the credentials, or prolong it."""
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    # Whoever judges the row has let the credentials pass.
    if any(outcome.verdict in (Verdict.ACCEPTED, Verdict.REJECTED) for outcome in outcomes):
        if ledger.partners.end_by_probe(partner.name, token=token):
            log.info("deliver.resumed", partner=partner.name)
        return list(transitions)
    last = outcomes[-1]
    ledger.partners.extend_pause(
        partner.name,
        token=token,
        reason=_reason(last) if last.pauses == "partner" else "",
        rules=partner.breaker,
        rest_seconds=last.retry_after_seconds,
    )
    return [_mark_refused(transition, "partner") for transition in transitions]


def judge_run(
    ledger: Ledger,
    gate: DeliveryGate,
    stream: Stream,
    partner: Partner,
    token: str,
    transitions: Sequence[Transition],
) -> list[Transition]:
    """Hold a stream that refuses record after record in the same way; a record that is accepted ends the run."""
    called = [transition for transition in transitions if transition.outcome is not None]
    if not called:
        return list(transitions)
    if gate.stream_hold.probe == token:
        return _judge_stream_probe(ledger, stream, partner, token, transitions)
    if not stream.pause_after_refusals:
        return list(transitions)
    kind, count, anew, accepted = None, 0, False, False
    for transition in sorted(called, key=lambda each: each.outcome.ended if each.outcome is not None else 0.0):
        assert transition.outcome is not None  # noqa: S101 - chosen above
        if transition.outcome.verdict is Verdict.ACCEPTED:
            kind, count, anew, accepted = None, 0, True, True
        elif _is_of_a_run(gate, transition, accepted=accepted):
            named = _kind(transition)
            anew = anew or kind not in (None, named)
            count = count + 1 if kind == named else 1
            kind = named
    if kind is None:
        if accepted and gate.has_refusals:
            ledger.streams.end_refusals(stream.name)
        return list(transitions)
    run = ledger.streams.note_refusals(stream.name, kind=kind, count=count, anew=anew)
    if run.count < stream.pause_after_refusals and not (gate.stream_hold.paused and not gate.stream_hold.by_operator):
        return list(transitions)
    judged = [
        replace(transition, state=State.PENDING, counts_as_attempt_only=True, refused=True)
        if _is_refusal(transition) and _kind(transition) == kind
        else transition
        for transition in transitions
    ]
    last = next(
        transition.outcome for transition in reversed(called) if _is_refusal(transition) and _kind(transition) == kind
    )
    reason = f"{run.count} refusals in a row, none accepted between; the last one: {_reason(last)}"
    _pause_stream(ledger, gate, stream, partner, reason)
    take_back_run(ledger, stream, run)
    return judged


def _judge_stream_probe(
    ledger: Ledger, stream: Stream, partner: Partner, token: str, transitions: Sequence[Transition]
) -> list[Transition]:
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    run = ledger.streams.load_refusals(stream.name)
    if run is not None:
        # Whatever other workers had under way when the run was found.
        take_back_run(ledger, stream, run)
    if any(outcome.verdict is Verdict.ACCEPTED for outcome in outcomes):
        if ledger.streams.end_by_probe(stream.name, token=token):
            log.info("deliver.resumed", stream=stream.name)
        return list(transitions)
    last = outcomes[-1]
    is_refusal = last.verdict is Verdict.REJECTED or last.pauses == "stream"
    ledger.streams.extend_pause(
        stream.name,
        token=token,
        reason=_reason(last) if is_refusal else "",
        rules=partner.breaker,
        rest_seconds=last.retry_after_seconds,
    )
    return [
        replace(transition, state=State.PENDING, counts_as_attempt_only=True, refused=True)
        if _is_refusal(transition)
        else transition
        for transition in transitions
    ]


def take_back_run(ledger: Ledger, stream: Stream, run: Refusals) -> None:
    """Make due again what a run of refusals has let fail."""
    status = run.kind.partition(" ")[0]
    count = ledger.operations.take_back_refused(
        stream.name, status=int(status) if status.isdigit() else None, since=run.since
    )
    if count:
        log.warning("deliver.taken_back", stream=stream.name, records=count)


def _pause_stream(ledger: Ledger, gate: DeliveryGate, stream: Stream, partner: Partner, reason: str) -> None:
    gate.close()
    wait = partner.breaker.open_seconds
    ledger.streams.pause(stream.name, who=SYNCCTL, reason=reason, probe_after_seconds=wait)
    log.error("deliver.paused", stream=stream.name, reason=reason, next_probe_seconds=wait)


def _is_refusal(transition: Transition) -> bool:
    outcome = transition.outcome
    return (
        outcome is not None
        and transition.state is State.FAILED
        and outcome.verdict is Verdict.REJECTED
        and not outcome.has_own_rule
    )


def _is_of_a_run(gate: DeliveryGate, transition: Transition, *, accepted: bool) -> bool:
    """Tell whether a refusal may be about all records.

    One that was sent back by a run, and is refused again although another record ended that run, is about its record;
    and so are, for some minutes, all refusals that are usually about a row.
    """
    outcome = transition.outcome
    if outcome is None or not _is_refusal(transition):
        return False
    if transition.record.op == "delete" and outcome.status == NOT_FOUND:
        # The partner does not have the row any more, or never had it.
        return False
    if not (accepted or gate.accepted_lately):
        return True
    return not transition.record.was_refused and not (gate.accepted_lately and outcome.status in CONTENT_STATUSES)


def _kind(transition: Transition) -> str:
    """Name a refusal: by its status, and by its message where that tells refusals apart."""
    outcome = transition.outcome
    status = outcome.status if outcome is not None else None
    if outcome is None or status in BY_STATUS_ALONE or 300 <= (status or 0) <= 399:
        return str(status)
    return f"{status} {fingerprint(status, outcome.error or '', transition.record.key.values())}"


def _reason(outcome: Outcome | None) -> str:
    if outcome is None:
        return "refused"
    return outcome.error or f"HTTP {outcome.status}"
