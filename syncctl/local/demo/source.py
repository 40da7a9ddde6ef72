"""The demo's source: a table `orders` in SQLite, and the writer that changes it while it is read."""

import random
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

BATCHES_PER_SECOND = 10
UPDATES_PER_ROW = 0.25
COLUMNS = ("id", "customer", "amount", "note", "updated_at")

_SCHEMA = """
create table orders (
    id integer primary key,
    customer text not null,
    amount decimal(12, 2) not null,
    note text,
    updated_at text not null
);
create index orders_updated_at on orders (updated_at, id);
"""
_CUSTOMERS = ("Müller & Söhne", "O'Brien Ltd", "株式会社山田", "Ивановы", "شركة النور", "Ελληνικά Νησιά", "Çelik A.Ş.")
_NOTES = (
    None,
    "",
    "gift wrap, please",
    "Bitte bei Müllers abgeben, danke schön!",
    "配達は午後にお願いします",
    "позвонить за час",
    "يرجى الاتصال قبل التسليم",
    'two lines:\n"first floor"\tback door',
    "भुगतान हो गया",
    "frágil 🍷🍷",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSize:
    """The number of rows in the table, and its newest timestamp."""

    rows: int
    newest: str | None
    #: Lines of all orders, and orders that have an id of the partner; None if the demo has neither.
    lines: int | None = None
    written_back: int | None = None


class OrdersTable:
    """The table, as the demo reads and writes it alongside syncctl."""

    schema = _SCHEMA

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """The URL as SOURCE_URL takes it."""
        return f"sqlite:///{self.path}"

    def create(self) -> None:
        """Create the database, without a row."""
        with closing(self.connect()) as connection:
            # Readers and the writer never wait for each other.
            connection.execute("pragma journal_mode = wal")
            connection.executescript(self.schema)

    def connect(self) -> sqlite3.Connection:
        """Return a connection in autocommit mode; transactions are begun explicitly."""
        return sqlite3.connect(self.path, timeout=30, isolation_level=None)

    def measure(self) -> SourceSize:
        """Return the current size of the table."""
        with closing(self.connect()) as connection:
            rows, newest = connection.execute("select count(*), max(updated_at) from orders").fetchone()
        return SourceSize(rows=rows, newest=newest)

    def read_rows(self) -> dict[str, dict[str, Any]]:
        """Return every row by its id, amounts as exact decimals."""
        with closing(self.connect()) as connection:
            tuples = connection.execute(f"select {', '.join(COLUMNS)} from orders").fetchall()  # noqa: S608
        rows = (dict(zip(COLUMNS, values, strict=True)) for values in tuples)
        return {str(row["id"]): {**row, "amount": Decimal(str(row["amount"]))} for row in rows}


class OrderWriter:
    """Inserts and updates orders. Each batch is one transaction; timestamps never go back."""

    updates_per_row = UPDATES_PER_ROW

    def __init__(self, table: OrdersTable, *, rows: int, seconds: float, seed: int) -> None:
        self._rows = rows
        self._batches = max(1, round(seconds * BATCHES_PER_SECOND))
        self._table = table
        self._random = random.Random(seed)  # noqa: S311 - test data
        self._stamp = datetime.min.replace(tzinfo=UTC)
        self.inserted = 0
        self.updated = 0

    def write(self) -> None:
        """Write everything, batch by batch."""
        begun = time.monotonic()
        with closing(self._table.connect()) as connection:
            # The demo's file need not survive a power cut.
            connection.execute("pragma synchronous = off")
            for batch in range(1, self._batches + 1):
                connection.execute("begin immediate")
                self._insert(connection, self._rows * batch // self._batches)
                self._update(connection, int(self._rows * self.updates_per_row) * batch // self._batches)
                connection.execute("commit")
                time.sleep(max(0.0, begun + batch / BATCHES_PER_SECOND - time.monotonic()))

    def _insert(self, connection: sqlite3.Connection, until: int) -> None:
        ids = range(self.inserted + 1, until + 1)
        rows = [(number, self._random.choice(_CUSTOMERS), *self._content(), self._next_stamp()) for number in ids]
        connection.executemany(
            "insert into orders (id, customer, amount, note, updated_at) values (?, ?, ?, ?, ?)", rows
        )
        self.inserted = until

    def _update(self, connection: sqlite3.Connection, until: int) -> None:
        """Update rows, all with one timestamp: rows that share a cursor value must not be skipped."""
        stamp = self._next_stamp()
        ids = self._random.sample(range(1, self.inserted + 1), min(until - self.updated, self.inserted))
        rows = [(*self._content(), stamp, number) for number in ids]
        connection.executemany("update orders set amount = ?, note = ?, updated_at = ? where id = ?", rows)
        self.updated += len(ids)

    def _content(self) -> tuple[str, str | None]:
        cents = self._random.randrange(1, 10_000_000)
        return f"{cents // 100}.{cents % 100:02}", self._random.choice(_NOTES)

    def _next_stamp(self) -> str:
        self._stamp = max(datetime.now(UTC), self._stamp + timedelta(microseconds=1))
        return self._stamp.strftime("%Y-%m-%d %H:%M:%S.%f")
