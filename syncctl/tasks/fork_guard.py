"""The threads of a worker's main process, and the pool processes that it forks beside them.

A process that is forked while another thread holds a lock has a locked copy of it, which no thread will ever release.
The process waits for that lock forever, and with it the polls and the maintenance of its worker. Such locks are
everywhere: in Python 3.11 even `functools.cached_property` has one. A fork therefore waits until no thread is at work.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from syncctl.logs import get_logger

log = get_logger(__name__)

WAITS_AT_MOST_SECONDS = 30.0
"""How long a fork waits for threads: until then the main process hands out no messages."""


class ForkGuard:
    """Keeps the work of threads and forks apart; several threads may work at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working = 0
        self._is_forking = False

    @contextmanager
    def held_off(self, *, is_short: bool = False) -> Iterator[None]:
        """Hold forks off while a thread is at work; if a fork is about to happen, it comes first.

        Args:
            is_short: The work ends soon, so it may begin while a fork still has to wait for another thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_forking or (is_short and self._working > 0))
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def begin_fork(self) -> None:
        """Let no further work begin, and wait until the present work has ended."""
        with self._changed:
            self._is_forking = True
            if not self._changed.wait_for(lambda: not self._working, WAITS_AT_MOST_SECONDS):
                log.warning("worker.forked_beside_work", waited_seconds=WAITS_AT_MOST_SECONDS)

    def end_fork(self) -> None:
        """In the process that has forked: let work begin again."""
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()

    def forget(self) -> None:
        """In the forked process, which has none of the threads: begin anew."""
        self._changed, self._working, self._is_forking = threading.Condition(), 0, False


forks = ForkGuard()
os.register_at_fork(before=forks.begin_fork, after_in_parent=forks.end_fork, after_in_child=forks.forget)
