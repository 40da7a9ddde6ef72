"""`syncctl inspect` and the inspection below it, against a live server's catalog."""

import tomllib
from pathlib import Path

from syncctl.settings import load_settings
from syncctl.sources.catalog.inspection import inspect_source
from syncctl.sources.catalog.proposal import InspectedTable
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source
from tests.harness.commands import run_syncctl
from tests.mssql.conftest import MssqlDb

ORDERS = (
    "id int identity(1, 1) primary key, note nvarchar(50) null, total decimal(12, 2) not null,"
    " seen_at datetime2(3) not null, odd sql_variant null, row_version rowversion"
)


def look_at(url: str, table: str) -> InspectedTable:
    return inspect_source(make_source(url), table).tables[0]


def test_a_rowversion_goes_first_and_columns_without_a_form_in_json_are_left_out(
    mssql_url: str, mssql_db: MssqlDb
) -> None:
    name = mssql_db.create(ORDERS)
    found = look_at(mssql_url, name.upper())
    assert found.table.endswith(f".{name}")
    assert (found.key, found.key_origin) == (("id",), "primary key")
    assert [(column.name, column.type, column.nullable) for column in found.columns][:4] == [
        ("id", "int", False),
        ("note", "nvarchar(50)", True),
        ("total", "decimal(12,2)", False),
        ("seen_at", "datetime2(3)", False),
    ]
    assert (found.candidates[0].mode, found.candidates[0].cursor) == ("rowversion", "row_version")
    assert found.candidates[0].indexed is False
    assert ("increasing", "id", True) in [
        (candidate.mode, candidate.cursor, candidate.indexed) for candidate in found.candidates
    ]
    assert found.settings["exclude"] == ["odd"]
    (line,) = [line for line in found.advice if "CREATE INDEX" in line]
    mssql_db.execute(line[line.index("CREATE INDEX") :])
    assert look_at(mssql_url, name).candidates[0].indexed is True


def test_a_unique_index_is_the_key_where_there_is_no_primary_key(mssql_url: str, mssql_db: MssqlDb) -> None:
    name = mssql_db.create("code varchar(20) not null, maybe int null, modified_at datetime not null")
    assert look_at(mssql_url, name).key == ()
    mssql_db.execute(f"create unique index by_maybe on {name} (maybe)")
    assert look_at(mssql_url, name).key == ()
    mssql_db.execute(f"create unique index by_code on {name} (code)")
    found = look_at(mssql_url, name)
    assert (found.key, found.key_origin) == (("code",), "unique index")
    assert (found.candidates[0].mode, found.candidates[0].cursor) == ("increasing", "modified_at")


def test_the_block_is_written_and_its_rows_are_read(mssql_url: str, mssql_db: MssqlDb, tmp_path: Path) -> None:
    name = mssql_db.create(ORDERS)
    mssql_db.execute(f"insert into {name} (note, total, seen_at) values ('x', 1.5, '2026-01-31T08:00:00')")  # noqa: S608
    (tmp_path / ".env").write_text(f"SOURCE_URL='{mssql_url}'\nPARTNER_URL=http://127.0.0.1:1\n")
    done = run_syncctl("inspect", name, "--write", "--start", "beginning", "--stream", "live", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert tomllib.loads(done.stdout)["streams"]["live"]["mode"] == "rowversion"
    settings = load_settings(directory=tmp_path, environment={})
    with StreamReader(settings.source("default"), settings.stream("live")) as reader:
        rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
    assert [row.payload["note"] for row in rows if row.payload] == ["x"]
    listed = run_syncctl("inspect", "--json", cwd=tmp_path, timeout=120)
    assert name in [table["table"].rpartition(".")[2] for table in listed.json["tables"]]
