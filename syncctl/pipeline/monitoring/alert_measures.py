"""Measure the alert rules: one function per rule, from the ledger's documents of streams and partners."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from syncctl.core.durations import format_age
from syncctl.core.states import BreakerState
from syncctl.core.time_zone import HOUR, floor_hour
from syncctl.ledger.alerts import FIRING, AlertKey
from syncctl.ledger.holds import find_pause
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import POLLS_PAUSED_FIELD
from syncctl.ledger.source_schemas import read_schema_changes
from syncctl.pipeline.delivery.dispatch import find_oldest_unsent
from syncctl.pipeline.monitoring.obstacles import StreamPlan, find_obstacles, gather_facts
from syncctl.pipeline.pause import describe_pause

Doc = Mapping[str, Any]

RECOVERING_SECONDS = 60.0
"""How long a half-open circuit keeps its alert: if the partner is not back after all, it is open again by then."""
OVERDUE_TOGETHER_SECONDS = 60.0
"""How long the polls of several streams must be overdue before they are treated as one problem of their source."""
SAID_BY_RULE = {
    "paused": "paused",
    "partner_paused": "paused",
    "polls_paused": "paused",
    "circuit_open": "circuit_open",
    "not_polled": "no_poll",
    "poll_failed": "no_poll",
    "poll_silent": "no_poll",
    "limit_reached": "backlog_age",
    "slow_rate": "backlog_age",
    "not_taken": "backlog_age",
    "backlog": "backlog_age",
}
"""The obstacles that another rule reports, as long as that rule is on."""
HOLDS_NOTHING = ("rows_passed_over", "schema_changed")
"""Entries that `status` lists among the obstacles although they do not hold up the stream."""
STREAMS_NAMED = 5
CHANGES_NAMED = 2
SCHEMA_CHANGE_LASTS = timedelta(hours=1)
OUTAGES = (AlertKey(rule="no_worker"), AlertKey(rule="no_beat"))
OUTAGE = timedelta(minutes=1)
"""A shorter outage, such as a restart, does not explain a backlog: the age continues to count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The result of measuring a rule for one stream, one partner, one source, or the project."""

    key: AlertKey
    #: Since when the condition has lasted; None for the time at which it was first seen.
    since: datetime | None = None
    #: The measured share, for a rule about a share.
    share: float = 0.0
    #: One line for people; it may contain an answer of a partner or a source.
    detail: str
    #: Whether an alert may begin. If False, an alert that is already firing continues.
    may_fire: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """The subject of an alert is held up by something that the settings ask for or another rule reports.

    The alert ends, and its time starts again once nothing holds the subject up any more.
    """

    key: AlertKey


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertFacts:
    """The facts from which the rules are measured."""

    ledger: Ledger
    now: datetime
    #: The plan of each configured stream.
    plans: Mapping[str, StreamPlan]
    #: The thresholds of the rules that are on.
    thresholds: Mapping[str, float]
    #: `failed_share`: the fewest finished records that are judged.
    minimum_records: int
    #: Since when a process has watched the rules without a long gap.
    watched_since: datetime
    #: Whether a process watches the rules at all; otherwise only an operator or cron evaluates them.
    is_watched: bool
    #: The documents of alerts.
    known: Mapping[str, Doc]
    #: The documents of streams.
    documents: Mapping[str, Doc]
    #: The documents of partners.
    partners: Mapping[str, Doc]
    #: How many workers are alive.
    alive_workers: int
    #: The time of the newest heartbeat of any worker.
    newest_worker_at: datetime | None
    #: The heartbeat of Beat.
    beat: Doc | None
    #: Rolled-up hours of the last two hours.
    hours: tuple[Doc, ...] = field(default=())

    def fires(self, key: AlertKey) -> bool:
        """Tell whether an alert fires."""
        return bool(self.known.get(key.id, {}).get("state") == FIRING)

    def count_from(self, key: AlertKey, *, beyond: timedelta = timedelta(0)) -> list[datetime]:
        """Return the times before which a stream's age does not count.

        These are the beginning of the watch, the ends of outages of the workers and of Beat, and the end of the last
        hold. An alert that fires keeps its time.

        Args:
            beyond: The time that the rule adds to the result.
        """
        if self.fires(key):
            return [min(self.watched_since, self.known[key.id]["since"] - beyond)]
        held = [at for at in (self.known.get(key.id, {}).get("held_at"),) if at]
        ended = [alert for key in OUTAGES if (alert := self.known.get(key.id, {})).get("ended_at")]
        long = [alert for alert in ended if alert["ended_at"] - alert.get("lasted_since", alert["ended_at"]) >= OUTAGE]
        return [self.watched_since, *held, *(alert["ended_at"] for alert in long)]


def measure_failed_share(facts: AlertFacts) -> Iterator[Measurement]:
    """Measure the share of failures in the last 60 minutes: this hour, and the last hour in proportion."""
    begun = floor_hour(facts.now)
    weight = 1.0 - (facts.now - begun) / HOUR
    for name in facts.plans:
        failed = finished = 0.0
        for hour in facts.hours:
            if hour["stream"] == name:
                part = 1.0 if hour["window_start"] == begun else weight
                failed += part * hour.get("failed", 0)
                finished += part * (hour.get("failed", 0) + hour.get("delivered", 0))
        if finished > 0:
            yield Measurement(
                key=AlertKey(rule="failed_share", stream=name),
                share=failed / finished,
                may_fire=finished >= facts.minimum_records,
                detail=f"{failed:,.0f} of the {finished:,.0f} records that finished within the last hour failed",
            )


def measure_backlog_age(facts: AlertFacts) -> Iterator[Measurement | Held]:
    """Measure how long the oldest due record could have been sent, without time in which a known cause held it up."""
    for name, due in facts.ledger.records.list_oldest_due(facts.plans).items():
        key, plan = AlertKey(rule="backlog_age", stream=name), facts.plans[name]
        if _is_held(facts, name, plan) or _waits_for_another(facts, plan, due):
            yield Held(key=key)
            continue
        yield Measurement(
            key=key,
            since=max(due, *facts.count_from(key)),
            detail=f"the oldest record that is to be sent has been due for {format_age(_age(facts, due))}",
        )


def _is_held(facts: AlertFacts, name: str, plan: StreamPlan) -> bool:
    """Tell whether a pause, quiet hours or an outage with its own alert keep a stream from sending."""
    document = facts.documents.get(name, {})
    return (
        find_pause(document, facts.now) is not None
        or find_pause(facts.partners.get(plan.partner, {}), facts.now) is not None
        or plan.find_quiet_end(facts.now) is not None
        or (facts.fires(AlertKey(rule="circuit_open", partner=plan.partner)) and _find_outage(facts, name) is not None)
    )


def _list_pauses(document: Doc, now: datetime) -> list[Doc]:
    """Return the pauses of a stream, of its polls, or of a partner."""
    pauses = (find_pause(document, now), find_pause(document, now, field=POLLS_PAUSED_FIELD))
    return [pause for pause in pauses if pause is not None]


def _waits_for_another(facts: AlertFacts, plan: StreamPlan, due: datetime) -> bool:
    """Tell whether a stream that goes first has an older record, whose age belongs to that stream's backlog."""
    firsts = (find_oldest_unsent(facts.ledger, other) for other in plan.after)
    return any(first is not None and first <= due for first in firsts)


