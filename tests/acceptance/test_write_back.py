"""Outcomes go back into rows that change all the while: each row ends with its own, and no write sends a row again."""

import json
import os
import threading
from collections import defaultdict
from dataclasses import replace
from email.message import Message
from typing import Any

import pytest

from tests.harness.http_partner import HttpPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

ROWS = int(os.environ.get("SYNCCTL_TEST_ROWS", "400"))
"""10,000 takes minutes; continuous integration runs a few."""
WRITERS = 2
TABLE = (
    "create table orders (id integer primary key, content text default 'a', edition integer default 1,"
    " partner_id text, sent_at datetime, sync_error text, record text)"
)
VERSIONED = (
    "create trigger versioned after update on orders when new.edition = old.edition"
    " begin update orders set edition = (select max(edition) + 1 from orders) where id = new.id; end"
)
"""As a rowversion does, `edition` moves with each update, also with those that write an outcome."""


class Collector(HttpPartner):
    """Keeps the contents that each row was sent with, and refuses one row in ten while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[int, list[str]] = defaultdict(list)
        self.refuses = True

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        row = json.loads(body)
        self.contents[row["id"]].append(row["content"])
        is_refused = self.refuses and row["id"] % 10 == 0
        answer = {"data": {"id": f"P-{row['id']}"}}
        return (422, b'{"error": "not today"}') if is_refused else (200, json.dumps(answer).encode())


def change_rows(source_db: SourceDb, part: int, changes: dict[int, list[str]], stop: threading.Event) -> None:
    """Change rows of one's own, one after another."""
    number = 0
    while not stop.wait(0.005):
        row = number * WRITERS % ROWS + part + 1
        if row <= ROWS:
            content = f"{part}.{number}"
            source_db.execute("update orders set content = ? where id = ?", (content, row))
            changes[row].append(content)
        number += 1


@pytest.mark.parametrize("mode", ["increasing", "snapshot"])
def test_each_row_ends_with_its_outcome_and_the_partner_is_called_once_a_change(
    testbed: Testbed, source_db: SourceDb, mode: Any
) -> None:
    source_db.execute(TABLE)
    source_db.execute("create index by_edition on orders (edition)")
    source_db.execute(VERSIONED)
    source_db.execute_many("insert into orders (id) values (?)", [(n,) for n in range(1, ROWS + 1)])
    written = {"partner_id": "remote.id", "sent_at": "delivered_at", "sync_error": "error", "record": "record_id"}
    testbed.change_stream(
        mode=mode,
        cursor="edition" if mode == "increasing" else None,
        exclude=() if mode == "increasing" else ("edition",),
        capture={"id": "data.id"},
        write_back=written,
        page_size=500,
    )
    changes: dict[int, list[str]] = defaultdict(lambda: ["a"])
    stop = threading.Event()
    writers = [threading.Thread(target=change_rows, args=(source_db, part, changes, stop)) for part in range(WRITERS)]
    with Collector() as partner:
        testbed.partner = replace(testbed.partner, url=partner.url)

        def work() -> int:
            run = testbed.poll()
            assert run.error is None
            return run.logged + sum(testbed.deliver().values())

        for writer in writers:
            writer.start()
        try:
            for _ in range(8):
                work()
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        partner.refuses = False
        failed = [record["_id"] for record in testbed.records(state="failed")]
        while work():
            pass
        testbed.ledger.operations.replay(failed, states=["failed"], who="me")
        while work() or testbed.ledger.write_backs.read_lag("orders").records:
            pass
        quiet = sum(map(len, partner.contents.values()))
        for _ in range(3):
            assert work() == 0
        assert sum(map(len, partner.contents.values())) == quiet

    rows = source_db.execute("select id, content, partner_id, sent_at is not null, sync_error, record from orders")
    newest = {key["key"]["id"]: key["version"] for key in testbed.database.keys.find()}
    for row, content, partner_id, is_sent, error, record in rows:
        assert (partner_id, is_sent, error, record) == (f"P-{row}", 1, None, newest[row])
        sent = partner.contents[row]
        assert sent[-1] == content
        # Once a change: no content twice, but for a refused one that was replayed.
        repeated = len(sent) - len(set(sent))
        assert repeated <= (1 if row % 10 == 0 else 0), (row, sent)
        assert set(sent) <= set(changes[row])
