"""Pages over real SQLite files: every row once, in order, whatever the page size and the ties."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mssql

from syncctl.core.rows import Cursor, Page
from syncctl.core.stream import Child, Mode
from syncctl.errors import ConfigurationError, SourceError, SourceRestored
from syncctl.sources.catalog.relation import Column, Kind, Relation
from syncctl.sources.cursor import Position
from syncctl.sources.layout import decide_layout
from syncctl.sources.reader import StreamReader
from syncctl.sources.sqlite import SqliteDialect
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import list_ids, open_stream, read


@pytest.fixture(scope="module")
def shared_db(tmp_path_factory: pytest.TempPathFactory) -> SourceDb:
    return SourceDb(tmp_path_factory.mktemp("paging") / "source.db")


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    return SourceDb(tmp_path / "source.db")


CURSORS = st.sampled_from([0, 0.5, -1e300, 2**62, "", "ä", "\U0001f600"]) | st.just(0)
PARTS = st.sampled_from([None, 0, 1, 1.5, "x", "y", b"", b"\x00"]) | st.none()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CURSORS, PARTS, PARTS), max_size=25, unique=True),
    page_size=st.integers(1, 4) | st.integers(1, 27),
)
@example(rows=[(0, None, 1), (0, None, 2), (0, None, 3)], page_size=1)
def test_any_page_size_returns_every_row_once_and_in_order(
    shared_db: SourceDb, rows: list[tuple[object, object, object]], page_size: int
) -> None:
    shared_db.execute("drop table if exists ties")
    shared_db.execute("create table ties (at, a, b, n integer)")
    shared_db.execute_many("insert into ties values (?, ?, ?, ?)", [(*row, n) for n, row in enumerate(rows)])
    found, cursor = read(shared_db, table="ties", cursor="at", mode="increasing", key=("a", "b"), page_size=page_size)
    expected = [n for (n,) in shared_db.execute("select n from ties order by at, a, b")]
    assert [row.payload["n"] for row in found if row.payload is not None] == expected
    again, after = read(
        shared_db, cursor, table="ties", cursor="at", mode="increasing", key=("a", "b"), page_size=page_size
    )
    assert (again, after) == ([], cursor)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(st.integers(0, 20), min_size=1, max_size=20),
    late=st.lists(st.integers(0, 25), max_size=10),
    page_size=st.integers(1, 12),
    lookback=st.integers(0, 12),
)
def test_a_lookback_finds_what_was_committed_late_and_the_cursor_never_moves_back(
    shared_db: SourceDb, times: list[int], late: list[int], page_size: int, lookback: int
) -> None:
    shared_db.execute("drop table if exists late")
    shared_db.execute("create table late (id integer primary key, at text)")

    def insert(seconds: list[int]) -> None:
        shared_db.execute_many(
            "insert into late (at) values (?)", [(f"2026-01-01 00:00:{second:02}.1234567",) for second in seconds]
        )

    stream = {"table": "late", "cursor": "at", "page_size": page_size, "lookback_seconds": lookback}
    insert(times)
    first, cursor = read(shared_db, **stream)
    assert len(first) == len(times)
    insert(late)
    reached = str(cursor["at"])
    with open_stream(shared_db, **stream) as reader:
        pages = list(reader.pages(cursor))
    seen = [cursor, *(page.cursor for page in pages)]
    for before, after in pairwise(seen):
        assert (before["at"], int(before["key"][0][4:])) <= (after["at"], int(after["key"][0][4:]))
    found = {row.key["id"] for page in pages for row in page.rows}
    window = f"2026-01-01 00:00:{max(times):02}.1234567"
    assert window == reached
    must = {
        len(times) + 1 + n
        for n, each in enumerate(late)
        if each >= max(times) - lookback and (lookback or each >= max(times))
    }
    assert must <= found
    everything, _ = read(shared_db, seen[-1], **{**stream, "lookback_seconds": 0})
    assert everything == []


def test_without_lookback_a_poll_reads_nothing_again(db: SourceDb) -> None:
    db.create_orders(10)
    _, cursor = read(db, page_size=3)
    assert read(db, cursor, page_size=3) == ([], cursor)
    db.add_orders([11, 12])
    assert list_ids(read(db, cursor, page_size=3)[0]) == [11, 12]


def test_rows_inserted_between_pages_are_read_in_the_same_poll(db: SourceDb) -> None:
    db.create_orders(4)
    with open_stream(db, page_size=2) as reader:
        pages = reader.pages(reader.start_cursor())
        first = next(pages)
        db.add_orders([5, 6])
        assert list_ids(first.rows) == [1, 2]
        assert [list_ids(page.rows) for page in pages] == [[3, 4], [5, 6]]


def test_a_reader_keeps_no_transaction_open_between_pages(db: SourceDb) -> None:
    db.execute("pragma journal_mode = delete")
    db.create_orders(4)
    with open_stream(db, page_size=2) as reader:
        pages = reader.pages(reader.start_cursor())
        next(pages)
        db.add_orders([9])
        db.execute("drop table orders")
        with pytest.raises(SourceError, match="no such table"):
            next(pages)


def test_an_empty_table_gives_no_page(db: SourceDb) -> None:
    db.create_orders()
    with open_stream(db) as reader:
        assert list(reader.pages(reader.start_cursor())) == []
        assert reader.first_row() is None


def test_now_skips_what_is_there_and_nothing_else(db: SourceDb) -> None:
    db.execute("create table events (id text primary key, at text)")
    db.execute_many("insert into events values (?, ?)", [("b", "2026-01-01 00:00:05"), ("a", "2026-01-01 00:00:04")])
    stream = {"table": "events", "cursor": "at", "start": "now", "lookback_seconds": 3600.0}
    rows, cursor = read(db, **stream)
    assert rows == []
    # The same second, and behind by its key.
    db.execute("insert into events values ('c', '2026-01-01 00:00:05')")
    found, cursor = read(db, cursor, **stream)
    assert list_ids(found) == ["c"]
    # A lookback never reaches before the start.
    assert list_ids(read(db, cursor, **stream)[0]) == ["c"]


def test_now_on_an_empty_table_reads_all_that_comes(db: SourceDb) -> None:
    db.create_orders()
    _, cursor = read(db, start="now")
    db.add_orders([1])
    assert list_ids(read(db, cursor, start="now")[0]) == [1]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2026-01-01 00:00:02", ["b", "c"]),
        ("2026-01-01T00:00:02", ["b", "c"]),
        ("2026-01-01", ["a", "b", "c"]),
        ("2026-01-01 00:00:02.1", ["c"]),
    ],
)
def test_a_start_at_a_value_includes_it_and_nothing_before(db: SourceDb, start: str, expected: list[str]) -> None:
    db.execute("create table events (id text primary key, at datetime)")
    db.execute_many(
        "insert into events values (?, ?)", [(k, f"2026-01-01 00:00:0{n + 1}") for n, k in enumerate("abc")]
    )
    stream = {"table": "events", "cursor": "at", "start": start, "lookback_seconds": 3600.0}
    rows, cursor = read(db, **stream)
    assert list_ids(rows) == expected
    assert list_ids(read(db, cursor, **stream)[0]) == expected


def test_a_start_at_a_number_includes_it(db: SourceDb) -> None:
    db.create_orders(5)
    assert list_ids(read(db, start="4")[0]) == [4, 5]


def test_an_integer_cursor_ignores_the_lookback(db: SourceDb) -> None:
    db.create_orders(5)
    _, cursor = read(db, lookback_seconds=300.0)
    assert read(db, cursor, lookback_seconds=300.0) == ([], cursor)


def test_a_writer_at_work_neither_stops_the_reader_nor_is_stopped(db: SourceDb) -> None:
    db.create_orders(20)
    with db._connect() as writer:
        writer.execute("insert into orders (id) values (21)")
        assert len(read(db, page_size=3)[0]) == 20
        writer.commit()
    writer.close()
    assert len(read(db)[0]) == 21


def test_a_key_that_does_not_tell_rows_apart_is_refused_at_any_page_size(db: SourceDb) -> None:
    db.execute("create table doubled (at integer, id integer)")
    db.execute_many("insert into doubled values (?, ?)", [(1, 1), (2, 7), (2, 7), (3, 1)])
    for page_size in (1, 2, 3, 4):
        with pytest.raises(SourceError) as caught:
            read(db, table="doubled", cursor="at", mode="increasing", key=("id",), page_size=page_size)
        assert "id=7" in caught.value.why
        assert "streams.orders.key" in caught.value.hint


@pytest.mark.parametrize("table", ["codes", "codes_view"])
@pytest.mark.parametrize(("mode", "cursor"), [("snapshot", None), ("increasing", "at")])
def test_no_row_is_passed_over_whose_key_the_database_holds_for_equal_to_another(
    db: SourceDb, table: str, mode: Mode, cursor: str | None
) -> None:
    """A page that ended after `A` had no next page with `a`, which does not come after it."""
    codes = ["A", "a", "b", "B", "b ", "c", "C"]
    db.execute("create table codes (code text collate nocase, at integer)")
    db.execute_many("insert into codes values (?, 7)", [(code,) for code in codes])
    db.execute("create view codes_view as select * from codes")
    for page_size in range(1, 8):
        with open_stream(db, table=table, key=("code",), mode=mode, cursor=cursor, page_size=page_size) as reader:
            rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
        assert sorted(str(row.key["code"]) for row in rows) == sorted(codes)


def test_a_page_is_one_statement_where_its_last_row_cannot_be_equal_to_the_next(db: SourceDb) -> None:
    """Most streams have another cursor value in each row."""
    db.execute("create table codes (code text collate nocase, at integer)")
    db.execute_many("insert into codes values ('x', ?)", [(number,) for number in range(1, 6)])
    asked: list[str] = []
    with open_stream(db, table="codes", key=("code",), mode="increasing", cursor="at", page_size=1) as reader:
        engine = reader._opened.source.engine
        sa.event.listen(engine, "before_cursor_execute", lambda _, __, text, *___: asked.append(text))
        assert len([row for page in reader.pages(reader.start_cursor()) for row in page.rows]) == 5
    assert all("ORDER BY" in text for text in asked if "codes" in text)


def test_children_go_with_rows_whose_keys_the_database_holds_for_equal(db: SourceDb) -> None:
    db.execute("create table codes (code text collate nocase)")
    db.execute("create table parts (code text, part integer primary key)")
    db.execute_many("insert into codes values (?)", [("A",), ("a",)])
    db.execute_many("insert into parts values (?, ?)", [("A", 1), ("a", 2)])
    child = Child(name="parts", table="parts", on=(("code", "code"),), sort=("part",))
    settings: dict[str, Any] = {"table": "codes", "key": ("code",), "mode": "snapshot", "children": (child,)}
    with open_stream(db, **settings, page_size=1) as reader:
        rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
    assert {row.key["code"]: row.payload and row.payload["parts"] for row in rows} == {
        "A": [{"part": 1}],
        "a": [{"part": 2}],
    }


@pytest.mark.parametrize("unreadable", ["A", "a"])
@pytest.mark.parametrize("page_size", [1, 2, 3])
def test_no_row_is_passed_over_if_one_of_the_rows_with_equal_keys_cannot_be_read(
    db: SourceDb, page_size: int, unreadable: str
) -> None:
    """The database finds them together, and so names none of them as the one that it could not read."""
    db.execute("create table codes (code text collate nocase, note text)")
    db.execute_many("insert into codes values (?, 'x')", [(code,) for code in ("0", "A", "a", "b")])
    db.execute("update codes set note = cast(x'ff' as text) where code = ? collate binary", [unreadable])
    with open_stream(db, table="codes", key=("code",), mode="snapshot", page_size=page_size) as reader:
        rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
    assert {row.key["code"] for row in rows} == {"0", "A", "a", "b"}
    assert unreadable in {row.key["code"] for row in rows if row.error}


def test_a_key_that_comes_twice_is_refused_also_beside_another_spelling_of_it(db: SourceDb) -> None:
    db.execute("create table codes (code text collate nocase)")
    db.execute_many("insert into codes values (?)", [("A",), ("a",), ("A",)])
    with pytest.raises(SourceError, match="cannot be read without losing rows"):
        read(db, table="codes", key=("code",), mode="snapshot", page_size=1)


def test_a_query_is_paged_like_a_table(db: SourceDb) -> None:
    db.create_orders(7)
    query = "with big as (select * from orders where id > 2) select id as n, customer || ':x' as who from big; "
    rows, cursor = read(db, query=query, key=("n",), cursor="n", mode="increasing", page_size=2)
    assert [row.payload for row in rows] == [{"n": n, "who": f"customer {n}:x"} for n in range(3, 8)]
    db.add_orders([8])
    assert len(read(db, cursor, query=query, key=("n",), cursor="n", mode="increasing")[0]) == 1


class Ceilings:
    """The lowest version that an open transaction may have given out, as a test wants it."""

    def __init__(self, *versions: int) -> None:
        self.versions = list(versions)

    def __call__(self, _: object) -> bytes:
        return (self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]).to_bytes(8, "big")


def open_versions(db: SourceDb, ceiling: Ceilings, **settings: Any) -> StreamReader:
    stream = make_stream(table="versions", mode="rowversion", cursor="rv", **settings)
    return StreamReader(make_source(db.url), stream, read_ceiling=ceiling)


def add_versions(db: SourceDb, *versions: tuple[int, int]) -> None:
    db.execute("create table if not exists versions (id integer primary key, name text, rv blob)")
    db.execute_many(
        "insert or replace into versions values (?, 'x', ?)", [(id_, rv.to_bytes(8, "big")) for id_, rv in versions]
    )


def drain(reader: StreamReader, cursor: Cursor) -> list[Page]:
    return list(reader.pages(cursor))


def test_rowversions_are_read_up_to_the_ceiling_of_each_page(db: SourceDb) -> None:
    add_versions(db, (1, 10), (2, 20), (3, 30), (4, 40))
    with open_versions(db, Ceilings(20, 40, 40), page_size=1) as reader:
        pages = drain(reader, reader.start_cursor())
        assert [list_ids(page.rows) for page in pages] == [[1]]
        more = drain(reader, pages[-1].cursor)
    assert [list_ids(page.rows) for page in more] == [[2], [3]]
    row = more[-1].rows[0]
    assert row.version == row.at == more[-1].cursor["at"] == "0x000000000000001e"
    # The version is not content: a touch that changes nothing is not a change.
    assert row.payload == {"id": 3, "name": "x"}


def test_rows_of_one_rowversion_are_told_apart_by_their_key(db: SourceDb) -> None:
    add_versions(db, (1, 10), (2, 10), (3, 10))
    with open_versions(db, Ceilings(11), page_size=1) as reader:
        assert [list_ids(page.rows) for page in drain(reader, reader.start_cursor())] == [[1], [2], [3]]


def test_a_ceiling_below_the_cursor_means_restored(db: SourceDb) -> None:
    add_versions(db, (1, 10))
    ceiling = Ceilings(11)
    with open_versions(db, ceiling) as reader:
        cursor = drain(reader, reader.start_cursor())[-1].cursor
        assert drain(reader, cursor) == []
        for restored in (10, 9, 0):
            ceiling.versions = [restored]
            with pytest.raises(SourceRestored) as caught:
                drain(reader, cursor)
            assert "0x000000000000000a" in caught.value.why


def test_a_read_only_copy_is_refused_in_mode_rowversion(db: SourceDb, monkeypatch: pytest.MonkeyPatch) -> None:
    add_versions(db, (1, 10))
    with open_versions(db, Ceilings(11)) as reader:
        cursor = reader.start_cursor()
        monkeypatch.setattr(SqliteDialect, "is_read_only_copy", lambda *_: True)
        for ask in (lambda: drain(reader, cursor), reader.ceiling, lambda: reader.parse_cursor("now")):
            with pytest.raises(ConfigurationError) as caught:
                ask()
            assert "transactions are open on the primary" in caught.value.why
            assert "ApplicationIntent=ReadOnly" in caught.value.hint


def test_a_table_of_another_database_has_no_ceiling_here(db: SourceDb) -> None:
    with pytest.raises(ConfigurationError) as caught:
        decide_layout(
            make_stream(table="erp.dbo.versions", mode="rowversion", cursor="rv", key=("rv",)),
            Relation(title="table", clause=sa.table("versions"), columns=(Column(name="rv", kind=Kind.ROWVERSION),)),
            has_rowversions=True,
        )
    assert "answers for the database of the connection" in caught.value.why


def test_now_in_mode_rowversion_is_the_ceiling(db: SourceDb) -> None:
    add_versions(db, (1, 10), (2, 12))
    with open_versions(db, Ceilings(12, 12, 15), start="now") as reader:
        cursor = reader.start_cursor()
        assert drain(reader, cursor) == []
        assert [list_ids(page.rows) for page in drain(reader, cursor)] == [[2]]
        assert reader.ceiling() == "0x000000000000000f"


def test_a_start_at_a_rowversion_includes_it(db: SourceDb) -> None:
    add_versions(db, (1, 10), (2, 12))
    with open_versions(db, Ceilings(15), start="0xc") as reader:
        assert [list_ids(page.rows) for page in drain(reader, reader.start_cursor())] == [[2]]


def test_a_scan_from_the_beginning_sends_sql_server_no_bare_true(db: SourceDb) -> None:
    """The dialect renders a condition that is always true as `CASE WHEN 1 THEN`."""
    db.execute("create table strictly (id integer not null primary key)")
    with open_stream(db, table="strictly", mode="increasing", cursor="id") as opened:
        assert isinstance(opened, StreamReader)
        pages = opened._opened.pages
        text = str(pages.select(pages.shown, [], 5, Position()).compile(dialect=mssql.dialect()))  # type: ignore[no-untyped-call]
    assert "CASE" not in text


def test_an_identity_that_counts_down_is_refused(db: SourceDb) -> None:
    down = Column(name="id", kind=Kind.INTEGER, nullable=False, seed=-1, increment=-1)
    relation = Relation(title="table", clause=sa.table("orders"), columns=(down,), primary_key=("id",))
    with pytest.raises(ConfigurationError) as caught:
        decide_layout(make_stream(), relation, has_rowversions=False)
    assert "counts down" in caught.value.why
