"""The rules of the circuit breaker. `ledger/breakers.py` applies them to the calls of all workers."""

from dataclasses import dataclass
from enum import StrEnum

WINDOW_SECONDS = 60.0
REMEMBERED_CALLS = 50
"""Caps how many earlier calls count, so that on a busy partner past successes don't hide a fresh outage."""
HALF_OPEN_STARTS_AT = 2
"""How many records may be in flight when the breaker becomes half-open."""
HALF_OPEN_ENDS_AT = 64
"""How many records may be in flight when the breaker closes; the number doubles after each stage without trouble."""


class BreakerState(StrEnum):
    """Closed: all calls are made. Open: only a probe. Half-open: few at first, more after each good batch."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerRules:
    """When the breaker opens, and when it lets a probe through."""

    #: Minimum calls within a minute before the failure rate is judged.
    minimum_calls: int = 10
    #: The share of those calls that must have failed: without an answer, or with a 5xx.
    failure_rate: float = 0.7
    #: How long the breaker stays open before the first probe; doubles after each probe that fails.
    open_seconds: float = 30.0
    #: The limit of that doubling.
    longest_open_seconds: float = 600.0
