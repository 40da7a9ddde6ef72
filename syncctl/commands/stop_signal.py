"""Ctrl-C and SIGTERM in long-running commands: the first stops safely, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from syncctl.console import out
from syncctl.errors import ExitCode


class _Interrupted(BaseException):
    """Ends a block that may be interrupted; libraries must not catch it as one of their errors."""


class StopSignal:
    """Record the first signal and act on the second one; restore the previous handlers at the end.

    Args:
        notice: Text written to stderr at the first signal; empty writes nothing.
    """

    def __init__(self, *, notice: str = "stopping after this page; press Ctrl-C again to stop at once") -> None:
        self._notice = notice
        self._event = threading.Event()
        self._received = 0
        self._is_interruptible = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def is_set(self) -> bool:
        """Tell whether a signal asked to stop."""
        return self._event.is_set()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for the signal received."""
        if not self.is_set:
            return ExitCode.DONE
        return ExitCode.TERMINATED if self._received == signal.SIGTERM else ExitCode.INTERRUPTED

    def wait(self, seconds: float) -> bool:
        """Wait for a signal for at most this long; tell whether one asked to stop."""
        return self._event.wait(max(seconds, 0.0))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the first signal end this block at once: for what only reads, and may take long."""
        try:
            self._is_interruptible = True
            try:
                yield
            finally:
                self._is_interruptible = False
        except _Interrupted:
            return

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(ExitCode.TERMINATED)
        self._received = number
        self._event.set()
        if self._notice:
            out.say(self._notice)
        if self._is_interruptible:
            raise _Interrupted
