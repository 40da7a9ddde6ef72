"""Orders with their lines, while eight writers change them: the partner ends with exactly the source's documents."""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from email.message import Message
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from syncctl.core.stream import Child
from tests.harness.http_partner import HttpPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

ORDERS = 500
WRITERS = 8
MOST_LINES = 50
POLLS_WHILE_WRITTEN = 4
LINES = Child(
    name="lines", table="lines", on=(("order_id", "id"),), sort=("line",), cursor="changed",
    columns=("line", "sku", "qty", "options"), json_columns=("options",),
)  # fmt: skip
BUYER = Child(
    name="buyer", table="buyers", on=(("code", "buyer_code"),), one=True, cursor="changed", exclude=("changed",)
)


class DocumentPartner(HttpPartner):
    """Keeps every document that it is sent, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: list[Any] = []

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        self.documents.append(json.loads(body, parse_float=Decimal))
        return 200, b"{}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def create(db: SourceDb, rng: Random) -> None:
    db.execute("create table buyers (code text primary key collate nocase, city text, changed text)")
    db.execute("create table orders (id integer primary key, buyer_code text, total decimal(12, 2), changed text)")
    db.execute(
        "create table lines (order_id int, line int, sku text, qty decimal(10, 2), options text, changed text,"
        " primary key (order_id, line))"
    )
    db.execute("create index lines_changed on lines (changed)")
    db.execute_many("insert into buyers values (?, 'Oslo', ?)", [(f"b{number}", now()) for number in range(20)])
    for order in range(1, ORDERS + 1):
        lines = [
            (order, line, f"s{line}", line / 4, '{"n": 1.10}', now()) for line in range(rng.randint(0, MOST_LINES))
        ]
        db.execute_many("insert into lines values (?, ?, ?, ?, ?, ?)", lines)
        total = sum(line[3] for line in lines)
        buyer = None if order % 7 == 0 else f"B{order % 25}"
        db.execute("insert into orders values (?, ?, ?, ?)", (order, buyer, total, now()))


def change(connection: sqlite3.Connection, rng: Random) -> set[int]:
    """Change one order's lines, or a buyer, in one transaction; return the orders whose document it changes."""
    order = rng.randint(1, ORDERS)
    connection.execute("begin immediate")
    kind = rng.random()
    changed = {order}
    if kind < 0.1:
        code = f"b{rng.randrange(20)}"
        connection.execute("update buyers set city = ?, changed = ? where code = ?", (f"c{rng.random()}", now(), code))
        rows = connection.execute("select id from orders where buyer_code = ? collate nocase", (code,))
        changed = {row[0] for row in rows}
    elif kind < 0.3:
        # A deleted line is found because the order is changed with it.
        connection.execute("delete from lines where order_id = ? and line = ?", (order, rng.randrange(MOST_LINES)))
        connection.execute("update orders set changed = ? where id = ?", (now(), order))
    else:
        for _ in range(rng.randint(1, 4)):
            line = (order, rng.randrange(MOST_LINES), f"s{rng.randrange(10**6)}", rng.randrange(10**6) / 100, now())
            connection.execute("insert or replace into lines values (?, ?, ?, ?, '[]', ?)", line)
    total = "(select round(coalesce(sum(qty), 0), 2) from lines where order_id = orders.id)"
    connection.execute(f"update orders set total = {total} where id = ?", (order,))  # noqa: S608
    connection.execute("commit")
    return changed


@contextmanager
def writers(db: SourceDb) -> Iterator[Counter[int]]:
    """Let writers change orders until the end of the block; count the transactions that changed each."""
    counts: Counter[int] = Counter()
    failures: list[BaseException] = []
    done, lock = threading.Event(), threading.Lock()

    def write(number: int) -> None:
        rng = Random(number)
        try:
            with closing(sqlite3.connect(db.path, timeout=60, isolation_level=None)) as connection:
                while not done.wait(0.05):
                    changed = change(connection, rng)
                    with lock:
                        counts.update(changed)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures


def read_documents(db: SourceDb) -> dict[int, Any]:
    """Return the documents as the source has them, by plain queries."""
    buyers = dict(db.execute("select lower(code), city from buyers"))
    lines: dict[int, list[Any]] = {}
    for order, line, sku, qty, options in db.execute(
        "select order_id, line, sku, qty, options from lines order by order_id, line"
    ):
        value = {"line": line, "sku": sku, "qty": money(qty), "options": json.loads(options, parse_float=Decimal)}
        lines.setdefault(order, []).append(value)
    return {
        order: {
            "id": order,
            "buyer_code": code,
            "total": money(total),
            "changed": changed,
            "lines": lines.get(order, []),
            "buyer": {"code": f"b{code[1:]}", "city": buyers[code.lower()]}
            if code and code.lower() in buyers
            else None,
        }
        for order, code, total, changed in db.execute("select id, buyer_code, total, changed from orders")
    }


def money(number: Any) -> Decimal:
    return Decimal(repr(number)).quantize(Decimal("0.01"))


@pytest.mark.timeout(900)  # Eight writers and the poll share the processor.
def test_the_partner_ends_with_the_documents_of_the_source(testbed: Testbed, source_db: SourceDb) -> None:
    create(source_db, Random(7))
    testbed.change_stream(
        mode="increasing", cursor="changed", lookback_seconds=30.0,
        children=(LINES, replace(BUYER, columns=("code", "city"), exclude=())),
    )  # fmt: skip
    with DocumentPartner() as partner:
        testbed.partner = replace(testbed.partner, url=partner.url)
        assert testbed.poll().logged == ORDERS
        testbed.deliver()
        with writers(source_db) as changes:
            for _ in range(POLLS_WHILE_WRITTEN):
                assert testbed.poll().error is None
                testbed.deliver()
        while testbed.poll().logged:
            testbed.deliver()
    sent: dict[int, list[Any]] = {}
    for document in partner.documents:
        sent.setdefault(document["id"], []).append(document)
    expected = read_documents(source_db)
    assert {order: documents[-1] for order, documents in sent.items()} == expected
    assert sum(changes.values()) > ORDERS / 5, "the writers changed too little"
    for order, documents in sent.items():
        # One call for each state that a poll has found, and none of them half of one transaction and half of another.
        assert len(documents) <= 1 + min(changes[order], POLLS_WHILE_WRITTEN + 1)
        assert all(before != after for before, after in pairwise(documents))
        assert all(document["total"] == sum(line["qty"] for line in document["lines"]) for document in documents)
