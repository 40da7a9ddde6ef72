"""One look at the demo: what the screen shows."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNFINISHED = ("pending", "retrying", "queued", "sending")
STATES = (*UNFINISHED, "delivered", "superseded", "failed")
RATE_OVER_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Source, ledger, queue and partner at one moment.

    Args:
        phase: What the demo is doing, in words.
        counts: Records by state.
        messages: How many wait in Redis; None when unknown.
        partner: The partner's own counts.
        failures: The most frequent errors of failed records.
    """

    phase: str
    elapsed_seconds: float
    rows_wanted: int
    source_rows: int
    cursor: str | None
    counts: Mapping[str, int]
    messages: int | None
    workers: int
    partner: Mapping[str, Any]
    calls_per_second: float
    failures: tuple[Mapping[str, Any], ...]
    last_error: str | None

    @property
    def records(self) -> int:
        """All records in the ledger."""
        return sum(self.counts[state] for state in STATES)

    @property
    def unfinished(self) -> int:
        """Records that are still on their way."""
        return sum(self.counts[state] for state in UNFINISHED)

    @property
    def answers(self) -> dict[str, int]:
        """The partner's answers, as people call them."""
        return name_answers(self.partner)

    def trail(self) -> tuple[object, ...]:
        """Return what changes as long as anything moves."""
        moving = (self.source_rows, self.workers, self.cursor, self.partner["calls"], *self.counts.values())
        return (self.phase, *moving)


def name_answers(stats: Mapping[str, Any]) -> dict[str, int]:
    """Return how often the partner gave each answer."""
    return {
        "accepted": stats["applied"] + stats["repeated"],
        "too_many_429": stats["too_many"],
        "error_500": stats["error"],
        "cut_before_applied": stats["dropped_before"],
        "cut_after_applied": stats["dropped_after"],
        "refused_422": stats["rejected"] + stats["violation"],
    }


class Speedometer:
    """Calls per second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def read(self, at: float, calls: int) -> float:
        """Take a reading and return the rate."""
        self._seen.append((at, calls))
        while self._seen[-1][0] - self._seen[0][0] > RATE_OVER_SECONDS:
            self._seen.popleft()
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0
