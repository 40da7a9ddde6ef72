"""A live TDS server: the one that SYNCCTL_TEST_MSSQL_URL names; the login must be allowed to create tables."""

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from syncctl.sources.engines import open_source
from tests.harness.cases import make_source

VARIABLE = "SYNCCTL_TEST_MSSQL_URL"


class MssqlDb:
    """Tables with unique names in a database that others may use; dropped at the end."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._tables: list[str] = []

    def create(self, columns: str) -> str:
        """Create a table and return its name."""
        name = f"syncctl_{uuid.uuid4().hex[:12]}"
        self.execute(f"create table {name} ({columns})")
        self._tables.append(name)
        return name

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run one statement in a transaction of its own."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql(sql, tuple(values))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Sequence[Any]:
        """Return the rows of a query."""
        with self._engine.connect() as connection:
            return connection.exec_driver_sql(sql, tuple(values)).all()

    def drop_all(self) -> None:
        """Drop the tables that were made."""
        while self._tables:
            self.execute(f"drop table {self._tables.pop()}")


@pytest.fixture(scope="session")
def mssql_url() -> str:
    """The URL of the live server; without one the test is skipped, and says so."""
    url = os.environ.get(VARIABLE, "")
    if not url:
        pytest.skip(f"{VARIABLE} is not set: nothing was tested against a live SQL Server (docs/testing.md)")
    return url


@pytest.fixture
def mssql_db(mssql_url: str) -> Iterator[MssqlDb]:
    """A place for tables on the live server."""
    engine = open_source(make_source(mssql_url)).engine
    db = MssqlDb(engine)
    try:
        yield db
    finally:
        db.drop_all()
        engine.dispose()
