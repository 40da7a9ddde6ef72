"""A source that can be locked and moved away."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from tests.harness.source_db import SourceDb

BUSY_SECONDS = 60


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
        """Hold an exclusive transaction, and see that nobody can read; who writes with `may_write` waits."""
        self.may_write.acquire()
        self._lock = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        self._lock.execute("begin exclusive")
        assert self.is_locked(), "who reads must be locked out: under wal it is not"

    def is_locked(self) -> bool:
        """Tell whether the lock keeps out who reads."""
        with closing(sqlite3.connect(self.path, timeout=0)) as reader:
            try:
                reader.execute("select count(*) from sqlite_master").fetchall()
            except sqlite3.OperationalError as error:
                return "locked" in str(error)
            return False

    def unlock(self) -> None:
        """Roll it back. Safe to repeat."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            self.may_write.release()

    def hide(self) -> None:
        """Move the file away; who writes with `may_write` waits."""
        self.may_write.acquire()
        self._home.rename(self._away)

    def show(self) -> None:
        """Move the file back. Safe to repeat."""
        if self._away.exists():
            self._away.rename(self._home)
            self.may_write.release()
