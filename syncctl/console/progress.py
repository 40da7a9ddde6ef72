"""The progress of long work: one line on stderr, redrawn below any other output there.

If stderr is not a terminal, as in a cluster job or a log, a new line is written every half minute.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from syncctl.console.terminal import measure_terminal

AFTER_SECONDS = 1.0
"""Shorter work is over before anyone could read its progress, so none is shown."""
EVERY_SECONDS = 0.2
LINE_EVERY_SECONDS = 30.0
"""How often a new line is written where a line cannot be redrawn."""

_CLEAR = "\r\x1b[K"


class ProgressLine:
    """One line that shows how far some work is; a thread draws it, even while the work waits for a service.

    Args:
        label: The name of the work, such as `replaying`.
        total: How much there is to do, if that is known.
        unit: The unit of the counts, such as `records`.
        write: Writes to stderr.
        redraws: Whether stderr is a terminal on which a line can be redrawn.
    """

    def __init__(
        self, label: str, *, total: int | None, unit: str, write: Callable[[str], None], redraws: bool
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._write = write
        self._redraws = redraws
        self._count: int | None = None
        self._started = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.RLock()
        self._is_shown = False
        self._thread = threading.Thread(target=self._draw_until_over, name="progress", daemon=True)

    def show(self, count: int) -> None:
        """Set how much is done."""
        self._count = count

    def start(self) -> None:
        """Start to draw the line, first after a second; off a terminal, write it every half minute."""
        self._thread.start()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Clear the line while other text is written; it is redrawn below that text."""
        with self._lock:
            if self._is_shown:
                self._is_shown = False
                self._write(_CLEAR)
            yield

    def end(self) -> None:
        """Stop drawing the line, and remove it."""
        self._over.set()
        with self.aside():
            return

    def describe(self) -> str:
        """Return the line as text: `replaying: 1,200 of 5,000 records (24 %), 12 s`."""
        parts = [f"{time.monotonic() - self._started:.0f} s"]
        unit = f" {self._unit}" if self._unit else ""
        if self._count is not None and self._total:
            share = min(100, 100 * self._count // self._total)
            parts.insert(0, f"{self._count:,} of {self._total:,}{unit} ({share} %)")
        elif self._count is not None:
            parts.insert(0, f"{self._count:,}{unit}")
        return f"{self._label}: {', '.join(parts)}"

    def _draw_until_over(self) -> None:
        wait, every = (AFTER_SECONDS, EVERY_SECONDS) if self._redraws else (LINE_EVERY_SECONDS, LINE_EVERY_SECONDS)
        while not self._over.wait(wait):
            wait = every
            with self._lock:
                if self._over.is_set():
                    return
                if self._redraws:
                    self._is_shown = True
                    # A line that is wider than the terminal could not be cleared.
                    self._write(_CLEAR + self.describe()[: measure_terminal(sys.stderr)[0] - 1])
                else:
                    self._write(f"{self.describe()}\n")
