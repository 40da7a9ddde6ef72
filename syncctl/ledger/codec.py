"""A row on its way into a MongoDB document and back, exact to the last digit."""

from collections.abc import Mapping
from decimal import Decimal, DecimalException
from typing import Any

import bson
from bson.decimal128 import Decimal128

from syncctl.core.rows import Value

_INT64 = 2**63
_DECIMAL = "decimal"
_INTEGER = "integer"
DOCUMENT_BYTES_AT_MOST = 16 * 1024 * 1024 - 256 * 1024
"""MongoDB's limit on one document, less room for the history of its delivery."""


def _encode_value(value: Value) -> Any:
    if isinstance(value, Decimal):
        try:
            encoded = Decimal128(value)
        except DecimalException:
            return {_DECIMAL: str(value)}
        return encoded if str(encoded.to_decimal()) == str(value) else {_DECIMAL: str(value)}
    if isinstance(value, int) and not isinstance(value, bool) and not -_INT64 <= value < _INT64:
        return {_INTEGER: str(value)}
    return value


def _decode_value(value: Any) -> Value:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, dict):
        return int(value[_INTEGER]) if _INTEGER in value else Decimal(value[_DECIMAL])
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value  # type: ignore[no-any-return]


def encode_values(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return a document of the values: Decimal128, or tagged text beyond its 34 digits and 64-bit integers."""
    return {name: _encode_value(value) for name, value in values.items()}


def decode_values(document: Mapping[str, Any]) -> dict[str, Value]:
    """Return exactly the values that `encode_values` was given."""
    return {name: _decode_value(value) for name, value in document.items()}


def why_not_storable(document: Mapping[str, Any]) -> str | None:
    """Say why MongoDB would refuse this document; None where it would take it.

    One refused document would take its whole batch with it, so each is tried alone before.
    """
    try:
        size = len(bson.encode(document))
    except (bson.errors.BSONError, UnicodeEncodeError, OverflowError) as error:
        return f"the row cannot be stored: {error}"
    if size > DOCUMENT_BYTES_AT_MOST:
        return f"the row has {size:,} bytes and the ledger stores at most {DOCUMENT_BYTES_AT_MOST:,}"
    return None
