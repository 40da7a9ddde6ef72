"""Regular expressions of a schema: searched within a row's time, and judged before any row is checked.

Python's own engine can backtrack for years in one call that nothing interrupts. The package `regex` takes a timeout,
and lets other threads run during a search.
"""

import importlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import regex

from syncctl.partner.request.row_time import RowTimeExceeded, row_time

# Python's parser of regular expressions has no public name.
_parser: Any = importlib.import_module("re._parser")
_codes: Any = importlib.import_module("re._constants")

_ASCII = frozenset(range(128))
_CATEGORIES = {
    "CATEGORY_DIGIT": frozenset(code for code in _ASCII if chr(code).isdigit()),
    "CATEGORY_SPACE": frozenset(code for code in _ASCII if chr(code).isspace()),
    "CATEGORY_WORD": frozenset(code for code in _ASCII if chr(code).isalnum() or chr(code) == "_"),
}
_BEGINNINGS = ((_codes.AT, _codes.AT_BEGINNING), (_codes.AT, _codes.AT_BEGINNING_STRING))
_MANY = 10
_SHOWN_AT_MOST = 80
TEXT_AT_MOST = 250_000
"""The longest text, in characters, in which any pattern is searched: in a longer one, the package notices too late that
its time has ended."""
SIZE_AT_MOST = 100_000
"""The largest size of a pattern with its repeats written out: the package needs time and memory for all of it."""


def search(pattern: str, text: str) -> bool:
    """Tell whether a pattern is found in a text.

    Raises:
        RowTimeExceeded: the row's time ended before the search did.
    """
    row_time.check()
    shown = pattern if len(pattern) <= _SHOWN_AT_MOST else f"{pattern[:_SHOWN_AT_MOST]}..."
    if len(text) > TEXT_AT_MOST and not is_linear(pattern):
        raise RowTimeExceeded(f"in a text of {len(text):,} characters, the pattern {shown} possibly")
    try:
        return compile_pattern(pattern).search(text, timeout=max(0.001, row_time.left_seconds)) is not None
    except TimeoutError:
        raise RowTimeExceeded(f"the pattern {shown}") from None


@lru_cache(maxsize=1000)
def compile_pattern(pattern: str) -> Any:
    """Return a compiled pattern.

    Raises:
        ValueError: the text is not a pattern, or is too large.
    """
    if (tree := _parse(pattern)) is not None and _measure(tree) > SIZE_AT_MOST:
        raise ValueError(f"it is larger than {SIZE_AT_MOST:,} characters, with its repeats written out")
    try:
        return regex.compile(pattern, regex.V0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None


def is_risky(pattern: str) -> bool:
    """Tell whether a pattern has nested repeats that can divide the same text in many ways, as in `(a+)+$`."""
    tree = _parse(pattern)
    return tree is not None and any(_is_ambiguous(body) for body in _find_repeats(tree))


@lru_cache(maxsize=1000)
def is_linear(pattern: str) -> bool:
    """Tell whether the time of a search certainly grows only linearly with the text, as for `^[A-Za-z0-9+/]*={0,2}$`.

    Such a pattern has at most one repeat without a bound, and if it has one, it begins at the beginning of the text.
    """
    tree = _parse(pattern)
    if tree is None:
        return False
    repeats = _count_repeats(tree)
    return repeats == 0 or (repeats == 1 and tree[0] in _BEGINNINGS)


def _parse(pattern: str) -> Any:
    """Return the tree of a pattern; None if Python's parser cannot read it, so that it cannot be judged."""
    try:
        return _parser.parse(pattern)
    except Exception:  # noqa: BLE001 - it raises errors of many kinds
        return None


def _count_repeats(tree: Any) -> int:
    """Return how many repeats without a bound a pattern has, including possessive ones."""
    count = 0
    for code, value in tree:
        count += (code in _REPEATS or code is _codes.POSSESSIVE_REPEAT) and value[1] >= _MANY
        count += sum(map(_count_repeats, _list_inner(code, value)))
    return count


def _measure(tree: Any) -> int:
    """Return how many items a pattern has, each counted as often as it is repeated at least."""
    size = 0
    for code, value in tree:
        times = max(1, value[0]) if code in _REPEATS or code is _codes.POSSESSIVE_REPEAT else 1
        size += times * (1 + sum(map(_measure, _list_inner(code, value))))
    return size


def _find_repeats(tree: Any) -> Iterator[Any]:
    """Yield the parts that are repeated without a bound, at any depth."""
    for code, value in tree:
        if code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT) and value[1] >= _MANY:
            yield value[2]
        for inner in _list_inner(code, value):
            yield from _find_repeats(inner)


def _list_inner(code: Any, value: Any) -> list[Any]:
    """Return the inner parts of a part of a pattern."""
    if code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT, _codes.POSSESSIVE_REPEAT):
        return [value[2]]
    if code is _codes.ATOMIC_GROUP:
        return [value]
    if code is _codes.GROUPREF_EXISTS:
        return [part for part in value[1:] if part is not None]
    if code in (_codes.SUBPATTERN, _codes.ASSERT, _codes.ASSERT_NOT):
        return [value[-1]]
    return list(value[1]) if code is _codes.BRANCH else []


def _is_ambiguous(body: Any) -> bool:
    """Tell whether a repeated part has a repeat, or alternatives, without a character that separates the rounds."""
    items = list(_flatten(body))
    needed = [_list_characters(code, value) for code, value in items if code not in _REPEATS]
    for code, value in items:
        if code in _REPEATS and value[1] >= _MANY:
            inner = _list_all_characters(value[2])
            if not any(separator and separator.isdisjoint(inner) for separator in needed):
                return True
        if code is _codes.BRANCH and _overlap(value[1]):
            return True
    return False


_REPEATS = (_codes.MAX_REPEAT, _codes.MIN_REPEAT)


def _flatten(body: Any) -> Iterator[tuple[Any, Any]]:
    for code, value in body:
        if code is _codes.SUBPATTERN:
            yield from _flatten(value[-1])
        else:
            yield code, value


def _overlap(branches: Any) -> bool:
    """Tell whether two alternatives can begin with the same character, or one is empty."""
    seen: frozenset[int] = frozenset()
    for branch in branches:
        items = list(_flatten(branch))
        if not items:
            return True
        first = _list_all_characters([items[0]])
        if first & seen:
            return True
        seen |= first
    return False


def _list_all_characters(tree: Any) -> frozenset[int]:
    """Return the ASCII characters that occur anywhere in a part."""
    characters: frozenset[int] = frozenset()
    for code, value in tree:
        characters |= _list_characters(code, value)
        for inner in _list_inner(code, value):
            characters |= _list_all_characters(inner)
    return characters


def _list_characters(code: Any, value: Any) -> frozenset[int]:
    """Return the ASCII characters that an item matches; none for an item that does not match a single character."""
    if code is _codes.LITERAL:
        return frozenset({value})
    if code is _codes.NOT_LITERAL:
        return _ASCII - {value}
    if code is _codes.ANY:
        return _ASCII
    if code is not _codes.IN:
        return frozenset()
    matched: frozenset[int] = frozenset()
    for inner, what in value:
        if inner is _codes.LITERAL:
            matched |= {what}
        elif inner is _codes.RANGE:
            matched |= frozenset(range(what[0], min(what[1], 127) + 1))
        elif inner is _codes.CATEGORY:
            name = str(what)
            negated = name.replace("_NOT_", "_")
            matched |= _CATEGORIES[name] if name in _CATEGORIES else _ASCII - _CATEGORIES.get(negated, frozenset())
    return _ASCII - matched if value and value[0][0] is _codes.NEGATE else matched
