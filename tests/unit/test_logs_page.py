"""docs/logs.md lists every action that syncctl logs, with its level."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LEVELS = {
    "debug": "debug",
    "trace": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}
COMPUTED = {
    # Written with a variable: by whom, and with what.
    ("worker.start", "info"), ("beat.start", "info"),
    ("redis.away", "warning"), ("beat.tick_lost", "warning"), ("dispatch.failed", "warning"),
}  # fmt: skip
_ROW = re.compile(r"^\| `([a-z_.]+)` \| ([a-z, ]+) \| .+ \|$", re.MULTILINE)


def list_logged() -> Iterator[tuple[str, str]]:
    """Yield each action that stands in the code, with its level."""
    for path in (PROJECT / "syncctl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            levels = list(_find_levels(node.func))
            yield from ((str(node.args[0].value), level) for level in levels)


def _find_levels(function: ast.expr) -> Iterator[str]:
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        if function.value.id in ("log", "attempts") and function.attr in LEVELS:
            yield LEVELS[function.attr]
    elif isinstance(function, ast.Name) and function.id == "tell":
        # One of several levels, by how it went.
        yield "any"


def test_the_page_lists_every_action_and_no_other() -> None:
    written = {
        action: levels.split(", ") for action, levels in _ROW.findall((PROJECT / "docs" / "logs.md").read_text())
    }
    logged: dict[str, set[str]] = {}
    for action, level in {*list_logged(), *COMPUTED}:
        logged.setdefault(action, set()).add(level)
    assert set(written) == set(logged), "docs/logs.md has a row for each action that is logged"
    for action, levels in logged.items():
        assert levels == {"any"} or set(written[action]) == levels, action


def test_actions_are_words_with_dots() -> None:
    assert all(re.fullmatch(r"[a-z]+(\.[a-z_]+)?", action) for action, _ in list_logged())
