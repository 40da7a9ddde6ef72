"""Decide whether a refusal concerns one record or all; in the latter case pause the stream or the partner until a probe
succeeds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from syncctl.core.fingerprint import fingerprint
from syncctl.core.outcome import GONE_STATUSES, NOT_FOUND, Outcome, Verdict
from syncctl.core.states import State
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.streams import Refusals
from syncctl.logs import get_logger
from syncctl.pipeline.delivery.delivery_gate import Batch

log = get_logger(__name__)

Retry = Callable[[Transition, Outcome], Transition]
"""Returns the transition of a record that is itself refused: the next try of its schedule, or its final failure."""

NOTE_ACCEPTED_EVERY_SECONDS = 10.0
BY_STATUS_ALONE = frozenset({NOT_FOUND, 405})
"""Statuses of a wrong address. Refusals with the same status are the same refusal, whatever their bodies say; so are
redirects."""
_KINDS_BY_STATUS = frozenset(str(status) for status in BY_STATUS_ALONE)


def judge_pauses(batch: Batch, transitions: Sequence[Transition], *, retry: Retry) -> list[Transition]:
    """Judge refused credentials (401, 403) by other calls' results; pause partner or stream, end pauses by probes."""
    gate, partners, name = batch.gate, batch.ledger.partners, batch.partner.name
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    if not outcomes:
        return list(transitions)
    transitions = _judge_gone(batch, transitions, retry)
    if gate.of_partner.hold.probe == batch.claim.token:
        return _judge_partner_probe(batch, transitions)
    calls = sorted((outcome for outcome in outcomes if outcome.breaker_signal != "none"), key=lambda call: call.ended)
    accepted = any(outcome.is_evidence for outcome in outcomes)
    transitions = [
        _refuse_alone(transition, retry) if transition.record.refused_alone else transition
        for transition in transitions
    ]
    proven = {id(transition.outcome) for transition in transitions if transition.record.refused_alone}
    refused = [outcome for outcome in outcomes if outcome.pauses == "partner" and id(outcome) not in proven]
    now = time.monotonic()
    if not refused:
        is_old = now - gate.noted_accepted_at > NOTE_ACCEPTED_EVERY_SECONDS
        if accepted and (is_old or gate.of_partner.has_refusals):
            gate.noted_accepted_at = now
            partners.note_accepted(name)
        return list(transitions)
    known = {id(transition.outcome) for transition in transitions if transition.record.was_refused}
    if not (accepted or gate.of_partner.accepted_lately):
        known = proven
    in_a_row = 0
    for outcome in calls:
        if outcome.is_evidence:
            in_a_row = 0
        elif outcome.pauses == "partner" and id(outcome) not in known:
            in_a_row += 1
    reason = _reason(refused[-1])
    if partners.judge_refusals(name, accepted=accepted, calls=in_a_row):
        log.warning("deliver.refused_alone", stream=batch.stream.name, partner=name, reason=reason)
        return [_refuse_alone(transition, retry) for transition in transitions]
    gate.close()
    wait = batch.partner.breaker.open_seconds
    partners.pause(name, who=SYNCCTL, reason=reason, probe_after_seconds=wait)
    log.error("deliver.paused", partner=name, reason=reason, next_probe_seconds=wait)
    return [transition if transition.record.refused_alone else _mark_refused(transition) for transition in transitions]


def _judge_gone(batch: Batch, transitions: Sequence[Transition], retry: Retry) -> list[Transition]:
    """Pause the stream on a 410, unless another record has been accepted since: then it concerns this record alone."""
    accepted_at = max(
        (
            transition.outcome.ended
            for transition in transitions
            if transition.outcome is not None and transition.outcome.is_evidence
        ),
        default=float("-inf"),
    )
    gate = batch.gate.of_stream
    gone: list[Outcome] = []
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
            gone.append(outcome)
    if gone and gate.hold.probe != batch.claim.token:
        _pause_stream(batch, _reason(gone[0]))
        _take_back_gone(batch)
        return [_send_back(transition) if _is_gone(transition) else transition for transition in judged]
    return judged


def _refuse_alone(transition: Transition, retry: Retry) -> Transition:
    outcome = transition.outcome
    if outcome is None or outcome.pauses != "partner":
        return transition
    if outcome.shared_by > 1:
        # One row of the call is refused, but it is unknown which.
        return replace(transition, outcome=replace(outcome, rows_at_most=1))
    return replace(retry(transition, outcome), refused_alone=True)


