"""A row on its way into a MongoDB document and back, exact to the last digit."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import bson
from bson.decimal128 import Decimal128

from syncctl.core.rows import Value

_INT64 = 2**63
_DECIMAL = "decimal"
_INTEGER = "integer"
_DIGITS_AT_MOST, _LEAST, _LARGEST = 34, -6176, 6111
DOCUMENT_BYTES_AT_MOST = 16 * 1024 * 1024 - 256 * 1024
"""MongoDB's limit on one document, less room for the history of its delivery."""


def _encode_integer(value: int) -> Any:
    return value if -_INT64 <= value < _INT64 else {_INTEGER: str(value)}


def _encode_decimal(value: Decimal) -> Any:
    """Return the Decimal128 with the same digits and exponent, made of these; tagged text where it has no room.

    The layout is that of IEEE 754-2008, 3.5.2, binary encoding: sign, exponent + 6176, and a significand of 34 digits.
    """
    text = str(value)
    if "E" in text or len(text) > _DIGITS_AT_MOST or not value.is_finite():
        sign, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int) or len(digits) > _DIGITS_AT_MOST or not _LEAST <= exponent <= _LARGEST:
            return {_DECIMAL: text}
        significand = int("".join(map(str, digits)))
    else:
        # The text holds all digits, and reading them there takes half the time.
        whole, _, fraction = text.partition(".")
        sign, exponent = int(text[0] == "-"), -len(fraction)
        significand = abs(int(whole + fraction))
    high = (significand >> 64) | (exponent - _LEAST) << 49 | sign << 63
    return Decimal128((high, significand & 0xFFFFFFFFFFFFFFFF))  # type: ignore[arg-type]


_AS_IS = frozenset({str, int, float, bool, type(None)})
_ENCODERS: Mapping[type, Callable[[Any], Any]] = {Decimal: _encode_decimal, int: _encode_integer}


def _decode_value(value: Any) -> Value:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, dict):
        return int(value[_INTEGER]) if _INTEGER in value else Decimal(value[_DECIMAL])
    if isinstance(value, int):
        # A driver's own type for 64 bits.
        return int(value)
    return value  # type: ignore[no-any-return]


def encode_values(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return a document of the values: Decimal128, or tagged text beyond its 34 digits and 64-bit integers."""
    encoders = _ENCODERS
    return {name: encoders[type(value)](value) if type(value) in encoders else value for name, value in values.items()}


def decode_values(document: Mapping[str, Any]) -> dict[str, Value]:
    """Return exactly the values that `encode_values` was given."""
    return {name: value if type(value) in _AS_IS else _decode_value(value) for name, value in document.items()}


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a document's BSON.

    One document that MongoDB refuses would take its whole bulk with it, so each is encoded alone.

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
