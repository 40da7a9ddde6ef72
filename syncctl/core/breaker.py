"""When a partner counts as down: rules; the state is in the ledger, shared by all workers."""

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Closed: calls go out. Open: none but a probe. Half open: few at first, more after each good batch."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerRules:
    """When to stop calling a partner, and when to ask whether it is back.

    Args:
        calls: So many within a minute must have been made before their failures tell anything.
        failures: The share of them that must have failed: no answer, or a 5xx.
        pause_seconds: Until the first probe; twice as long after each that fails.
        longest_pause_seconds: It is never longer than this.
    """

    calls: int = 10
    failures: float = 0.7
    pause_seconds: float = 30.0
    longest_pause_seconds: float = 600.0


WINDOW_SECONDS = 60.0
REMEMBERED_CALLS = 50
"""What weighs against the newest calls: of a partner that is called often, else thousands that went well in the same
minute would."""
TOO_MANY = 429
FIRST_ALLOWED = 2
CLOSED_AT = 64
"""Half open, so many records may be on their way at first; at so many the breaker is closed again."""


def counts_as_down(status: int | None, *, retry_after_seconds: float | None = None) -> bool:
    """Tell whether an attempt speaks for a partner that is down: no answer came, or one that says so.

    So does a 429 that names a time: where most calls get one, calling on is no use.
    """
    return status is None or status >= 500 or (status == TOO_MANY and retry_after_seconds is not None)