def measure_no_poll(facts: AlertFacts) -> Iterator[Measurement | Held]:
    """Measure since when a poll is overdue: for its interval, none has ended without an error or made progress.

    Several overdue streams of a source from which nothing has been read since are one alert of the source.
    """
    by_source: dict[str, list[str]] = {}
    for name, plan in facts.plans.items():
        if find_pause(facts.documents.get(name, {}), facts.now, field=POLLS_PAUSED_FIELD):
            yield Held(key=AlertKey(rule="no_poll", stream=name))
        else:
            by_source.setdefault(plan.source, []).append(name)
    for source, names in by_source.items():
        key = AlertKey(rule="no_poll", source=source)
        overdue = {name: _find_overdue_since(facts, name) for name in names}
        together = _find_unread_together(facts, key, overdue)
        if together:
            # An alert that fires keeps its time, whatever its streams count from.
            since = facts.known[key.id]["since"] if facts.fires(key) else min(overdue[name] for name in together)
            detail = f"{_name_some(together)}: {_describe_unread(facts, together)}"
            yield Measurement(key=key, since=since, detail=detail)
        for name in names:
            if name not in together:
                own = AlertKey(rule="no_poll", stream=name)
                yield Measurement(key=own, since=overdue[name], detail=_describe_unread(facts, [name]))


def _find_unread_together(facts: AlertFacts, key: AlertKey, overdue_since: Mapping[str, datetime]) -> list[str]:
    """Return the streams that the alert of a source is about, if nothing was read from it since they became overdue.

    An alert begins with several streams. A stream whose own alert fires has its own problem, and so does a stream that
    was overdue for long while another one was read.
    """
    others = {
        name: since for name, since in overdue_since.items() if not facts.fires(AlertKey(rule="no_poll", stream=name))
    }
    read = {name: at for name in overdue_since if (at := _find_read_at(facts, name)) is not None}
    if facts.fires(key):
        if any(at > facts.known[key.id]["since"] for name, at in read.items() if name in others):
            return []
        return [name for name in others if name not in read or read[name] + _poll_interval(facts, name) < facts.now]
    short = timedelta(seconds=min(OVERDUE_TOGETHER_SECONDS, facts.thresholds["no_poll"] / 2))
    last = max(read.values(), default=None)
    overdue = [
        name for name, since in others.items() if since < facts.now - short and (last is None or since >= last - short)
    ]
    return overdue if len(overdue) > 1 else []


