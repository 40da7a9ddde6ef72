"""SQL Server's types: the form of each in JSON, and those that are never read."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mssql

from syncctl.core.column_masks import mask_value
from syncctl.core.json_text import JsonText
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import ALIAS, Column, Kind, Relation
from syncctl.sources.catalog.sqlserver_types import make_type
from syncctl.sources.layout import decide_layout
from syncctl.sources.pages import PageReader
from syncctl.sources.sqlserver import SqlServerDialect, check_subquery, list_words
from tests.harness.cases import make_stream
from tests.unit.test_odbc_sql import render

FLAVOUR = SqlServerDialect()
FORMLESS = ("sql_variant", "hierarchyid", "geography", "geometry", "vector")


def make_column(declaration: str, name: str = "v") -> Column:
    return FLAVOUR.column({"name": name, "type": make_type(declaration), "nullable": True})


def make_pages(declared: dict[str, str], /, **settings: Any) -> PageReader:
    made = tuple(make_column(declaration, name) for name, declaration in {"id": "int", **declared}.items())
    table = sa.table("orders", *(sa.column(column.name) for column in made), schema="dbo")
    relation = Relation(title="t", clause=table.alias(ALIAS), columns=made, primary_key=("id",))
    stream = make_stream(mode="increasing", cursor="id", **settings)
    return PageReader(relation, decide_layout(stream, relation, has_rowversions=True), FLAVOUR, stream=stream)


def read_row(declared: dict[str, str], /, *raw: object, **settings: Any) -> Any:
    return make_pages(declared, **settings).make_row([1, *raw]).row


@pytest.mark.parametrize(
    ("declaration", "raw", "value"),
    [
        ("int", 5, 5),
        ("bigint", 2**63 - 1, 2**63 - 1),
        ("bit", True, True),
        ("decimal(38,2)", Decimal("1.50"), Decimal("1.50")),
        ("money", Decimal("1.5000"), Decimal("1.5000")),
        ("float", 0.1, 0.1),
        ("real", 0.10000000149011612, 0.1),
        ("date", "2026-01-31", "2026-01-31"),
        ("time(7)", "10:00:00.0000000", "10:00:00.0000000"),
        ("datetime", "2026-01-31T10:00:00", "2026-01-31T10:00:00.000"),
        ("datetime", "2026-01-31T10:00:00.003", "2026-01-31T10:00:00.003"),
        ("smalldatetime", "2026-01-31T10:00:00", "2026-01-31T10:00:00"),
        ("smalldatetime", "2026-01-31 10:00:00.000", "2026-01-31T10:00:00"),
        ("datetime2(7)", "2026-01-31 10:00:00.1234567", "2026-01-31T10:00:00.1234567"),
        ("datetime2(7)", "2026-01-31 10:00:00", "2026-01-31T10:00:00.0000000"),
        ("datetime2(0)", "2026-01-31 10:00:00", "2026-01-31T10:00:00"),
        ("datetimeoffset(7)", "2026-01-31 10:00:00.1234567 +01:00", "2026-01-31T10:00:00.1234567+01:00"),
        ("datetimeoffset(3)", "2026-01-31 10:00:00 -09:30", "2026-01-31T10:00:00.000-09:30"),
        ("uniqueidentifier", "6F9619FF-8B86-D011-B42D-00C04FC964FF", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("timestamp", b"\0\0\0\0\0\0\x07\xd1", "0x00000000000007d1"),
        ("varbinary(max)", b"\0\xff", "AP8="),
        ("image", b"\0\xff", "AP8="),
        ("char(5)", "ab   ", "ab   "),
        ("sysname", "dbo", "dbo"),
        ("xml", "<a/>", "<a/>"),
        ("json", '{"a": 1.10}', JsonText('{"a":1.10}')),
    ],
)
def test_each_type_has_its_form_in_json(declaration: str, raw: object, value: object) -> None:
    sent = read_row({"v": declaration}, raw).payload["v"]
    assert (type(sent), str(sent)) == (type(value), str(value))
    assert read_row({"v": declaration}, None).payload["v"] is None


def read_types_table() -> list[tuple[set[str], str]]:
    """Return the table of types in docs/sources.md: SQL Server's types of a row, without sizes, and what it says."""
    page = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
    table = page.partition("\n## Types\n")[2].partition("\n\n**")[0]
    rows = [re.split(r" ?\| ?", line.strip("| ")) for line in table.splitlines() if line.startswith("| `")]
    return [({name.partition("(")[0] for name in re.findall(r"`([^`]+)`", row[0])} - {""}, row[-1]) for row in rows]


