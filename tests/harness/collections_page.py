"""The tables of docs/collections.md, and the fields of a ledger that they lack."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

PAGE = Path(__file__).parents[2] / "docs" / "collections.md"
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| (`[^|]+`) \|", re.MULTILINE)


def read_sections() -> dict[str, str]:
    """Return the sections of the page by their headings: one for each collection, and `Indexes`."""
    parts = _SECTION.split(PAGE.read_text(encoding="utf-8"))[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def read_fields() -> dict[str, set[str]]:
    """Return the fields that the page lists for each collection."""
    sections = read_sections()
    del sections["Indexes"]
    return {
        name: {field for row in _ROW.findall(text) for field in re.findall(r"`(\w+)`", row)}
        for name, text in sections.items()
    }


def find_undocumented(database: "Database[dict[str, Any]]") -> set[str]:
    """Return the fields of a ledger that the page lacks, such as `records.state`; `_id` is not looked for."""
    known = read_fields()
    return {
        f"{name}.{field}"
        for name in database.list_collection_names()
        if not name.startswith("system.")
        for document in database[name].find(limit=200)
        for field in document.keys() - {"_id"} - known.get(name, set())
    }
