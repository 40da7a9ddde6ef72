"""What a survey proposes: over real SQLite files, and over a stand-in for SQL Server's catalog views."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, UsageError
from syncctl.sources import open_reader
from syncctl.sources.sqlserver import SqlServerFlavour
from syncctl.sources.survey import Survey, survey_source
from syncctl.sources.survey.candidates import SNAPSHOT_ROWS_AT_MOST
from syncctl.sources.survey.found import FoundTable
from syncctl.sources.survey.proposal import SurveyedTable, propose_stream
from syncctl.sources.survey.sqlserver_catalog import SqlServerCatalog, declare
from tests.harness.source_db import SourceDb
from tests.integration.test_sources_paging import make_stream


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    return SourceDb(tmp_path / "source.db")


def survey(db: SourceDb, table: str | None = None, key: tuple[str, ...] = ()) -> Survey:
    return survey_source(Source(name="default", url=db.url), table, key)


def look_at(db: SourceDb, *statements: str, table: str = "orders", key: tuple[str, ...] = ()) -> SurveyedTable:
    for statement in statements:
        db.execute(statement)
    return survey(db, table, key).tables[0]


def modes(table: SurveyedTable) -> list[tuple[str, str | None]]:
    return [(each.mode, each.cursor) for each in table.candidates]


def test_a_time_that_changes_set_goes_first_and_says_whether_an_index_serves_it(db: SourceDb) -> None:
    found = look_at(db, "create table orders (id integer primary key, note text, updated_at datetime not null)")
    assert (found.key, found.key_origin) == (("id",), "primary key")
    assert modes(found) == [("increasing", "updated_at"), ("snapshot", None), ("increasing", "id")]
    assert [each.indexed for each in found.candidates] == [False, None, True]
    assert found.settings == {"table": "orders", "key": ["id"], "mode": "increasing", "cursor": "updated_at"}
    assert any("CREATE INDEX ix_orders_updated_at ON orders (updated_at)" in line for line in found.advice)
    again = look_at(db, "create index by_time on orders (updated_at, id)")
    assert again.candidates[0].indexed is True
    assert not any("CREATE INDEX" in line for line in again.advice)


NO_SERVICE = [
    "create index other on orders (id, updated_at)",
    "create index part on orders (updated_at) where note is null",
    "create index worked_out on orders (date(updated_at))",
]


@pytest.mark.parametrize("index", NO_SERVICE)
def test_an_index_that_begins_otherwise_or_leaves_rows_out_serves_no_cursor(db: SourceDb, index: str) -> None:
    table = "create table orders (id integer primary key, note text, updated_at text not null)"
    found = look_at(db, table, index)
    assert found.candidates[0].cursor == "updated_at"
    assert found.candidates[0].indexed is False


def test_a_time_that_may_be_empty_goes_behind_a_snapshot(db: SourceDb) -> None:
    found = look_at(db, "create table orders (id integer primary key, updated_at datetime)")
    assert modes(found) == [("snapshot", None), ("increasing", "updated_at"), ("increasing", "id")]
    assert "never read" in found.candidates[1].why


def test_a_large_table_without_a_time_is_followed_by_its_number(db: SourceDb) -> None:
    db.execute("create table orders (id integer primary key, note text)")
    db.execute(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)"
        " insert into orders select i, '' from n",
        [SNAPSHOT_ROWS_AT_MOST],
    )
    assert modes(look_at(db))[0] == ("snapshot", None)
    found = look_at(db, "insert into orders (note) values ('one more')")
    assert found.rows == SNAPSHOT_ROWS_AT_MOST + 1
    assert modes(found) == [("increasing", "id"), ("snapshot", None)]
    assert found.settings["append_only"] is True
    assert "poll_every" not in found.settings


def test_a_snapshot_is_polled_by_the_minute(db: SourceDb) -> None:
    found = look_at(db, "create table orders (a int, b int, primary key (a, b)) without rowid")
    assert found.settings == {"table": "orders", "key": ["a", "b"], "mode": "snapshot", "poll_every": "1m"}


def test_a_time_of_creation_finds_new_rows_only(db: SourceDb) -> None:
    found = look_at(db, "create table orders (code text primary key not null, created_at datetime, due datetime)")
    assert modes(found) == [("snapshot", None), ("increasing", "created_at")]
    assert found.candidates[1].finds_changes is False


KEYS = [
    ("create table orders (b text primary key, a int)", ("b",), "primary key"),
    ("create table orders (a int, b int, primary key (b, a))", ("b", "a"), "primary key"),
    ("create table orders (a int not null, b int not null unique, unique (a, b))", ("b",), "unique index"),
    ("create table orders (a int unique, b int)", (), ""),
    ("create table orders (a int)", (), ""),
]


@pytest.mark.parametrize(("statement", "key", "origin"), KEYS)
def test_the_key_is_the_primary_key_or_a_unique_index_without_gaps(
    db: SourceDb, statement: str, key: tuple[str, ...], origin: str
) -> None:
    found = look_at(db, statement)
    assert (found.key, found.key_origin) == (key, origin)
    assert ("key" in found.settings) == bool(key)
    assert any("no key" in line for line in found.advice) == (not key)


def test_a_view_takes_the_key_that_is_named(db: SourceDb) -> None:
    db.create_orders(3)
    db.execute("create view cheap as select * from orders where amount < 3")
    assert survey(db, "cheap").tables[0].key == ()
    found = survey(db, "cheap", ("ID",)).tables[0]
    assert (found.is_view, found.rows, found.key) == (True, 2, ("id",))
    with pytest.raises(UsageError, match="--key idd is no column") as caught:
        survey(db, "cheap", ("idd",))
    assert caught.value.why == "did you mean id?"


def test_all_tables_are_listed_and_a_broken_view_stops_none(db: SourceDb) -> None:
    db.create_orders(2)
    db.execute('create table "order lines" (id integer primary key)')
    db.execute("create table gone (id integer)")
    db.execute("create view broken as select * from gone")
    db.execute("drop table gone")
    found = survey(db)
    assert [each.table for each in found.tables] == ["[order lines]", "orders"]
    assert [line.partition(":")[0] for line in found.unknown] == ["the view broken"]


def test_a_name_is_found_in_any_case_and_a_slip_is_understood(db: SourceDb) -> None:
    db.create_orders()
    db.execute('create table "order lines" (id integer primary key)')
    assert survey(db, "ORDERS").tables[0].table == "orders"
    assert survey(db, "[order lines]").tables[0].table == "[order lines]"
    with pytest.raises(UsageError, match="no table ordrs") as caught:
        survey(db, "ordrs")
    assert caught.value.why.startswith("did you mean orders")
    with pytest.raises(UsageError, match="no table a]"):
        survey(db, "a]")
    with pytest.raises(ConfigurationError, match="another database"):
        survey(db, "erp.main.orders")


def test_a_source_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot open"):
        survey_source(Source(name="default", url=f"sqlite:///{tmp_path / 'none.db'}"))
    (tmp_path / "text.db").write_text("this is no database at all, whatever its name may say " * 20)
    with pytest.raises(SourceError, match="catalog"):
        survey_source(Source(name="default", url=f"sqlite:///{tmp_path / 'text.db'}"))


READABLE = [
    "create table orders (id integer primary key, note text, updated_at datetime not null)",
    "create table orders (id integer primary key, note text, updated_on date not null)",
    "create table orders (id integer primary key, note text)",
    "create table orders (code text not null unique, note text)",
]


@pytest.mark.parametrize("statement", READABLE)
def test_every_candidate_is_a_stream_that_can_be_read(db: SourceDb, statement: str) -> None:
    found = look_at(db, statement)
    names = [each.name for each in found.columns]
    db.execute(
        f"insert into orders values ({', '.join('?' * len(names))})",  # noqa: S608
        [{"id": 1, "updated_at": "2026-01-31 08:00:00", "updated_on": "2026-01-31"}.get(name, "x") for name in names],
    )
    for candidate in found.candidates:
        stream = make_stream(table=found.table, key=found.key, mode=candidate.mode, cursor=candidate.cursor)
        with open_reader(Source(name="default", url=db.url), stream) as reader:
            assert reader.mode == candidate.mode
            rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
        assert [row.payload for row in rows] != []


# SQL Server's catalog views, as tables of an attached database called sys. What they hold is after Microsoft's
# documents; the statements that read them are the real ones.
SYS = """
create table sys.schemas (schema_id, name);
create table sys.objects (object_id, schema_id, name, type, is_ms_shipped);
create table sys.types (user_type_id, system_type_id, name);
create table sys.columns (object_id, column_id, name, user_type_id, system_type_id, max_length, precision, scale,
    is_nullable, collation_name);
