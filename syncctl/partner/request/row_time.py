"""The time that building one row's request may take, so that no row holds up the others (invariants 12 and 14)."""

import threading
import time

ROW_SECONDS = 0.25
"""Of this thread's own computing: a busy machine takes no row's time away."""


class RowTimeExceeded(Exception):
    """Building the request of a row takes too long; the text says what does."""

    def __init__(self, what: str = "it") -> None:
        super().__init__(f"{what} takes more than {ROW_SECONDS:g} s of computing for this row")


class RowTime(threading.local):
    """The rest of the time in each thread; unlimited until it begins."""

    _ends_at = float("inf")

    def begin(self, seconds: float = ROW_SECONDS) -> None:
        """Begin the time of a row, or of a trial without one."""
        self._ends_at = time.thread_time() + seconds

    def end(self) -> None:
        """Lift the limit."""
        self._ends_at = float("inf")

    @property
    def left_seconds(self) -> float:
        """What is left; within [0, the whole]."""
        return min(max(0.0, self._ends_at - time.thread_time()), ROW_SECONDS)

    def check(self) -> None:
        """Check that time is left.

        Raises:
            RowTimeExceeded: there is none.
        """
        if time.thread_time() > self._ends_at:
            raise RowTimeExceeded


row_time = RowTime()
