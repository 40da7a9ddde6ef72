"""The history of a row as one timeline: found, logged, each attempt, and changes by operators and newer versions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncctl.core.ids import epoch_of
from syncctl.core.states import name_state
from syncctl.ledger.attempt_feed import ATTEMPT
from syncctl.ledger.ledger import Ledger

Doc = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineEvent:
    """One event in the life of a version of a row. Fields that do not apply are None."""

    #: When it happened; None if that is not known.
    at: datetime | None
    #: `found`, `logged`, `attempt`, `lost`, `unsendable`, `replayed`, `resent`, `taken_back`, `discarded`,
    #: `superseded`, `written_back`, `write_back_failed`, `acknowledged`, or `earlier` for events that are only counted.
    event: str
    #: The id of the version's record.
    record: str
    #: The number of an attempt.
    attempt: int | None = None
    outcome: str | None = None
    #: The state of the record after the event.
    state: str | None = None
    status: int | None = None
    latency_ms: float | None = None
    error: str | None = None
    #: The beginning of the partner's answer.
    excerpt: str | None = None
    #: Who did it: an operator, a worker, or the newer version that superseded this one.
    by: str | None = None
    #: Further details, as text.
    detail: str | None = None


def build_timeline(ledger: Ledger, records: Sequence[Doc]) -> list[TimelineEvent]:
    """Return the events of these versions of one row, in the order of time."""
    events = [event for record in records for event in _list_events(ledger, record)]
    first = min(record["logged_at"] for record in records)
    return sorted(events, key=lambda event: event.at or first)


def _list_events(ledger: Ledger, record: Doc) -> Iterator[TimelineEvent]:
    name = record["_id"]
    run = ledger.runs.find_epoch(record["stream"], epoch_of(int(record["seq"])), before=record["logged_at"])
    if run is not None:
        read, logged = int(run.get("read", 0)), int(run.get("logged", 0))
        rows = "1 row" if read == 1 else f"{read:,} rows"
        detail = f"by a poll that read {rows} and logged {logged:,}"
        yield TimelineEvent(at=run["started_at"], event="found", record=name, detail=detail)
    yield TimelineEvent(
        at=record["logged_at"], event="logged", record=name, detail=f"{record['op']}, version {record['version']}"
    )
    if counted := sum(int(event["count"]) for event in record.get("earlier") or ()):
        yield TimelineEvent(
            at=None, event="earlier", record=name, detail=f"{counted:,} events that are counted, and not kept in full"
        )
    history: Sequence[Doc] = record.get("history") or ()
    for entry in history:
        yield _read_entry(name, entry)
    if record.get("superseded_at") and not any(entry["action"] == "superseded" for entry in history):
        yield TimelineEvent(
            at=record["superseded_at"],
            event="superseded",
            record=name,
            state="superseded",
            by=record.get("superseded_by"),
        )
    yield from _list_source_writes(name, record)


def _read_entry(name: str, entry: Doc) -> TimelineEvent:
    is_attempt = entry["action"] == ATTEMPT
    state = entry.get("state")
    return TimelineEvent(
        at=entry.get("at"),
        event=str(entry["action"]),
        record=name,
        attempt=int(entry["n"]) if is_attempt and entry.get("n") is not None else None,
        outcome=entry.get("outcome"),
        state=None if state is None else name_state(state, fresh=not is_attempt),
        status=entry.get("status"),
        latency_ms=entry.get("latency_ms"),
        error=entry.get("error"),
        excerpt=entry.get("excerpt"),
        by=entry.get("by") or entry.get("worker"),
        detail=", ".join(_describe_entry(name, entry)) or None,
    )


def _describe_entry(name: str, entry: Doc) -> Iterator[str]:
    if entry.get("late"):
        yield "late: another process had taken over the record"
    if entry.get("reason"):
        yield str(entry["reason"])
    if entry.get("from"):
        yield f"was {entry['from']}"
    if entry.get("lookup"):
        yield f"asked for the partner's object: {entry['lookup']}"
    captured = entry.get("captured") or {}
    yield from (f"{remote}={value}" for remote, value in captured.items())
    if entry.get("not_captured"):
        yield f"not captured: {entry['not_captured']}"
    if entry.get("idempotency_key") not in (None, name):
        yield f"under the key {entry['idempotency_key']}"


def _list_source_writes(name: str, record: Doc) -> Iterator[TimelineEvent]:
    """Yield the events in which the record's outcome was written to the source."""
    if written := record.get("written_back"):
        rows = int(written.get("rows") or 0)
        yield TimelineEvent(
            at=written["at"],
            event="written_back",
            record=name,
            state=written.get("state"),
            detail="into the source's row" if rows else "the source has no such row any more",
        )
    waiting = record.get("write_back") or {}
    if waiting.get("error"):
        yield TimelineEvent(
            at=waiting.get("since"), event="write_back_failed", record=name, error=str(waiting["error"])
        )
    acknowledged = record.get("acknowledged") or {}
    if acknowledged.get("at"):
        yield TimelineEvent(at=acknowledged["at"], event="acknowledged", record=name, state=acknowledged.get("ending"))