def test_the_page_has_each_type_once_and_no_other() -> None:
    shown = [name for names, _ in read_types_table() for name in names]
    assert len(shown) == len(set(shown))
    # Another name of the same type, as rowversion is of timestamp.
    assert set(shown) == set(mssql.base.ischema_names) - {"double precision"} | {"rowversion"}


@pytest.mark.parametrize(
    ("declaration", "raw"),
    [
        ("date", "2026-01-31"),
        ("time(7)", "23:59:59.1234567"),
        ("datetime", "2026-01-31T23:59:59.997"),
        ("smalldatetime", "2026-01-31 23:59:00.000"),
        ("datetime2(7)", "2026-01-31 23:59:59.1234567"),
        ("datetimeoffset(7)", "2026-01-31 23:59:59.1234567 +01:00"),
        ("uniqueidentifier", "6F9619FF-8B86-D011-B42D-00C04FC964FF"),
        ("rowversion", b"\0\0\0\0\0\0\x07\xd1"),
    ],
)
def test_the_examples_of_the_page_are_what_is_sent(declaration: str, raw: object) -> None:
    name = declaration.partition("(")[0]
    (says,) = [text for names, text in read_types_table() if name in names]
    sent = read_row({"v": "timestamp" if name == "rowversion" else declaration}, raw).payload["v"]
    assert f'`"{sent}"`' in says


def test_each_type_that_is_not_supported_is_said_to_be() -> None:
    assert ({*FORMLESS}, "not supported: see below") in read_types_table()


def test_json_is_read_as_the_text_that_it_is() -> None:
    (_, shown) = make_pages({"v": "json"}).shown
    assert render(sa.select(shown)) == "SELECT CAST(t.v AS NVARCHAR(max)) AS c1 FROM dbo.orders AS t"


def test_a_column_of_type_json_that_is_masked_is_text() -> None:
    row = read_row({"v": "json"}, '{"a": 1}', mask={"v": "hash"}, mask_secret="s" * 32)
    assert (row.error, row.payload["v"]) == (None, mask_value('{"a": 1}', "hash", "s" * 32))
    assert "v" not in read_row({"v": "json"}, mask={"v": "drop"}).payload


@pytest.mark.parametrize("declaration", FORMLESS)
def test_a_column_without_a_form_in_json_is_never_selected(declaration: str) -> None:
    pages = make_pages({"place": declaration, "note": "varchar(5)"})
    assert "place" not in render(pages.select(pages.shown, [], 2, None))
    row = pages.make_row([1, "x"]).row
    assert row.error == f'column place: {declaration} has no JSON form; leave it out: exclude = ["place"]'
    assert (row.key, row.payload) == ({"id": 1}, None)


@pytest.mark.parametrize("settings", [{"exclude": ("PLACE",)}, {"columns": ("id", "note")}])
def test_an_excluded_column_without_a_form_in_json_does_no_harm(settings: dict[str, Any]) -> None:
    row = read_row({"place": "geography", "note": "varchar(5)"}, "x", **settings)
    assert (row.error, row.payload) == (None, {"id": 1, "note": "x"})


