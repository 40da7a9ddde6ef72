"""The states of a record. docs/states.md has the diagram."""

from enum import StrEnum


class State(StrEnum):
    """Where a record stands. `retrying` is shown for PENDING with attempts behind it; it is not stored."""

    PENDING = "pending"
    QUEUED = "queued"  # of older versions of syncctl
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


UNFINISHED = (State.PENDING, State.QUEUED, State.SENDING)
UNFINISHED_COUNTS = ("pending", "retrying", "queued", "sending")
"""The names under which unfinished records are counted."""
TERMINAL = (State.DELIVERED, State.FAILED, State.SUPERSEDED, State.DISCARDED)
