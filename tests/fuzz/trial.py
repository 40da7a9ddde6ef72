"""One trial of the fuzz: what is wrong with how a command line or a set-up ended, and its bound in time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from syncctl.errors import ExitCode

ENDS = frozenset(ExitCode) - {ExitCode.BUG}
_MARKS = ("Traceback (most recent call last)", "internal error", "Exception ignored", "coroutine '")


class Hang(BaseException):
    """A trial took too long. It is not an `Exception`, so that nothing in the product takes it for its own."""


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Raise `Hang` in the block when it takes longer."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def find_fault(exit_code: int, stderr: str, *, debug: bool = False) -> str | None:
    """Return what is wrong with the end of a command; None if nothing is."""
    if exit_code not in ENDS:
        return f"exit code {exit_code}"
    marks = [mark for mark in _MARKS if mark in stderr]
    # With --debug the traceback of an error is what was asked for.
    return f"stderr has {marks[0]!r}" if marks and not debug else None
