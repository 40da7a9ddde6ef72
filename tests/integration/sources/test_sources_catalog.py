"""The proposals of an inspection for real SQLite files: the key, the safest mode, the settings."""

from pathlib import Path

import pytest

from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, UsageError
from syncctl.sources.catalog.inspection import Inspection, inspect_source
from syncctl.sources.catalog.proposal import SNAPSHOT_ROWS_AT_MOST, InspectedTable
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    return SourceDb(tmp_path / "source.db")


def inspect(db: SourceDb, table: str | None = None, key: tuple[str, ...] = ()) -> Inspection:
    return inspect_source(make_source(db.url), table, key)


def look_at(db: SourceDb, *statements: str, table: str = "orders", key: tuple[str, ...] = ()) -> InspectedTable:
    for statement in statements:
        db.execute(statement)
    return inspect(db, table, key).tables[0]


def modes(table: InspectedTable) -> list[tuple[str, str | None]]:
    return [(candidate.mode, candidate.cursor) for candidate in table.candidates]


def test_a_time_that_changes_set_goes_first_and_says_whether_an_index_serves_it(db: SourceDb) -> None:
    found = look_at(db, "create table orders (id integer primary key, note text, updated_at datetime not null)")
    assert (found.key, found.key_origin) == (("id",), "primary key")
    assert modes(found) == [("increasing", "updated_at"), ("snapshot", None), ("increasing", "id")]
    assert [candidate.indexed for candidate in found.candidates] == [False, None, True]
    assert found.settings == {"table": "orders", "key": ["id"], "mode": "increasing", "cursor": "updated_at"}
    assert any("CREATE INDEX ix_orders_updated_at ON orders (updated_at)" in line for line in found.advice)
    again = look_at(db, "create index by_time on orders (updated_at, id)")
    assert again.candidates[0].indexed is True
    assert not any("CREATE INDEX" in line for line in again.advice)


def test_a_column_with_a_check_for_json_is_proposed_as_json(db: SourceDb) -> None:
    columns = 'lines text check (json_valid(lines)), "a ""b" text, note text'
    check = 'check ("a ""b" is null or json_valid("a ""b")), check (not json_valid(note))'
    found = look_at(db, f"create table orders (id integer primary key, {columns}, {check})")
    assert found.settings["json"] == ["lines", 'a "b']
    assert "json" not in look_at(db, "create table others (id integer primary key, json text)", table="others").settings


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
    assert modes(found) == [("snapshot", None), ("increasing", "created_at"), ("increasing", "due")]
    assert found.candidates[1].finds_changes is False


def test_a_time_is_known_by_what_sets_it_in_any_language(db: SourceDb) -> None:
    found = look_at(
        db,
        "create table orders (ma text primary key not null, ngay_tao datetime not null default current_timestamp,"
        " ngay_cap_nhat datetime not null default (datetime('now')), ngay_giao date, ghi_chu text)",
        "create trigger cap_nhat after update on orders begin"
        " update orders set [Ngay_Cap_Nhat] = datetime('now') where ma = new.ma; end",
    )
    assert modes(found) == [
        ("increasing", "ngay_cap_nhat"),
        ("snapshot", None),
        ("increasing", "ngay_tao"),
        ("increasing", "ngay_giao"),
    ]
    whys = [candidate.why for candidate in found.candidates]
    assert "the database sets it at each update" in whys[0]
    assert "its default is the current time" in whys[2]
    assert "which the catalog does not tell" in whys[3]
    assert found.settings["cursor"] == "ngay_cap_nhat"


def test_a_trigger_that_only_reads_a_time_says_nothing_of_it(db: SourceDb) -> None:
    found = look_at(
        db,
        "create table orders (ma text primary key not null, gio datetime not null, so int)",
        "create trigger t after update on orders begin update orders set so = 1 where gio = new.gio; end",
        "create trigger u after insert on orders begin update orders set gio = datetime('now'); end",
    )
    assert modes(found) == [("snapshot", None), ("increasing", "gio")]
    (advice,) = found.advice
    assert advice.startswith("if every insert and update sets gio, follow it")
    assert advice.endswith("syncctl inspect orders --cursor gio")


