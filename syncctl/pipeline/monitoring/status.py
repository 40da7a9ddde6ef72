"""status and failures: the state of every stream and partner, and why it is so."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from syncctl.core.minute_rates import read_flow
from syncctl.core.states import RETRYING, UNFINISHED_COUNTS, BreakerState, State
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.holds import find_pause
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.migrations import VERSION
from syncctl.ledger.partners import count_permits
from syncctl.ledger.polls import POLLS_PAUSED_FIELD, read_notes
from syncctl.ledger.selections import Criteria, list_scans
from syncctl.ledger.source_schemas import read_schema_changes
from syncctl.ledger.write_backs import Lag
from syncctl.pipeline.maintenance.maintenance import find_failing, find_overdue
from syncctl.pipeline.monitoring.alert_sending import ChannelState, read_channels
from syncctl.pipeline.monitoring.alerts import Alert, read_alerts
from syncctl.pipeline.monitoring.obstacles import StreamPlan, find_obstacles, gather_facts
from syncctl.pipeline.selection import Selection, find_criteria, list_streams

BREAKERS_BEST_FIRST = (BreakerState.CLOSED.value, BreakerState.HALF_OPEN.value, BreakerState.OPEN.value)
STATES = ("pending", "retrying", "queued", "sending", "delivered", "failed", "superseded", "discarded")
WITH_ERRORS = (State.FAILED.value, RETRYING, State.SUPERSEDED.value, State.DISCARDED.value)
"""The states in which records may have an error."""
FAILED_RECORDS = Selection()


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The state of all streams, partners, workers and of Beat, as `syncctl status --json` prints it."""

    streams: tuple[Mapping[str, Any], ...]
    partners: tuple[Mapping[str, Any], ...]
    queue: Mapping[str, Any]
    workers: tuple[Mapping[str, Any], ...]
    beat: Mapping[str, Any]
    #: The firing alerts.
    alerts: tuple[Alert, ...] = ()
    #: The state of the configured alert channels.
    alert_channels: tuple[ChannelState, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """Failed records grouped by the fingerprint of their error, the most frequent first."""

    groups: tuple[Mapping[str, Any], ...]


def read_status(
    *,
    ledger: Ledger,
    configured: Mapping[str, StreamPlan],
    messages: int | None,
    redis_error: str | None = None,
    maintained_every: Mapping[str, float] | None = None,
    settings: str | None = None,
    alert_channels: Sequence[str] = (),
) -> Status:
    """Return the state of every stream, including streams that left the configuration.

    Args:
        configured: The plan of each configured stream.
        messages: How many messages wait in the queue; None if Redis cannot be reached.
        redis_error: Why Redis cannot be used; None if it can.
        maintained_every: How often each of Beat's jobs is due, in seconds.
        settings: The fingerprint of the settings, which the heartbeats of workers and Beat should have too.
        alert_channels: The names of the configured alert channels.
    """
    now = ledger.streams.server_time()
    documents = ledger.streams.load_all()
    removed = sorted(set(documents) - set(configured))
    names = [*configured, *removed]
    totals = ledger.reports.load_finished(names)
    known = ledger.partners.load_all()
    facts = gather_facts(ledger, configured, documents=documents, partners=known, now=now)
    live = {name: stream.counts for name, stream in facts.items()} | ledger.records.count_states(removed)
    breakers = {name: _breaker(document, live[name]) for name, document in documents.items() if "breaker" in document}
    partners = {
        name: _partner(
            name,
            known.get(name, {}),
            [breakers[stream] for stream, plan in configured.items() if plan.partner == name and stream in breakers],
            now,
        )
        for name in sorted({*(plan.partner for plan in configured.values()), *known})
    }
    waiting = {name: stream.waiting for name, stream in facts.items()} | ledger.sequencing.count(removed)
    obstacles = {name: find_obstacles(ledger, stream) for name, stream in facts.items()}
    streams = tuple(
        _stream(
            name,
            documents.get(name, {}),
            live[name],
            totals[name],
            now,
            partners[configured[name].partner] if name in configured else None,
        )
        | {
            "held": waiting[name].held,
            "awaiting_poll": waiting[name].awaiting_poll,
            "quiet_until": configured[name].find_quiet_end(now) if name in configured else None,
            "write_back": _describe_lag(ledger, name, configured.get(name), now),
            "obstacles": [obstacle.to_document() for obstacle in obstacles.get(name, ())],
        }
        for name in names
    )
    workers = tuple(
        {"worker": worker["_id"]}
        | {name: worker.get(name) for name in ("at", "concurrency", "queues", "pid", "version")}
        | {"settings_differ": differs_from(settings, worker), "ledger_differs": _knows_other_ledger(worker)}
        for worker in ledger.heartbeats.load_workers()
    )
    beat = ledger.heartbeats.load_beat()
    return Status(
        streams=streams,
        partners=tuple(partners.values()),
        queue={
            "messages": messages,
            "error": redis_error,
            "unserved": list_unserved(workers),
            **_describe_dropped(ledger),
        },
        workers=workers,
        beat={
            "last_tick_at": beat["at"] if beat else None,
            "late": bool(beat and beat["late"]),
            "settings_differ": beat is not None and differs_from(settings, beat),
            "ledger_differs": beat is not None and _knows_other_ledger(beat),
            "overdue": [
                {"job": job.name, "last_done_at": job.done_at, "error": job.error}
                for job in find_overdue(ledger, maintained_every or {})
            ],
            "failing": [{"job": job.name, "error": job.error} for job in find_failing(ledger)],
        },
        alerts=read_alerts(ledger),
        alert_channels=tuple(read_channels(ledger, alert_channels)),
    )


def _describe_lag(ledger: Ledger, name: str, plan: StreamPlan | None, now: datetime) -> dict[str, Any]:
    """Return how far the write-back of a stream's outcomes into its source lags behind."""
    lag = ledger.write_backs.read_lag(name) if plan is not None and plan.written_columns else Lag()
    return {
        "records": lag.records,
        "oldest_seconds": round((now - lag.oldest).total_seconds(), 1) if lag.oldest else None,
        "refused": lag.refused,
        "error": lag.error,
    }


def list_unserved(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the queues that none of these workers serves."""
    from syncctl.broker.messages import QUEUES

    served = {queue for worker in workers for queue in worker.get("queues") or ()}
    return [queue for queue in QUEUES if queue not in served]


def _describe_dropped(ledger: Ledger) -> dict[str, Any]:
    dropped = ledger.project.load_dropped()
    return {
        "dropped": dropped["total"],
        "dropped_reasons": dropped["reasons"],
        "last_dropped_at": dropped["at"],
        "dropped_recently": dropped["recent"],
    }


def _knows_other_ledger(heartbeat: Mapping[str, Any]) -> bool:
    """Tell whether a process knows another version of the ledger than this one."""
    return int(heartbeat.get("ledger", 0)) != VERSION


def differs_from(settings: str | None, heartbeat: Mapping[str, Any]) -> bool:
    """Return whether a heartbeat shows that its process runs with other settings."""
    return settings is not None and heartbeat.get("settings", settings) != settings


def _stream(
    name: str,
    document: Mapping[str, Any],
    live: Mapping[str, Any],
    totals: Mapping[str, int],
    now: datetime,
    partner: Mapping[str, Any] | None,
) -> dict[str, Any]:
    oldest = live["oldest_due_at"]
    counts = {state: int({**totals, **live}[state]) for state in STATES}
    paused, polls_paused = find_pause(document, now), find_pause(document, now, field=POLLS_PAUSED_FIELD) or {}
    return {
        "stream": name,
        "configured": partner is not None,
        "partner": partner["partner"] if partner else None,
        "paused": paused is not None,
        "paused_reason": paused.get("reason") if paused else None,
        **_pause(paused),
        "polls_paused": bool(polls_paused),
        "polls_paused_reason": polls_paused.get("reason"),
        "polls_paused_by": polls_paused.get("by"),
        "polls_paused_since": polls_paused.get("at"),
        "polls_paused_until": polls_paused.get("ends_at"),
        "cursor": (document.get("cursor") or {}).get("at"),
        "last_poll_at": document.get("health", {}).get("last_poll_at"),
        "last_error": document.get("health", {}).get("error"),
        "last_hint": document.get("health", {}).get("hint"),
        "notes": [note.line for note in read_notes(document)],
        "schema_changes": [{"at": noted.at, **asdict(noted.change)} for noted in read_schema_changes(document, now)],
        "oldest_due_seconds": round((now - oldest).total_seconds(), 1) if oldest else None,
        "backlog": sum(counts[state] for state in UNFINISHED_COUNTS),
        "rates": read_flow(document.get("minutes"), now).rates,
        **_breaker(document, live),
        "counts": counts,
    }


def _pause(paused: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return who began a pause, when it began and ends, and when a record probes it (an operator's has no probe)."""
    paused = paused or {}
    by = paused.get("by")
    return {
        "paused_by": by,
        "paused_since": paused.get("at"),
        "paused_until": paused.get("ends_at"),
        "pause_probe_at": paused.get("until") if by == SYNCCTL else None,
    }


def _breaker(stream: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a stream's circuit; a record that was never sent may probe sooner than a retry."""
    breaker = stream.get("breaker", {})
    state = breaker.get("state", BreakerState.CLOSED.value)
    until = breaker.get("until")
    return {
        "breaker": state,
        "breaker_reason": breaker.get("reason") if state != BreakerState.CLOSED.value else None,
        "next_probe_at": (breaker.get("fresh_until", until) if live.get("pending") else until)
        if state == BreakerState.OPEN.value
        else None,
    }


def _partner(
    name: str, document: Mapping[str, Any], breakers: Sequence[Mapping[str, Any]], now: datetime
) -> dict[str, Any]:
    """Return the state of a partner; its circuit is open if it is open for all of its streams that have called it."""
    paused = find_pause(document, now)
    return {
        "partner": name,
        "paused": paused is not None,
        "paused_reason": paused.get("reason") if paused else None,
        **_pause(paused),
        **min(breakers or [_breaker({}, {})], key=lambda breaker: BREAKERS_BEST_FIRST.index(breaker["breaker"])),
        "in_flight": count_permits(document, now),
    }


def group_failures(*, ledger: Ledger, selection: Selection = FAILED_RECORDS, limit: int = 50) -> Failures:
    """Return the selected records that have an error, grouped by its fingerprint.

    Raises:
        UsageError: Records in a selected state have no error, or no stream has such a key.
    """
    states = selection.choose_states(WITH_ERRORS)
    criteria = find_criteria(ledger, selection, list_streams(ledger, selection))
    return Failures(groups=tuple(ledger.selections.group_failures(criteria, states=states, limit=limit)))


def count_failed(*, ledger: Ledger, streams: Sequence[str] = (), since: datetime, until: datetime) -> int:
    """Return how many of the records that failed in a period are still failed."""
    criteria = Criteria(since=since, until=until)
    names = streams or sorted(ledger.streams.load_all())
    scans = [scan for name in names for scan in list_scans(name, State.FAILED)]
    return sum(ledger.selections.count_finished(scan, criteria) for scan in scans)
