"""What an answer's JSON must say: a path, and the value that stands there."""

import json
import re
from dataclasses import dataclass
from typing import Any

_STEP = re.compile(r"([^.\[\]=\s]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Condition:
    """`path` leads to a value. Where `wants_value`, it must equal `value`; else it must not be false, null or empty."""

    path: tuple[str | int, ...]
    wants_value: bool = False
    value: Any = None

    def holds(self, document: Any) -> bool:
        """Tell whether a JSON document says so."""
        found, there = find_value(document, self.path)
        if not there:
            return False
        if not self.wants_value:
            return bool(found)
        return type(found) is type(self.value) and bool(found == self.value)


def find_value(document: Any, path: tuple[str | int, ...]) -> tuple[Any, bool]:
    """Return the value that a path leads to, and whether there is one."""
    for step in path:
        is_there = step < len(document) if isinstance(step, int) and isinstance(document, list) else False
        if not is_there and not (isinstance(step, str) and isinstance(document, dict) and step in document):
            return None, False
        document = document[step]
    return document, True


def parse_path(text: str) -> tuple[str | int, ...]:
    """Read `result.items[0].id`.

    Raises:
        ValueError: It is no path.
    """
    steps: list[str | int] = []
    at = 0
    rest = text.strip().removeprefix("$").removeprefix(".")
    while at < len(rest):
        match = _STEP.match(rest, at)
        if match is None:
            raise ValueError(f"{text!r} is not a path into JSON; write it like result.items[0].status")
        steps.append(match[1] if match[1] is not None else int(match[2]))
        at = match.end()
        if at < len(rest) and rest[at] == ".":
            at += 1
    if not steps:
        raise ValueError(f"{text!r} is not a path into JSON; write it like result.items[0].status")
    return tuple(steps)


def parse_condition(text: str) -> Condition:
    """Read `success`, `result.status=ok` or `errors[0].code=0`; a value that is no JSON is a text.

    Raises:
        ValueError: It is no condition.
    """
    path, equals, wanted = text.partition("=")
    if not equals:
        return Condition(path=parse_path(path))
    wanted = wanted.removeprefix("=").strip()
    try:
        value = json.loads(wanted)
    except ValueError:
        value = wanted
    return Condition(path=parse_path(path), wants_value=True, value=value)
