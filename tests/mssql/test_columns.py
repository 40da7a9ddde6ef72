"""Columns of any name, `columns`, `exclude`, `where` and queries, on a live server."""

import uuid
from typing import Any

import pytest
from sqlalchemy import exc

from syncctl.errors import ConfigurationError, SourceError
from tests.mssql.conftest import MssqlDb
from tests.mssql.test_types import read

NAMES = ("order id", "a]b", 'say "x"', "12:30", ":id", "100%", "what?", "it's", "select", "é", "a.b", "[x")


def quote(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"


@pytest.mark.parametrize("name", NAMES)
def test_columns_may_be_called_anything(mssql_url: str, mssql_db: MssqlDb, name: str) -> None:
    column = quote(name)
    try:
        table = mssql_db.create(f"{column} int not null primary key, note varchar(5)")
    except exc.DBAPIError as error:
        pytest.skip(f"this server has no column {column}: {error.orig}")
    for number in (1, 2, 3):
        mssql_db.execute(f"insert into {table} values ({number}, 'a:{number}')")  # noqa: S608
    query = f"select * from {table}"  # noqa: S608
    for origin in ({"table": table}, {"query": query}):
        stream: dict[str, Any] = {**origin, "key": (name,), "cursor": name, "page_size": 2}
        rows = read(mssql_url, **stream, where=f"{column} > 1 and note <> ':x ? %s' -- :y")
        assert [row.payload for row in rows] == [{name: 2, "note": "a:2"}, {name: 3, "note": "a:3"}]
        assert [row.payload for row in read(mssql_url, **stream, exclude=(name,))] == [
            {"note": f"a:{number}"} for number in (1, 2, 3)
        ]
        assert [row.payload for row in read(mssql_url, **stream, columns=(name.upper(),))] == [
            {name: 1},
            {name: 2},
            {name: 3},
        ]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("select id from {table} order by id", "it has an ORDER BY"),
        ("with x as (select id from {table}) select id from x", "it begins with WITH"),
    ],
)
def test_a_query_that_cannot_be_paged_is_refused_in_clear_words(
    mssql_url: str, mssql_db: MssqlDb, query: str, why: str
) -> None:
    table = mssql_db.create("id int not null primary key")
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.query is") as caught:
        read(mssql_url, query=query.format(table=table))
    assert caught.value.why.startswith(why)


def test_a_query_of_a_missing_table_says_so(mssql_url: str) -> None:
    missing = f"syncctl_{uuid.uuid4().hex[:12]}"
    with pytest.raises(SourceError, match="stream orders cannot be read") as caught:
        read(mssql_url, query=f"select id from {missing}")  # noqa: S608
    assert missing in caught.value.why


def test_a_query_with_top_keeps_its_order_by(mssql_url: str, mssql_db: MssqlDb) -> None:
    table = mssql_db.create("id int not null primary key")
    for number in range(5):
        mssql_db.execute(f"insert into {table} values ({number})")  # noqa: S608
    rows = read(mssql_url, query=f"select top 2 id from {table} order by id desc;", page_size=1)  # noqa: S608
    assert [row.key["id"] for row in rows] == [3, 4]
