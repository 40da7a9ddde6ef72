"""Rows with children on their way through the ledger to the partner: one version for each content, none lost."""

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from email.message import Message
from typing import Any

import pytest

from syncctl.core.stream import Child
from syncctl.ledger.codec import decode_values
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.inspection.preview import RequestPreviewer, preview_rows
from syncctl.pipeline.operations.rewind import plan_rewind, rewind_stream
from syncctl.sources.reader import StreamReader
from tests.harness.http_partner import HttpPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed
from tests.integration.operations.test_pipeline_reconcile import compare, counts, repair
from tests.integration.polling.test_pipeline_poll import Broken, break_at

LINES = Child(
    name="lines", table="lines", on=(("order_id", "id"),), sort=("line",), columns=("line", "qty"), cursor="changed"
)


@pytest.fixture
def orders(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(3)
    source_db.execute(
        "create table lines (order_id int, line int, qty decimal(10, 2), changed text, primary key (order_id, line))"
    )
    testbed.change_stream(
        cursor="updated_at",
        columns=("id", "note"),
        children=(LINES,),
        lookback_seconds=0.0,
    )
    return testbed


def put(db: SourceDb, order: int, line: int, qty: Any) -> None:
    count = db.execute("select count(*) + coalesce(max(changed), 0) from lines")[0][0]
    db.execute("insert or replace into lines values (?, ?, ?, ?)", (order, line, qty, f"{count:08}"))


def contents(testbed: Testbed, id_: int) -> list[Any]:
    """Return the lines of each version of a row, the oldest first."""
    found = sorted(testbed.records(**{"key.id": id_}), key=lambda record: record["seq"])
    return [decode_values(record["payload"] or {}).get("lines") for record in found]


def lines(*quantities: str) -> list[dict[str, Any]]:
    return [{"line": number, "qty": Decimal(qty)} for number, qty in enumerate(quantities, start=1)]


def test_each_content_is_one_version_also_when_it_comes_back(orders: Testbed, source_db: SourceDb) -> None:
    put(source_db, 1, 1, "1.50")
    assert orders.poll().logged == 3
    assert orders.poll().logged == 0
    put(source_db, 1, 1, 2)
    put(source_db, 1, 2, 3)
    run = orders.poll()
    assert (run.read, run.logged, run.error) == (1, 1, None)
    put(source_db, 1, 1, "1.5")
    source_db.execute("delete from lines where line = 2")
    assert orders.poll().logged == 1
    # Decimals are exact through the ledger, and the first content is a version of its own when it is back.
    assert contents(orders, 1) == [lines("1.50"), lines("2.00", "3.00"), lines("1.50")]


class DocumentPartner(HttpPartner):
    """Keeps the body of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[Any] = []

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        self.bodies.append(json.loads(body, parse_float=Decimal))
        return 200, b"{}"


def test_the_partner_gets_the_document(orders: Testbed, source_db: SourceDb) -> None:
    put(source_db, 2, 1, "1.10")
    orders.poll()
    with DocumentPartner() as partner:
        orders.partner = replace(orders.partner, url=partner.url)
        orders.deliver()
    bodies = {body["id"]: body for body in partner.bodies}
    assert bodies[2] == {"id": 2, "note": "", "lines": [{"line": 1, "qty": Decimal("1.10")}]}
    assert bodies[1]["lines"] == []


def test_a_bad_child_fails_its_row_until_it_is_good(orders: Testbed, source_db: SourceDb) -> None:
    put(source_db, 1, 1, 9e999)
    run = orders.poll()
    assert (run.logged, run.failed) == (3, 1)
    put(source_db, 1, 1, 1)
    run = orders.poll()
    assert (run.logged, run.failed) == (1, 0)


STEPS = [("records", "log"), ("keys", "observe"), ("polls", "move_cursor")]


@pytest.mark.parametrize("step", STEPS, ids=".".join)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_that_changes_between_an_interrupted_poll_and_the_next_is_a_version(
    orders: Testbed, source_db: SourceDb, step: tuple[str, str], when: str
) -> None:
    put(source_db, 1, 1, 1)
    with pytest.raises(Broken):
        orders.poll(ledger=break_at(orders, *step, when))
    put(source_db, 1, 1, 2)
    assert orders.poll().error is None
    assert orders.poll().error is None
    assert contents(orders, 1)[-1] == lines("2.00")


def test_append_only_rows_fail_alone_when_their_children_change_before_they_are_kept(
    orders: Testbed, source_db: SourceDb
) -> None:
    orders.change_stream(append_only=True, children=(replace(LINES, cursor=None),), cursor="id")
    put(source_db, 1, 1, 1)
    with pytest.raises(Broken):
        orders.poll(ledger=break_at(orders, "polls", "move_cursor", "before"))
    put(source_db, 1, 1, 2)
    run = orders.poll()
    assert (run.error, run.failed) == (None, 1)


def test_children_count_beside_a_write_back(orders: Testbed, source_db: SourceDb) -> None:
    source_db.execute("alter table orders add column sent text")
    orders.change_stream(write_back={"sent": "delivered_at"})
    put(source_db, 1, 1, 1)
    orders.poll()
    orders.deliver()
    assert orders.poll().logged == 0
    assert source_db.execute("select count(*) from orders where sent is not null") == [(3,)]
    put(source_db, 1, 1, 2)
    assert orders.poll().logged == 1
    assert orders.poll().logged == 0


def test_mode_snapshot_sees_changed_and_deleted_children(orders: Testbed, source_db: SourceDb) -> None:
    orders.change_stream(mode="snapshot", cursor=None, children=(replace(LINES, cursor=None),))
    put(source_db, 1, 1, 1)
    orders.poll()
    put(source_db, 2, 1, 1)
    source_db.execute("delete from lines where order_id = 1")
    assert orders.poll().logged == 2
    assert contents(orders, 1)[-1] == []


def test_reconcile_tells_a_change_that_the_next_poll_finds_from_one_that_none_finds(
    orders: Testbed, source_db: SourceDb
) -> None:
    put(source_db, 1, 1, 1)
    put(source_db, 2, 1, 1)
    orders.poll()
    put(source_db, 1, 1, 2)
    source_db.execute("delete from lines where order_id = 2")
    assert counts(compare(orders)) == {"source_rows": 3, "accounted": 1, "ahead": 1, "stale": 1}
    _, done = repair(orders)
    assert done.logged == 1
    assert contents(orders, 2) == [lines("1.00"), []]
    orders.poll()
    assert counts(compare(orders)) == {"source_rows": 3, "accounted": 3}


def test_a_dry_run_shows_the_rows_whose_children_have_changed(orders: Testbed, source_db: SourceDb) -> None:
    orders.poll()
    put(source_db, 3, 1, "7.25")
    client = PartnerClient(orders.partner, orders.stream)
    previews = preview_rows(
        ledger=orders.ledger,
        stream=orders.stream,
        open_reader=lambda stream: StreamReader(orders.source, stream),  # type: ignore[arg-type]
        previewer=RequestPreviewer(client=client),
        limit=5,
    )
    client.close()
    assert [preview.key for preview in previews] == [{"id": 3}]
    assert '"lines":[{"line":1,"qty":7.25}]' in str(previews[0].request.body).replace(" ", "")
    assert orders.poll().logged == 1


def rewind(testbed: Testbed, to: str) -> Mapping[str, Any]:
    with StreamReader(testbed.source, testbed.stream) as reader:  # type: ignore[arg-type]
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=reader, to=to)
    rewind_stream(ledger=testbed.ledger, plan=plan, resend=False, who="ann@host", worker="rewinder")
    return testbed.ledger.polls.load_cursor(testbed.stream.name) or {}


@pytest.mark.parametrize("to", ["beginning", "2026-01-01 00:00:00", "now"])
def test_no_change_is_lost_over_a_rewind(orders: Testbed, source_db: SourceDb, to: str) -> None:
    orders.poll()
    put(source_db, 1, 1, 1)
    cursor = rewind(orders, to)
    if to == "beginning":
        assert "children" not in cursor
    if to == "now":
        # The operator passes over what has changed until now.
        assert orders.poll().logged == 0
        put(source_db, 1, 1, 2)
    assert orders.poll().logged == 1
    put(source_db, 2, 1, 1)
    assert orders.poll().logged == 1


def test_a_rewind_by_a_number_leaves_the_children_where_they_are(orders: Testbed, source_db: SourceDb) -> None:
    orders.change_stream(cursor="id", gap_timeout_seconds=0.0)
    orders.poll()
    put(source_db, 1, 1, 1)
    before = orders.ledger.polls.load_cursor("orders") or {}
    assert rewind(orders, "3")["children"] == before["children"]
    run = orders.poll()
    assert (run.read, run.logged) == (2, 1)


def test_the_history_keeps_the_places_of_children(orders: Testbed, source_db: SourceDb) -> None:
    orders.poll()
    cursor = orders.ledger.polls.load_cursor("orders") or {}
    (run,) = orders.ledger.runs.load("orders", limit=1)
    place = run["cursors"]["after"]["children"]["lines"]
    assert place["at"] == cursor["children"]["lines"]["at"]
    assert "lookback" not in place
