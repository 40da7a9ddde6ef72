"""The mapping of fields: which column or constant stands where in the JSON that is sent."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CONSTANT = "const"
REST = "*"

_DOT = re.compile(r"(?<!\\)\.")
_FORM = 'write "order.id" = "id" for a column, or "order.kind" = { const = "order" } for a constant'

Target = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field of the JSON."""

    #: Where the field stands; for the column `*`, the object that the columns stand in.
    target: Target
    #: The column to send; `*` for every column that no other rule names; None for a constant.
    column: str | None = None
    constant: Any = None


def parse_fields(table: Mapping[str, Any]) -> tuple[FieldRule, ...]:
    r"""Read a mapping: dotted places (`\.` is a dot in a name) or nested tables, each with a column or a constant.

    Raises:
        ValueError: It is not a mapping; the text says what to write.
    """
    rules = tuple(_walk(table, ()))
    if not rules:
        raise ValueError(f"names no field; {_FORM}")
    _check_places(rules)
    return rules


def list_columns(table: Mapping[str, Any]) -> list[str]:
    """Return the columns that a valid mapping names."""
    return [rule.column for rule in parse_fields(table) if rule.column is not None] if table else []


def _walk(table: Mapping[str, Any], above: Target) -> Iterator[FieldRule]:
    for name, value in table.items():
        target = (*above, *_split(name))
        if isinstance(value, str):
            if not value.strip():
                raise ValueError(f"{name!r} names no column; {_FORM}")
            yield _make_rule(target, value)
        elif isinstance(value, Mapping) and set(value) == {CONSTANT}:
            _check_constant(name, value[CONSTANT])
            yield FieldRule(target=target, constant=value[CONSTANT])
        elif isinstance(value, Mapping) and value:
            yield from _walk(value, target)
        else:
            raise ValueError(f"{name!r} is neither a column nor a constant; {_FORM}")


def _split(name: str) -> Target:
    parts = tuple(part.replace("\\.", ".") for part in _DOT.split(name))
    if not all(part.strip() for part in parts):
        raise ValueError(f"{name!r} has an empty part; {_FORM}")
    return parts


def _make_rule(target: Target, column: str) -> FieldRule:
    if (column == REST) != (target[-1] == REST):
        raise ValueError('a * stands for all other columns, on both sides: "*" = "*" or "order.*" = "*"')
    return FieldRule(target=target[:-1] if column == REST else target, column=column)


def _check_constant(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_constant(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_constant(name, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the constant of {name!r} is {value}, which JSON cannot express")


def _check_places(rules: tuple[FieldRule, ...]) -> None:
    if sum(rule.column == REST for rule in rules) > 1:
        raise ValueError('"*" stands for all other columns, so it can be used only once')
    taken: set[Target] = set()
    for rule in rules:
        if rule.column == REST:
            continue
        if rule.target in taken:
            raise ValueError(f"two fields have the place {'.'.join(rule.target)!r}")
        taken.add(rule.target)
    for rule in rules:
        inside = len(rule.target) + (rule.column == REST)
        for depth in range(1, inside):
            if rule.target[:depth] in taken:
                place = ".".join(rule.target[:depth])
                raise ValueError(f"{place!r} holds a value, so nothing can stand inside it")
