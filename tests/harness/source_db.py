"""A source for tests: a SQLite file."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

_ORDERS = """
create table {table} (
    id integer primary key,
    customer text,
    amount {amount_type},
    note text,
    updated_at text
)
"""


class SourceDb:
    """A SQLite file that a stream reads while a test writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # A reader never waits for a writer, nor the other way round.
        self.execute("pragma journal_mode = wal")

    @property
    def url(self) -> str:
        """The URL as SOURCE_URL takes it."""
        return f"sqlite:///{self.path}"

    def create_orders(self, rows: int = 0, *, table: str = "orders", amount_type: str = "decimal(12, 2)") -> None:
        """Create the table, with `rows` orders numbered from 1."""
        self.execute(_ORDERS.format(table=table, amount_type=amount_type))
        if rows:
            self.add_orders(range(1, rows + 1), table=table)

    def add_orders(self, ids: Iterable[int], *, table: str = "orders", note: str = "") -> None:
        """Insert one order for each id."""
        self.execute_many(
            f"insert into {table} (id, customer, amount, note, updated_at) values (?, ?, ?, ?, ?)",  # noqa: S608
            [(n, f"customer {n % 100}", f"{n}.{n % 100:02}", note, f"2026-01-01 00:00:00.{n % 10**6:06}") for n in ids],
        )

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows."""
        with closing(self._connect()) as connection, connection:
            return connection.execute(sql, values).fetchall()

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row, all in one transaction."""
        with closing(self._connect()) as connection, connection:
            connection.executemany(sql, rows)

    def count(self, table: str = "orders") -> int:
        """Return the number of rows."""
        return int(self.execute(f"select count(*) from {table}")[0][0])  # noqa: S608

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)
