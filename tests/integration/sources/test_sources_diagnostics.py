"""Diagnostics of a source: SQLite's own answers, and SQL Server's driver if the server refuses one."""

import re
from pathlib import Path

import pytest

from syncctl.doctor.sql_server import check_index, check_sqlite
from syncctl.errors import ServiceUnavailable
from syncctl.sources.catalog.sqlserver_catalog import IS_ENCRYPTED
from syncctl.sources.diagnostics import Diagnostics, Unavailable, is_sqlite
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb
from tests.harness.tds_server import Refusal, needs_driver, tds_server


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    db = SourceDb(tmp_path / "source.db")
    db.create_orders(3)
    return db


def ask_sqlite(db: SourceDb) -> Diagnostics:
    return Diagnostics(make_source(db.url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///a.db", True),
        ("sqlite+pysqlite:///a.db", True),
        ("mssql+pyodbc://h/d", False),
        ("Server=sqlite", False),
    ],
)
def test_the_kind_of_a_source_is_known_from_its_url(url: str, expected: bool) -> None:
    assert is_sqlite(make_source(url)) is expected


def test_sqlite_tells_its_version(db: SourceDb) -> None:
    with ask_sqlite(db) as source:
        found = check_sqlite(source)
    assert found.status == "ok"
    assert re.fullmatch(r"SQLite 3\.[\d.]+; sqlite3", found.detail)


@pytest.mark.parametrize("table", ["orders", "ORDERS", "main.orders", "[orders]"])
def test_an_index_is_found_by_its_first_column_and_only_over_all_rows(db: SourceDb, table: str) -> None:
    stream, by_time = make_stream(table=table), ["updated_at", "id"]
    with ask_sqlite(db) as source:
        assert check_index(source, stream, ["id"]).detail == "an index begins with id"
        assert (
            check_index(source, stream, by_time).detail
            == "no index begins with updated_at; the table is small (3 rows)"
        )
        db.execute("create index half on orders (updated_at) where id > 1")
        db.execute("create index second on orders (customer, updated_at)")
        assert "no index" in check_index(source, stream, by_time).detail
        db.execute("create index first on orders (updated_at, lower(customer))")
        assert check_index(source, stream, by_time).detail == "an index begins with updated_at"


def test_a_large_table_without_an_index_names_the_statement_that_makes_one(db: SourceDb) -> None:
    db.execute('create table "odd:name" ("time of change" text)')
    rows = "with recursive n (i) as (select 1 union all select i + 1 from n where i < 10001) select i from n"
    db.execute(f'insert into "odd:name" {rows}')
    stream = make_stream(table='"odd:name"')
    with ask_sqlite(db) as source:
        found = check_index(source, stream, ["time of change"])
        assert (found.status, "(10,001 rows or more)" in found.detail) == ("warn", True)
        db.execute(found.hint.removeprefix("let an administrator run: "))
        assert check_index(source, stream, ["time of change"]).status == "ok"


def test_a_view_has_no_index_to_report(db: SourceDb) -> None:
    db.execute("create view order_view as select * from orders")
    with ask_sqlite(db) as source:
        found = check_index(source, make_stream(table="order_view", key=("id",)), ["id"])
    assert (found.status, "is not a table, but a view" in found.detail) == ("skip", True)


def open_refusing(port: int) -> Diagnostics:
    url = f"Server=127.0.0.1,{port};Database=erp;Uid=reader;Pwd=canary-1;Encrypt=no"
    source = make_source(url, login_timeout_seconds=5.0, query_timeout_seconds=5.0)
    asked = Diagnostics(source)
    # SQLAlchemy's queries on a new connection would be refused, too.
    asked._source.engine.dialect.initialize = lambda _: None  # type: ignore[assignment, method-assign]
    return asked


@needs_driver
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("refusal", "grant"),
    [
        (
            Refusal(
                number=300, message="VIEW SERVER STATE permission was denied on object 'server', database 'master'."
            ),
            "in master: GRANT VIEW SERVER STATE TO [reader]",
        ),
        (
            Refusal(number=297, message="The user does not have permission to perform this action."),
            "in master: GRANT VIEW SERVER STATE TO [reader]",
        ),
        (
            Refusal(number=262, message="VIEW DATABASE STATE permission denied in database 'erp'."),
            "in erp: GRANT VIEW DATABASE STATE TO [reader]",
        ),
        (Refusal(number=208, message="Invalid object name 'sys.dm_exec_connections'."), ""),
    ],
)
def test_facts_that_a_login_may_not_see_are_reported_with_the_missing_right(refusal: Refusal, grant: str) -> None:
    with tds_server(refusal) as port, open_refusing(port) as source:
        answer = source.try_ask(IS_ENCRYPTED)
        assert source.encryption.is_asked is False
    assert isinstance(answer, Unavailable)
    assert answer.grant == grant
    assert refusal.message.rstrip(".") in answer.why


@needs_driver
@pytest.mark.timeout(60)
def test_a_server_that_is_away_for_a_moment_is_not_taken_for_a_missing_right() -> None:
    refusal = Refusal(number=40501, message="The service is currently busy.")
    with tds_server(refusal) as port, open_refusing(port) as source, pytest.raises(ServiceUnavailable):
        source.try_ask(IS_ENCRYPTED)
