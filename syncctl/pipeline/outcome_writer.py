"""What follows from the outcome of each call, and how it is written down: keys first, then records, with the token."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from syncctl.core.breaker import BreakerState, is_breaker_failure
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.core.retry import decide_delay
from syncctl.core.states import State
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.breakers import Tally
from syncctl.ledger.delivery_state import Claim, Transition
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger
from syncctl.pipeline.delivery_gate import DeliveryGate
from syncctl.pipeline.strict_order import find_reached

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A claimed batch and all that its delivery needs."""

    ledger: Ledger
    stream: Stream
    partner: Partner
    claim: Claim
    known: Mapping[str, KnownKey]
    halt: DeliveryGate


def decide_transition(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    """Decide what follows from a call's outcome."""
    if outcome.verdict is Verdict.ACCEPTED:
        return _accepted(batch, record, outcome)
    if outcome.verdict is Verdict.REJECTED:
        return Transition(record=record, state=State.FAILED, outcome=outcome)
    if outcome.may_take_effect_later and batch.stream.ambiguous == "hold":
        held = f"{outcome.error or 'no answer'}; held, because the partner may have it"
        return Transition(record=record, state=State.FAILED, outcome=replace(outcome, error=held))
    if outcome.pauses or batch.halt.is_probe or outcome.send_alone:
        # Nobody's tries are used up for what is wrong with the partner as a whole, or with another row of a batch.
        wait = outcome.retry_after_seconds or 0.0
        return Transition(
            record=record, state=State.PENDING, outcome=outcome, counts_as_attempt_only=True, delay_seconds=wait
        )
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
    """Return how long ago the first try was; a pause or an outage lets the time begin anew."""
    if record.tries == 0 or record.tried_since is None:
        return 0.0
    since = max(filter(None, (record.tried_since, batch.halt.back_at)))
    return (batch.claim.clock.now() - since).total_seconds()


def _accepted(batch: Batch, record: Record, outcome: Outcome) -> Transition:
    """Accepted means delivered, unless a call of an older version may yet land after this one (invariant 5)."""
    key = batch.known.get(batch.claim.key_ids[record.id])
    called_at = batch.claim.clock.at_monotonic(outcome.ended).timestamp() - outcome.latency_ms / 1000
    if batch.stream.order != "none" and key is not None:
        older = [each.until for each in key.unsettled if each.seq < record.seq and each.until.timestamp() > called_at]
        if older:
            return Transition(record=record, state=State.PENDING, outcome=outcome, due_at=max(older), new_key=True)
    return Transition(record=record, state=State.DELIVERED, outcome=outcome)


def write(batch: Batch, transitions: Sequence[Transition], counts: Mapping[str, int]) -> dict[str, int]:
    """Write outcomes: what may have reached the partner to the keys first, then the records; return the new counts."""
    if not transitions:
        return dict(counts)
    ledger, stream, claim = batch.ledger, batch.stream, batch.claim
    tell_partner(batch, [each.outcome for each in transitions if each.outcome is not None])
    if not stream.append_only:
        sent = [each for each in transitions if each.outcome is not None]
        accepted = [_call(claim, each) for each in sent if _is(each, Verdict.ACCEPTED)]
        ledger.keys.note_delivered(stream.name, accepted)
        unsettled = [
            _call(claim, each) for each in sent if each.outcome is not None and each.outcome.may_take_effect_later
        ]
        ledger.keys.note_unsettled(stream.name, unsettled, seconds=batch.partner.timeout_seconds)
    late = {each.id for each in ledger.delivery_states.land(claim, transitions)}
    if late:
        write_late(batch, [each for each in transitions if each.record.id in late])
    on_time = [each for each in transitions if each.record.id not in late]
    if stream.order == "strict":
        finished = [each.record.id for each in on_time if each.state in (State.DELIVERED, State.SUPERSEDED)]
        ledger.waiting.release(stream.name, finished)
    names = {
        State.DELIVERED: "delivered",
        State.PENDING: "retrying",
        State.FAILED: "failed",
        State.SUPERSEDED: "superseded",
    }
    new = dict(counts)
    for each in on_time:
        new[names[each.state]] = new.get(names[each.state], 0) + 1
    if late:
        new["late"] = new.get("late", 0) + len(late)
    return new


def tell_partner(batch: Batch, outcomes: Sequence[Outcome]) -> None:
    """Tell all workers what these calls say of the partner, before anything of it is due again."""
    if not outcomes:
        return
    ledger, stream, partner = batch.ledger, batch.stream, batch.partner
    batch.halt.has_called = True
    for each in outcomes:
        if each.pauses is None:
            continue
        batch.halt.set()
        reason = each.error or f"HTTP {each.status}"
        if each.pauses == "partner":
            ledger.partners.pause(partner.name, who="syncctl", reason=reason)
        else:
            ledger.streams.pause(stream.name, who="syncctl", reason=reason)
        log.error("deliver.paused", **{each.pauses: getattr(stream, "name" if each.pauses == "stream" else "partner")})
        break
    failures = [
        each
        for each in outcomes
        if each.breaker_signal is None
        and not each.has_own_rule
        and is_breaker_failure(each.status, retry_after_seconds=each.retry_after_seconds)
    ]
    tally = Tally(
        calls=sum(each.breaker_signal != "none" for each in outcomes),
        failures=len(failures),
        reason=(failures[-1].error or "no answer") if failures else "",
        rest_seconds=max((each.retry_after_seconds for each in failures if each.retry_after_seconds), default=None),
    )
    state = ledger.breakers.report(stream.name, tally, token=batch.halt.token, rules=partner.breaker)
    if state is BreakerState.OPEN:
        batch.halt.set()
        log.warning("deliver.partner_down", partner=partner.name, stream=stream.name, reason=tally.reason)


def _call(claim: Claim, transition: Transition) -> tuple[str, int, str]:
    record = transition.record
    return claim.key_ids[record.id], record.seq, record.idempotency_key


def _is(transition: Transition, verdict: Verdict) -> bool:
    return transition.outcome is not None and transition.outcome.verdict is verdict


def write_late(batch: Batch, transitions: Sequence[Transition]) -> None:
    """Add outcomes that came too late to the history; a newer version that the call may have overwritten goes again."""
    ledger, stream, claim = batch.ledger, batch.stream, batch.claim
    log.warning("deliver.late", stream=stream.name, records=len(transitions))
    if stream.order != "none" and not stream.append_only:
        known = ledger.keys.load(stream.name, [claim.key_ids[each.record.id] for each in transitions])
        newest = []
        for each in transitions:
            key = known.get(claim.key_ids[each.record.id])
            landed = _is(each, Verdict.ACCEPTED) or (each.outcome is not None and each.outcome.may_take_effect_later)
            if key is not None and landed and key.version != each.record.id:
                newest.append(key.version)
                if stream.order == "strict":
                    newest += find_reached(ledger, stream, each.record, key)
        ledger.delivery_states.resend(newest)
    ledger.delivery_states.add_late(
        claim, [(each.record, each.outcome) for each in transitions if each.outcome is not None]
    )
