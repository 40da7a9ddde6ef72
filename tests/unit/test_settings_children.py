"""The children of a stream in the settings: what is read from them, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from syncctl.core.stream import Child
from syncctl.errors import ConfigurationError
from syncctl.settings import Settings, load_settings
from syncctl.settings.describe import describe_settings

ENVIRONMENT = {"SOURCE_URL": "sqlite:///x", "PARTNER_URL": "https://h"}
STREAM = """
[streams.orders]
table = "orders"
start = "beginning"
"""
LINES = """
[streams.orders.children.lines]
table = "order_lines"
on = { order_id = "id" }
sort = ["line"]
"""


def load(directory: Path, *sections: str, **environment: str) -> Settings:
    (directory / "syncctl.toml").write_text("".join(sections))
    return load_settings(directory=directory, environment={**ENVIRONMENT, **environment})


def refuse(directory: Path, *sections: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, *sections).check()
    return caught.value.why


def test_children_are_read_with_their_children(tmp_path: Path) -> None:
    inner = """
    [streams.orders.children.lines.children.orderTaxes]
    query = "select * from taxes"
    on = { order_id = "order_id", line = "line" }
    one = true
    """
    stream = load(tmp_path, STREAM, LINES, inner).stream("orders")
    taxes = Child(
        name="orderTaxes", query="select * from taxes", on=(("order_id", "order_id"), ("line", "line")), one=True
    )
    assert stream.children == (
        Child(name="lines", table="order_lines", on=(("order_id", "id"),), sort=("line",), children=(taxes,)),
    )


def test_a_child_can_be_set_by_variables(tmp_path: Path) -> None:
    whole = load(tmp_path, STREAM, STREAMS__ORDERS__CHILDREN__LINES='{"table": "l", "on": {"o": "id"}, "one": true}')
    assert whole.stream("orders").children == (Child(name="lines", table="l", on=(("o", "id"),), one=True),)
    single = load(tmp_path, STREAM, LINES, STREAMS__ORDERS__CHILDREN__LINES__SORT="sku,line")
    assert single.stream("orders").children[0].sort == ("sku", "line")


def test_config_shows_each_child_with_its_origin(tmp_path: Path) -> None:
    inner = '[streams.orders.children.lines.children.taxes]\ntable = "taxes"\non = { n = "line" }\none = true\n'
    entries = {entry.key: entry for entry in describe_settings(load(tmp_path, STREAM, LINES, inner))}
    lines = entries["streams.orders.children.lines.on"]
    assert (lines.value, lines.origin) == ({"order_id": "id"}, "syncctl.toml line 8")
    assert entries["streams.orders.children.lines.max_rows"].value == 10_000
    assert entries["streams.orders.children.lines.children.taxes.one"].value is True


@pytest.mark.parametrize(
    ("section", "key", "text"),
    [
        ('[streams.orders.children.lines]\non = { a = "b" }\none = true', "lines.table", "is missing"),
        ('[streams.orders.children.lines]\ntable = "l"\none = true', "lines.on", "is required"),
        ('[streams.orders.children.lines]\ntable = "l"\non = {}\none = true', "lines.on", "names no column"),
        ('[streams.orders.children.lines]\ntable = "l"\non = { a = 1 }\none = true', "lines.on", "must name a column"),
        ('[streams.orders.children.lines]\ntable = "l"\non = { a = "b" }', "lines.sort", "or one = true"),
        (LINES + 'query = "select 1"', "lines.query", "cannot be combined with table"),
        (LINES + "one = true\nmax_rows = 5", "lines.max_rows", "cannot be combined with one"),
        (LINES + 'columns = ["a"]\nexclude = ["b"]', "lines.exclude", "cannot be combined with columns"),
        (LINES + 'colums = ["a"]', "lines.colums", "did you mean columns?"),
        (LINES.replace("lines", "$x", 1).replace(".$x", '."$x"'), "$x", "is not a name"),
        (LINES + 'json = ["a"]\nexclude = ["A"]', "lines.json", "a is in exclude, so it is not sent"),
        (LINES + 'json = ["a"]\nmask = { a = "hash" }', "lines.json", "a is in mask"),
        (LINES + 'json = ["a"]\ncolumns = ["b"]', "lines.json", "a is not in columns"),
        (LINES + 'cursor = "v"\nmask = { V = "hash" }', "lines.mask", "V is the cursor"),
    ],
)
def test_what_a_child_cannot_be_is_refused(tmp_path: Path, section: str, key: str, text: str) -> None:
    why = refuse(tmp_path, STREAM, section)
    assert f"streams.orders.children.{key}" in why
    assert text in why


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('mode = "snapshot"', "has no effect in mode snapshot"),
        ('mode = "flag"\nwhere = "x"\ncursor = "v"\nacknowledge = "update t"', "cannot be used in mode flag"),
        ("append_only = true", "cannot be combined with append_only"),
    ],
)
def test_a_cursor_that_follows_nothing_is_refused_at_every_depth(tmp_path: Path, settings: str, text: str) -> None:
    inner = '[streams.orders.children.lines.children.taxes]\ntable = "t"\non = { n = "line" }\none = true\ncursor = "c"'
    why = refuse(tmp_path, STREAM, settings, LINES, inner)
    assert "streams.orders.children.lines.children.taxes.cursor (syncctl.toml line " in why
    assert text in why


def test_a_hash_in_a_child_needs_a_secret(tmp_path: Path) -> None:
    assert "mask_secret: is not set" in refuse(tmp_path, STREAM, LINES, 'mask = { sku = "hash" }')


def test_streams_without_children_have_none(tmp_path: Path) -> None:
    keys: list[Any] = [entry.key for entry in describe_settings(load(tmp_path, STREAM))]
    assert not [key for key in keys if "children" in key]
