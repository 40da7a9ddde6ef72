"""A source that can be locked and moved away, and a writer that knows everything that was ever committed to it."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random

from tests.harness.source_db import SourceDb

BUSY_SECONDS = 60
COLUMNS = ("id", "customer", "amount", "note", "changed")
_TABLE = """
create table orders (
    id integer primary key,
    customer text,
    amount decimal(12, 2),
    note text,
    changed integer not null unique
)
"""
_WRITE = """
insert into orders (id, customer, amount, note, changed) values (?, ?, ?, ?, ?)
on conflict (id) do update
set customer = excluded.customer, amount = excluded.amount, note = excluded.note, changed = excluded.changed
"""
OUTCOMES = {"partner_id": "remote.id", "sync_error": "error", "sync_record": "record_id", "sync_state": "state"}
"""The columns of a table of documents for outcomes, and the outcome that is written back into each."""
_LINES = """
create table order_lines (
    order_id integer not null,
    line integer not null,
    sku text,
    changed integer not null unique,
    primary key (order_id, line)
)
"""
_WRITE_LINE = "insert or replace into order_lines (order_id, line, sku, changed) values (?, ?, ?, ?)"
LINES_AT_MOST = 3


class FaultySource(SourceDb):
    """A SQLite file in its own directory, which moves with all files that SQLite keeps beside it.

    Args:
        journal: With `delete` a writer can lock readers out; with `wal` it cannot.
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
        """Hold an exclusive transaction, and check that readers are blocked; writers that use `may_write` wait."""
        self.may_write.acquire()
        self._lock = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        self._lock.execute("begin exclusive")
        assert self.is_locked(), "readers must be locked out; under wal they are not"

    def is_locked(self) -> bool:
        """Return whether the lock blocks readers."""
        with closing(sqlite3.connect(self.path, timeout=0)) as reader:
            try:
                reader.execute("select count(*) from sqlite_master").fetchall()
            except sqlite3.OperationalError as error:
                return "locked" in str(error)
            return False

    def unlock(self) -> None:
        """Roll the transaction back. Safe to repeat."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            self.may_write.release()

    def hide(self) -> None:
        """Move the file away; writers that use `may_write` wait."""
        self.may_write.acquire()
        self._home.rename(self._away)

    def show(self) -> None:
        """Move the file back. Safe to repeat."""
        if self._away.exists():
            self._away.rename(self._home)
            self.may_write.release()


@dataclass(frozen=True, slots=True)
class Version:
    """One committed content of one row, in the order of the columns."""

    id: int
    customer: str
    amount: Decimal
    note: str
    changed: int


@dataclass(frozen=True, slots=True)
class Line:
    """One committed content of one line of an order, in the order of the columns."""

    order_id: int
    line: int
    sku: str
    changed: int


class Writer:
    """Writes to the table `orders` of a source; each row written takes the next number as its `changed`.

    One transaction follows the other, so that numbers become visible in their order.

    Args:
        has_lines: Orders have lines, which change on their own too, and columns for outcomes.
    """

    def __init__(self, source: FaultySource, *, seed: int = 0, has_lines: bool = False) -> None:
        self.has_lines = has_lines
        #: The versions of each line, by order and number of the line.
        self.lines: dict[tuple[int, int], list[Line]] = {}
        self.line_number = 0
        self.versions: dict[int, list[Version]] = {}
        self._source = source
        self._random = Random(seed)
        self._number = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        source.execute(_TABLE)
        if has_lines:
            source.execute(_LINES)
            for column in OUTCOMES:
                source.execute(f"alter table orders add column {column} text")

    @property
    def number(self) -> int:
        """The newest `changed`."""
        return self._number

    def newest(self) -> dict[int, Version]:
        """Return the newest version of each row."""
        return {row: versions[-1] for row, versions in self.versions.items()}

    def insert(self, count: int) -> None:
        """Add new rows in one transaction."""
        first = len(self.versions) + 1
        self._write(list(range(first, first + count)))
        if self.has_lines:
            self.write_lines([row for row in range(first, first + count) if row % 3])

    def update(self, rows: Sequence[int]) -> None:
        """Change rows in one transaction."""
        self._write(rows)

    def write_lines(self, rows: Sequence[int]) -> None:
        """Add or change a line of each of these rows, in one transaction."""
        written = []
        for row in rows:
            self.line_number += 1
            line = self._random.randint(1, LINES_AT_MOST)
            written.append(Line(row, line, f"sku {self._random.randrange(10**6)}", self.line_number))
        with self._source.may_write:
            self._source.execute_many(
                _WRITE_LINE, [(version.order_id, version.line, version.sku, version.changed) for version in written]
            )
        for version in written:
            self.lines.setdefault((version.order_id, version.line), []).append(version)

    def start(self, *, rows: int = 10, pause_seconds: float = 0.1) -> None:
        """Keep writing in the background: `rows` rows in each transaction, about a third of them changed ones."""

        def write() -> None:
            try:
                while not self._done.wait(pause_seconds):
                    changed = min(len(self.versions), rows // 3)
                    self.update(self._random.sample(sorted(self.versions), changed))
                    self.insert(rows - changed)
                    if self.has_lines:
                        self.write_lines(self._random.sample(sorted(self.versions), changed))
            except BaseException as error:  # noqa: BLE001 - raised by stop
                self._failure = error

        self._thread = threading.Thread(target=write, name="source-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop writing, and raise the error of the background thread if it had one."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _write(self, rows: Sequence[int]) -> None:
        written = []
        for row in rows:
            self._number += 1
            amount = Decimal(self._random.randrange(10**9)) / 100
            note = self._random.choice(["", "größer", "ご注文", 'a "quote" and a \\', "line\nbreak"])
            written.append(Version(row, f"customer {row % 97}", amount, note, self._number))
        values = [
            (version.id, version.customer, str(version.amount), version.note, version.changed) for version in written
        ]
        with self._source.may_write:
            self._source.execute_many(_WRITE, values)
        for version in written:
            self.versions.setdefault(version.id, []).append(version)
