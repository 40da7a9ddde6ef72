"""A query that the server ended as a deadlock victim, or refused because it is busy, is retried."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.errors import ServiceUnavailable, SourceError
from syncctl.sources import statement_retries
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb

DEADLOCK = (
    "40001",
    "[40001] [Microsoft][ODBC Driver 18 for SQL Server]Transaction was deadlocked (1205) (SQLExecDirectW)",
)
DENIED = ("42000", "[42000] [Microsoft][ODBC Driver 18 for SQL Server]Invalid object name 'x'. (208) (SQLExecDirectW)")


class DriverError(Exception):
    """An error of a driver: SQLSTATE and text."""


class Question:
    """Fails with the driver's errors one after the other, and then answers."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = list(errors)
        self.asked = 0

    def __call__(self, connection: sa.Connection) -> str:
        self.asked += 1
        if self.errors:
            raise exc.DBAPIError("select 1", {}, DriverError(*self.errors.pop(0)))
        return str(connection.exec_driver_sql("select 'answer'").scalar_one())


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StreamReader:
    monkeypatch.setattr(statement_retries, "PAUSES_SECONDS", (0.0, 0.0))
    db = SourceDb(tmp_path / "source.db")
    db.create_orders(1)
    return StreamReader(make_source(db.url), make_stream())


def test_a_deadlock_victim_is_retried(reader: StreamReader) -> None:
    question = Question(DEADLOCK, DEADLOCK)
    with reader:
        assert reader._opened.run(question) == "answer"
    assert question.asked == 3


def test_retries_of_a_question_end(reader: StreamReader) -> None:
    question = Question(*[DEADLOCK] * 9)
    with reader, pytest.raises(ServiceUnavailable, match="to resolve a deadlock"):
        reader._opened.run(question)
    assert question.asked == 3


def test_an_error_that_a_retry_does_not_help_is_raised_at_once(reader: StreamReader) -> None:
    question = Question(DENIED)
    with reader, pytest.raises(SourceError):
        reader._opened.run(question)
    assert question.asked == 1
