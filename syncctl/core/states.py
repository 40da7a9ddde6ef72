"""The states of a record, of which docs/states.md has the diagram, and of a circuit breaker."""

from enum import StrEnum


class State(StrEnum):
    """The state of a record. A PENDING record with earlier attempts is shown as `retrying`, which is not stored."""

    PENDING = "pending"
    QUEUED = "queued"  # only older versions of syncctl set it
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


UNFINISHED = (State.PENDING, State.QUEUED, State.SENDING)
UNFINISHED_COUNTS = ("pending", "retrying", "queued", "sending")
"""The names under which unfinished records are counted."""
TERMINAL = (State.DELIVERED, State.FAILED, State.SUPERSEDED, State.DISCARDED)
RETRYING = "retrying"
"""The name of PENDING records that wait for an attempt after their first."""
SELECTABLE = (State.PENDING.value, RETRYING, State.SENDING.value, *(state.value for state in TERMINAL))
"""The states by which records are selected and counted."""


def name_state(state: str, *, fresh: bool | None) -> str:
    """Return the state of a record as people and filters name it.

    Args:
        fresh: Whether the record waits for its first attempt.
    """
    return RETRYING if state == State.PENDING and fresh is False else state


def stored_state(name: str) -> str:
    """Return the state that is stored for one of `SELECTABLE`."""
    return State.PENDING.value if name == RETRYING else name


class BreakerState(StrEnum):
    """Closed: all calls are made. Open: only a probe. Half-open: few at first, more after each good batch."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
