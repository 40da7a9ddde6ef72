"""How much a template may make: neither a slip in it nor a value of a row fills a worker's memory."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError

TEXT_AT_MOST = 16 * 1024 * 1024
"""Characters that a template writes."""
MADE_AT_MOST = 4 * TEXT_AT_MOST
"""Characters that it makes on the way: what it joins, repeats, replaces, writes as JSON."""
ROUNDS_AT_MOST = 100_000
"""Rounds of all loops, and elements of one list."""
_BITS_AT_MOST = 10_000
_PRECISION_AT_MOST = 100
_NUMBERS = re.compile(r"\d+")
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[a-zA-Z]")


class TooMuch(SecurityError):
    """A template would make more than it may."""


class Quota:
    """What is left of it in one rendering."""

    def __init__(self) -> None:
        self._characters = MADE_AT_MOST
        self._rounds = ROUNDS_AT_MOST

    def take(self, characters: int) -> None:
        """Count text that is about to be made.

        Raises:
            TooMuch: it is more than what is left.
        """
        self._characters -= max(0, characters)
        if self._characters < 0:
            raise TooMuch(f"it makes more than {MADE_AT_MOST:,} characters")

    def count_rounds(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the values of a loop, as long as there are rounds left."""
        for each in values:
            self._rounds -= 1
            if self._rounds < 0:
                raise TooMuch(f"it loops more than {ROUNDS_AT_MOST:,} times")
            yield each

    def take_result(self, operator: str, left: Any, right: Any) -> None:
        """Count what an operator is about to make."""
        match operator:
            case "*":
                self._take_product(left, right)
                self._take_product(right, left)
            case "**" if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() * right)
            case "+" if isinstance(left, str) and isinstance(right, str):
                self.take(len(left) + len(right))
            case "+" if isinstance(left, list | tuple) and isinstance(right, list | tuple):
                check_elements(len(left) + len(right))
            case "%" if isinstance(left, str):
                values = right.values() if isinstance(right, Mapping) else right
                self.take(foresee_percent(left, *(values if isinstance(values, Iterable) else [values])))

    def _take_product(self, one: Any, times: Any) -> None:
        if not isinstance(times, int):
            return
        if isinstance(one, str | bytes):
            self.take(len(one) * times)
        elif isinstance(one, list | tuple):
            check_elements(len(one) * times)
        elif isinstance(one, int):
            _check_bits(one.bit_length() + times.bit_length())


def check_elements(count: int) -> None:
    """Refuse a list that is too long.

    Raises:
        TooMuch: it is.
    """
    if count > ROUNDS_AT_MOST:
        raise TooMuch(f"it makes a list of more than {ROUNDS_AT_MOST:,} elements")


def _check_bits(bits: int) -> None:
    if bits > _BITS_AT_MOST:
        raise TooMuch(f"it makes a number of more than {_BITS_AT_MOST:,} bits")


def foresee_percent(text: str, *values: Any) -> int:
    """Return how long `text % values` can become."""
    places = _PERCENT.findall(text)
    widths = sum(int(number) for place in places for number in _NUMBERS.findall(place))
    named = sum(_list_whole(values)) if any("*" in each for each in places) else 0
    return len(text) + widths + named + len(places) * _find_longest(values)


def foresee_format(text: str, *values: Any) -> int:
    """Return how long `text.format(...)` can become."""
    specs = [spec or "" for _, name, spec, _ in Formatter().parse(text) if name is not None]
    widths = sum(int(number) for spec in specs for number in _NUMBERS.findall(spec))
    named = sum(_list_whole(values)) if any("{" in spec for spec in specs) else 0
    return len(text) + widths + len(specs) * (named + _find_longest(values))


def _find_longest(values: Iterable[Any]) -> int:
    """Return the length of the longest text, also of those one level down."""
    return max((len(each) for each in _flatten(values) if isinstance(each, str)), default=0)


def _list_whole(values: Iterable[Any]) -> Iterator[int]:
    """Yield the sizes of whole numbers, which may be widths, also of those one level down."""
    yield from (abs(each) for each in _flatten(values) if isinstance(each, int))


def _flatten(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def foresee_method(own: Any, name: str, *values: Any, **named: Any) -> int:
    """Return how much a method of a text or a number can make; 0 for one that makes no more than there was."""
    match name:
        case "center" | "ljust" | "rjust" | "zfill" | "to_bytes":
            return int(values[0] if values else next(iter(named.values()), 0))
        case "expandtabs":
            return len(own) + int(own.count("\t")) * int([8, *values, *named.values()][-1])
        case "replace":
            return foresee_replace(own, *values[:2])
        case "join":
            return foresee_join(values[0], own) if values and isinstance(values[0], list | tuple) else len(own)
        case "translate":
            return len(own) * _find_longest(values)
        case "format" | "format_map":
            return foresee_format(own, *values, *named.values())
        case _:
            return len(own) if isinstance(own, str) else 0


def foresee_center(_value: Any, width: int = 80) -> int:
    """Return how long a centred text becomes."""
    return int(width)


def foresee_indent(value: Any, width: int | str = 4, *_: Any, **__: Any) -> int:
    """Return how long an indented text becomes."""
    text = str(value)
    return len(text) + (len(width) if isinstance(width, str) else int(width)) * (text.count("\n") + 1)


def foresee_replace(value: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    """Return how long a text becomes once each `old` is `new`."""
    text = str(value)
    return len(text) + text.count(str(old)) * len(str(new))


def foresee_join(values: Any, separator: Any = "", *_: Any, **named: Any) -> int:
    """Return how long a joined text becomes."""
    between = len(str(named.get("d", separator)))
    return sum(between + (len(each) if isinstance(each, str) else 1) for each in values)


def foresee_format_filter(value: Any, *values: Any, **named: Any) -> int:
    """Return how long what the filter `format` makes becomes."""
    return foresee_percent(str(value), *values, *named.values())


def foresee_lists(_value: Any, count: int, *_: Any, **__: Any) -> int:
    """Refuse `batch` and `slice` into lists that are too long, or too many."""
    check_elements(int(count))
    return 0


def foresee_round(_value: Any, precision: int = 0, *_: Any, **__: Any) -> int:
    """Refuse a precision that no number has."""
    if abs(precision) > _PRECISION_AT_MOST:
        raise TooMuch(f"it rounds to more than {_PRECISION_AT_MOST} places")
    return 0


FORESEEN: Mapping[str, Callable[..., int]] = {
    "center": foresee_center, "indent": foresee_indent, "replace": foresee_replace, "join": foresee_join,
    "format": foresee_format_filter, "batch": foresee_lists, "slice": foresee_lists, "round": foresee_round,
}  # fmt: skip
"""The filters that can make much of little, and how much."""
