"""Write-back on a live server: types, a rowversion that moves, triggers, and a row that another session holds."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from syncctl.core.write_backs import WriteBack
from syncctl.sources.engines import open_source
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream

AT = datetime(2026, 7, 1, 22, 30, 15, 123000, tzinfo=UTC)
COLUMNS = (
    "id int primary key, content nvarchar(20), partner_id nvarchar(20), number bigint, sent_at datetime2(3),"
    " old datetime, error varchar(5)"
)
WRITTEN = {
    "partner_id": "remote.id",
    "number": "remote.number",
    "sent_at": "delivered_at",
    "old": "delivered_at",
    "error": "error",
}
VALUES = {"remote.id": "P-1", "remote.number": "42", "delivered_at": AT, "error": "refused"}


def make_reader(url: str, table: str) -> StreamReader:
    return StreamReader(make_source(url), make_stream(table=table, key=("id",), mode="snapshot", write_back=WRITTEN))


def write(reader: StreamReader, *numbers: int) -> list[tuple[int | None, str | None]]:
    rows = [WriteBack(id=str(n), key_id=str(n), key={"id": n}, seq=n, values=VALUES) for n in numbers]
    return [(result.rows, result.error) for result in reader.write_back(rows, lambda _: None)]


def test_values_arrive_in_the_types_of_their_columns(mssql_url: str, mssql_db: Any) -> None:
    table = mssql_db.create(f"{COLUMNS}, version rowversion")
    mssql_db.execute(f"insert into {table} (id, content) values (1, 'a')")  # noqa: S608
    with make_reader(mssql_url, table) as reader:
        before = reader.first_row()
        assert write(reader, 1, 2) == [(1, None), (0, None)]
        after = reader.first_row()
    assert before is not None
    assert after is not None
    assert before.payload != after.payload, "the rowversion has moved"
    assert before.content == after.content
    (row,) = mssql_db.rows(f"select partner_id, number, sent_at, old, error from {table}")  # noqa: S608
    at = AT.replace(tzinfo=None)
    assert tuple(row) == ("P-1", 42, at, at, "refus")


def test_an_error_of_a_trigger_stops_no_other_row(mssql_url: str, mssql_db: Any) -> None:
    table = mssql_db.create(COLUMNS)
    mssql_db.execute(f"insert into {table} (id, content) values (1, 'a'), (2, 'b'), (3, 'c')")  # noqa: S608
    when = f"create trigger {table}_counted on {table} after update as if exists (select 1 from inserted where id = 2)"  # noqa: S608
    mssql_db.execute(f"{when} begin raiserror('row 2 is counted', 16, 1); rollback end")
    with make_reader(mssql_url, table) as reader:
        first, second, third = write(reader, 1, 2, 3)
    assert (first[1], third[1]) == (None, None)
    assert "row 2 is counted" in (second[1] or "")


def test_a_row_that_another_session_holds_is_left_for_later(
    mssql_url: str, mssql_db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.sources.write_back.LOCK_SECONDS", 0.2)
    table = mssql_db.create(COLUMNS)
    mssql_db.execute(f"insert into {table} (id, content) values (1, 'a'), (2, 'b')")  # noqa: S608
    engine = open_source(make_source(mssql_url)).engine
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as other:
        other.execute(sa.text(f"update {table} set content = 'x' where id = 2"))  # noqa: S608
        with make_reader(mssql_url, table) as reader:
            first, second = write(reader, 1, 2)
            reader.try_write_back()
        other.rollback()
    assert first == (1, None)
    assert "another program holds the row" in (second[1] or "")
