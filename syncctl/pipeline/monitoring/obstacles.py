"""The obstacles that hold up a stream, each with the command that helps, for `status` and `doctor` (invariant 12)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from syncctl.console import format_count
from syncctl.core.durations import format_age
from syncctl.core.quiet_hours import QuietHours, to_local
from syncctl.core.states import UNFINISHED_COUNTS, BreakerState
from syncctl.ledger.holds import find_pause
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.partners import count_permits
from syncctl.ledger.polls import POLLS_PAUSED_FIELD, read_notes
from syncctl.ledger.sequencing import Waiting
from syncctl.ledger.source_schemas import CHANGES_SHOWN, read_schema_changes
from syncctl.ledger.write_backs import Lag
from syncctl.pipeline.delivery.dispatch import find_oldest_unsent
from syncctl.pipeline.pause import describe_pause

Doc = Mapping[str, Any]

WAITS_SECONDS = 10.0
"""A stream that waits for another one is reported once its oldest record has been due for longer than this."""
STUCK_SECONDS = 300.0
"""A record that has been due for longer than this is not being delivered as it should be."""
POLLS_MISSED = 10
CHANGES_LISTED = 5
SILENT_POLL_SECONDS = 60.0
"""How long a poll may read nothing: as long as a query may take by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamPlan:
    """The settings of a stream that obstacles and alerts are judged by."""

    partner: str
    poll_every_seconds: float = 5.0
    #: The partner's rate: a number of calls in a number of seconds.
    rate: tuple[int, float] | None = None
    #: The partner's concurrency limit.
    max_in_flight: int | None = None
    #: Whether, in mode flag, failed records are acknowledged in the source too.
    acknowledges_failed: bool = False
    table: str | None = None
    source: str = "default"
    #: The columns of `write_back`.
    written_columns: tuple[str, ...] = ()
    #: Streams whose older due records go first, with their plans.
    after: Mapping[str, "StreamPlan"] = field(default_factory=dict)
    quiet_hours: QuietHours | None = None

    def find_quiet_end(self, now: datetime) -> datetime | None:
        """Return when the current quiet hours end; None outside quiet hours."""
        return None if self.quiet_hours is None else self.quiet_hours.find_end(now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """An obstacle that holds up a stream, or makes it pass over rows."""

    kind: str
    detail: str
    #: The command or the setting with which the stream continues.
    hint: str
    #: Whether the stream does not continue by itself.
    is_failure: bool = False
    #: Whether the settings ask for this.
    is_planned: bool = False

    def to_document(self) -> Doc:
        """Return the obstacle as `syncctl status --json` prints it."""
        return {name: getattr(self, name) for name in ("kind", "detail", "hint")}


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamFacts:
    """The facts about a stream that obstacles are found from."""

    name: str
    plan: StreamPlan
    #: The stream's document; empty if there is none.
    document: Doc
    #: The document of the stream's partner; empty if there is none.
    partner: Doc
    #: The result of `Records.count_states` for the stream.
    counts: Doc
    waiting: Waiting
    #: Whether some of its records may still have to be acknowledged in the source.
    is_unacknowledged: bool
    now: datetime

    @property
    def oldest_due_seconds(self) -> float:
        """How long the oldest due record has been due."""
        oldest: datetime | None = self.counts["oldest_due_at"]
        return (self.now - oldest).total_seconds() if oldest else 0.0

    @property
    def permits(self) -> int:
        """How many calls at the partner have a permit of its concurrency limit."""
        return count_permits(self.partner, self.now)


def gather_facts(
    ledger: Ledger,
    plans: Mapping[str, StreamPlan],
    *,
    documents: Mapping[str, Doc],
    partners: Mapping[str, Doc],
    now: datetime,
) -> dict[str, StreamFacts]:
    """Return the facts about streams, by name.

    Args:
        plans: The plan of each stream.
        documents: The documents of streams, by name.
        partners: The documents of partners, by name.
    """
    counts = ledger.records.count_states(plans)
    waiting = ledger.sequencing.count(plans)
    unacknowledged = ledger.acknowledgements.find_streams(plans)
    return {
        name: StreamFacts(
            name=name,
            plan=plan,
            document=documents.get(name, {}),
            partner=partners.get(plan.partner, {}),
            counts=counts[name],
            waiting=waiting[name],
            is_unacknowledged=name in unacknowledged,
            now=now,
        )
        for name, plan in plans.items()
    }


def find_obstacles(ledger: Ledger, facts: StreamFacts) -> list[Obstacle]:
    """Return everything that holds up a stream, the most important first."""
    pauses = [*_find_pauses(facts), *_find_waits(ledger, facts)]
    return [
        *pauses,
        *_find_poll_obstacles(facts),
        *_find_delivery_obstacles(facts),
        *([] if pauses else _find_backlog(ledger, facts)),
        *_find_record_obstacles(ledger, facts),
    ]


def _find_pauses(facts: StreamFacts) -> Iterator[Obstacle]:
    name, partner, now = facts.name, facts.plan.partner, facts.now
    if paused := find_pause(facts.document, now):
        hint = f"fix the cause; then run: syncctl resume {name}"
        yield Obstacle(kind="paused", detail=describe_pause(paused, now), hint=hint)
    if paused := find_pause(facts.partner, now):
        hint = f"fix the cause; then run: syncctl resume --partner {partner}"
        yield Obstacle(kind="partner_paused", detail=f"partner {partner}: {describe_pause(paused, now)}", hint=hint)
    breaker = facts.document.get("breaker", {})
    if breaker.get("state") == BreakerState.OPEN.value:
        since = format_age(max((now - breaker["since"]).total_seconds(), 1))
        yield Obstacle(
            kind="circuit_open",
            detail=f"stream {name}: down (circuit open) for {since}: {breaker.get('reason') or 'no answer'}",
            hint=f"ask the partner; a probe is sent automatically, or run: syncctl resume {name}",
        )


def _find_waits(ledger: Ledger, facts: StreamFacts) -> Iterator[Obstacle]:
    """Report the waits that a stream's settings ask for: the end of its quiet hours, and other streams."""
    name, plan, oldest = facts.name, facts.plan, facts.counts["oldest_due_at"]
    if plan.quiet_hours is not None and (end := plan.find_quiet_end(facts.now)) is not None:
        local = _describe_end(plan.quiet_hours, end)
        yield Obstacle(
            kind="quiet_hours",
            detail=f"in its quiet hours ({plan.quiet_hours}) until {local}: nothing is sent",
            hint=f"to send one row now: syncctl send {name} KEY --force; "
            f"to end them: change streams.{name}.quiet_hours and restart the workers",
            is_planned=True,
        )
    for other, its_plan in plan.after.items() if oldest is not None else ():
        wait = _follow(ledger, other, its_plan, until=oldest, now=facts.now)
        if wait is None or not (wait.why or facts.oldest_due_seconds > WAITS_SECONDS):
            continue
        chain = ", which waits for stream ".join(wait.names)
        hint = wait.hint or f"see what holds {wait.names[-1]}: syncctl status"
        if not wait.is_paused:
            hint += f"; or remove {other} from streams.{name}.after and restart the workers"
        yield Obstacle(
            kind="waits_for_stream",
            detail=f"waits for stream {chain}, which has had a due record for "
            f"{format_age(max((facts.now - wait.since).total_seconds(), 1))}{wait.why}: "
            f"after = [{json.dumps(other)}]",
            hint=hint,
            is_planned=wait.is_planned,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wait:
    """The streams that a stream waits for because of its `after`."""

    #: The stream that it waits for, the one that this one waits for, and so on, up to the one that must move first.
    names: tuple[str, ...]
    #: Since when the last of these streams has had a due record.
    since: datetime
    #: Why the last of these streams does not move; empty if that is not known here.
    why: str = ""
    hint: str = ""
    is_paused: bool = False
    is_planned: bool = False


def _follow(ledger: Ledger, name: str, plan: StreamPlan, *, until: datetime, now: datetime) -> _Wait | None:
    """Return what holds up a stream that goes first, and those before it; None if none of its records is that old."""
    since = find_oldest_unsent(ledger, name)
    if since is None or since > until:
        return None
    own = _Wait(names=(name,), since=since, **_find_hold(ledger, name, plan, now))
    if own.why:
        return own
    further = [_follow(ledger, other, its_plan, until=since, now=now) for other, its_plan in plan.after.items()]
    waits = sorted(filter(None, further), key=lambda wait: not wait.why)
    return replace(waits[0], names=(name, *waits[0].names)) if waits else own


def _find_hold(ledger: Ledger, name: str, plan: StreamPlan, now: datetime) -> dict[str, Any]:
    """Return why a stream sends nothing, and what ends that, judged by pauses, its circuit and its quiet hours."""
    gate = ledger.streams.load_gate(name)
    if gate.hold.paused:
        return {"why": " and is paused", "hint": f"syncctl resume {name}", "is_paused": True}
    if ledger.partners.load_gate(plan.partner).hold.paused:
        why = f" and whose partner {plan.partner} is paused"
        return {"why": why, "hint": f"syncctl resume --partner {plan.partner}", "is_paused": True}
    if gate.breaker.state is BreakerState.OPEN:
        why = f" and whose partner {plan.partner} is down (circuit open)"
        return {"why": why, "hint": f"see: syncctl doctor partner {plan.partner}"}
    if plan.quiet_hours is not None and (end := plan.find_quiet_end(now)) is not None:
        why = f" and is in its quiet hours until {_describe_end(plan.quiet_hours, end)}"
        return {"why": why, "hint": f"to end them: change streams.{name}.quiet_hours", "is_planned": True}
    return {}


def _describe_end(quiet_hours: QuietHours, end: datetime) -> str:
    return f"{to_local(end, quiet_hours.timezone):%H:%M %Z}"


def _find_poll_obstacles(facts: StreamFacts) -> Iterator[Obstacle]:
    name, now, health = facts.name, facts.now, facts.document.get("health", {})
    poll, at = facts.document.get("poll", {}), health.get("last_poll_at")
    is_running = poll.get("token") is not None and poll["until"] > now
    moved_at = poll.get("moved_at") or poll.get("started_at")
    silent = (now - moved_at).total_seconds() if is_running and moved_at else 0.0
    age = format_age((now - at).total_seconds()) if at else ""
    if silent > SILENT_POLL_SECONDS:
        yield Obstacle(
            kind="poll_silent",
            detail=f"its poll on {poll.get('worker')} has read nothing for {format_age(silent)}: "
            "the source does not return",
            hint=f"run: syncctl doctor source {name}; another poll takes over after {format_age(STUCK_SECONDS)}",
        )
    if paused := find_pause(facts.document, now, field=POLLS_PAUSED_FIELD):
        yield Obstacle(
            kind="polls_paused",
            detail=f"its polls are {describe_pause(paused, now)}",
            hint=f"run: syncctl resume {name} --polls",
        )
    elif health.get("error"):
        yield Obstacle(
            kind="poll_failed",
            detail=f"its last poll, {age} ago, failed: {health['error']}",
            hint=f"{health.get('hint') or 'run: syncctl doctor source'}; then: syncctl poll {name} --once",
            is_failure=True,
        )
    elif at is None and not is_running:
        hint = f"run: syncctl poll {name} --once, or let Beat do it: syncctl worker --beat"
        yield Obstacle(kind="not_polled", detail="never polled", hint=hint)
    elif (
        at
        and not is_running
        and (now - at).total_seconds() > max(STUCK_SECONDS, POLLS_MISSED * facts.plan.poll_every_seconds)
    ):
        yield Obstacle(
            kind="not_polled",
            detail=f"last polled {age} ago",
            hint="make sure that Beat and a worker run: syncctl doctor beat workers",
        )
    yield from _find_schema_changes(facts)
    for note in read_notes(facts.document):
        hint = note.hint or f"correct the rows in the source; see: syncctl doctor source {name}"
        yield Obstacle(kind="rows_passed_over", detail=note.text, hint=hint)
    for warning in health.get("warnings", ()):
        yield Obstacle(kind="rows_passed_over", detail=warning, hint=f"see: syncctl doctor source {name}")


def _find_schema_changes(facts: StreamFacts) -> Iterator[Obstacle]:
    noted = read_schema_changes(facts.document, facts.now)
    for change in noted[:CHANGES_LISTED]:
        yield Obstacle(
            kind="schema_changed",
            detail=f"{change.change.line} ({format_age((facts.now - change.at).total_seconds())} ago)",
            hint=f"make sure that the partner expects it: syncctl poll {facts.name} --once --dry-run --known; "
            f"it is shown for {CHANGES_SHOWN.days} days",
        )
    if (more := len(noted) - CHANGES_LISTED) > 0:
        yield Obstacle(
            kind="schema_changed",
            detail=f"{format_count(more, 'more change')} of the source's columns",
            hint="see schema_changes in: syncctl status --json",
        )


def _find_delivery_obstacles(facts: StreamFacts) -> Iterator[Obstacle]:
    failure = facts.document.get("health", {}).get("delivery")
    if failure and (facts.now - failure["at"]).total_seconds() < STUCK_SECONDS:
        yield Obstacle(
            kind="delivery_failed",
            detail=f"its delivery on {failure['worker']} stops: {failure['error']}",
            hint="run: syncctl config, and restart the workers; or read their log",
            is_failure=True,
        )


def _find_backlog(ledger: Ledger, facts: StreamFacts) -> Iterator[Obstacle]:
    """Report that records are not delivered, with the most likely cause."""
    counts, partner = facts.counts, facts.plan.partner
    unfinished, in_flight = sum(counts[state] for state in UNFINISHED_COUNTS), counts["queued"] + counts["sending"]
    waiting = format_count(unfinished, "record")
    oldest = facts.oldest_due_seconds
    if oldest <= STUCK_SECONDS:
        yield from _find_far_retry(ledger, facts)
        return
    due = f"the oldest has been due for {format_age(oldest)}"
    if (limit := facts.plan.max_in_flight) and facts.permits >= limit:
        yield Obstacle(
            kind="limit_reached",
            detail=f"{waiting} to deliver, and all {limit:,} permits of max_in_flight are taken, "
            f"by calls in progress or by a worker that died; {due}",
            hint=f"raise partners.{partner}.max_in_flight if the partner can bear it; see: syncctl doctor workers",
        )
    elif facts.plan.rate and unfinished * facts.plan.rate[1] / facts.plan.rate[0] > STUCK_SECONDS:
        calls, seconds = facts.plan.rate
        needed = format_age(unfinished * seconds / calls)
        yield Obstacle(
            kind="slow_rate",
            detail=f"{waiting} to deliver take {needed} at the partner's rate; {due}",
            hint=f"raise partners.{partner}.rate if the partner allows it; see: syncctl status",
        )
    elif not in_flight:
        yield Obstacle(
            kind="not_taken",
            detail=f"{waiting} to deliver and none is in flight; {due}",
            hint="make sure that Beat, a worker and Redis run: syncctl doctor beat workers queue",
        )
    else:
        yield Obstacle(
            kind="backlog",
            detail=f"{waiting} to deliver, {in_flight:,} of them in flight; {due}",
            hint="start another worker: syncctl worker; or ask the partner why its calls take long",
        )


def _find_far_retry(ledger: Ledger, facts: StreamFacts) -> Iterator[Obstacle]:
    """Report a stream in which nothing moves until a retry in the distant future."""
    counts = facts.counts
    if not counts["retrying"] or counts["pending"] or counts["sending"]:
        return
    first = ledger.records.find_first_retry(facts.name)
    if first is not None and (first["due_at"] - facts.now).total_seconds() > STUCK_SECONDS:
        error = (first.get("error") or {}).get("message") or "no answer"
        yield Obstacle(
            kind="far_retry",
            detail=f"all {counts['retrying']:,} wait for their next attempt, the first in "
            f"{format_age((first['due_at'] - facts.now).total_seconds())}: {error}",
            hint=f"ask the partner; see: syncctl show {first['_id']}",
        )


def _find_record_obstacles(ledger: Ledger, facts: StreamFacts) -> Iterator[Obstacle]:
    name, waiting = facts.name, facts.waiting
    if waiting.awaiting_poll:
        yield Obstacle(
            kind="unknown_keys",
            detail=f"{format_count(waiting.awaiting_poll, 'record')} of an interrupted poll wait for a poll that reads "
            "to the end",
            hint=f"run: syncctl poll {name} --once; if that fails, it says why",
        )
    if waiting.held and (holders := ledger.sequencing.count_failed_holders(name)):
        yield Obstacle(
            kind="held",
            detail=f"newer versions of rows are held by {format_count(holders, 'failed record')}; "
            f"{waiting.held:,} wait",
            hint=f"see: syncctl failures --stream {name}; then syncctl replay --stream {name} sends them, "
            "and syncctl discard ID --reason TEXT gives one up",
        )
    if facts.counts["failed"] and (poison := ledger.lease_rescue.count_poison(name)):
        yield Obstacle(
            kind="poison",
            detail=f"{format_count(poison, 'record')} failed because the workers that sent them died or stalled",
            hint=f"find out why (memory, a driver, a template); see: syncctl failures --stream {name}",
        )
    failed_too = facts.plan.acknowledges_failed
    if facts.is_unacknowledged and (refused := ledger.acknowledgements.find_refused(name, failed_too=failed_too)):
        count, reason = refused
        yield Obstacle(
            kind="not_acknowledged",
            detail=f"{format_count(count, 'record')} could not be acknowledged in the source: {reason}",
            hint="the statement must change the row whose key and version it gets, and the login must have the rights "
            f"that streams.{name}.acknowledge needs; it is tried again each minute",
        )
    if facts.plan.written_columns:
        yield from _find_write_back_obstacles(ledger.write_backs.read_lag(name), facts)


def _find_write_back_obstacles(lag: Lag, facts: StreamFacts) -> Iterator[Obstacle]:
    name, plan = facts.name, facts.plan
    if lag.error is not None:
        grant = f"it needs: GRANT UPDATE ON {plan.table} ({', '.join(plan.written_columns)}) TO ...; "
        needs = grant if "permission" in lag.error.lower() else ""
        yield Obstacle(
            kind="not_written_back",
            detail=f"{format_count(lag.refused, 'outcome')} could not be written back to the source: {lag.error}",
            hint=f"{needs}see: syncctl doctor source {name}; each of them is tried again after a minute",
        )
    age = (facts.now - lag.oldest).total_seconds() if lag.oldest else 0.0
    if lag.refused < lag.records and age > max(STUCK_SECONDS, POLLS_MISSED * plan.poll_every_seconds):
        yield Obstacle(
            kind="late_write_back",
            detail=f"{format_count(lag.records, 'outcome')} not written back to the source yet, the oldest for "
            f"{format_age(age)}",
            hint=f"polls write them; run: syncctl poll {name} --once, which says what is wrong",
        )