def test_another_column_can_be_followed_than_that_of_the_safest_mode(db: SourceDb) -> None:
    db.execute("create table orders (ma text primary key not null, gio datetime not null, so int)")
    (found,) = inspect_source(make_source(db.url), "orders", cursor="GIO").tables
    assert (found.settings["mode"], found.settings["cursor"]) == ("increasing", "gio")
    assert found.candidates[0].mode == "snapshot"
    with pytest.raises(UsageError, match="orders has no column go that a stream could follow") as caught:
        inspect_source(make_source(db.url), "orders", cursor="go")
    assert caught.value.why == "did you mean gio?"


@pytest.mark.parametrize("name", ["order", "limit", "group", "within", "select", "đơn hàng"])
def test_the_statements_that_are_advised_quote_names(db: SourceDb, name: str) -> None:
    columns = f"id integer primary key, \"{name}\" datetime default (datetime('now'))"
    found = look_at(db, f'create table "{name}" ({columns})', table=f"[{name}]")
    (chosen,) = inspect_source(make_source(db.url), found.table, cursor=name).tables
    (index,) = [line.partition(": ")[2] for line in chosen.advice if "CREATE INDEX" in line]
    db.execute(index)
    assert inspect_source(make_source(db.url), found.table, cursor=name).tables[0].candidates[-1].indexed is True


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
    assert inspect(db, "cheap").tables[0].key == ()
    found = inspect(db, "cheap", ("ID",)).tables[0]
    assert (found.is_view, found.rows, found.key) == (True, 2, ("id",))
    with pytest.raises(UsageError, match="has no column idd for --key") as caught:
        inspect(db, "cheap", ("idd",))
    assert caught.value.why == "did you mean id?"


def test_all_tables_are_listed_and_a_broken_view_stops_none(db: SourceDb) -> None:
    db.create_orders(2)
    db.execute('create table "order lines" (id integer primary key)')
    db.execute("create table gone (id integer)")
    db.execute("create view broken as select * from gone")
    db.execute("drop table gone")
    found = inspect(db)
    assert [table.table for table in found.tables] == ["[order lines]", "orders"]
    assert [line.partition(":")[0] for line in found.unknown] == ["the view broken"]


def test_a_name_is_found_in_any_case_and_a_slip_is_understood(db: SourceDb) -> None:
    db.create_orders()
    db.execute('create table "order lines" (id integer primary key)')
    assert inspect(db, "ORDERS").tables[0].table == "orders"
    assert inspect(db, "[order lines]").tables[0].table == "[order lines]"
    with pytest.raises(UsageError, match="no table ordrs") as caught:
        inspect(db, "ordrs")
    assert caught.value.why.startswith("did you mean orders")
    with pytest.raises(UsageError, match="no table a]"):
        inspect(db, "a]")
    with pytest.raises(ConfigurationError, match="another database"):
        inspect(db, "erp.main.orders")


def test_a_missing_source_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot open"):
        inspect_source(make_source(f"sqlite:///{tmp_path / 'none.db'}"))
    (tmp_path / "text.db").write_text("this is no database at all, whatever its name may say " * 20)
    with pytest.raises(SourceError, match="catalog"):
        inspect_source(make_source(f"sqlite:///{tmp_path / 'text.db'}"))


READABLE = [
    "create table orders (id integer primary key, note text, updated_at datetime not null)",
    "create table orders (id integer primary key, note text, updated_on date not null)",
    "create table orders (id integer primary key, note text)",
    "create table orders (code text not null unique, note text)",
]


@pytest.mark.parametrize("statement", READABLE)
def test_every_candidate_is_a_stream_that_can_be_read(db: SourceDb, statement: str) -> None:
    found = look_at(db, statement)
    names = [column.name for column in found.columns]
    db.execute(
        f"insert into orders values ({', '.join('?' * len(names))})",  # noqa: S608
        [{"id": 1, "updated_at": "2026-01-31 08:00:00", "updated_on": "2026-01-31"}.get(name, "x") for name in names],
    )
    for candidate in found.candidates:
        stream = make_stream(table=found.table, key=found.key, mode=candidate.mode, cursor=candidate.cursor)
        with StreamReader(make_source(db.url), stream) as reader:
            assert reader.mode == candidate.mode
            rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
        assert [row.payload for row in rows] != []
