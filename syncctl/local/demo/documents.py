"""The source of `syncctl demo --documents`: orders with lines, into whose rows the partner's ids are written back."""

import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from typing import Any

from syncctl.local.demo.source import OrdersTable, OrderWriter, SourceSize

LINES_AT_MOST = 8
COLUMNS = ("id", "customer", "amount", "note", "attributes")
LINE_COLUMNS = ("line", "sku", "qty", "price")
WRITTEN_COLUMNS = ("partner_id", "sync_error")

_SCHEMA = """
create table orders (
    id integer primary key,
    customer text not null,
    amount decimal(12, 2) not null,
    note text,
    attributes text check (attributes is null or json_valid(attributes)),
    updated_at text not null,
    partner_id text,
    sync_error text
);
create index orders_updated_at on orders (updated_at, id);
create table order_lines (
    order_id integer not null references orders (id),
    line integer not null,
    sku text not null,
    qty integer not null,
    price decimal(12, 4) not null,
    updated_at text not null,
    primary key (order_id, line)
);
create index order_lines_updated_at on order_lines (updated_at, order_id, line);
"""
_SKUS = ("BOLT-M8", "夾具-12", "Ölfilter 7", "ГАЙКА-4", 'pipe 3/4"', "café ☕")
_ATTRIBUTES = (
    None,
    "{}",
    '{"channel": "shop", "weight_kg": 12.340, "tags": ["gift", "fragile"]}',
    '{"serial": 12345678901234567890123, "b": null, "a": [true, {"deep": [[], {}]}]}',
    '{"text": "two lines:\\n\\"first\\" 🍷", "rate": 1.0e-7}',
)


class DocumentsTable(OrdersTable):
    """The tables `orders` and `order_lines`, as the demo reads and writes them alongside syncctl."""

    schema = _SCHEMA

    def measure(self) -> SourceSize:
        """Return the current size of the tables, and how many rows have an id of the partner."""
        statement = "select count(*), max(updated_at), count(partner_id) from orders"
        with closing(self.connect()) as connection:
            rows, newest, written_back = connection.execute(statement).fetchone()
            (lines,) = connection.execute("select count(*) from order_lines").fetchone()
        return SourceSize(rows=rows, newest=newest, lines=lines, written_back=written_back)

    def read_rows(self) -> dict[str, dict[str, Any]]:
        """Return every order with its lines, by its id, as the document that the partner must have."""
        documents: dict[str, dict[str, Any]] = {}
        with closing(self.connect()) as connection:
            for values in connection.execute(f"select {', '.join(COLUMNS)} from orders"):  # noqa: S608
                row = dict(zip(COLUMNS, values, strict=True))
                attributes = row["attributes"]
                row["attributes"] = attributes and json.loads(attributes, parse_float=Decimal)
                documents[str(row["id"])] = {**row, "amount": Decimal(str(row["amount"])), "lines": []}
            columns = ", ".join(LINE_COLUMNS)
            lines = f"select order_id, {columns} from order_lines order by order_id, line"  # noqa: S608
            for order, *values in connection.execute(lines):
                line = dict(zip(LINE_COLUMNS, values, strict=True))
                documents[str(order)]["lines"].append({**line, "price": Decimal(str(line["price"]))})
        return documents

    def read_written(self) -> dict[str, dict[str, Any]]:
        """Return the values that were written back for each order, by its id."""
        with closing(self.connect()) as connection:
            rows = connection.execute(f"select id, {', '.join(WRITTEN_COLUMNS)} from orders").fetchall()  # noqa: S608
        return {str(order): dict(zip(WRITTEN_COLUMNS, values, strict=True)) for order, *values in rows}


class DocumentWriter(OrderWriter):
    """Inserts and updates orders and their lines. A changed line does not touch its order; a deleted one does."""

    updates_per_row = 0.5

    def _insert(self, connection: sqlite3.Connection, until: int) -> None:
        orders = range(self.inserted + 1, until + 1)
        super()._insert(connection, until)
        stamp = self._next_stamp()
        connection.executemany(
            "update orders set attributes = ? where id = ?",
            [(self._random.choice(_ATTRIBUTES), order) for order in orders],
        )
        for order in orders:
            for line in range(1, self._random.randrange(LINES_AT_MOST + 1) + 1):
                self._add_line(connection, order, line, stamp)

    def _update(self, connection: sqlite3.Connection, until: int) -> None:
        """Update orders: for half of them the order itself, for the others only one of their lines."""
        half = self.updated + (until - self.updated) // 2
        super()._update(connection, half)
        stamp = self._next_stamp()
        for order in self._random.sample(range(1, self.inserted + 1), min(until - self.updated, self.inserted)):
            self._change_lines(connection, order, stamp)
            self.updated += 1

    def _change_lines(self, connection: sqlite3.Connection, order: int, stamp: str) -> None:
        """Change a line of an order, delete its last one, or add one."""
        (last,) = connection.execute("select max(line) from order_lines where order_id = ?", (order,)).fetchone()
        chance = self._random.random()
        if last is None or chance < 0.2:
            self._add_line(connection, order, (last or 0) + 1, stamp)
        elif chance < 0.4:
            # A deleted line leaves no trace in its table, so the application marks its order as changed.
            connection.execute("delete from order_lines where order_id = ? and line = ?", (order, last))
            connection.execute("update orders set updated_at = ? where id = ?", (stamp, order))
        else:
            connection.execute(
                "update order_lines set qty = ?, price = ?, updated_at = ? where order_id = ? and line = ?",
                (*self._quantity(), stamp, order, self._random.randint(1, last)),
            )

    def _add_line(self, connection: sqlite3.Connection, order: int, line: int, stamp: str) -> None:
        connection.execute(
            "insert into order_lines (order_id, line, sku, qty, price, updated_at) values (?, ?, ?, ?, ?, ?)",
            (order, line, self._random.choice(_SKUS), *self._quantity(), stamp),
        )

    def _quantity(self) -> tuple[int, str]:
        return self._random.randint(1, 500), f"{self._random.randrange(100)}.{self._random.randrange(10_000):04}"
