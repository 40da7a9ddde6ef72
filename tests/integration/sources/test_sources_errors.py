"""Missing and wrong things in a source: the problem, the reason, and the setting to change."""

import sqlite3
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError, ExitCode, ServiceUnavailable, SourceError, SyncctlError
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream, read


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    db = SourceDb(tmp_path / "source.db")
    db.create_orders(3)
    db.execute("create table loose (id integer, at text)")
    db.execute("create table keyed (branch text, id text, at text, photo blob, primary key (id, branch))")
    db.execute("create view order_view as select * from orders")
    return db


def refuse(db: SourceDb, **settings: Any) -> SyncctlError:
    """Open a stream and read it; return the error that this must raise."""
    with pytest.raises(SyncctlError) as caught:
        read(db, **settings)
    error = caught.value
    assert error.what
    assert error.why
    assert error.hint
    assert not any("\n" in part for part in (error.what, error.why, error.hint))
    return error


def test_a_missing_table_is_reported_with_similar_names(db: SourceDb) -> None:
    error = refuse(db, table="ordes")
    assert isinstance(error, SourceError)
    assert error.why == "there is no table ordes, or its login may not see it"
    assert error.hint == "set streams.orders.table; did you mean orders?"
    assert "did you mean orders?" in refuse(db, table="dbo.orders").hint


def test_names_that_differ_in_case_alone_are_found(db: SourceDb) -> None:
    rows, _ = read(db, table="ORDERS", key=("ID",), cursor="Updated_At")
    assert rows[0].key == {"id": 1}


def test_a_missing_column_is_reported_with_similar_names(db: SourceDb) -> None:
    error = refuse(db, cursor="update_at")
    assert isinstance(error, ConfigurationError)
    assert error.what == "streams.orders.cursor is wrong"
    assert error.why == "table orders has no column update_at"
    assert error.hint == "did you mean updated_at?"
    assert refuse(db, key=("number",)).what == "streams.orders.key is wrong"


def test_a_table_without_a_key_names_the_setting_to_make(db: SourceDb) -> None:
    for settings in ({"table": "loose"}, {"table": "order_view"}, {"query": "select 1 as id"}):
        error = refuse(db, cursor="id", mode="increasing", **settings)
        assert isinstance(error, ConfigurationError)
        assert 'streams.orders.key = ["id"]' in error.hint


def test_a_table_without_an_order_names_the_setting_to_make(db: SourceDb) -> None:
    for settings in ({"table": "keyed"}, {"query": "select 1 as id", "key": ("id",)}):
        error = refuse(db, **settings)
        assert isinstance(error, ConfigurationError)
        assert "streams.orders.cursor" in error.hint


def test_the_key_is_the_primary_key_in_its_own_order(db: SourceDb) -> None:
    with open_stream(db, table="keyed", cursor="at") as reader:
        assert reader.key_columns == ("id", "branch")
        assert reader.mode == "increasing"


@pytest.mark.parametrize(
    ("settings", "what", "why"),
    [
        ({"mode": "rowversion"}, "streams.orders.mode is wrong", "only SQL Server has rowversions"),
        ({"mode": "rowversion", "cursor": "id"}, "streams.orders.mode is wrong", "only SQL Server has rowversions"),
        ({"table": "keyed", "cursor": "photo"}, "streams.orders.cursor is wrong", "photo is a binary column"),
        ({"key": ("id", "id")}, "streams.orders.key is wrong", "it names a column twice"),
        ({"start": "soon"}, "streams.orders.start is wrong", "'soon' is not a number"),
        ({"table": "dbo."}, "streams.orders.table is wrong", "is not a table name"),
        ({"table": "a.b.c.d"}, "streams.orders.table names another server", "one, two or three names"),
        (
            {"query": "select o.id, p.id from orders o join orders p", "key": ("id",)},
            "streams.orders.query is ambiguous",
            "two columns are called id",
        ),
    ],
)
def test_a_wrong_setting_is_named(db: SourceDb, settings: dict[str, Any], what: str, why: str) -> None:
    error = refuse(db, **settings)
    assert isinstance(error, ConfigurationError)
    assert error.exit_code is ExitCode.USAGE
    assert error.what == what
    assert why in error.why


