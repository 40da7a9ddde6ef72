"""Gaps of an identity on a live server: open transactions, and rows that do not belong to the stream."""

from typing import Any

import pytest
import sqlalchemy as sa

from syncctl.core.gaps import read_memory
from syncctl.core.stream import Stream
from syncctl.errors import SourceRestored
from syncctl.sources.engines import open_source
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream


def make_rows_stream(table: str, **changes: Any) -> Stream:
    return make_stream(table=table, mode="increasing", key=("id",), cursor="id", **changes)


def insert(connection: sa.Connection, table: str, *regions: str) -> None:
    for region in regions:
        connection.exec_driver_sql(f"insert into {table} (region) values (?)", (region,))  # noqa: S608


def gaps(cursor: Any) -> list[tuple[int, int]]:
    return [(gap.first, gap.last) for gap in read_memory(cursor).gaps]


def test_a_table_that_was_emptied_and_numbered_anew_stops_its_stream(mssql_url: str, mssql_db: Any) -> None:
    table = mssql_db.create("id bigint identity(1,1) primary key, region nvarchar(10)")
    source = make_source(mssql_url)
    engine = open_source(source).engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as writer, StreamReader(source, make_rows_stream(table)) as reader:
        insert(writer, table, *["EU"] * 5)
        writer.commit()
        cursor = list(reader.pages(reader.start_cursor()))[-1].cursor
        assert list(reader.pages(cursor)) == []
        writer.exec_driver_sql(f"truncate table {table}")
        insert(writer, table, "US")
        writer.commit()
        with pytest.raises(SourceRestored):
            list(reader.pages(cursor))
    engine.dispose()


def test_only_numbers_that_no_row_has_are_waited_for(mssql_url: str, mssql_db: Any) -> None:
    table = mssql_db.create("id bigint identity(1,1) primary key, region nvarchar(10)")
    source = make_source(mssql_url)
    engine = open_source(source).engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as late, engine.connect() as other:
        insert(other, table, "EU", "US", "EU")
        other.commit()
        insert(late, table, "EU", "EU")
        insert(other, table, "US", "EU", "US", "EU")
        other.commit()
        with (
            StreamReader(source, make_stream(table, where="region = 'EU'", page_size=2)) as reader,
            StreamReader(source, make_stream(table, where="region = 'EU'", start="now")) as later,
        ):
            pages = list(reader.pages(reader.start_cursor()))
            started = later.start_cursor()
            assert gaps(pages[-1].cursor) == gaps(started) == [(4, 5)]
            late.commit()
            assert [row.key["id"] for page in pages for row in page.rows] == [1, 3, 7, 9]
            assert [row.key["id"] for page in reader.pages(pages[-1].cursor) for row in page.rows] == [4, 5]
            assert [row.key["id"] for page in later.pages(started) for row in page.rows] == [4, 5]
    engine.dispose()
