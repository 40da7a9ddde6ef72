"""docs/guides/documents.md: its settings load, and make the request that the page shows; its changes are found."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "documents.md"
TABLES = """
create table orders (
    id integer primary key, customer_id int, total decimal(12, 4), attributes text, row_version int not null
);
create table customers (id integer primary key, name text, vat_id text);
create table order_lines (
    order_id int, line int, sku text, qty int, price decimal(12, 4), row_version int, primary key (order_id, line)
);
insert into customers values (7, 'Müller & "Sons"', 'DE811569869');
insert into orders values (4711, 7, '123.4500', '{"channel": "shop", "weight_kg": 12.340}', 1);
insert into order_lines values (4711, 2, 'NUT-M8', 200, '0.0210', 2), (4711, 1, 'BOLT-M8', 200, '0.0425', 1);
"""


def read_block(language: str) -> str:
    """Return the only block of this language on the page, without its indent."""
    fence = rf"^ *```{language}\n(.*?)^ *```$"
    (block,) = re.findall(fence, PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return re.sub(r"^ +(?=\S)", "", str(block), flags=re.MULTILINE)


@pytest.fixture
def directory(make_settings: Callable[..., Path], source_db: SourceDb) -> Path:
    """The settings of the page, on SQLite: it has neither schemas nor rowversions, but numbers do as well."""
    for statement in TABLES.strip().split(";\n"):
        source_db.execute(statement)
    stream = tomllib.loads(read_block("toml").replace("dbo.", ""))["streams"]["orders"]
    return make_settings(stream={**stream, "mode": "increasing"})


def test_the_page_shows_the_request(run_syncctl: Run, directory: Path) -> None:
    shown = run_syncctl("poll", "orders", "--once", "--dry-run", "--limit", "1", "--json", cwd=directory)
    assert shown.exit_code == 0, shown.stderr
    (request,) = shown.json["requests"]
    line, _, body = read_block("http-order").partition("\n\n")
    method, path = line.split()
    assert (request["method"], request["url"].partition("/orders")[2]) == (method, path.partition("/orders")[2])
    assert request["body"] == body.strip()


def test_a_changed_line_is_one_new_version(run_syncctl: Run, directory: Path, source_db: SourceDb) -> None:
    def poll() -> int:
        result = run_syncctl("poll", "orders", "--once", "--json", cwd=directory)
        assert result.exit_code == 0, result.stderr
        return int(result.json["runs"][0]["logged"])

    assert poll() == 1
    source_db.execute("update order_lines set qty = qty + 1, row_version = row_version + 2")
    assert (poll(), poll()) == (1, 0)
    assert len(run_syncctl("show", "orders", "4711", "--json", cwd=directory).json["records"]) == 2
    # As the page says: not by itself, but with the order.
    source_db.execute("delete from order_lines where line = 2")
    assert poll() == 0
    source_db.execute("update orders set row_version = 2")
    assert poll() == 1
