"""JSON as text: the check that a rendered body is JSON, and how one is read with all its digits."""

from decimal import Decimal
from typing import Any

import simplejson

from syncctl.partner.call import Unsendable

_WHOLE_DIGITS_AT_MOST = 1000
"""Whole numbers beyond stay decimals: Python refuses to write integers of some thousand digits."""


def check_json(text: str) -> None:
    """Check that a text is one JSON document.

    Raises:
        Unsendable: it is not; names the place, and never shows what stands there.
    """
    try:
        # Numbers stay text: whoever reads the body may have larger ones than Python.
        simplejson.loads(text, parse_int=str, parse_float=str)
    except simplejson.JSONDecodeError as error:
        # The library's text is a pattern: what would show a character of the body begins at the percent sign.
        wrong = str(error.msg).partition("%")[0].strip()
        raise Unsendable(f"the body is not JSON: line {error.lineno}, column {error.colno}: {wrong}") from error
    except RecursionError as error:
        raise Unsendable("the body is not JSON: it is nested too deeply") from error


def read_exact(text: str | bytes) -> Any:
    """Return a JSON document with all digits: whole numbers as integers, also those written as 2.0, others as decimals.

    Raises:
        ValueError, ArithmeticError, RecursionError: it is not JSON, or too large to be read.
    """
    return simplejson.loads(text, parse_int=_read_number, parse_float=_read_number)


def _read_number(text: str) -> int | Decimal:
    number = Decimal(text)
    if number.adjusted() < _WHOLE_DIGITS_AT_MOST and number == number.to_integral_value():
        return int(number)
    return number
