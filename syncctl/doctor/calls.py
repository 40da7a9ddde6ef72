"""partner NAME calls: whether the workers call each partner, or have been told, or have decided, not to."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from syncctl.core.breaker import BreakerState
from syncctl.core.durations import format_age
from syncctl.doctor.check import Finding, Unit, join_findings, passed, warned
from syncctl.doctor.examined import Examined


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return a check for each partner that a stream uses."""
    names = dict.fromkeys(stream.partner for stream in examined.settings.streams.values())
    return tuple(
        Unit(name=f"partner {name} calls", look=lambda name=name: check_calls(examined, name), needs=("mongodb",))  # type: ignore[misc]
        for name in names
    )


def check_calls(examined: Examined, name: str) -> Finding:
    """Tell whether a partner is paused, or counts as down."""
    ledger = examined.ledger
    paused = ledger.partners.load_all().get(name, {}).get("paused")
    if paused:
        reason = paused.get("reason") or "no reason given"
        return warned(f"paused by {paused.get('by')}: {reason}", f"run: syncctl resume --partner {name}")
    documents, now = ledger.streams.load_all(), ledger.streams.server_time()
    streams = [each for each, stream in examined.settings.streams.items() if stream.partner == name]
    found = [_look_at_breaker(each, documents.get(each, {}).get("breaker", {}), now) for each in streams]
    return join_findings([each for each in found if each is not None] or [passed("called")])


def _look_at_breaker(stream: str, breaker: Mapping[str, Any], now: datetime) -> Finding | None:
    state = breaker.get("state", BreakerState.CLOSED.value)
    if state == BreakerState.OPEN.value:
        seconds = (now - breaker["since"]).total_seconds()
        since = format_age(max(seconds, 1))
        return warned(
            f"stream {stream}: counts as down since {since} ago: {breaker.get('reason') or 'no answer'}",
            f"ask the partner; one record asks again by itself, or run: syncctl resume {stream}",
        )
    if state == BreakerState.HALF_OPEN.value:
        return passed(f"stream {stream}: it is back after a failure, and called gently")
    return None