def _find_read_at(facts: AlertFacts, name: str) -> datetime | None:
    """Return when a stream's last poll without an error ended, or when its running poll made progress."""
    document = facts.documents.get(name, {})
    poll = document.get("poll", {})
    runs = poll.get("token") and poll.get("until", facts.now) > facts.now
    # A poll that has only begun has read nothing: it may be waiting for a source that is down.
    moved_at = poll.get("moved_at") if runs and poll.get("moved_at") != poll.get("started_at") else None
    return max(filter(None, (document.get("health", {}).get("polled_at"), moved_at)), default=None)


def _poll_interval(facts: AlertFacts, name: str) -> timedelta:
    return timedelta(seconds=facts.plans[name].poll_every_seconds)


def _find_overdue_since(facts: AlertFacts, name: str) -> datetime:
    """Return since when a stream should have been polled."""
    key, beyond = AlertKey(rule="no_poll", stream=name), _poll_interval(facts, name)
    since = max(filter(None, (_find_read_at(facts, name), *facts.count_from(key, beyond=beyond)))) + beyond
    of_source = facts.known.get(AlertKey(rule="no_poll", source=facts.plans[name].source).id, {})
    # Until then, the alert of the source covers this stream.
    told = facts.now if of_source.get("state") == FIRING else of_source.get("ended_at")
    return max(since, told) if told and not facts.fires(key) else since


def _describe_unread(facts: AlertFacts, names: Sequence[str]) -> str:
    health = [facts.documents.get(name, {}).get("health", {}) for name in names]
    polled_at = max(filter(None, (document.get("polled_at") for document in health)), default=None)
    ago = f"no poll has ended well for {format_age(_age(facts, polled_at))}" if polled_at else "it was never polled"
    error = next((document["error"] for document in health if document.get("error")), None)
    return f"{ago}: {error}" if error else ago


def _name_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - STREAMS_NAMED} more" if len(names) > STREAMS_NAMED else ""
    return f"{', '.join(names[:STREAMS_NAMED])}{more}"


def measure_circuit_open(facts: AlertFacts) -> Iterator[Measurement | Held]:
    """Measure how long the circuit of any stream of a partner has been open, as long as a record waits behind it.

    An alert that fires continues until no circuit is open; which circuit opened first no longer matters then.
    """
    streams: dict[str, dict[str, Doc]] = {}
    for name, plan in facts.plans.items():
        if (outage := _find_outage(facts, name)) is not None:
            streams.setdefault(plan.partner, {})[name] = outage
    for partner, outages in streams.items():
        key = AlertKey(rule="circuit_open", partner=partner)
        # Without a record there is no probe, so the partner's return could not be noticed.
        waiting = {name: outage for name, outage in outages.items() if _has_unfinished(facts, name)}
        if not waiting:
            yield Held(key=key)
            continue
        known = facts.known.get(key.id, {})
        first = min(waiting.values(), key=lambda outage: outage["since"])
        since = known["since"] if facts.fires(key) else max(filter(None, (first["since"], known.get("held_at"))))
        yield Measurement(
            key=key,
            since=since,
            detail=f"the partner is down (circuit open) for {_name_some(list(waiting))}: "
            f"{first.get('reason') or 'no answer'}",
            may_fire=any(outage["state"] == BreakerState.OPEN.value for outage in waiting.values()),
        )


def _find_outage(facts: AlertFacts, name: str) -> Doc | None:
    """Return a stream's circuit if it is open, or half-open for so short a time that it may open again at once."""
    document = facts.documents.get(name, {})
    breaker, back_at = document.get("breaker", {}), document.get("back_at")
    is_recovering = (
        breaker.get("state") == BreakerState.HALF_OPEN.value
        and back_at is not None
        and _age(facts, back_at) < RECOVERING_SECONDS
    )
    return breaker if breaker.get("state") == BreakerState.OPEN.value or is_recovering else None


def _has_unfinished(facts: AlertFacts, name: str) -> bool:
    counts = facts.ledger.records.count_unfinished([name], at_most=1)[name]
    return any(counts[state] for state in ("pending", "retrying", "sending"))


