"""`syncctl inspect`, as a person runs it."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.commands.inspect import name_stream, propose_row_path
from syncctl.settings import load_settings
from tests.harness.json_pages import describes, keys_of, read_page
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
CANARY = "cAn4ry-7f3e"


@pytest.fixture
def home(tmp_path: Path, source_db: SourceDb) -> Path:
    """A directory that knows a source, and no stream yet."""
    source_db.execute("create table orders (id integer primary key, note text, updated_at datetime not null)")
    source_db.execute("insert into orders values (1, 'x', '2026-01-31 08:00:00')")
    source_db.execute("create table stock (sku text primary key not null, pieces integer)")
    source_db.execute("create view heavy as select * from orders")
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / ".env").write_text(f"SOURCE_URL={source_db.url}\nPARTNER_TOKEN={CANARY}\n")
    return directory


def test_all_tables_are_listed(run_syncctl: Run, home: Path) -> None:
    done = run_syncctl("inspect", cwd=home)
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert (
        rows
        == [
            ["TABLE", "ROWS", "KEY", "SAFEST", "MODE"],
            ["heavy", "(view)", "1", "-", "snapshot"],
            ["orders", "1", "id", "increasing", "on", "updated_at"],
            ["stock", "0", "sku", "snapshot"],
        ]
        or rows[1][-1] == "snapshot"
    )
    assert "next: syncctl inspect heavy" in done.stderr


def test_the_name_of_a_table_sets_no_setting(run_syncctl: Run, home: Path, source_db: SourceDb) -> None:
    """People redirect the output into syncctl.toml, and a line end in the name ended its comment."""
    table = '[x\npartner_url = "http://elsewhere.example"\n#]'
    source_db.execute(f"create table {table} (id integer primary key, updated_at datetime not null)")
    done = run_syncctl("inspect", table, cwd=home)
    assert done.exit_code == 0
    document = tomllib.loads(done.stdout)
    assert list(document) == ["streams"]
    (stream,) = document["streams"].values()
    assert stream["table"] == table
    assert r"# [x\npartner_url = " in done.stdout


def test_inspect_of_a_table_prints_a_stream_in_toml(run_syncctl: Run, home: Path) -> None:
    done = run_syncctl("inspect", "orders", cwd=home)
    assert done.exit_code == 0
    assert "# key: id (primary key)" in done.stdout
    assert "# safest: increasing on updated_at, no index" in done.stdout
    assert "CREATE INDEX ix_orders_updated_at ON orders (updated_at)" in done.stdout
    assert '"beginning" posts every existing row (1)' in done.stdout
    assert tomllib.loads(done.stdout) == {
        "streams": {
            "orders": {
                "table": "orders",
                "key": ["id"],
                "mode": "increasing",
                "cursor": "updated_at",
                "start": "now",
                "endpoint": "POST /orders",
            }
        }
    }
    assert not (home / "syncctl.toml").exists()
    (home / "syncctl.toml").write_text(done.stdout)
    assert load_settings(directory=home, environment={}).stream("orders").cursor == "updated_at"


def test_tables_that_refer_to_it_are_proposed_as_children(run_syncctl: Run, home: Path, source_db: SourceDb) -> None:
    source_db.execute(
        "create table order_lines (order_id integer references orders, line integer, sku text, updated_at datetime,"
        " primary key (order_id, line))"
    )
    source_db.execute("create table note (id integer primary key references orders (id), text text)")
    source_db.execute("create table parents (id integer primary key, parent integer references parents (id))")
    done = run_syncctl("inspect", "orders", cwd=home)
    block = done.stdout.partition("[streams.orders]")[2]
    sections = "\n".join(line[1:] for line in block.splitlines() if line.startswith("#") and line[1:2] != " ")
    assert tomllib.loads(sections)["streams"]["orders"]["children"] == {
        "note_rows": {"table": "note", "on": {"id": "id"}, "one": True},
        "order_lines": {
            "table": "order_lines",
            "on": {"order_id": "id"},
            "sort": ["line"],
            "cursor": "updated_at",
        },
    }
    assert "children" not in tomllib.loads(done.stdout)["streams"]["orders"]
    assert "children" not in run_syncctl("inspect", "parents", cwd=home).stdout
    # Uncommented, they are settings that can be read.
    (home / "syncctl.toml").write_text(done.stdout + sections)
    assert {child.name for child in load_settings(directory=home, environment={}).stream("orders").children} == {
        "note_rows",
        "order_lines",
    }


def test_a_stream_is_appended_once_and_all_else_stays(run_syncctl: Run, home: Path) -> None:
    before = b"\xef\xbb\xbf# ours\r\n[worker]\r\nconcurrency = 2  # enough"
    (home / "syncctl.toml").write_bytes(before)
    (home / "syncctl.toml").chmod(0o640)
    done = run_syncctl("inspect", "orders", "--write", "--start", "beginning", "--json", cwd=home)
    assert done.exit_code == 0, done.stderr
    path = home / "syncctl.toml"
    assert done.json["written"] == {"stream": "orders", "file": str(path)}
    assert f"appended [streams.orders] to {path}" in done.stderr
    block = done.json["tables"][0]["block"].encode().replace(b"\n", b"\r\n")
    assert path.read_bytes() == before + b"\r\n\r\n" + block
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in home.iterdir()) == [".env", "syncctl.toml"]
    settings = load_settings(directory=home, environment={})
    assert (settings.stream("orders").start, settings.worker.concurrency) == ("beginning", 2)

    again = run_syncctl("inspect", "orders", "--write", "--start", "now", cwd=home)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "there is a stream orders already" in again.stderr
    assert path.read_bytes() == before + b"\r\n\r\n" + block

    other = run_syncctl("inspect", "orders", "--write", "--start", "now", "--stream", "orders_eu", cwd=home)
    assert other.exit_code == 0
    assert load_settings(directory=home, environment={}).stream_names == ("orders", "orders_eu")


def test_a_missing_file_is_created(run_syncctl: Run, home: Path) -> None:
    done = run_syncctl("inspect", "stock", "--write", "--start", "beginning", cwd=home)
    assert done.exit_code == 0, done.stderr
    stream = load_settings(directory=home, environment={}).stream("stock")
    assert (stream.mode, stream.key, stream.start) == ("snapshot", ("sku",), "beginning")


def test_a_stream_name_that_the_environment_uses_is_taken(run_syncctl: Run, home: Path) -> None:
    taken = {"STREAMS__ORDERS__TABLE": "orders", "STREAMS__ORDERS__START": "now"}
    done = run_syncctl("inspect", "orders", "--write", "--start", "now", cwd=home, env=taken)
    assert (done.exit_code, (home / "syncctl.toml").exists()) == (2, False)
    assert "there is a stream orders already" in done.stderr


def test_settings_that_do_not_load_are_not_written(run_syncctl: Run, home: Path) -> None:
    inline = 'streams = { a = { table = "orders", start = "now" } }\n'
    (home / "syncctl.toml").write_text(inline)
    done = run_syncctl("inspect", "orders", "--write", "--start", "now", cwd=home)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nothing was written; write streams in syncctl.toml as [streams.NAME]" in done.stderr
    assert (home / "syncctl.toml").read_text() == inline
    assert sorted(path.name for path in home.iterdir()) == [".env", "syncctl.toml"]


def test_a_snapshot_sends_the_deletes_that_it_finds(run_syncctl: Run, home: Path) -> None:
    done = run_syncctl("inspect", "stock", cwd=home)
    stream = tomllib.loads(done.stdout)["streams"]["stock"]
    assert (stream["mode"], stream["delete_endpoint"]) == ("snapshot", "DELETE /stock/{sku}")
    assert "#delete_endpoint" in run_syncctl("inspect", "heavy", cwd=home).stdout


def test_the_address_of_a_row_has_every_column_of_its_key() -> None:
    assert propose_row_path("garden", ["bed", "slot"]) == "/garden/{bed}/{slot}"
    assert propose_row_path("garden", []) is None
    assert propose_row_path("garden", ["bed", "row/slot"]) is None


def test_a_time_of_any_name_is_offered_and_can_be_chosen(run_syncctl: Run, home: Path, source_db: SourceDb) -> None:
    source_db.execute('create table "đơn hàng" ("mã đơn" text primary key not null, ngay_cap_nhat datetime not null)')
    shown = run_syncctl("inspect", "[đơn hàng]", cwd=home)
    assert "#    also: increasing on ngay_cap_nhat, no index" in shown.stdout
    assert "syncctl inspect '[đơn hàng]' --cursor ngay_cap_nhat" in shown.stdout
    assert "[streams.don_hang]" in shown.stdout
    assert 'delete_endpoint = "DELETE /don_hang/{mã đơn}" # deleted rows' in shown.stdout
    args = ("inspect", "[đơn hàng]", "--cursor", "ngay_cap_nhat")
    assert "--cursor ngay_cap_nhat --start now --write" in run_syncctl(*args, cwd=home).stderr
    done = run_syncctl(*args, "--start", "now", "--write", cwd=home)
    assert done.exit_code == 0, done.stderr
    assert load_settings(directory=home, environment={}).stream("don_hang").cursor == "ngay_cap_nhat"


WRONG = [
    (("orders", "--cursor", "note"), "orders has no column note that a stream could follow"),
    (("--cursor", "updated_at"), "--cursor needs a table"),
    (("orders", "--write"), "--write needs --start"),
    (("--write", "--start", "now"), "--start needs a table"),
    (("--key", "id"), "--key needs a table"),
    (("orders", "--stream", "No Name"), "is not a name"),
    (("stock", "--write", "--start", "now"), "mode snapshot does not support --start now"),
    (("heavy", "--write", "--start", "beginning"), "heavy has no key"),
    (("orders", "--key", "idd"), "did you mean id?"),
    (("ordres",), "did you mean orders?"),
    (("orders", "--source", "erp"), "there is no source 'erp'"),
]


@pytest.mark.parametrize(("args", "text"), WRONG)
def test_a_refusal_says_why_and_nothing_is_written(
    run_syncctl: Run, home: Path, args: tuple[str, ...], text: str
) -> None:
    done = run_syncctl("inspect", *args, cwd=home)
    assert (done.exit_code, done.stdout) == (2, "")
    assert text in done.stderr
    assert not (home / "syncctl.toml").exists()


def test_a_view_is_written_with_the_key_that_is_named(run_syncctl: Run, home: Path) -> None:
    shown = run_syncctl("inspect", "heavy", cwd=home)
    assert "# required: the columns that identify a row" in shown.stdout
    assert "--key COLUMN" in shown.stderr
    done = run_syncctl("inspect", "heavy", "--key", "id", "--write", "--start", "beginning", cwd=home)
    assert done.exit_code == 0, done.stderr
    assert load_settings(directory=home, environment={}).stream("heavy").key == ("id",)


def test_another_source_is_named_in_the_block(run_syncctl: Run, home: Path, source_db: SourceDb) -> None:
    (home / "syncctl.toml").write_text(f'[sources.erp]\nurl = "{source_db.url}"\n')
    done = run_syncctl("inspect", "orders", "--source", "erp", cwd=home)
    assert tomllib.loads(done.stdout)["streams"]["orders"]["source"] == "erp"


def test_a_source_that_is_away_is_exit_code_69(run_syncctl: Run, home: Path) -> None:
    done = run_syncctl("inspect", cwd=home, env={"SOURCE_URL": "sqlite:////nowhere/at/all.db"})
    assert (done.exit_code, done.stdout) == (69, "")


def test_the_document_of_inspect_is_what_the_page_says(run_syncctl: Run, home: Path) -> None:
    documents = [
        run_syncctl("inspect", "--json", cwd=home).json,
        run_syncctl("inspect", "orders", "--write", "--start", "now", "--json", cwd=home).json,
    ]
    assert documents[0]["tables"][0]["columns"] is None
    assert documents[1]["tables"][0]["columns"][0] == {"name": "id", "type": "INTEGER", "nullable": False}
    page, printed = read_page()["inspect"], set[str]().union(*map(keys_of, documents))
    assert {key for key in printed if not any(describes(known, key) for known in page)} == set()
    assert page - printed == set()


NAMES = [
    ("orders", "orders"),
    ("OrderLines", "order_lines"),
    ("order lines", "order_lines"),
    ("SKUPrices", "sku_prices"),
    ("Aufträge", "auftrage"),
    ("đơn hàng", "don_hang"),
    ("ĐơnHàng", "don_hang"),
    ("Größe", "grosse"),
    ("Łódź_øre", "lodz_ore"),
    ("2026_sales", "t_2026_sales"),
    ("注文", "stream"),
    ("x" * 80, "x" * 60),
]


@pytest.mark.parametrize(("table", "name"), NAMES)
def test_a_stream_is_named_after_its_table(table: str, name: str) -> None:
    assert name_stream(table) == name
