"""Write-back: which values a row gets, in which form, and by which statement SQL Server writes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mssql

from syncctl.core.rows import Value
from syncctl.core.states import State
from syncctl.core.write_backs import Ended, choose_values
from syncctl.errors import ConfigurationError, SourceError
from syncctl.ledger.sequencing import Waiting
from syncctl.ledger.write_backs import Lag
from syncctl.pipeline.monitoring.obstacles import StreamFacts, StreamPlan, _find_write_back_obstacles
from syncctl.sources.catalog.relation import ALIAS, Column, Kind, Relation
from syncctl.sources.catalog.sqlserver_types import KINDS
from syncctl.sources.dialect import Dialect
from syncctl.sources.driver_errors import Address, translated
from syncctl.sources.engines import OpenSource
from syncctl.sources.layout import Layout
from syncctl.sources.open_stream import OpenStream
from syncctl.sources.sqlserver import SqlServerDialect
from syncctl.sources.write_back import RowWriter, encode
from tests.harness.cases import make_stream

AT = datetime(2026, 7, 1, 22, 30, 15, 123000, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
WANTED = ("remote.id", "remote.number", "delivered_at", "error", "record_id", "state")
SQL_SERVER = SqlServerDialect()


def make_ended(state: State, **changes: Any) -> Ended:
    return Ended(
        **{"id": "orders-1", "key_id": "k", "key": {"id": 1}, "seq": 1, "state": state, "since": AT, **changes}
    )


def make_column(declared: Any, *, nullable: bool = True) -> Column:
    kind = next(kind for parent, kind in KINDS if isinstance(declared, parent))
    return Column(name="c", kind=kind, type=declared, nullable=nullable)


def test_a_delivery_takes_the_error_away_and_writes_what_is_known() -> None:
    record = make_ended(State.DELIVERED, delivered_at=AT, error="of an earlier attempt")
    assert choose_values(record, {"id": "P-1", "other": 2}, WANTED) == {
        "remote.id": "P-1", "delivered_at": AT, "error": None, "record_id": "orders-1", "state": "delivered",
    }  # fmt: skip


def test_a_failure_leaves_the_time_of_the_last_delivery() -> None:
    record = make_ended(State.FAILED, delivered_at=AT, error="HTTP 422")
    assert choose_values(record, {}, WANTED) == {"error": "HTTP 422", "record_id": "orders-1", "state": "failed"}
    assert choose_values(make_ended(State.DISCARDED), {}, ("error",)) == {"error": "discarded"}


@pytest.mark.parametrize(
    ("declared", "name", "value", "written"),
    [
        (mssql.DATETIME2(7), "delivered_at", AT, "2026-07-02 00:30:15.123"),
        (mssql.DATETIME(), "delivered_at", AT, "2026-07-02 00:30:15.123"),
        (mssql.DATETIMEOFFSET(3), "delivered_at", AT, "2026-07-02 00:30:15.123+02:00"),
        (mssql.DATE(), "delivered_at", AT, "2026-07-02"),
        (mssql.NVARCHAR(40), "delivered_at", AT, "2026-07-02T00:30:15.123+02:00"),
        (mssql.NVARCHAR(5), "error", "abcdef", "abcde"),
        # Two units of UTF-16 each.
        (mssql.NVARCHAR(5), "error", "\N{PILE OF POO}" * 3, "\N{PILE OF POO}" * 2),
        # Up to three bytes each.
        (mssql.VARCHAR(5), "error", "a€€", "a€"),
        (mssql.NVARCHAR(None), "error", "x" * 9000, "x" * 9000),
        (mssql.NVARCHAR(9), "error", "a\0b\ud800", "ab?"),
        (mssql.BIGINT(), "remote.id", "17", 17),
        (mssql.DECIMAL(38, 4), "remote.id", Decimal("1.2500"), Decimal("1.2500")),
        (mssql.BIT(), "remote.id", True, True),
        (mssql.NVARCHAR(9), "remote.id", True, "true"),
        (mssql.NVARCHAR(9), "remote.id", 17, "17"),
        (mssql.NVARCHAR(9), "error", None, None),
    ],
)
def test_values_take_the_form_of_their_columns(declared: Any, name: str, value: Value | datetime, written: Any) -> None:
    assert encode(SQL_SERVER, make_column(declared), name, value, BERLIN) == written


def test_an_empty_text_stands_for_no_error_where_there_is_no_null() -> None:
    column = make_column(mssql.NVARCHAR(9), nullable=False)
    assert encode(SQL_SERVER, column, "error", None, None) == ""
    assert encode(SQL_SERVER, column, "remote.id", None, None) is None


@pytest.mark.parametrize(
    ("declared", "value"),
    [(mssql.NVARCHAR(2), "abc"), (mssql.INTEGER(), "abc"), (mssql.BIGINT(), str(2**63)), (mssql.BIT(), "2")],
)
def test_what_does_not_fit_is_not_cut(declared: Any, value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(SQL_SERVER, make_column(declared), "remote.id", value, None)


class Refusing(OpenStream):
    """A stream whose login may not write."""

    @contextmanager
    def connect(self) -> Iterator[Any]:
        denied = "The UPDATE permission was denied on the object 'orders', database 'erp', schema 'dbo'"
        cause = RuntimeError("42000", f"[42000] [Microsoft][SQL Server]{denied}. (229) (SQLExecDirectW)")
        with translated(self.source.address, "stream orders cannot be read"):
            raise exc.ProgrammingError("update", {}, cause)
        yield


def open_orders(**columns: str) -> OpenStream:
    all_columns = (
        Column(name="id", kind=Kind.INTEGER, type=mssql.BIGINT()),
        Column(name="partner id", kind=Kind.TEXT, type=mssql.NVARCHAR(20)),
        Column(name="sent_at", kind=Kind.TIME, type=mssql.DATETIME2(3)),
    )
    table = sa.table("orders", *(sa.column(column.name) for column in all_columns), schema="dbo")
    stream = make_stream(
        table="dbo.orders", write_back=columns or {"partner id": "remote.id", "sent_at": "delivered_at"}
    )
    address = Address(title="the server", setting="SOURCE_URL", user="reader")
    catalog: Any = None
    engine: Any = None
    dialect: Dialect = SQL_SERVER
    pages: Any = None
    return Refusing(
        stream=stream,
        source=OpenSource(engine=engine, address=address, dialect=dialect, catalog=catalog, driver="d"),
        relation=Relation(title="table orders", clause=table.alias(ALIAS), columns=all_columns),
        layout=Layout(mode="increasing", cursor=all_columns[0], key=all_columns[:1]),
        pages=pages,
        read_ceiling=None,
        changes=None,
    )


def test_sql_server_compares_the_key_in_its_own_type() -> None:
    writer = RowWriter(open_orders())
    update = writer.make_update({"id": 7}, {"partner id": "P-7", "sent_at": None})
    text = str(update.compile(dialect=mssql.dialect()))  # type: ignore[no-untyped-call]
    assert " ".join(text.split()) == (
        "UPDATE dbo.orders SET [partner id]=CAST(:param_1 AS NVARCHAR(20)), sent_at=NULL WHERE dbo.orders.id = :param_2"
    )


def test_a_missing_right_is_named_with_its_grant() -> None:
    writer = RowWriter(open_orders())
    with pytest.raises(SourceError) as caught:
        writer.try_write()
    assert "UPDATE permission was denied" in caught.value.why
    assert caught.value.hint == (
        "let an administrator run: GRANT UPDATE ON dbo.orders ([partner id], sent_at) TO [reader]"
    )


def test_a_column_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RowWriter(open_orders(sent_at="state"))
    assert caught.value.why == "sent_at is a time column, and cannot hold state"
    assert caught.value.hint == "write to a text column"


@pytest.mark.parametrize(
    ("error", "is_granted"),
    [("The UPDATE permission was denied on the object 'orders'.", True), ("the write changes total too", False)],
)
def test_a_right_is_advised_only_where_one_is_missing(error: str, is_granted: bool) -> None:
    plan = StreamPlan(partner="default", table="dbo.orders", written_columns=("sent_at",))
    now = datetime.now(UTC)
    facts = StreamFacts(
        name="orders",
        plan=plan,
        document={},
        partner={},
        counts={},
        waiting=Waiting(),
        is_unacknowledged=False,
        now=now,
    )
    (obstacle,) = _find_write_back_obstacles(Lag(records=1, oldest=now, refused=1, error=error), facts)
    assert ("GRANT UPDATE ON dbo.orders (sent_at)" in obstacle.hint) == is_granted
    assert "syncctl doctor source orders" in obstacle.hint
