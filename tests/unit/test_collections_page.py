"""docs/collections.md has each collection, field and index of the ledger, and no other.

`tests/acceptance` compares it with what real runs have written.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from syncctl.ledger.indexes import INDEXES, Index
from tests.harness.collections_page import read_fields, read_sections

PACKAGE = Path(__file__).parents[2] / "syncctl"
WRITERS = ("ledger", "pipeline", "tasks", "wiring", "core")
"""The packages that name a field of the ledger."""
_INDEX = re.compile(r"^\| `(\w+)\.(\w+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def list_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a module may call a field: texts, the first part of paths, keyword arguments, fields of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.lstrip("$").partition(".")[0]
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_the_page_has_each_collection_and_no_other() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "ledger").glob("*.py"))
    assert set(re.findall(r'database\["(\w+)"\]', code)) == read_fields().keys()


def test_every_field_of_the_page_is_in_the_code() -> None:
    files = [path for package in WRITERS for path in (PACKAGE / package).rglob("*.py")]
    names = {name for path in files for name in list_names(ast.parse(path.read_text(encoding="utf-8")))}
    for collection, fields in read_fields().items():
        assert fields
        assert fields - names == set(), collection


def describe(index: Index) -> tuple[str, bool]:
    """Return the fields of an index and whether it is unique, as the page writes them."""
    return ", ".join(f"`{name}`" + (" desc" if way < 0 else "") for name, way in index.keys), index.unique


def test_the_page_has_each_index_and_no_other() -> None:
    shown = {
        (collection, name): (keys, of.endswith("; unique"), set(re.findall(r"`([\w.]+)`", of)))
        for collection, name, keys, of in _INDEX.findall(read_sections()["Indexes"])
    }
    assert shown.keys() == {(index.collection, index.name) for index in INDEXES}
    for index in INDEXES:
        keys, is_unique, words = shown[index.collection, index.name]
        assert (keys, is_unique) == describe(index)
        values = {str(value).lower() for value in index.partial.values() if not isinstance(value, dict)}
        assert words == set(index.partial) | values


def test_every_collection_says_who_writes_and_who_reads_it() -> None:
    for name in read_fields():
        assert "**Written** " in read_sections()[name], name
        assert "**Read** " in read_sections()[name], name