def _mark_refused(transition: Transition) -> Transition:
    is_refused = transition.outcome is not None and transition.outcome.pauses == "partner"
    return replace(transition, refused=True) if is_refused else transition


def _judge_partner_probe(batch: Batch, transitions: Sequence[Transition]) -> list[Transition]:
    """End the pause of a partner that did not refuse the credentials of its probe; otherwise extend the pause."""
    partners, partner, token = batch.ledger.partners, batch.partner, batch.claim.token
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    if all(outcome.lookup in ("found", "not found") for outcome in outcomes):
        # The credentials may suffice for lookups only.
        partners.release_probe(partner.name, token=token)
        return list(transitions)
    # A partner that judges the row has accepted the credentials.
    if any(outcome.verdict in (Verdict.ACCEPTED, Verdict.REJECTED) for outcome in outcomes):
        if partners.end_by_probe(partner.name, token=token):
            log.info("deliver.resumed", partner=partner.name)
        return list(transitions)
    last = outcomes[-1]
    partners.extend_pause(
        partner.name,
        token=token,
        reason=_reason(last) if last.pauses == "partner" else "",
        rules=partner.breaker,
        rest_seconds=last.retry_after_seconds,
    )
    return [_mark_refused(transition) for transition in transitions]


def judge_run(batch: Batch, transitions: Sequence[Transition]) -> list[Transition]:
    """Pause a stream whose records are refused one after another in the same way; an accepted record ends the run."""
    streams, stream, gate = batch.ledger.streams, batch.stream, batch.gate
    called = [transition for transition in transitions if transition.outcome is not None]
    if not called:
        return list(transitions)
    hold = gate.of_stream.hold
    if hold.probe == batch.claim.token:
        judged = _judge_stream_probe(batch, transitions)
        _note_gone(batch, called)
        return judged
    _note_gone(batch, called)
    if not stream.pause_after_refusals:
        return list(transitions)
    kind, count, anew, accepted = None, 0, False, False
    for transition in sorted(called, key=lambda call: call.outcome.ended if call.outcome is not None else 0.0):
        assert transition.outcome is not None  # noqa: S101 - chosen above
        if transition.outcome.is_evidence:
            kind, count, anew, accepted = None, 0, True, True
        elif _is_of_a_run(batch, transition, accepted=accepted):
            named = _kind(transition)
            anew = anew or kind not in (None, named)
            count = count + 1 if kind == named else 1
            kind = named
    if kind is None:
        if accepted and gate.of_stream.has_refusals:
            streams.end_refusals(stream.name)
        return list(transitions)
    run = streams.note_refusals(stream.name, kind=kind, count=count, anew=anew)
    if run.count < stream.pause_after_refusals and not (hold.paused and not hold.by_operator):
        return list(transitions)
    refused = [transition for transition in called if _is_refusal(transition) and _kind(transition) == kind]
    last = refused[-1].outcome
    if kind in _KINDS_BY_STATUS:
        refused += [transition for transition in called if _is_gone(transition)]
    _pause_stream(
        batch, f"{run.count} refusals in a row, with nothing accepted between them; the last one: {_reason(last)}"
    )
    take_back_run(batch, run)
    sent_back = {id(transition) for transition in refused}
    return [_send_back(transition) if id(transition) in sent_back else transition for transition in transitions]


def _judge_stream_probe(batch: Batch, transitions: Sequence[Transition]) -> list[Transition]:
    streams, name, token = batch.ledger.streams, batch.stream.name, batch.claim.token
    outcomes = [transition.outcome for transition in transitions if transition.outcome is not None]
    if all(outcome.lookup in ("found", "not found") for outcome in outcomes):
        # The partner answers lookups; whether it also accepts records, the next probe shows at once.
        streams.release_probe(name, token=token)
        return list(transitions)
    run = streams.load_refusals(name)
    if run is not None:
        # These are the calls that other workers were making when the run was found.
        take_back_run(batch, run)
    if run is None or any(outcome.pauses == "stream" for outcome in outcomes):
        _take_back_gone(batch)
    if any(outcome.is_evidence for outcome in outcomes):
        if streams.end_by_probe(name, token=token):
            log.info("deliver.resumed", stream=name)
        return list(transitions)
    last = outcomes[-1]
    is_refusal = last.verdict is Verdict.REJECTED or last.pauses == "stream"
    streams.extend_pause(
        name,
        token=token,
        reason=_reason(last) if is_refusal else "",
        rules=batch.partner.breaker,
        rest_seconds=last.retry_after_seconds,
    )
    return [_send_back(transition) if _is_refusal(transition) else transition for transition in transitions]