def test_all_columns_that_must_be_excluded_are_reported_at_once() -> None:
    columns = {"place": "geography", "path": "hierarchyid", "note": "varchar(5)"}
    assert read_row(columns, exclude=("note",)).error == (
        "column place: geography has no JSON form; column path: hierarchyid has no JSON form;"
        ' leave them out: exclude = ["note", "place", "path"]'
    )
    assert read_row(columns, columns=("id", "path")).error == (
        "column path: hierarchyid has no JSON form; leave it out of columns"
    )


@pytest.mark.parametrize("settings", [{"key": ("path",)}, {"cursor": "path"}, {"mode": "flag", "cursor": "path"}])
def test_a_column_without_a_form_in_json_is_neither_key_nor_cursor(settings: dict[str, Any]) -> None:
    columns = (make_column("int", "id"), make_column("hierarchyid", "path"))
    relation = Relation(title="t", clause=sa.table("t"), columns=columns, primary_key=("id",))
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.(key|cursor) is wrong") as caught:
        decide_layout(make_stream(**settings), relation, has_rowversions=True)
    assert caught.value.why == "column path is of type hierarchyid, which JSON cannot represent"


def test_reflection_finds_the_types_that_sqlalchemy_does_not_know() -> None:
    known = mssql.dialect().ischema_names
    assert {name for name in FORMLESS if make_column(name).kind is Kind.FORMLESS} == set(FORMLESS)
    assert all(str(known[name]()) == name for name in (*FORMLESS, "json"))


TIMES = {"datetime": "2026-07-01T10:00:00.003", "datetime2(7)": "2026-07-01 10:00:00.1234567"}


@pytest.mark.parametrize("declaration", TIMES)
def test_a_zone_gives_times_their_offset_and_leaves_keys_and_cursors_alone(declaration: str) -> None:
    raw = TIMES[declaration]
    pages = make_pages({"v": declaration, "d": "date", "c": "time(0)"}, timezone="Europe/Berlin")
    row = pages.make_row([1, raw, "2026-07-01", "10:00:00"]).row
    assert row.payload is not None
    assert row.payload["v"] == raw.replace(" ", "T") + "+02:00"
    assert (row.payload["d"], row.payload["c"]) == ("2026-07-01", "10:00:00")
    pages = make_pages({"v": declaration}, timezone="Europe/Berlin", key=("id", "v"))
    row = pages.make_row([1, raw]).row
    assert row.key == row.payload == {"id": 1, "v": raw.replace(" ", "T")}
    assert pages.make_deleted([1, raw]).key == row.key


def test_a_zone_that_the_machine_does_not_know_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.timezone is wrong"):
        make_pages({"v": "datetime"}, timezone="Europe/Atlantis")


def query_stream(query: str) -> Stream:
    return make_stream(table=None, query=query, key=("id",), cursor="id", mode="increasing")


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("select id from o order by id", "it has an ORDER BY"),
        ("select id from o where a = '(' ORDER\n BY id;", "it has an ORDER BY"),
        ("-- note\nWITH x AS (select 1 as id) select id from x", "it begins with WITH"),
    ],
)
def test_clauses_that_sql_server_forbids_in_a_subquery_are_refused_in_clear_words(query: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.query is wrong") as caught:
        check_subquery(query_stream(query))
    assert caught.value.why.startswith(why)


@pytest.mark.parametrize(
    "query",
    [
        "select top 5 id from o order by id",
        "select id from o order by id offset 5 rows",
        "select id, row_number() over (order by id) as n from o",
        "select id, 'order by' as a, [order by], \"order by\" from o -- order by\n",
        "select id from o /* order by */ where a in (select top 1 b from p order by b)",
        "select id from o with (nolock)",
    ],
)
def test_clauses_that_sql_server_allows_in_a_subquery_pass(query: str) -> None:
    check_subquery(query_stream(query))


@given(st.text(st.sampled_from(list("ab'\"[]()-/* \n")), max_size=30))
def test_any_text_is_read_to_its_end(query: str) -> None:
    assert all(re.fullmatch(r"[ab]+", word) for word in list_words(query))
