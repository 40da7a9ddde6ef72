"""MongoDB's operators stand in the ledger alone: the other rooms say what they want, and the ledger asks for it."""

import ast
import re
from pathlib import Path

import pytest

import syncctl

PACKAGE = Path(syncctl.__file__).parent
OPERATOR = re.compile(r"\$\$?[A-Za-z]+")
JSON_SCHEMA = {"$ref", "$dynamicRef", "$recursiveRef", "$schema"}


def find_operators(source: str) -> set[str]:
    """Return the texts in a module that look like an operator, a variable or a field path of MongoDB."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and OPERATOR.fullmatch(text)}


@pytest.mark.parametrize(
    "folder", sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "ledger")
)
def test_no_other_room_speaks_to_mongodb_in_operators(folder: str) -> None:
    modules = (PACKAGE / folder).rglob("*.py")
    found = {(str(path), text) for path in modules for text in find_operators(path.read_text()) - JSON_SCHEMA}
    assert found == set()


def test_an_operator_would_be_noticed() -> None:
    records = (PACKAGE / "ledger" / "operations.py").read_text()
    assert {"$set", "$in", "$$NOW", "$state"} <= find_operators(records)
