"""The statements for SQL Server, word for word."""

import re
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mssql

from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import (
    ALIAS,
    Column,
    Relation,
    describe_query,
    escape_colons,
    make_schema,
    split_name,
)
from syncctl.sources.catalog.sqlserver_types import make_type
from syncctl.sources.cursor import Position
from syncctl.sources.layout import decide_layout
from syncctl.sources.pages import PageReader
from syncctl.sources.sqlserver import SqlServerDialect
from tests.harness.cases import make_stream

FLAVOUR = SqlServerDialect()
QMARK = mssql.dialect(paramstyle="qmark")


def make_columns(**types: Any) -> tuple[Column, ...]:
    return tuple(
        FLAVOUR.column({"name": name, "type": declared, "nullable": False}) for name, declared in types.items()
    )


def make_pages(columns: tuple[Column, ...], primary_key: tuple[str, ...], **settings: Any) -> PageReader:
    table = sa.table("orders", *(sa.column(column.name) for column in columns), schema="dbo")
    relation = Relation(title="t", clause=table.alias(ALIAS), columns=columns, primary_key=primary_key)
    stream = make_stream(**{"table": "dbo.orders", **settings})
    return PageReader(relation, decide_layout(stream, relation, has_rowversions=True), FLAVOUR, stream=stream)


def render(statement: sa.ClauseElement) -> str:
    """Return the statement with its parameters in their places, as they are given to the driver."""
    compiled = statement.compile(dialect=QMARK, compile_kwargs={"render_postcompile": True})
    values = iter(compiled.params[name] for name in compiled.positiontup or ())
    return re.sub(r"\?", lambda _: spell(next(values)), " ".join(str(compiled).split()))


def spell(value: object) -> str:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return f"N'{value}'" if isinstance(value, str) else repr(value)


def where(pages: PageReader, position: Position) -> str:
    return render(pages.keyset.after(position))


def test_a_rowversion_page_is_bounded_on_both_sides() -> None:
    pages = make_pages(make_columns(id=mssql.INTEGER(), row_version=mssql.TIMESTAMP()), ("id",))
    after = pages.keyset.after(Position(value=b"\0\0\0\0\0\0\x07\xd1", key=(7,)))
    below = pages.keyset.below(b"\0\0\0\0\0\0\x08\0")
    assert render(pages.select(pages.shown, [after, below], 101, None)) == (
        "SELECT TOP 101 t.id AS c0, t.row_version AS c1 FROM dbo.orders AS t WHERE"
        " t.row_version >= CAST(0x00000000000007d1 AS BINARY(8)) AND"
        " (t.row_version > CAST(0x00000000000007d1 AS BINARY(8)) OR"
        " t.row_version = CAST(0x00000000000007d1 AS BINARY(8)) AND t.id > 7) AND"
        " t.row_version < CAST(0x0000000000000800 AS BINARY(8)) ORDER BY t.row_version, t.id"
    )


@pytest.mark.parametrize(
    ("declared", "text", "shown", "bound"),
    [
        (
            mssql.DATETIME2(),
            "2026-01-01 00:00:00.1234567",
            "convert(VARCHAR(34), t.at, 121)",
            "CAST(N'2026-01-01T00:00:00.1234567' AS DATETIME2)",
        ),
        (
            mssql.DATETIME(),
            "2026-01-01T00:00:00.003",
            "convert(VARCHAR(33), t.at, 126)",
            "CAST(N'2026-01-01T00:00:00.003' AS DATETIME)",
        ),
        (
            mssql.DATETIMEOFFSET(),
            "2026-01-01 00:00:00.1234567 +01:00",
            "convert(VARCHAR(34), t.at, 121)",
            "CAST(N'2026-01-01T00:00:00.1234567+01:00' AS DATETIMEOFFSET)",
        ),
        (mssql.DATE(), "2026-01-01", "convert(VARCHAR(10), t.at, 23)", "CAST(N'2026-01-01' AS DATE)"),
        (mssql.REAL(), 0.1, "t.at", "CAST(0.1 AS REAL)"),
        (mssql.DECIMAL(38, 9), Decimal("1E-9"), "t.at", "CAST(N'0.000000001' AS DECIMAL(38, 9))"),
        (mssql.MONEY(), Decimal("1.5000"), "t.at", "CAST(N'1.5000' AS MONEY)"),
        (
            mssql.VARCHAR(50, collation="SQL_Latin1_General_CP1_CI_AS"),
            "x",
            "t.at",
            "CAST(N'x' COLLATE SQL_Latin1_General_CP1_CI_AS AS VARCHAR(50))",
        ),
        (mssql.NVARCHAR(50, collation="SQL_Latin1_General_CP1_CI_AS"), "x", "t.at", "CAST(N'x' AS NVARCHAR(50))"),
        (mssql.NVARCHAR(None), "x", "t.at", "CAST(N'x' AS NVARCHAR(max))"),
    ],
)
def test_a_cursor_is_read_exactly_and_compared_as_its_own_type(
    declared: Any, text: Any, shown: str, bound: str
) -> None:
    pages = make_pages(make_columns(id=mssql.BIGINT(), at=declared), ("id",), mode="increasing", cursor="at")
    statement = render(pages.select(pages.shown, [pages.keyset.from_value(text)], 11, None))
    assert statement == (
        f"SELECT TOP 11 t.id AS c0, {shown} AS c1 FROM dbo.orders AS t WHERE t.at >= {bound} ORDER BY t.at, t.id"  # noqa: S608
    )


