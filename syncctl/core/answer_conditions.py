"""Conditions on the JSON of an answer: a path, and the value that must or must not be there."""

import json
import re
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]

_NAME = r"[^\W\d][\w$@:/-]*|[$@\d][\w$@:/-]*"
"""A name that needs no quotes. Comparison signs do: a mistyped comparison would be read as a name, and never hold."""
_STEP = re.compile(rf'({_NAME})|"((?:[^"\\]|\\.)+)"|\[(\d{{1,9}})\]')
_COMPARISON = re.compile(r"!=|==?")
_NOT_OF_A_VALUE = re.compile(r"^['!<>~]|=|&&|\|\|")
"""The parts of an unquoted value that look like another comparison, or like a second condition."""
_HOW = "write it like result.items[0].status; quote a name with other characters"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a JSON document."""

    path: Path
    #: True: the value at the path must equal `value`; a missing value equals null. False: the path must have a value
    #: other than false, null, zero or empty.
    wants_value: bool = False
    value: Any = None
    #: The condition holds exactly when the rest of it does not.
    is_negated: bool = False

    def holds(self, document: Any) -> bool:
        """Tell whether a JSON document meets the condition; a document in which the path cannot begin never does."""
        if not isinstance(document, dict if isinstance(self.path[0], str) else list):
            return False
        return self._is_met(document) is not self.is_negated

    def _is_met(self, document: Any) -> bool:
        value, exists = find_value(document, self.path)
        if not exists:
            return self.wants_value and self.value is None
        if not self.wants_value:
            return bool(value)
        # True equals 1 in Python, but not in JSON.
        is_alike = isinstance(value, bool) is isinstance(self.value, bool)
        return is_alike and bool(value == self.value)

    def describe(self, document: Any) -> str:
        """Return the value at the path as JSON; `nothing` if there is none."""
        value, exists = find_value(document, self.path)
        return json.dumps(value, ensure_ascii=False, default=str) if exists else "nothing"


def find_value(document: Any, path: Path) -> tuple[Any, bool]:
    """Return the value at a path, and whether there is one."""
    for step in path:
        in_list = isinstance(step, int) and isinstance(document, list) and step < len(document)
        in_table = isinstance(step, str) and isinstance(document, dict) and step in document
        if not in_list and not in_table:
            return None, False
        document = document[step]
    return document, True


def parse_path(text: str) -> Path:
    """Read a path such as `result.items[0].id`; a name with other characters is in quotes.

    Raises:
        ValueError: It is not a path.
    """
    steps, end = _read_path(text)
    if text[end:].strip():
        raise ValueError(f"{text!r} is not a path into JSON; {_HOW}")
    return steps


def parse_condition(text: str) -> Condition:
    """Read a condition such as `success`, `!errors`, `result.status=ok` or `code!=0`; a value that is not JSON is text.

    Raises:
        ValueError: It is not a condition, or one that could never hold.
    """
    rest = text.strip()
    is_absence = rest.startswith("!")
    rest = rest.removeprefix("!").lstrip()
    path, end = _read_path(rest or text)
    rest = rest[end:].strip()
    if not rest:
        return Condition(path=path, is_negated=is_absence)
    comparison = _COMPARISON.match(rest)
    if comparison is None or is_absence:
        how = "write path, !path, path=value or path!=value"
        raise ValueError(f"{text!r} is not a condition on JSON; {how}")
    value = _read_value(text, rest[comparison.end() :].strip())
    return Condition(path=path, wants_value=True, value=value, is_negated=comparison[0] == "!=")


def _read_path(text: str) -> tuple[Path, int]:
    """Return the steps of the path at the beginning of a text, and where it ends."""
    steps: list[str | int] = []
    begin = re.match(r"\s*(?:\$(?=[.\[\s]|$))?\.?", text)
    at = begin.end() if begin is not None else 0
    while (match := _STEP.match(text, at)) is not None:
        name, quoted, index = match.groups()
        steps.append(int(index) if index is not None else name if name is not None else _unquote(quoted))
        at = match.end()
        if text[at : at + 1] == ".":
            at += 1
        elif text[at : at + 1] != "[":
            break
    if not steps or text[at - 1] == ".":
        raise ValueError(f"{text!r} is not a path into JSON; {_HOW}")
    return tuple(steps), at


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _read_value(text: str, wanted: str) -> Any:
    if not wanted:
        raise ValueError(f'{text!r} names no value; write path="" for an empty text, or !path for none at all')
    try:
        return json.loads(wanted, parse_constant=_refuse_constant)
    except ValueError:
        if wanted.startswith(('"', "[", "{")) or _NOT_OF_A_VALUE.search(wanted):
            raise ValueError(
                f"{text!r} is not one condition on JSON; put a text with such characters in quotes, as JSON does"
            ) from None
        return wanted


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
