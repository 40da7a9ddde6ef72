"""The poll lease for operations that log rows beside the polls (a repair, or sending one row), and its loss."""

import time

from syncctl.errors import LeaseHeld
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease

PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.2


def taken_over(stream: str, *, then: str) -> LeaseHeld:
    """Return the error of a poll whose lease another poll has taken over (invariant 8).

    Args:
        then: What the other poll does next, for the hint.
    """
    return LeaseHeld(
        f"the poll of {stream} was taken over",
        why="its lease ran out while this process stood still",
        hint=f"nothing is lost; the other poll {then}",
    )


def wait_for_poll_lease(
    ledger: Ledger,
    stream: str,
    *,
    worker: str,
    lease_seconds: float,
    patience_seconds: float = PATIENCE_SECONDS,
) -> PollLease:
    """Take the poll lease of a stream; if a poll is running, wait for its end.

    Raises:
        LeaseHeld: The poll has not ended in time.
    """
    ledger.streams.ensure(stream)
    until = time.monotonic() + patience_seconds
    while (lease := ledger.polls.acquire(stream, seconds=lease_seconds, worker=worker)) is None:
        if time.monotonic() >= until:
            raise LeaseHeld(
                f"stream {stream} is being polled",
                why="a poll holds its lease, and has not ended",
                hint="try again in a moment, or look at: syncctl status",
            )
        time.sleep(PAUSE_SECONDS)
    return lease
