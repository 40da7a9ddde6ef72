"""How many of a worker's processes deliver at once, and the slots by which they keep to it."""

import fcntl
import os
import tempfile
import threading
from contextlib import suppress


def count_delivery_slots(concurrency: int) -> int:
    """Return how many of a worker's processes deliver at once: one is kept for polls and maintenance."""
    return max(1, concurrency - 1)


class Slots:
    """Slots that a worker's processes and threads share; if a process dies, its slots are free again.

    They are locks on the bytes of a file without a name, which no other program can open, replace or clean away. Such a
    lock belongs to a process (fcntl(2)), so the threads of one process also need a list.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the worker
        self._lock = threading.Lock()
        self._taken: tuple[int, set[int]] = (os.getpid(), set())

    def take(self) -> int | None:
        """Take a free slot and return its number; None when all are taken."""
        with self._lock:
            taken = self._own()
            for number in range(self._count):
                if number in taken:
                    continue
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                except OSError:
                    continue
                taken.add(number)
                return number
        return None

    def free(self, number: int) -> None:
        """Give a slot back."""
        with self._lock:
            self._own().discard(number)
            with suppress(ValueError):  # The worker has ended, and its slots with it.
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _own(self) -> set[int]:
        if self._taken[0] != os.getpid():
            self._taken = (os.getpid(), set())
        return self._taken[1]