def _send_back(transition: Transition) -> Transition:
    return replace(transition, state=State.PENDING, counts_as_attempt_only=True, refused=True)


def take_back_run(batch: Batch, run: Refusals) -> None:
    """Make records due again that failed in a run of refusals, and deletes that a wrong address made look done."""
    status = run.kind.partition(" ")[0]
    name = batch.stream.name
    count = batch.ledger.operations.take_back_refused(
        name, status=int(status) if status.isdigit() else None, since=run.since
    )
    if count:
        log.warning("deliver.taken_back", stream=name, records=count)
    if run.kind in _KINDS_BY_STATUS:
        _take_back_gone(batch)


def _take_back_gone(batch: Batch) -> None:
    """Make deletes due again whose rows may be gone only according to a wrong address."""
    name = batch.stream.name
    since = batch.ledger.streams.load_gone_since(name)
    count = batch.ledger.operations.take_back_gone(name, since=since) if since is not None else 0
    if count:
        log.warning("deliver.taken_back", stream=name, deletes=count)


def _note_gone(batch: Batch, called: Sequence[Transition]) -> None:
    """Remember since when deletes end because their rows are gone, until a record shows that the address is right.

    This precedes the writes: these deletes are made due again if the address turns out to be wrong.
    """
    streams, name, gate = batch.ledger.streams, batch.stream.name, batch.gate
    outcomes = [transition.outcome for transition in called if transition.outcome is not None]
    accepted = max((outcome.ended for outcome in outcomes if outcome.is_evidence), default=float("-inf"))
    gone = [call.outcome.ended for call in called if call.outcome is not None and _is_gone(call)]
    if gate.of_stream.has_gone and accepted > float("-inf"):
        streams.end_gone(name, accepted_at=batch.claim.clock.at_boot_time(accepted))
        gate.of_stream = replace(gate.of_stream, has_gone=False)
    if max(gone, default=accepted) > accepted:
        streams.note_gone(name)
        gate.of_stream = replace(gate.of_stream, has_gone=True)


def _pause_stream(batch: Batch, reason: str) -> None:
    batch.gate.close()
    name, wait = batch.stream.name, batch.partner.breaker.open_seconds
    batch.ledger.streams.pause(name, who=SYNCCTL, reason=reason, probe_after_seconds=wait)
    log.error("deliver.paused", stream=name, reason=reason, next_probe_seconds=wait)


def _is_refusal(transition: Transition) -> bool:
    outcome = transition.outcome
    return (
        outcome is not None
        and transition.state is State.FAILED
        and outcome.verdict is Verdict.REJECTED
        and not outcome.has_own_rule
    )


def _is_gone(transition: Transition) -> bool:
    """Tell whether a delete is done because the partner does not have its row; a wrong address answers the same."""
    outcome = transition.outcome
    return (
        outcome is not None
        and transition.record.op == "delete"
        and outcome.verdict is Verdict.ACCEPTED
        and outcome.status in GONE_STATUSES
    )


def _is_of_a_run(batch: Batch, transition: Transition, *, accepted: bool) -> bool:
    """Tell whether a refusal may concern all records.

    If a record was sent back by a run and is refused again after another record ended that run, the refusal concerns
    this record; so do, for some minutes after the end of a run, all refusals that usually concern a row.
    """
    outcome = transition.outcome
    if outcome is None or not _is_refusal(transition):
        return False
    if transition.record.op == "delete" and outcome.status == NOT_FOUND:
        # The partner does not have the row any more, or never had it.
        return False
    accepted_lately = batch.gate.of_stream.accepted_lately
    if not (accepted or accepted_lately):
        return True
    return not transition.record.was_refused and not (accepted_lately and outcome.is_about_content)


def _kind(transition: Transition) -> str:
    """Name a refusal by its status, and by its message if that distinguishes refusals."""
    outcome = transition.outcome
    status = outcome.status if outcome is not None else None
    if outcome is None or status in BY_STATUS_ALONE or 300 <= (status or 0) <= 399:
        return str(status)
    return f"{status} {fingerprint(status, outcome.error or '', transition.record.key.values())}"


def _reason(outcome: Outcome | None) -> str:
    if outcome is None:
        return "refused"
    return outcome.error or f"HTTP {outcome.status}"
