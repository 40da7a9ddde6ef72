"""Ctrl-C and SIGTERM in long-running commands: the first stops safely, the second at once."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from syncctl.console import out
from syncctl.errors import ExitCode

T = TypeVar("T")

AFTER_BATCH = "stopping after this batch; press Ctrl-C again to stop at once"
WAITS_FOR_SECONDS = 0.1
"""How soon a signal ends the wait for a reading."""


class _Reading(threading.Thread, Generic[T]):
    """One call in a thread that may outlast the command, so that a hanging service does not delay its end."""

    def __init__(self, read: Callable[[], T]) -> None:
        super().__init__(name="reading", daemon=True)
        self._read = read
        self.over = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._read()
        except BaseException as error:  # noqa: BLE001 - `await_result` raises it
            self.error = error
        finally:
            self.over.set()


class StopSignal:
    """Record the first signal and act on the second one; restore the previous handlers at the end.

    Args:
        notice: Text written to stderr at the first signal; empty writes nothing.
    """

    def __init__(self, *, notice: str = "stopping after this page; press Ctrl-C again to stop at once") -> None:
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
        """Tell whether a signal asked to stop."""
        return self._event.is_set()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for the signal received."""
        if not self.is_set:
            return ExitCode.DONE
        return ExitCode.TERMINATED if self._received == signal.SIGTERM else ExitCode.INTERRUPTED

    def conclude(self, code: ExitCode) -> ExitCode:
        """Return the exit code of a bulk change; if it was stopped, say how to continue it."""
        if not self.is_set:
            return code
        out.say("stopped; to go on with the rest, run the same command again")
        return self.exit_code

    def wait(self, seconds: float) -> bool:
        """Wait for a signal for at most this long; tell whether one asked to stop."""
        return self._event.wait(max(seconds, 0.0))

    def await_result(self, read: Callable[[], T], *, on_wait: Callable[[float], None]) -> T | None:
        """Call `read`, which may take long, in a thread; return its result, or None once a signal asks to stop.

        Args:
            on_wait: Called repeatedly during the wait, with the seconds so far.

        Raises:
            Any exception that `read` raises.
        """
        began = time.monotonic()
        reading = _Reading(read)
        reading.start()
        while not reading.over.wait(WAITS_FOR_SECONDS):
            if self.is_set:
                return None
            on_wait(time.monotonic() - began)
        if reading.error is not None:
            raise reading.error
        return cast(T, reading.result)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(ExitCode.TERMINATED)
        self._received = number
        self._event.set()
        if self._notice:
            out.say(self._notice)
