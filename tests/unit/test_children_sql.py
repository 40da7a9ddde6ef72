"""The statement that reads a child, as SQL Server gets it."""

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mssql.pyodbc import MSDialect_pyodbc

from syncctl.core.stream import Child
from syncctl.sources.catalog.relation import ALIAS, Relation
from syncctl.sources.catalog.sqlserver_types import make_type
from syncctl.sources.child_relation import ChildRelation, Pair
from syncctl.sources.children import FETCHED_AT_ONCE, ChildReader
from syncctl.sources.sqlserver import SqlServerDialect
from tests.harness.cases import make_stream

DIALECT = SqlServerDialect()
COLLATION = "Latin1_General_CI_AS"


class Driver:
    """A connection that takes statements, and answers the first one with some rows."""

    dialect = MSDialect_pyodbc(paramstyle="qmark")

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.rows = rows

    def exec_driver_sql(self, text: str, values: tuple[Any, ...]) -> Any:
        self.asked.append((" ".join(text.split()), values))
        rows, self.rows = self.rows, []
        pages = [rows[start : start + FETCHED_AT_ONCE] for start in range(0, len(rows), FETCHED_AT_ONCE)]
        result = SimpleNamespace(fetchmany=lambda _: pages.pop(0) if pages else [])
        return type("Result", (), {"__enter__": lambda _: result, "__exit__": lambda *_: None})()


def make_relation(name: str, types: dict[str, str], key: tuple[str, ...] = ()) -> Relation:
    columns = tuple(
        DIALECT.column(
            {"name": column, "type": make_type(declared, COLLATION if "char" in declared else None), "nullable": True}
        )
        for column, declared in types.items()
    )
    table = sa.table(name, *(sa.column(column.name) for column in columns), schema="dbo")
    return Relation(title=f"table {name}", clause=table.alias(ALIAS), columns=columns, primary_key=key)


def read(
    child: dict[str, str],
    parent: dict[str, str],
    keys: list[tuple[Any, ...]],
    rows: list[tuple[Any, ...]] | None = None,
    **settings: Any,
) -> Driver:
    """Read the child of these columns; its first columns are those of `on`, like all columns of the parent."""
    fields: dict[str, Any] = {
        "name": "lines",
        "table": "dbo.lines",
        "on": tuple(zip(child, parent, strict=False)),
        "one": True,
    }
    options = Child(**{**fields, **settings})
    ours, theirs = make_relation("lines", child, settings.pop("key", ())), make_relation("orders", parent)
    pairs = tuple(Pair(child=a, parent=b) for a, b in zip(ours.columns, theirs.columns, strict=False))
    stream = make_stream(name="orders.children.lines", where=options.where, children=options.children)
    described = ChildRelation(child=options, stream=stream, relation=ours, pairs=pairs, children=())
    driver: Any = Driver(rows or [])
    ChildReader(described, DIALECT, is_masked=False).read(driver, keys, SimpleNamespace(spend=lambda _: None, left=0))  # type: ignore[arg-type]
    result: Driver = driver
    return result


def test_the_keys_are_parameters_in_a_numbered_list() -> None:
    driver = read(
        {"order_id": "int", "line": "int", "doc": "xml", "sku": "nvarchar(20)"},
        {"id": "int"},
        [(7,), (8,), (7,), (None,)],
        one=False, sort=("line",), where="sku <> ':x' -- all",
    )  # fmt: skip
    ((text, values),) = driver.asked
    assert values == (7, 8)
    assert text == (
        "SELECT syncctl_v.syncctl_n AS syncctl_n, t.line AS c0, t.doc AS c1, t.sku AS c2"
        " FROM (VALUES (0, CAST(? AS BIGINT)), (1, CAST(? AS BIGINT))) AS syncctl_v (syncctl_n, syncctl_k0)"
        " JOIN dbo.lines AS t ON t.order_id = syncctl_v.syncctl_k0 WHERE (sku <> ':x')"
        " ORDER BY syncctl_v.syncctl_n, t.line, CAST(CAST(t.sku AS NVARCHAR(max)) AS VARBINARY(max))"
    )


