"""The proposals of an inspection for SQL Server: the real statements over a stand-in for the catalog views."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.catalog import CatalogTable
from syncctl.sources.catalog.proposal import propose_stream
from syncctl.sources.catalog.sqlserver_catalog import SqlServerCatalog
from syncctl.sources.catalog.sqlserver_types import format_type
from syncctl.sources.sqlserver import SqlServerDialect
from tests.integration.sources.test_sources_catalog import modes

# SQL Server's catalog views, as tables of an attached database called sys. What they hold is after Microsoft's
# documents; the statements that read them are the real ones.
SYS = """
create table sys.schemas (schema_id, name);
create table sys.objects (object_id, schema_id, name, type, is_ms_shipped);
create table sys.types (user_type_id, system_type_id, name);
create table sys.columns (object_id, column_id, name, user_type_id, system_type_id, max_length, precision, scale,
    is_nullable, collation_name, default_object_id default 0, generated_always_type default 0);
create table sys.default_constraints (object_id, definition);
create table sys.check_constraints (parent_object_id, definition, is_disabled);
create table sys.triggers (object_id, parent_id, is_disabled);
create table sys.trigger_events (object_id, type);
create table sys.sql_modules (object_id, definition);
create table sys.indexes (object_id, index_id, type, is_unique, is_primary_key, is_disabled, is_hypothetical,
    has_filter);
create table sys.index_columns (object_id, index_id, column_id, key_ordinal);
create table sys.foreign_key_columns (constraint_object_id, parent_object_id, parent_column_id, referenced_object_id,
    referenced_column_id);
create table sys.identity_columns (object_id, name, increment_value);
create table sys.partitions (object_id, index_id, rows);
create table sys.change_tracking_tables (object_id);
create table sys.change_tracking_databases (database_id);
insert into sys.schemas values (1, 'dbo'), (2, 'sales');
insert into sys.types values (56, 56, 'int'), (189, 189, 'timestamp'), (231, 231, 'nvarchar'), (106, 106, 'decimal'),
    (42, 42, 'datetime2'), (98, 98, 'sql_variant'), (128, 240, 'hierarchyid'), (300, 231, 'phone');
"""
COLUMN_NAMES = (
    "object_id, column_id, name, user_type_id, system_type_id, max_length, precision, scale, is_nullable,"
    " collation_name"
)
TYPES = {
    "int": (56, 56, 4, 10, 0),
    "rowversion": (189, 189, 8, 0, 0),
    "nvarchar(50)": (231, 231, 100, 0, 0),
    "nvarchar(max)": (231, 231, -1, 0, 0),
    "phone": (300, 231, 40, 0, 0),
    "decimal(12,2)": (106, 106, 9, 12, 2),
    "datetime2(7)": (42, 42, 8, 27, 7),
    "sql_variant": (98, 98, 8016, 0, 0),
    "hierarchyid": (128, 240, 892, 0, 0),
}


class StandIn:
    """A database that has SQL Server's catalog views and nothing else."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.allowed: int | None = 1
        raw: Any = connection.connection.driver_connection
        raw.execute("attach database ':memory:' as sys")
        raw.executescript(SYS)
        for name, size, answer in [
            ("SCHEMA_NAME", 0, lambda: "dbo"),
            ("DB_ID", 0, lambda: 5),
            ("QUOTENAME", 1, lambda name: f"[{name}]"),
            ("OBJECT_NAME", 1, str),
            ("OBJECT_SCHEMA_NAME", 1, str),
            ("HAS_PERMS_BY_NAME", 3, lambda *_: self.allowed),
        ]:
            raw.create_function(name, size, answer)

    def insert(self, view: str, *values: Any) -> None:
        marks = ", ".join("?" * len(values))
        names = f"({COLUMN_NAMES})" if view == "columns" else ""
        self.connection.exec_driver_sql(f"insert into sys.{view} {names} values ({marks})", values)  # noqa: S608

    def add_table(self, number: int, name: str, columns: dict[str, str], *, schema: int = 1) -> None:
        """Add a table without an index; a column whose type ends in `null` may be empty."""
        self.insert("objects", number, schema, name, "U", 0)
        for at, (column, declared) in enumerate(columns.items(), start=1):
            kind = TYPES[declared.removesuffix(" null")]
            self.insert("columns", number, at, column, *kind, declared.endswith(" null"), None)

    def add_index(self, number: int, index: int, columns: list[int], **flags: int) -> None:
        kind = [flags.get(name, 0) for name in ("unique", "primary", "disabled", "hypothetical", "filtered")]
        self.insert("indexes", number, index, flags.get("type", 2), *kind)
        for ordinal, column in enumerate(columns, start=1):
            self.insert("index_columns", number, index, column, ordinal)

    def look(self, number: int | None = None) -> tuple[list[CatalogTable], list[str]]:
        # A denied question is followed by a rollback.
        self.connection.commit()
        catalog, unknown = SqlServerCatalog(), list[str]()
        names = [table for table in catalog.list_tables(self.connection) if number in (None, table.object_id)]
        return catalog.describe_tables(self.connection, SqlServerDialect(), names, unknown), unknown


