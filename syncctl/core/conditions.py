"""Conditions on the JSON of an answer: a path, and the value that must stand at it."""

import json
import re
from dataclasses import dataclass
from typing import Any

_STEP = re.compile(r"([^.\[\]=\s]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a JSON document."""

    path: tuple[str | int, ...]
    #: True: the value at the path must equal `value`. False: it must not be false, null, zero or empty.
    wants_value: bool = False
    value: Any = None

    def holds(self, document: Any) -> bool:
        """Tell whether a JSON document meets the condition."""
        value, exists = find_value(document, self.path)
        if not exists:
            return False
        if not self.wants_value:
            return bool(value)
        return type(value) is type(self.value) and bool(value == self.value)


def find_value(document: Any, path: tuple[str | int, ...]) -> tuple[Any, bool]:
    """Return the value at a path, and whether there is one."""
    for step in path:
        in_list = isinstance(step, int) and isinstance(document, list) and step < len(document)
        in_table = isinstance(step, str) and isinstance(document, dict) and step in document
        if not in_list and not in_table:
            return None, False
        document = document[step]
    return document, True


def parse_path(text: str) -> tuple[str | int, ...]:
    """Read `result.items[0].id`.

    Raises:
        ValueError: It is not a path.
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
    """Read `success`, `result.status=ok` or `errors[0].code=0`; a value that is not JSON is a text.

    Raises:
        ValueError: It is not a condition.
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
