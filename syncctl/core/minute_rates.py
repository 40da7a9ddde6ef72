"""The throughput of a stream: the counts by minute in its document, as rates and as a row of figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

MINUTES = 30
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """A stream's counts in the last half hour, minute by minute, the oldest first; the last minute is the present one.

    The present minute has only begun, so its counts are an estimate for the last sixty seconds, which takes the minute
    before as even.
    """

    logged: tuple[int, ...]
    attempts: tuple[int, ...]
    accepted: tuple[int, ...]

    @property
    def rates(self) -> dict[str, float]:
        """Records and calls per second over the last sixty seconds."""
        return {
            "logged_per_second": round(self.logged[-1] / 60, 2),
            "attempts_per_second": round(self.attempts[-1] / 60, 2),
            "accepted_per_second": round(self.accepted[-1] / 60, 2),
        }


def read_flow(minutes: Mapping[str, Any] | None, now: datetime) -> Flow:
    """Return the flow of a stream.

    Args:
        minutes: The counts by minute of the stream's document; None if nothing was counted yet.
        now: MongoDB's time.
    """
    minutes = minutes or {}
    logged, sent = minutes.get("logged") or (), minutes.get("sent") or ()
    return Flow(
        logged=_fill(logged, "logged", now),
        attempts=_fill(sent, "attempts", now),
        accepted=_fill(sent, "accepted", now),
    )


def _fill(counted: Sequence[Mapping[str, Any]], name: str, now: datetime) -> tuple[int, ...]:
    """Return the counts of the last minutes, 0 where nothing was counted."""
    by_minute = {entry["at"]: int(entry.get(name, 0)) for entry in counted}
    present = now.replace(second=0, microsecond=0)
    counts = [by_minute.get(present - _MINUTE * back, 0) for back in range(MINUTES - 1, -1, -1)]
    passed = (now - present) / _MINUTE
    counts[-1] += round(counts[-2] * (1 - passed))
    return tuple(counts)


def squeeze(counts: Sequence[int], width: int) -> list[int]:
    """Return at most `width` sums of neighbouring counts; the newest counts fill the last one."""
    if width <= 0:
        return []
    size = -(-len(counts) // width)
    first = len(counts) % size
    groups = [counts[:first]] if first else []
    groups += [counts[start : start + size] for start in range(first, len(counts), size)]
    return [sum(group) for group in groups]
