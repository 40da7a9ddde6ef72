"""The time that building one row's request may take, so that no row holds up the others (invariants 12 and 14)."""

import threading
import time

ROW_SECONDS = 0.25
"""The limit for one row, in CPU time of this thread, so that a busy machine does not shorten it."""


class RowTimeExceeded(Exception):
    """Building a row's request takes too long; the text says which part does."""

    def __init__(self, what: str = "it") -> None:
        super().__init__(f"{what} takes more than {ROW_SECONDS:g} s of computing for this row")


class RowTime(threading.local):
    """The remaining time of the current row in each thread; unlimited while none has begun."""

    _ends_at = float("inf")

    def begin(self, seconds: float = ROW_SECONDS) -> None:
        """Begin the time of a row, or of a trial without a row."""
        self._ends_at = time.thread_time() + seconds

    def end(self) -> None:
        """Lift the limit."""
        self._ends_at = float("inf")

    @property
    def left_seconds(self) -> float:
        """The remaining time, between 0 and `ROW_SECONDS`."""
        return min(max(0.0, self._ends_at - time.thread_time()), ROW_SECONDS)

    def check(self) -> None:
        """Check that time is left.

        Raises:
            RowTimeExceeded: no time is left.
        """
        if time.thread_time() > self._ends_at:
            raise RowTimeExceeded


row_time = RowTime()
