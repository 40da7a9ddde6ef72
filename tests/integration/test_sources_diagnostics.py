"""What a source tells of itself: SQLite's own answers, and SQL Server's driver where the server refuses one."""

from pathlib import Path

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.sources.diagnostics import Unseen, is_sqlite, open_health, open_sql_server
from syncctl.sources.diagnostics.sqlite import SqliteHealth
from syncctl.sources.diagnostics.sqlserver import SqlServerHealth
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb
from tests.harness.tds_server import Refusal, needs_driver, tds_server


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    db = SourceDb(tmp_path / "source.db")
    db.create_orders(3)
    return db


def ask_sqlite(db: SourceDb) -> SqliteHealth:
    health = open_health(make_source(db.url))
    assert isinstance(health, SqliteHealth)
    return health


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
    with ask_sqlite(db) as health:
        server = health.read_server()
    assert server.title.startswith("SQLite 3.")
    assert (server.driver, server.is_old) == ("sqlite3", False)


def test_an_index_is_found_by_its_first_column_and_only_over_all_rows(db: SourceDb) -> None:
    stream = make_stream()
    with ask_sqlite(db) as health:
        assert health.read_index(stream, "id", ()).is_served
        found = health.read_index(stream, "updated_at", ("id",))
        assert (found.is_served, found.rows) == (False, 3)
        db.execute("create index half on orders (updated_at) where id > 1")
        db.execute("create index second on orders (customer, updated_at)")
        assert not health.read_index(stream, "updated_at", ("id",)).is_served
        db.execute(found.create)
        assert health.read_index(stream, "updated_at", ("id",)).is_served


def test_a_view_and_a_query_tell_no_index(db: SourceDb) -> None:
    db.execute("create view order_view as select * from orders")
    with ask_sqlite(db) as health:
        assert health.read_index(make_stream(table="order_view", key=("id",)), "id", ()).is_served is None
        query = make_stream(table=None, query="select id from orders", key=("id",))
        assert health.read_index(query, "id", ()).is_served is None


def open_refusing(port: int) -> SqlServerHealth:
    url = f"Server=127.0.0.1,{port};Database=erp;Uid=reader;Pwd=canary-1;Encrypt=no"
    source = make_source(url, login_timeout_seconds=5.0, query_timeout_seconds=5.0)
    health = open_sql_server(source)
    # What SQLAlchemy asks a new connection would be refused, too.
    health._opened.engine.dialect.initialize = lambda _: None  # type: ignore[assignment, method-assign]
    return health


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
def test_what_a_login_may_not_see_is_told_with_its_right_and_is_no_error(refusal: Refusal, grant: str) -> None:
    with tds_server(refusal) as port, open_refusing(port) as health:
        link = health.read_link()
    assert isinstance(link.is_encrypted, Unseen)
    assert link.is_encrypted.grant == grant
    assert refusal.message.rstrip(".") in link.is_encrypted.why
    assert link.asked.is_asked is False


@needs_driver
@pytest.mark.timeout(60)
def test_a_server_that_is_away_for_a_moment_is_not_taken_for_a_missing_right() -> None:
    refusal = Refusal(number=40501, message="The service is currently busy.")
    with tds_server(refusal) as port, open_refusing(port) as health, pytest.raises(ServiceUnavailable):
        health.read_link()