@pytest.fixture
def server() -> Iterator[StandIn]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        made = StandIn(connection)
        made.add_table(1, "orders", {"id": "int", "note": "nvarchar(50) null", "rv": "rowversion"})
        made.add_index(1, 1, [1], type=1, unique=1, primary=1)
        made.insert("partitions", 1, 1, 700)
        made.insert("partitions", 1, 1, 77)
        made.insert("partitions", 1, 2, 777)
        yield made
    engine.dispose()


def test_a_rowversion_goes_first_and_rows_are_counted_by_the_catalog(server: StandIn) -> None:
    ((found,), unknown) = server.look()
    table = propose_stream(found)
    assert (table.table, table.rows, table.key, unknown) == ("dbo.orders", 777, ("id",), [])
    assert modes(table)[:2] == [("rowversion", "rv"), ("snapshot", None)]
    assert [(column.name, column.type, column.nullable) for column in table.columns] == [
        ("id", "int", False),
        ("note", "nvarchar(50)", True),
        ("rv", "rowversion", False),
    ]
    assert any("CREATE INDEX ix_orders_rv ON dbo.orders (rv)" in line for line in table.advice)
    server.add_index(1, 3, [3])
    assert propose_stream(server.look(1)[0][0]).candidates[0].indexed is True


def test_a_time_is_known_by_its_default_its_trigger_and_its_period(server: StandIn) -> None:
    times = ("ngay_tao", "ngay_cap_nhat", "bat_dau", "ngay_giao")
    server.add_table(2, "hang", {"ma": "int", **dict.fromkeys(times, "datetime2(7)")})
    server.add_index(2, 1, [1], type=1, unique=1, primary=1)
    server.insert("partitions", 2, 1, 5)
    server.connection.exec_driver_sql("update sys.columns set default_object_id = 50 where name = 'ngay_tao'")
    server.insert("default_constraints", 50, "(sysutcdatetime())")
    server.connection.exec_driver_sql("update sys.columns set generated_always_type = 1 where name = 'bat_dau'")
    for number, event, is_disabled, column in (
        (60, 2, 0, "ngay_cap_nhat"),
        (61, 1, 0, "ngay_giao"),
        (62, 2, 1, "ngay_giao"),
    ):
        server.insert("triggers", number, 2, is_disabled)
        server.insert("trigger_events", number, event)
        server.insert(
            "sql_modules",
            number,
            f"create trigger t on hang as update h set [{column}] = getdate()",  # noqa: S608
        )
    expected = [
        ("increasing", "ngay_cap_nhat"),
        ("increasing", "bat_dau"),
        ("snapshot", None),
        ("increasing", "ngay_tao"),
        ("increasing", "ma"),
        ("increasing", "ngay_giao"),
    ]
    assert modes(propose_stream(server.look(2)[0][0])) == expected
    by_name = {table.name.name: table for table in server.look()[0]}
    assert modes(propose_stream(by_name["hang"])) == expected


