"""A column of the source that appears, goes or changes its type is reported once, and shown for some days."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from syncctl.core.schema_changes import DeclaredRelation, SchemaChange, list_schema_changes
from syncctl.core.stream import Child
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import read_status
from syncctl.sources.catalog.relation import Column, Kind, declare_type
from tests.harness.passing_time import let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


@pytest.fixture
def polled(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """Three rows that were read."""
    source_db.create_orders(3)
    assert testbed.poll().notes == ()
    return testbed


def read_stream(testbed: Testbed) -> Any:
    """Return what `status --json` shows of the stream."""
    plan = StreamPlan(partner="default")
    (stream,) = read_status(ledger=testbed.ledger, configured={"orders": plan}, messages=0).streams
    return stream


def list_changes(testbed: Testbed) -> list[tuple[str, str, str | None, str | None, bool | None]]:
    return [
        (change["kind"], change["column"], change["before"], change["after"], change["is_sent"])
        for change in read_stream(testbed)["schema_changes"]
    ]


def test_a_change_is_said_once_and_shown_for_days(
    polled: Testbed, source_db: SourceDb, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_stream(polled)["schema_changes"] == []
    source_db.execute("alter table orders add column vat nvarchar(20)")
    source_db.execute("alter table orders drop column note")
    assert polled.poll().notes == (
        "column note (text) has gone from the source, or its login may no longer see it",
        "column vat (nvarchar(20)) has appeared in the source; it is sent",
    )
    assert polled.poll().notes == ()
    said = [record for record in caplog.records if record.message == "poll.schema_changed"]
    assert len(said) == 2
    assert list_changes(polled) == [
        ("appeared", "vat", None, "nvarchar(20)", True),
        ("gone", "note", "text", None, None),
    ]
    kinds = [obstacle["kind"] for obstacle in read_stream(polled)["obstacles"]]
    assert kinds == ["schema_changed", "schema_changed"]
    let_hours_pass(polled.database, 8 * 24)
    polled.poll()
    assert list_changes(polled) == []
    assert "schema_changed" not in [obstacle["kind"] for obstacle in read_stream(polled)["obstacles"]]


def test_a_changed_type_is_said_also_of_a_column_that_is_not_sent(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    testbed.change_stream(exclude=("amount",))
    testbed.poll()
    source_db.execute("drop table orders")
    source_db.create_orders(2, amount_type="float")
    (note,) = testbed.poll().notes
    assert note == "column amount was decimal(12,2) and is float now; it is not sent"
    assert list_changes(testbed) == [("changed", "amount", "decimal(12,2)", "float", False)]


def test_a_change_of_a_child_is_said_with_its_name(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    for table in ("lines", "taxes"):
        source_db.execute(f"create table {table} (order_id int, line int, primary key (order_id, line))")
    taxes = Child(name="taxes", table="taxes", on=(("order_id", "order_id"),), columns=("line",))
    lines = Child(name="lines", table="lines", on=(("order_id", "id"),), children=(taxes,))
    testbed.change_stream(children=(lines,))
    assert testbed.poll().notes == ()
    for table in ("lines", "taxes"):
        source_db.execute(f"alter table {table} add column qty int")
    assert testbed.poll().notes == (
        "column lines.qty (integer) has appeared in the source; it is sent",
        "column lines.taxes.qty (integer) has appeared in the source; it is not sent",
    )


def test_what_the_settings_change_is_no_change_of_the_source(polled: Testbed, source_db: SourceDb) -> None:
    polled.change_stream(exclude=("note",))
    assert polled.poll().notes == ()
    source_db.execute("create table lines (order_id int, line int, primary key (order_id, line))")
    polled.change_stream(children=(Child(name="lines", table="lines", on=(("order_id", "id"),)),))
    assert polled.poll().notes == ()
    source_db.execute("create table bills (id integer primary key, total text)")
    polled.change_stream(table="bills", children=(), exclude=())
    # As a rewind to the new table's beginning leaves it.
    polled.database.streams.update_one({"_id": "orders"}, {"$set": {"basis": None}})
    assert polled.poll().error is None
    assert list_changes(polled) == []


def test_a_poll_that_was_taken_over_says_nothing(polled: Testbed) -> None:
    ledger = polled.ledger
    lease = ledger.polls.acquire("orders", seconds=30, worker="one")
    assert lease is not None
    polled.database.streams.update_one({"_id": "orders"}, {"$set": {"poll.token": "another"}})
    change = SchemaChange(kind="gone", column="note", before="text", after=None, is_sent=None)
    assert not ledger.source_schemas.note(lease, lease.declared, [change])
    assert list_changes(polled) == []


def test_the_newest_changes_are_kept(polled: Testbed) -> None:
    lease = polled.ledger.polls.acquire("orders", seconds=30, worker="one")
    assert lease is not None
    for number in range(150):
        change = SchemaChange(kind="appeared", column=f"$c{number}", before=None, after="int", is_sent=True)
        assert polled.ledger.source_schemas.note(lease, lease.declared, [change])
    assert [column for _, column, *_ in list_changes(polled)] == [f"$c{number}" for number in range(149, 49, -1)]
    assert read_stream(polled)["obstacles"][-1]["detail"] == "95 more changes of the source's columns"


def test_a_type_that_the_database_does_not_tell_has_not_changed() -> None:
    before = DeclaredRelation(path="", identity="a", columns=(("id", "int"), ("note", "")))
    now = DeclaredRelation(path="", identity="a", columns=(("id", ""), ("note", "text")))
    assert list_schema_changes([before], [now], frozenset()) == []


@pytest.mark.parametrize(
    ("declared", "kind", "text"),
    [
        (mssql.NVARCHAR(50, collation="Latin1_General_CI_AS"), Kind.TEXT, "nvarchar(50)"),
        (mssql.NVARCHAR(), Kind.TEXT, "nvarchar(max)"),
        (mssql.DECIMAL(10, 2), Kind.DECIMAL, "decimal(10,2)"),
        (mssql.DATETIME2(3), Kind.TIME, "datetime2(3)"),
        (mssql.TIMESTAMP(), Kind.ROWVERSION, "rowversion"),
        (mssql.BIT(), Kind.BOOLEAN, "bit"),
        (mssql.UNIQUEIDENTIFIER(), Kind.GUID, "uniqueidentifier"),
        (sa.types.NullType(), Kind.OTHER, ""),
        (None, Kind.OTHER, ""),
    ],
)
def test_types_are_written_as_sql_server_declares_them(declared: Any, kind: Kind, text: str) -> None:
    assert declare_type(Column(name="c", kind=kind, type=declared), mssql.dialect()) == text