def test_behind_a_parent_with_too_many_rows_they_are_counted_for_each() -> None:
    rows = [(0, 1), *((1, number) for number in range(1 + 1 + FETCHED_AT_ONCE))]
    driver = read({"k": "int", "v": "int"}, {"k": "int"}, [(7,), (8,), (9,)], rows=rows)
    first, second = driver.asked
    assert first[1] == (7, 8, 9, None)
    assert second[1] == (8, 9)
    assert second[0] == (
        "SELECT syncctl_c.syncctl_n, syncctl_c.c0"
        " FROM (SELECT syncctl_v.syncctl_n AS syncctl_n, t.v AS c0,"
        " row_number() OVER (PARTITION BY syncctl_v.syncctl_n ORDER BY t.v) AS syncctl_r"
        " FROM (VALUES (0, CAST(? AS BIGINT)), (1, CAST(? AS BIGINT))) AS syncctl_v (syncctl_n, syncctl_k0)"
        " JOIN dbo.lines AS t ON t.k = syncctl_v.syncctl_k0) AS syncctl_c"
        " WHERE syncctl_c.syncctl_r <= 2 ORDER BY syncctl_c.syncctl_n, syncctl_c.syncctl_r"
    )


def test_a_statement_has_at_most_2000_parameters_and_few_sizes() -> None:
    columns = {"a": "int", "b": "int", "c": "int"}
    driver = read({**columns, "v": "int"}, columns, [(n, n, n) for n in range(1500)])
    assert [len(values) for _, values in driver.asked] == [1998, 1998, 3 * 256]
    assert driver.asked[2][1][3 * 168 :] == (None,) * (3 * 88)
    assert max(text.count("?") for text, _ in driver.asked) == 1998


@pytest.mark.parametrize(
    ("child", "parent", "cast", "given", "sent"),
    [
        ("int", "bigint", "BIGINT", 2**40, 2**40),
        ("uniqueidentifier", "uniqueidentifier", "UNIQUEIDENTIFIER", "AB", "AB"),
        ("datetime2(3)", "datetime2(3)", "DATETIME2(3)", "2026-01-02 03:04:05.123", "2026-01-02T03:04:05.123"),
        ("nvarchar(20)", "varchar(20)", "NVARCHAR(20)", "a", "a"),
        ("decimal(12,4)", "decimal(10,2)", "DECIMAL(12, 4)", "1.50", "1.50"),
        ("varbinary(8)", "varbinary(8)", "VARBINARY(8)", b"a", b"a"),
        ("bit", "bit", "BIT", True, True),
        # In the child's own type these would lose something, and rows would belong together that are not equal.
        ("nvarchar(10)", "nvarchar(20)", "NVARCHAR(20)", "a", "a"),
        ("varchar(20)", "nvarchar(20)", "NVARCHAR(20)", "a", "a"),
        ("decimal(10,2)", "decimal(12,4)", "DECIMAL(12, 4)", "1.50", "1.50"),
        ("decimal(10,4)", "decimal(10,2)", "DECIMAL(10, 2)", "1.50", "1.50"),
        ("datetime", "datetime2(7)", "DATETIME2(7)", "2026-01-02 03:04:05.1234567", "2026-01-02T03:04:05.1234567"),
        ("int", "decimal(10,2)", "DECIMAL(10, 2)", "1.50", "1.50"),
    ],
)
def test_a_key_is_compared_in_a_type_that_holds_it(child: str, parent: str, cast: str, given: Any, sent: Any) -> None:
    driver = read({"k": child, "v": "int"}, {"k": parent}, [(given,)])
    ((text, values),) = driver.asked
    assert values == (sent,)
    assert f"(VALUES (0, CAST(? AS {cast})))" in text


def test_texts_are_compared_in_the_collation_of_the_child() -> None:
    driver = read({"k": "nvarchar(20)", "v": "int"}, {"k": "nvarchar(20)"}, [("a",)])
    assert f"ON t.k = (syncctl_v.syncctl_k0 COLLATE {COLLATION})" in driver.asked[0][0]
    driver = read({"k": "int", "v": "int"}, {"k": "nvarchar(20)"}, [("5",)])
    assert "COLLATE" not in driver.asked[0][0]


def test_no_column_is_ordered_by_twice() -> None:
    driver = read(
        {"k": "int", "line": "int", "at": "datetimeoffset(7)", "v": "float"},
        {"k": "int"},
        [(1,)],
        one=False, sort=("line", "LINE", "at"),
    )  # fmt: skip
    order = driver.asked[0][0].partition("ORDER BY ")[2]
    assert order == "syncctl_v.syncctl_n, t.line, t.at, convert(VARCHAR(34), t.at, 121), t.v"


def test_times_and_rowversions_are_read_as_those_of_a_row() -> None:
    driver = read({"k": "int", "at": "datetime2(7)", "day": "date"}, {"k": "int"}, [(1,)])
    assert "convert(VARCHAR(34), t.at, 121) AS c0, convert(VARCHAR(10), t.day, 23) AS c1" in driver.asked[0][0]