def test_change_tracking_goes_before_a_rowversion_for_it_finds_deletes(server: StandIn) -> None:
    server.insert("change_tracking_tables", 1)
    server.insert("change_tracking_databases", 5)
    table = propose_stream(server.look()[0][0])
    assert modes(table)[:2] == [("change_tracking", None), ("rowversion", "rv")]
    assert "deletes" in table.candidates[0].why
    assert table.settings == {"table": "dbo.orders", "key": ["id"], "mode": "change_tracking"}
    assert modes(propose_stream(server.look()[0][0], ["note"]))[0] == ("rowversion", "rv")
    server.allowed = 0
    (line,) = propose_stream(server.look()[0][0]).advice
    assert "GRANT VIEW CHANGE TRACKING ON dbo.orders" in line


def test_change_tracking_of_a_table_alone_does_not_count(server: StandIn) -> None:
    server.insert("change_tracking_tables", 1)
    assert modes(propose_stream(server.look()[0][0]))[0] == ("rowversion", "rv")


def deny(server: StandIn, view: str, error: Callable[[str], Exception]) -> None:
    """Let every statement that reads a view fail."""

    def refuse(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if view in statement:
            raise exc.ProgrammingError(statement, None, error(view))

    sa.event.listen(server.connection, "before_cursor_execute", refuse)


@pytest.mark.parametrize(
    ("view", "line"),
    [
        ("sys.partitions", "row counts"),
        ("sys.change_tracking_tables", "Change Tracking"),
        ("sys.identity_columns", "which columns are identities"),
    ],
)
def test_facts_that_the_login_may_not_read_are_unknown(server: StandIn, view: str, line: str) -> None:
    deny(server, view, lambda name: Exception("42000", f"no right to {name}"))
    ((found,), unknown) = server.look()
    assert modes(propose_stream(found))[0] == ("rowversion", "rv")
    assert unknown == [f"{line}: this login may not see it"]
    assert (found.rows is None) == (view == "sys.partitions")


def test_a_connection_that_is_cut_is_not_a_missing_right(server: StandIn) -> None:
    deny(server, "sys.partitions", lambda _: Exception("08S01", "cut"))
    with pytest.raises(exc.DBAPIError):
        server.look()


def test_types_without_a_form_in_json_are_left_out_and_make_no_key(server: StandIn) -> None:
    server.add_table(2, "nodes", {"path": "hierarchyid", "code": "phone", "any": "sql_variant null"}, schema=2)
    server.add_index(2, 1, [1], type=1, unique=1, primary=1)
    server.add_index(2, 2, [2], unique=1)
    table = propose_stream(server.look(2)[0][0])
    assert (table.table, table.key, table.key_origin) == ("sales.nodes", ("code",), "unique index")
    assert table.columns[1].type == "nvarchar(20)"
    assert table.settings["exclude"] == ["path", "any"]
    assert table.remarks["exclude"] == "hierarchyid, sql_variant: JSON cannot represent them"


def test_a_column_with_a_check_for_json_is_proposed_as_json(server: StandIn) -> None:
    columns = {"id": "int", "lines": "nvarchar(max)", "a]b": "nvarchar(max)", "old": "nvarchar(max)", "x": "phone"}
    server.add_table(2, "docs", columns)
    server.add_index(2, 1, [1], type=1, unique=1, primary=1)
    server.insert("check_constraints", 2, "(isjson([lines])=(1))", 0)
    server.insert("check_constraints", 2, "([a]]b] IS NULL OR isjson([a]]b],OBJECT)>(0))", 0)
    server.insert("check_constraints", 2, "(isjson([old])=(1))", 1)
    server.insert("check_constraints", 2, "(isjson([x])=(0) OR NOT isjson([x])>(0))", 0)
    server.insert("check_constraints", 1, "(isjson([old])=(1))", 0)
    table = propose_stream(server.look(2)[0][0])
    assert table.settings["json"] == ["lines", "a]b"]
    assert table.remarks["json"] == "a check of the table says that it is JSON"
    assert "json" not in propose_stream(server.look(1)[0][0]).settings


UNUSABLE = [{"disabled": 1}, {"hypothetical": 1}, {"filtered": 1}, {"type": 6}]


@pytest.mark.parametrize("flags", UNUSABLE)
def test_an_index_that_is_not_over_all_rows_in_order_makes_no_key(server: StandIn, flags: dict[str, int]) -> None:
    server.add_table(2, "heap", {"code": "int"})
    server.add_index(2, 2, [1], unique=1, **flags)
    assert propose_stream(server.look(2)[0][0]).key == ()


def test_the_hash_of_a_table_in_memory_tells_rows_apart_and_gives_no_order(server: StandIn) -> None:
    server.add_table(2, "fast", {"id": "int"})
    server.add_index(2, 2, [1], unique=1, primary=1, type=7)
    server.insert("identity_columns", 2, "id", 1)
    table = propose_stream(server.look(2)[0][0])
    assert table.key == ("id",)
    assert [candidate.indexed for candidate in table.candidates if candidate.cursor == "id"] == [False]


def test_foreign_keys_of_other_tables_are_listed_with_all_their_columns(server: StandIn) -> None:
    server.add_table(2, "parts", {"order_id": "int", "note": "nvarchar(50)", "n": "int"}, schema=2)
    server.add_table(3, "lines", {"order_id": "int"})
    server.insert("foreign_key_columns", 31, 3, 1, 1, 1)
    server.insert("foreign_key_columns", 21, 2, 1, 1, 1)
    server.insert("foreign_key_columns", 21, 2, 2, 1, 2)
    server.insert("foreign_key_columns", 11, 1, 1, 1, 1)
    server.insert("foreign_key_columns", 32, 3, 1, 2, 3)
    server.connection.commit()
    catalog, unknown = SqlServerCatalog(), list[str]()
    (orders,) = (table for table in catalog.list_tables(server.connection) if table.name == "orders")
    found = catalog.list_references(server.connection, orders, unknown)
    assert [(each.table.schema, each.table.name, each.columns) for each in found] == [
        ("dbo", "lines", (("order_id", "id"),)),
        ("sales", "parts", (("order_id", "id"), ("note", "note"))),
    ]
    deny(server, "foreign_key_columns", lambda name: Exception("42000", f"no right to {name}"))
    assert catalog.list_references(server.connection, orders, unknown) == []
    assert unknown == ["foreign keys: this login may not see it"]


def test_an_identity_that_falls_is_no_cursor(server: StandIn) -> None:
    server.add_table(2, "up", {"code": "nvarchar(50)", "n": "int"})
    server.add_table(3, "down", {"code": "nvarchar(50)", "n": "int"})
    server.insert("identity_columns", 2, "n", 1)
    server.insert("identity_columns", 3, "n", -1)
    found = {each.name.name: propose_stream(each) for each in server.look()[0]}
    assert ("increasing", "n") in modes(found["up"])
    assert ("increasing", "n") not in modes(found["down"])


DECLARED = [
    (("timestamp", 8, 0, 0), "rowversion"),
    (("nvarchar", -1, 0, 0), "nvarchar(max)"),
    (("nchar", 20, 0, 0), "nchar(10)"),
    (("varbinary", 16, 0, 0), "varbinary(16)"),
    (("decimal", 17, 38, 10), "decimal(38,10)"),
    (("time", 5, 16, 7), "time(7)"),
    (("datetime", 8, 23, 3), "datetime"),
    (("money", 8, 19, 4), "money"),
]


@pytest.mark.parametrize(("given", "text"), DECLARED)
def test_a_type_is_written_as_people_write_it(given: tuple[str, int, int, int], text: str) -> None:
    assert format_type(*given) == text