def test_a_composite_key_with_a_guid_breaks_ties_in_the_database() -> None:
    columns = make_columns(branch=mssql.INTEGER(), id=mssql.UNIQUEIDENTIFIER(), at=mssql.INTEGER())
    pages = make_pages(columns, ("branch", "id"), mode="increasing", cursor="at")
    assert where(pages, Position(value=5, key=(1, "6F9619FF-8B86-D011-B42D-00C04FC964FF"))) == (
        "t.at >= 5 AND (t.at > 5 OR t.at = 5 AND t.branch > 1 OR t.at = 5 AND t.branch = 1 AND"
        " t.id > CAST(N'6F9619FF-8B86-D011-B42D-00C04FC964FF' AS UNIQUEIDENTIFIER))"
    )


def test_a_missing_part_of_a_key_comes_first() -> None:
    pages = make_pages(make_columns(id=mssql.INTEGER(), at=mssql.INTEGER()), ("id",), mode="increasing", cursor="at")
    assert where(pages, Position(value=5, key=(None,))) == "t.at >= 5 AND (t.at > 5 OR t.at = 5 AND t.id IS NOT NULL)"


def test_a_lookback_page_asks_the_database_which_rows_are_new() -> None:
    pages = make_pages(make_columns(id=mssql.INTEGER()), ("id",))
    mark = Position(value=5, key=())
    assert render(pages.select(pages.shown, [pages.keyset.from_value(2)], 11, mark)) == (
        "SELECT TOP 11 t.id AS c0, CASE WHEN (t.id > 5) THEN 1 ELSE 0 END AS anon_1"
        " FROM dbo.orders AS t WHERE t.id >= 2 ORDER BY t.id"
    )


def test_odd_names_are_quoted() -> None:
    columns = make_columns(**{"Order Id": mssql.INTEGER(), "group": mssql.INTEGER(), "a]b": mssql.INTEGER()})
    pages = make_pages(columns, ("Order Id",), cursor="group")
    assert render(pages.select(pages.shown, [], 2, None)) == (
        "SELECT TOP 2 t.[Order Id] AS c0, t.[group] AS c1, t.[a]]b] AS c2"
        " FROM dbo.orders AS t ORDER BY t.[group], t.[Order Id]"
    )


def test_a_query_is_wrapped_word_for_word() -> None:
    query = "select id, '12:30' as at -- a:b\nfrom o;"
    stream = make_stream(table=None, query=query, key=("id",), cursor="id", mode="increasing")
    relation = describe_query(stream, make_columns(id=mssql.INTEGER(), at=mssql.VARCHAR(5)))
    pages = PageReader(relation, decide_layout(stream, relation, has_rowversions=True), FLAVOUR, stream=stream)
    compiled = pages.select(pages.shown, [], 2, None).compile(
        dialect=mssql.dialect(), compile_kwargs={"literal_binds": True}
    )
    assert "FROM (select id, '12:30' as at -- a:b\nfrom o" in str(compiled)
    assert "from o) AS t ORDER BY t.id" in str(compiled)


@given(st.text(st.sampled_from(list(":ab'\\ 1$?%-")), max_size=12))
def test_no_colon_in_a_query_is_taken_for_a_parameter(query: str) -> None:
    assert str(sa.text(escape_colons(query)).compile(dialect=mssql.dialect(paramstyle="qmark"))) == query


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("orders", ("orders",)),
        ("dbo.orders", ("dbo", "orders")),
        ("[dbo].[order lines]", ("dbo", "order lines")),
        ("erp.[my.schema].orders", ("erp", "my.schema", "orders")),
        ('"a""b"', ('a"b',)),
        ("[a]]b]", ("a]b",)),
        ("`a b`.c", ("a b", "c")),
    ],
)
def test_a_table_name_is_split_into_its_parts(text: str, parts: tuple[str, ...]) -> None:
    assert split_name(text) == parts


