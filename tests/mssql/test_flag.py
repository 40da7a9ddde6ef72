"""Mode flag on a live server: an error in a later step of a statement is reported, too."""

from typing import Any

import pytest

from syncctl.core.acknowledgements import Acknowledgement
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream

READ = "update {table} set exported = 1 where id = :id and edition = :edition"


def make_reader(url: str, table: str, statement: str) -> StreamReader:
    stream = make_stream(
        table=table,
        key=("id",),
        mode="flag",
        cursor="edition",
        where="exported = 0",
        acknowledge=statement.format(table=table),
    )
    return StreamReader(make_source(url), stream)


@pytest.mark.parametrize(
    ("statement", "rows", "error"),
    [
        (READ, 1, None),
        ("declare @n int = 1; " + READ, 1, None),
        (READ + "; raiserror('row is being counted', 16, 1)", 0, "row is being counted"),
        ("declare @n int = :id, @e int = :edition; raiserror('no such step', 16, 1)", 0, "no such step"),
    ],
)
def test_every_result_of_a_statement_is_read(
    mssql_url: str, mssql_db: Any, statement: str, rows: int, error: str | None
) -> None:
    table = mssql_db.create("id int primary key, exported int, edition int")
    mssql_db.execute(f"insert into {table} values (1, 0, 5)")  # noqa: S608
    with make_reader(mssql_url, table, statement) as reader:
        (row,) = next(reader.pages(reader.start_cursor())).rows
        (done,) = reader.acknowledge(
            [
                Acknowledgement(
                    id="a", key_id="k", key=row.key, hash="h", version=row.acknowledge or "", ending="delivered"
                )
            ],
            lambda _: None,
        )
    assert (done.rows, error is None) == (rows, done.error is None)
    assert error is None or error in (done.error or "")
    flagged = mssql_db.rows(f"select exported from {table}")[0][0]  # noqa: S608
    assert flagged == (1 if error is None else 0)