def test_a_wrong_time_as_start_is_named(db: SourceDb) -> None:
    db.execute("create table events (id integer primary key, at datetime)")
    error = refuse(db, table="events", cursor="at", start="soon")
    assert "'soon' is not a time" in error.why


@pytest.mark.parametrize("query", ["select", "select nothing from orders", "delete from orders", "select 1; select 2"])
def test_a_query_that_the_database_refuses_is_an_error_of_the_stream(db: SourceDb, query: str) -> None:
    error = refuse(db, query=query, key=("id",), cursor="id")
    assert isinstance(error, SourceError)
    assert error.what == "stream orders cannot be read"
    assert db.count() == 3


def test_a_cursor_of_another_column_mode_or_key_is_refused(db: SourceDb) -> None:
    _, cursor = read(db)
    by_time = {"cursor": "updated_at"}
    assert "it was read by id (increasing), now updated_at" in _refused_cursor(db, cursor, **by_time).why
    _, cursor = read(db, **by_time)
    assert "its key has another number" in _refused_cursor(db, cursor, key=("id", "customer"), **by_time).why
    assert "not a cursor of this version" in _refused_cursor(db, {**cursor, "kind": "new"}, **by_time).why


def _refused_cursor(db: SourceDb, after: Any, /, **settings: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(db, after, **settings)
    return caught.value


def test_a_missing_file_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(ServiceUnavailable) as caught:
        StreamReader(make_source(f"sqlite:///{path}"), make_stream())
    assert (caught.value.service, caught.value.exit_code) == ("source", ExitCode.UNAVAILABLE)
    assert caught.value.why == "there is no such file"
    assert "SOURCE_URL" in caught.value.hint
    assert not path.exists()


def test_a_file_that_is_not_a_database_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("no database at all, but long enough to look at" * 50)
    with pytest.raises(SourceError) as caught:
        StreamReader(Source(name="erp", url=f"sqlite:///{path}"), make_stream())
    assert "sources.erp.url" in caught.value.hint


def test_a_locked_file_is_given_up_after_the_query_timeout(db: SourceDb) -> None:
    db.execute("pragma journal_mode = delete")
    with closing(sqlite3.connect(db.path)) as writer:
        writer.execute("begin exclusive")
        with pytest.raises(ServiceUnavailable) as caught:
            StreamReader(make_source(db.url, query_timeout_seconds=0.1), make_stream())
    assert caught.value.service == "source"
    assert "100ms" in caught.value.why


def test_a_file_with_odd_characters_in_its_name_is_read(tmp_path: Path) -> None:
    db = SourceDb(tmp_path / "a b#c?d%41ü.db")
    db.create_orders(2)
    url = f"sqlite:///{db.path}".replace("%", "%25").replace("?", "%3F")
    with StreamReader(make_source(url), make_stream()) as reader:
        assert reader.first_row() is not None


def test_a_file_that_disappears_is_not_created_again(db: SourceDb) -> None:
    with open_stream(db) as reader:
        reader.close()
        db.path.unlink()
        with pytest.raises(ServiceUnavailable) as caught:
            reader.first_row()
    assert "SOURCE_URL" in caught.value.hint
    assert not db.path.exists()


def test_no_error_shows_what_a_row_holds_or_a_cursor_was_bound_to(db: SourceDb) -> None:
    db.execute("update orders set customer = 'canary'")
    with open_stream(db, cursor="customer", page_size=1) as reader:
        pages = reader.pages(reader.start_cursor())
        next(pages)
        db.execute("drop view order_view")
        db.execute("drop table orders")
        with pytest.raises(SourceError) as caught:
            next(pages)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