@pytest.mark.parametrize("text", ["", "dbo.", ".orders", "dbo..orders", "[dbo", 'a"b'])
def test_a_wrong_table_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a table name"):
        split_name(text)


@pytest.mark.parametrize(
    ("parts", "sql"),
    [
        ((), "orders"),
        (("dbo",), "dbo.orders"),
        (("erp", "dbo"), "erp.dbo.orders"),
        (("my.schema",), "[my.schema].orders"),
        (("my.erp", "dbo"), "[my.erp].dbo.orders"),
    ],
)
def test_a_schema_is_rendered_as_it_was_named(parts: tuple[str, ...], sql: str) -> None:
    table = sa.table("orders", sa.column("id"), schema=make_schema(parts)).alias("t")
    assert render(sa.select(table.c.id)) == f"SELECT t.id FROM {sql} AS t"  # noqa: S608


@pytest.mark.parametrize(
    ("declaration", "ddl"),
    [
        ("int", "INTEGER"),
        ("datetime2(7)", "DATETIME2(7)"),
        ("decimal(10,2)", "DECIMAL(10, 2)"),
        ("nvarchar(max)", "NVARCHAR(max)"),
        ("varchar(20)", "VARCHAR(20)"),
        ("timestamp", "TIMESTAMP"),
        ("varbinary(8)", "VARBINARY(8)"),
        ("uniqueidentifier", "UNIQUEIDENTIFIER"),
        ("datetimeoffset(3)", "DATETIMEOFFSET(3)"),
    ],
)
def test_a_described_type_becomes_the_type_it_names(declaration: str, ddl: str) -> None:
    assert make_type(declaration).compile(dialect=mssql.dialect()) == ddl


def test_a_rowversion_column_makes_mode_rowversion_the_default() -> None:
    columns = make_columns(id=mssql.INTEGER(), rv=mssql.TIMESTAMP())
    relation = Relation(title="t", clause=sa.table("t"), columns=columns, primary_key=("id",))
    layout = decide_layout(make_stream(), relation, has_rowversions=True)
    assert (layout.mode, layout.cursor.name) == ("rowversion", "rv")
    with pytest.raises(ConfigurationError) as caught:
        decide_layout(make_stream(mode="increasing", cursor="rv"), relation, has_rowversions=True)
    assert caught.value.hint == 'set it to "rowversion"'


@pytest.mark.parametrize(
    ("declared", "text", "expected"),
    [
        (mssql.BIGINT(), "9007199254740993", 9007199254740993),
        (mssql.DECIMAL(30, 9), "12345678901234567890.123456789", Decimal("12345678901234567890.123456789")),
        (mssql.DATETIME(), "2026-01-31", "2026-01-31T00:00:00"),
        (mssql.DATETIME(), "2026-01-31 10:00:00.1239", "2026-01-31T10:00:00.123"),
        (mssql.SMALLDATETIME(), "2026-01-31 10:00:00.9", "2026-01-31T10:00:00"),
        (mssql.DATETIME2(), "2026-01-31T10:00:00.1234567", "2026-01-31T10:00:00.1234567"),
        (mssql.DATETIMEOFFSET(), "2026-01-31T10:00:00 +0130", "2026-01-31T10:00:00+01:30"),
        (mssql.DATE(), "2026-01-31", "2026-01-31"),
    ],
)
def test_a_start_is_written_as_sql_server_reads_it_in_every_language(
    declared: Any, text: str, expected: object
) -> None:
    (column,) = make_columns(c=declared)
    assert FLAVOUR.parse_start(column, text, None) == expected


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (mssql.INTEGER(), "x"),
        (mssql.DECIMAL(), "NaN"),
        (mssql.DATETIME(), "x"),
        (mssql.DATETIME2(), "2026-01-01T00:00Z"),
    ],
)
def test_a_start_of_another_type_is_refused(declared: Any, text: str) -> None:
    (column,) = make_columns(c=declared)
    with pytest.raises(ValueError, match=r"."):
        FLAVOUR.parse_start(column, text, None)


def test_guids_and_rowversions_are_shown_as_people_write_them() -> None:
    guid, version = make_columns(g=mssql.UNIQUEIDENTIFIER(), v=mssql.TIMESTAMP())
    assert FLAVOUR.converter(guid)("6F9619FF-8B86-D011-B42D-00C04FC964FF") == "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    assert FLAVOUR.converter(version)(b"\0\0\0\0\0\0\x07\xd1") == "0x00000000000007d1"
