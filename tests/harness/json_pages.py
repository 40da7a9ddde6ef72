"""The tables of docs/json.md, and the keys of a document, in the same notation."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_KEY = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def read_page() -> dict[str, set[str]]:
    """Return the documented keys of each section of docs/json.md."""
    parts = _SECTION.split(PAGE.read_text())[1:]
    return {name: set(_KEY.findall(body)) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def keys_of(document: Any, path: str = "") -> set[str]:
    """Return every key of a document, such as `runs[].read`; an empty list or object is itself a key."""
    if isinstance(document, dict) and document:
        keys = set[str]().union(*(keys_of(value, f"{path}.{key}".lstrip(".")) for key, value in document.items()))
        return keys | ({path} if path and not path.endswith("[]") else set())
    if isinstance(document, list) and document and not all(isinstance(inner, str) for inner in document):
        return {path}.union(*(keys_of(inner, f"{path}[]") for inner in document))
    return {path}


def describes(documented: str, printed: str) -> bool:
    """Return whether a documented key is, or encloses, a printed one; `*` stands for any name and all below it."""
    pattern = re.escape(documented).replace(r"\*", ".+")
    return re.fullmatch(pattern, printed) is not None or documented.startswith((f"{printed}.", f"{printed}[]"))
