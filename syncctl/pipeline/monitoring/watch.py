"""watch: the activity that a screen shows beside the status: how fast each stream moves, and the latest events.

Every figure is already in the streams' documents, or is found by an index: millions of records make nothing slower.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from syncctl.core.minute_rates import Flow, read_flow
from syncctl.core.states import State
from syncctl.ledger.attempt_feed import Attempt
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.ledger import Ledger

EVENTS_AT_MOST = 50
CHANGES_LOOKED_AT = 200
"""How many of the newest changes are searched for attempts that went wrong."""
_LATELY = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """An event that an operator may want to know of."""

    at: datetime
    #: The state after an attempt, an operator's action, or `paused`, `circuit open`, `poll failed`, ...
    kind: str
    #: The stream or the partner that it concerns.
    subject: str
    #: The key of an attempt's row.
    key: Mapping[str, Any] | None = None
    detail: str = ""
    is_trouble: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """The current flow of each stream, and the latest events."""

    #: MongoDB's time.
    at: datetime
    flows: Mapping[str, Flow]
    #: The newest first.
    events: tuple[Event, ...]


def read_activity(*, ledger: Ledger, names: Sequence[str], troubled: Sequence[str]) -> Activity:
    """Return the activity of streams.

    Args:
        names: The streams that are shown.
        troubled: The streams among them with failed or retried records.
    """
    now = ledger.streams.server_time()
    documents = ledger.streams.load_all()
    flows = {name: read_flow(documents.get(name, {}).get("minutes"), now) for name in names}
    attempts = {
        (attempt.id, attempt.at): attempt
        for attempt in (
            *ledger.attempts.find_new_failures(limit=CHANGES_LOOKED_AT),
            *(
                attempt
                for name in troubled
                for attempt in ledger.attempts.find_failures(name, limit=EVENTS_AT_MOST // 4)
            ),
        )
    }
    events = [
        *(_describe_attempt(attempt) for attempt in attempts.values()),
        *(_describe_entry(entry) for entry in ledger.audit.load(limit=EVENTS_AT_MOST)),
        *(event for name, document in documents.items() for event in _list_holds(name, document)),
        *(event for name, document in ledger.partners.load_all().items() for event in _list_holds(name, document)),
    ]
    newest = sorted(events, key=lambda event: event.at, reverse=True)[:EVENTS_AT_MOST]
    return Activity(at=now, flows=flows, events=tuple(event for event in newest if now - event.at < _LATELY))


def _describe_attempt(attempt: Attempt) -> Event:
    if attempt.outcome is None:
        # No call was made, or its outcome is not known.
        kind = attempt.state if attempt.state == State.FAILED else "lost"
    else:
        kind = "late" if attempt.late else attempt.state or "-"
    return Event(
        at=attempt.at,
        kind=kind,
        subject=attempt.stream,
        key=attempt.key,
        detail=attempt.error or "",
        is_trouble=True,
    )


def _describe_entry(entry: Mapping[str, Any]) -> Event:
    detail = entry.get("detail") or {}
    concerned = [detail.get("stream"), *(detail.get("streams") or ()), *(detail.get("partners") or ())]
    subject = " ".join(dict.fromkeys(str(name) for name in concerned if name))
    count = entry.get("count")
    parts = [f"{count:,} by {entry['who']}" if count else f"by {entry['who']}"]
    if detail.get("reason"):
        parts.append(str(detail["reason"]))
    if entry.get("error"):
        parts.append(f"ended early: {entry['error']}")
    return Event(
        at=entry["at"],
        kind=str(entry["action"]),
        subject=subject or "every stream",
        detail=", ".join(parts),
        is_trouble=bool(entry.get("error")),
    )


def _list_holds(name: str, document: Mapping[str, Any]) -> Iterator[Event]:
    """Yield the events in the document of a stream or a partner: its pause, its circuit and its last poll."""
    paused = document.get("paused") or {}
    if paused.get("by") == SYNCCTL and "at" in paused:
        # An operator's pause is in the audit log.
        yield Event(
            at=paused["at"], kind="paused", subject=name, detail=str(paused.get("reason") or ""), is_trouble=True
        )
    breaker = document.get("breaker") or {}
    if breaker.get("state") in ("open", "half_open") and breaker.get("since"):
        yield Event(
            at=breaker["since"],
            kind="circuit open",
            subject=name,
            detail=str(breaker.get("reason") or ""),
            is_trouble=True,
        )
    if document.get("back_at") is not None:
        yield Event(at=document["back_at"], kind="goes on", subject=name, detail="resumed, or its circuit closed")
    health = document.get("health") or {}
    if health.get("error") and health.get("last_poll_at"):
        yield Event(
            at=health["last_poll_at"], kind="poll failed", subject=name, detail=str(health["error"]), is_trouble=True
        )
