"""A source that can be locked and moved away."""

import sqlite3
import threading
from pathlib import Path

from tests.harness.source_db import SourceDb


class FaultySource(SourceDb):
    """A SQLite file in a directory of its own, which moves with all that SQLite keeps beside it.

    Args:
        journal: `delete` lets a writer lock readers out; under `wal` it does not.
    """

    def __init__(self, directory: Path, *, journal: str) -> None:
        directory.mkdir()
        self.may_write = threading.Lock()
        self._home = directory
        self._away = directory.with_suffix(".away")
        self._lock: sqlite3.Connection | None = None
        super().__init__(directory / "source.db")
        self.execute(f"pragma journal_mode = {journal}")

    def lock(self) -> None:
        """Hold an exclusive transaction."""
        self._lock = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self._lock.execute("begin exclusive")

    def unlock(self) -> None:
        """Roll it back. Safe to repeat."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def hide(self) -> None:
        """Move the file away; who writes with `may_write` waits."""
        self.may_write.acquire()
        self._home.rename(self._away)

    def show(self) -> None:
        """Move the file back. Safe to repeat."""
        if self._away.exists():
            self._away.rename(self._home)
            self.may_write.release()
