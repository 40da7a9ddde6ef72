"""Values on their way from a database driver to JSON: exact, or refused with a reason."""

import base64
import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from syncctl.core.rows import Value

_EXACT_BELOW = 2.0**53
"""Whole numbers below it are written out, so a shorter number with the same 32 bits would only be wrong."""


def to_value(raw: object) -> Value:
    """Return the exact JSON-safe form of what a database driver returned.

    Decimals and integers keep every digit. Dates and times become ISO 8601 text with whatever fraction and offset
    they have, GUIDs lower-case text, binary base64 text.

    Raises:
        ValueError: JSON cannot represent it; the message says why, and never contains the value of a text.
    """
    kind = type(raw)
    if kind is int or (kind is str and raw.isascii()):  # type: ignore[attr-defined]
        # Most values of most rows: this is called for each value of each row that is read.
        return raw  # type: ignore[return-value]
    convert = _BY_TYPE.get(kind)
    if convert is None:
        convert = _find_by_parent(raw)
    return convert(raw)


def shorten_single(raw: float) -> float:
    """Return the shortest number that is the same in 32 bits: 0.1, where a driver makes 0.10000000149011612 of it.

    Raises:
        ValueError: It is not finite.
    """
    to_value(raw)
    if raw.is_integer() and abs(raw) < _EXACT_BELOW:
        return raw
    for digits in range(1, 9):
        short = float(f"{raw:.{digits}g}")
        if _to_single(short) == raw:
            return short
    return float(f"{raw:.9g}")


def _to_single(number: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.inf


def _keep(raw: Any) -> Value:
    return raw  # type: ignore[no-any-return]


def _to_int(raw: Any) -> Value:
    return int(raw)


def _check_text(raw: Any) -> Value:
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            broken = ord(raw[error.start])
            raise ValueError(
                f"the text has half a character at position {error.start} (U+{broken:04X}); JSON cannot represent it"
            ) from None
    return str(raw)


def _check_float(raw: Any) -> Value:
    if not math.isfinite(raw):
        raise ValueError(f"the number is {_name_of_number(raw)}; JSON cannot represent it")
    return float(raw)


def _check_decimal(raw: Any) -> Value:
    if not raw.is_finite():
        raise ValueError(f"the number is {_name_of_number(raw)}; JSON cannot represent it")
    return raw  # type: ignore[no-any-return]


def _name_of_number(raw: float | Decimal) -> str:
    if "nan" in str(raw).lower():
        return "NaN"
    return "Infinity" if raw > 0 else "-Infinity"


def _show_time(raw: Any) -> Value:
    return raw.isoformat()  # type: ignore[no-any-return]


def _show_binary(raw: Any) -> Value:
    return base64.b64encode(raw).decode("ascii")


_BY_TYPE: dict[type, Callable[[Any], Value]] = {
    type(None): _keep,
    bool: _keep,
    int: _to_int,
    str: _check_text,
    float: _check_float,
    Decimal: _check_decimal,
    dt.datetime: _show_time,
    dt.date: _show_time,
    dt.time: _show_time,
    bytes: _show_binary,
    bytearray: _show_binary,
    memoryview: _show_binary,
    uuid.UUID: str,
}


def _find_by_parent(raw: object) -> Callable[[Any], Value]:
    """Find the rule for a subclass, such as an IntEnum or a driver's own text type."""
    for parent in type(raw).__mro__:
        if parent in _BY_TYPE:
            return _BY_TYPE[parent]
    raise ValueError(f"JSON cannot represent a value of type {type(raw).__name__}")
