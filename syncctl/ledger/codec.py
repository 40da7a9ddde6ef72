"""A row on its way into a MongoDB document and back, exact to the last digit."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import bson
from bson.decimal128 import Decimal128

from syncctl.core.json_text import JsonText
from syncctl.core.rows import Value

_INT64 = 2**63
_DECIMAL = "decimal"
_INTEGER = "integer"
_JSON = "json"
_PAIRS = "pairs"
_REFERENCE = "$ref"
_TAGS = frozenset({_DECIMAL, _INTEGER, _JSON, _PAIRS})
_DIGITS_AT_MOST, _LEAST, _LARGEST = 34, -6176, 6111
DOCUMENT_BYTES_AT_MOST = 16 * 1024 * 1024 - 256 * 1024
"""MongoDB's limit on one document, less room for the history of its delivery."""


def _encode_integer(value: int) -> Any:
    return value if -_INT64 <= value < _INT64 else {_INTEGER: str(value)}


def _encode_decimal(value: Decimal) -> Any:
    """Return the Decimal128 made from the same digits and exponent; tagged text if they do not fit.

    The layout is that of IEEE 754-2008, 3.5.2, binary encoding: sign, exponent + 6176, and a significand of 34 digits.
    """
    text = str(value)
    if "E" not in text and len(text) <= _DIGITS_AT_MOST and value.is_finite():
        return _encode_digits(text)
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or len(digits) > _DIGITS_AT_MOST or not _LEAST <= exponent <= _LARGEST:
        return {_DECIMAL: text}
    return _make_decimal(sign, int("".join(map(str, digits))), exponent)


@lru_cache(maxsize=4096)
def _encode_digits(text: str) -> Decimal128:
    """Return the number of a text that holds all its digits; cached, because prices and quantities recur."""
    whole, _, fraction = text.partition(".")
    return _make_decimal(int(text[0] == "-"), abs(int(whole + fraction)), -len(fraction))


def _make_decimal(sign: int, significand: int, exponent: int) -> Decimal128:
    high = (significand >> 64) | (exponent - _LEAST) << 49 | sign << 63
    return Decimal128((high, significand & 0xFFFFFFFFFFFFFFFF))  # type: ignore[arg-type]


def _encode_json(value: JsonText) -> Any:
    # As text: its keys may hold a NUL, its numbers any digits, and it may be nested deeper than MongoDB allows.
    return {_JSON: value.text}


def _encode_list(values: list[Value]) -> Any:
    encoders = _ENCODERS
    return [encoders[type(value)](value) if type(value) in encoders else value for value in values]


def _encode_object(values: dict[str, Value]) -> Any:
    encoded = encode_values(values)
    return encoded if _REFERENCE in values or _is_plain(tuple(encoded)) else _to_pairs(encoded)


@lru_cache(maxsize=1024)
def _is_plain(names: tuple[str, ...]) -> bool:
    """Tell whether an object with these names can be stored, and cannot be mistaken for a tagged value."""
    return not (len(names) == 1 and names[0] in _TAGS) and not any("\0" in name for name in names)


def _to_pairs(encoded: Mapping[str, Any]) -> dict[str, Any]:
    return {_PAIRS: [[name, value] for name, value in encoded.items()]}


_AS_IS = frozenset({str, int, float, bool, type(None)})
_ENCODERS: Mapping[type, Callable[[Any], Any]] = {
    Decimal: _encode_decimal,
    int: _encode_integer,
    JsonText: _encode_json,
    list: _encode_list,
    dict: _encode_object,
}


def _decode_value(value: Any) -> Value:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, list):
        return [inner if type(inner) in _AS_IS else _decode_value(inner) for inner in value]
    if isinstance(value, dict):
        return _decode_object(value)
    if isinstance(value, int):
        # A driver's own type for 64 bits.
        return int(value)
    return value  # type: ignore[no-any-return]


def _decode_object(document: dict[str, Any]) -> Value:
    if len(document) == 1:
        ((tag, value),) = document.items()
        if tag == _DECIMAL:
            return Decimal(value)
        if tag == _INTEGER:
            return int(value)
        if tag == _JSON:
            return JsonText(value)
    return decode_values(document)


def encode_values(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return a document of the values: Decimal128, or tagged text beyond its 34 digits and 64-bit integers."""
    find = _ENCODERS.get
    encoded = {
        # No call for texts and common integers: this runs for each value of each row.
        name: value
        if (kind := type(value)) is str
        or (kind is int and -_INT64 <= value < _INT64)  # type: ignore[operator]
        or (encode := find(kind)) is None
        else encode(value)
        for name, value in values.items()
    }
    # The driver would read a document with this name back as a reference to another one.
    return _to_pairs(encoded) if _REFERENCE in encoded else encoded


def decode_values(document: Mapping[str, Any]) -> dict[str, Value]:
    """Return exactly the values that `encode_values` was given."""
    if _PAIRS in document and len(document) == 1 and _are_pairs(document[_PAIRS]):
        document = dict(document[_PAIRS])
    return {name: value if type(value) in _AS_IS else _decode_value(value) for name, value in document.items()}


def escape_operators(value: Any) -> Any:
    """Return a stored value in which no object has a name that begins with `$`; `decode_values` reads it the same."""
    if isinstance(value, list):
        return [inner if type(inner) in _AS_IS else escape_operators(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    escaped = {name: inner if type(inner) in _AS_IS else escape_operators(inner) for name, inner in value.items()}
    return _to_pairs(escaped) if any(name.startswith("$") for name in escaped) else escaped


def _are_pairs(stored: Any) -> bool:
    """Tell whether a stored value is the pairs of an object, not the rows of another table, which are objects."""
    return isinstance(stored, list) and bool(stored) and isinstance(stored[0], list)


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a document's BSON.

    One document that MongoDB refuses would make its whole bulk fail, so each is encoded alone.

    Raises:
        ValueError: MongoDB would refuse it; the message says why.
    """
    try:
        encoded = bson.encode(document)
    except (bson.errors.BSONError, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"the row cannot be stored: {error}") from error
    if len(encoded) > DOCUMENT_BYTES_AT_MOST:
        size = f"{len(encoded):,} bytes and the ledger stores at most {DOCUMENT_BYTES_AT_MOST:,}"
        raise ValueError(f"the row has {size}")
    return encoded