create table sys.indexes (object_id, index_id, type, is_unique, is_primary_key, is_disabled, is_hypothetical,
    has_filter);
create table sys.index_columns (object_id, index_id, column_id, key_ordinal);
create table sys.identity_columns (object_id, name, increment_value);
create table sys.partitions (object_id, index_id, rows);
create table sys.change_tracking_tables (object_id);
create table sys.change_tracking_databases (database_id);
insert into sys.schemas values (1, 'dbo'), (2, 'sales');
insert into sys.types values (56, 56, 'int'), (189, 189, 'timestamp'), (231, 231, 'nvarchar'), (106, 106, 'decimal'),
    (42, 42, 'datetime2'), (98, 98, 'sql_variant'), (128, 240, 'hierarchyid'), (300, 231, 'phone');
"""
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
        self.connection.exec_driver_sql(f"insert into sys.{view} values ({marks})", values)  # noqa: S608

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

    def look(self, number: int | None = None) -> tuple[list[FoundTable], list[str]]:
        # A denied question is followed by a rollback.
        self.connection.commit()
        catalog, unknown = SqlServerCatalog(), list[str]()
        names = [each for each in catalog.list_names(self.connection) if number in (None, each.number)]
        return catalog.look(self.connection, SqlServerFlavour(), names, unknown), unknown


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
    assert [(each.name, each.type, each.nullable) for each in table.columns] == [
        ("id", "int", False),
        ("note", "nvarchar(50)", True),
        ("rv", "rowversion", False),
    ]
    assert any("CREATE INDEX ix_orders_rv ON dbo.orders (rv)" in line for line in table.advice)
    server.add_index(1, 3, [3])
    assert propose_stream(server.look(1)[0][0]).candidates[0].indexed is True


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


def test_tracking_of_a_table_alone_is_none(server: StandIn) -> None:
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
def test_what_the_login_may_not_ask_is_unknown(server: StandIn, view: str, line: str) -> None:
    deny(server, view, lambda name: Exception("42000", f"no right to {name}"))
    ((found,), unknown) = server.look()
    assert modes(propose_stream(found))[0] == ("rowversion", "rv")
    assert unknown == [f"{line}: this login may not ask"]
    assert (found.rows is None) == (view == "sys.partitions")


def test_a_connection_that_is_cut_is_no_missing_right(server: StandIn) -> None:
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
    assert table.remarks["exclude"] == "hierarchyid, sql_variant: no form in JSON"


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
    assert [each.indexed for each in table.candidates if each.cursor == "id"] == [False]


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
    assert declare(*given) == text