def measure_paused(facts: AlertFacts) -> Iterator[Measurement]:
    """Measure how long streams, their polls and partners have been paused; a pause with an end is not forgotten."""
    partners = dict.fromkeys(plan.partner for plan in facts.plans.values())
    held = [(AlertKey(rule="paused", stream=name), facts.documents.get(name, {})) for name in facts.plans]
    held += [(AlertKey(rule="paused", partner=name), facts.partners.get(name, {})) for name in partners]
    for key, document in held:
        if pauses := _list_pauses(document, facts.now):
            endless = [pause for pause in pauses if pause.get("ends_at") is None]
            first = min(endless or pauses, key=lambda pause: pause["at"])
            described = describe_pause(first, facts.now)
            yield Measurement(
                key=key,
                since=first["at"],
                detail=f"its polls are {described}" if first is document.get(POLLS_PAUSED_FIELD) else described,
                may_fire=bool(endless),
            )


def measure_obstacle(facts: AlertFacts) -> Iterator[Measurement]:
    """Measure how long an obstacle that no other rule reports has held up a stream."""
    ledger = facts.ledger
    streams = gather_facts(ledger, facts.plans, documents=facts.documents, partners=facts.partners, now=facts.now)
    for name, stream in streams.items():
        details = [
            obstacle.detail
            for obstacle in find_obstacles(ledger, stream)
            if SAID_BY_RULE.get(obstacle.kind) not in facts.thresholds
            and obstacle.kind not in HOLDS_NOTHING
            and not obstacle.is_planned
        ]
        if details:
            yield Measurement(key=AlertKey(rule="obstacle", stream=name), detail="; ".join(details))


def measure_schema_changed(facts: AlertFacts) -> Iterator[Measurement]:
    """Measure how long ago columns of a source changed; changes within the rule's wait are one message.

    The alert ends an hour after the last change, because nothing shows when a person has looked at it.
    """
    shown = timedelta(seconds=facts.thresholds["schema_changed"]) + SCHEMA_CHANGE_LASTS
    for name in facts.plans:
        noted = read_schema_changes(facts.documents.get(name, {}), facts.now)
        recent = [change for change in noted if facts.now - change.at < shown]
        if recent:
            lines = [change.change.line for change in reversed(recent)]
            more = f"; {len(lines) - CHANGES_NAMED} more" if len(lines) > CHANGES_NAMED else ""
            yield Measurement(
                key=AlertKey(rule="schema_changed", stream=name),
                since=recent[-1].at,
                detail="; ".join(lines[:CHANGES_NAMED]) + more,
            )


def measure_no_worker(facts: AlertFacts) -> Iterator[Measurement]:
    """Measure how long no worker has been alive, as seen by the processes that watch the rules, if there are any.

    A heartbeat says less: a worker that has stopped leaves none behind, and one from before a weekend is not news.
    """
    if not facts.alive_workers:
        detail = "no worker is alive, so nothing is polled or sent"
        since = None if facts.is_watched else facts.newest_worker_at
        yield Measurement(key=AlertKey(rule="no_worker"), since=since, detail=detail)


def measure_no_beat(facts: AlertFacts) -> Iterator[Measurement]:
    """Measure how long Beat has not been alive, in the same way as `measure_no_worker`."""
    beat_at = facts.beat["at"] if facts.beat else None
    if beat_at is None or _age(facts, beat_at) > ALIVE_BEAT.total_seconds():
        detail = "Beat is not alive, so nothing is polled or retried automatically"
        since = None if facts.is_watched else beat_at
        yield Measurement(key=AlertKey(rule="no_beat"), since=since, detail=detail)


ALIVE_BEAT = timedelta(seconds=20)
MEASURES: Mapping[str, Callable[[AlertFacts], Iterator[Measurement | Held]]] = {
    "failed_share": measure_failed_share,
    "backlog_age": measure_backlog_age,
    "no_poll": measure_no_poll,
    "circuit_open": measure_circuit_open,
    "paused": measure_paused,
    "obstacle": measure_obstacle,
    "schema_changed": measure_schema_changed,
    "no_worker": measure_no_worker,
    "no_beat": measure_no_beat,
}
"""A function for each rule of `core/alert_rules.py`."""
SILENCED_BY: Mapping[str, frozenset[str]] = {
    "no_worker": frozenset(MEASURES) - {"no_worker", "no_beat"},
    "no_beat": frozenset({"failed_share", "backlog_age", "no_poll", "obstacle"}),
}
"""The rules that report nothing new while no worker, or no Beat, is alive; their firing alerts stay unchanged."""


def _age(facts: AlertFacts, at: datetime) -> float:
    return (facts.now - at).total_seconds()
