"""How a record becomes bytes: exact values, and the same bytes each time."""

from collections.abc import Mapping
from decimal import Decimal

import simplejson

from syncctl.core.records import Record
from syncctl.core.rows import Value
from syncctl.core.stream import Decimals
from syncctl.partner.call import Unsendable

ENCODING_VERSION = 1
"""Raise it whenever the same record would become other bytes: its keys then change with them."""

_encoder = simplejson.JSONEncoder(
    separators=(",", ":"),
    ensure_ascii=False,
    use_decimal=True,
    allow_nan=False,
    encoding=None,  # type: ignore[arg-type]  # None refuses bytes, which it would else take for UTF-8 text
)


def encode_body(record: Record, decimals: Decimals = "number") -> bytes:
    """Return the JSON of a record's payload, or of its key where it has none (a delete).

    Columns keep their order, and decimals and integers all their digits. Safe to repeat: the same record gives
    the same bytes, in every process.

    Args:
        decimals: `string` writes decimals as strings without an exponent, for readers whose numbers are floats.

    Raises:
        Unsendable: a value that JSON has no form for; names its column.
    """
    return encode_values(show_values(choose_values(record), decimals))


def choose_values(record: Record) -> Mapping[str, Value]:
    """Return the columns that a call is made of: the row, or the key where there is no row (a delete)."""
    return record.key if record.payload is None else record.payload


def show_values(values: Mapping[str, Value], decimals: Decimals) -> dict[str, Value]:
    """Return columns as JSON takes them.

    Raises:
        Unsendable: a decimal that JSON has no form for; names its column.
    """
    shown = dict(values)
    for column, value in shown.items():
        # The encoder writes a decimal as its text, and would let NaN and Infinity through.
        if isinstance(value, Decimal) and not value.is_finite():
            raise Unsendable(f"column {column} is {value}, which JSON has no form for")
        if decimals == "string" and isinstance(value, Decimal):
            shown[column] = f"{value:f}"
    return shown


def encode_text(value: object) -> str:
    """Return the JSON of a value.

    Raises:
        ValueError, TypeError, OverflowError: JSON has no form for it.
    """
    return _encoder.encode(value)


def encode_values(values: Mapping[str, object]) -> bytes:
    """Return the bytes of a JSON object.

    Raises:
        Unsendable: a value that JSON has no form for; names what holds it.
    """
    try:
        return _encoder.encode(values).encode("utf-8")
    except (ValueError, TypeError, OverflowError) as error:
        raise Unsendable(_blame_column(values, error)) from error


def _blame_column(values: Mapping[str, object], error: Exception) -> str:
    for column, value in values.items():
        try:
            _encoder.encode({column: value}).encode("utf-8")
        except UnicodeEncodeError:
            return f"column {column!r} holds half a surrogate pair, which UTF-8 has no form for"
        except (ValueError, TypeError, OverflowError) as cause:
            return f"column {column} cannot be written as JSON: {cause}"
    return f"the row cannot be written as JSON: {type(error).__name__}"
