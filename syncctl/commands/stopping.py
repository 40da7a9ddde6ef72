"""Ctrl-C and SIGTERM for commands that run for long: the first stops safely, the second forces."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from syncctl.console import out
from syncctl.errors import ExitCode


class StopSignal:
    """Note the first signal and let the second one through; the old handlers come back at the end.

    Args:
        notice: What the first signal says on stderr; empty says nothing.
    """

    def __init__(self, *, notice: str = "stopping after this page; once more to stop now") -> None:
        self._notice = notice
        self._event = threading.Event()
        self._received = 0
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
        """Tell whether somebody asked to stop."""
        return self._event.is_set()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that tells which signal it was."""
        if not self.is_set:
            return ExitCode.DONE
        return ExitCode.TERMINATED if self._received == signal.SIGTERM else ExitCode.INTERRUPTED

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks to stop, at most so long; tell whether they did."""
        return self._event.wait(max(seconds, 0.0))

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(ExitCode.TERMINATED)
        self._received = number
        self._event.set()
        if self._notice:
            out.say(self._notice)
