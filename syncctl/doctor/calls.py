"""partner NAME calls: whether the workers call each partner, or have been told, or have decided, not to."""

from collections.abc import Sequence

from syncctl.core.breaker import BreakerState
from syncctl.core.durations import format_duration
from syncctl.doctor.check import Finding, Unit, passed, warned
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
    found = ledger.partners.load_all().get(name, {})
    paused, breaker = found.get("paused"), found.get("breaker", {})
    if paused:
        reason = paused.get("reason") or "no reason given"
        return warned(f"paused by {paused.get('by')}: {reason}", f"run: syncctl resume --partner {name}")
    state = breaker.get("state", BreakerState.CLOSED.value)
    if state == BreakerState.OPEN.value:
        seconds = (ledger.streams.server_time() - breaker["since"]).total_seconds()
        return warned(
            f"counts as down for {format_duration(int(max(seconds, 1)))}: {breaker.get('reason') or 'no answer'}",
            f"ask the partner; one record asks again by itself, or run: syncctl resume --partner {name}",
        )
    if state == BreakerState.HALF_OPEN.value:
        return passed("it is back after a failure, and called gently")
    return passed("called")
