"""A value on its way from SQL to JSON keeps every digit, or is refused with a reason."""

import base64
import datetime as dt
import enum
import json
import math
import struct
import uuid
from decimal import Decimal

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.values import shorten_single, to_value

AWARE = st.timezones() | st.just(dt.UTC)


def through_json(value: object) -> object:
    return simplejson.loads(simplejson.dumps(value, use_decimal=True), use_decimal=True)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_keeps_every_digit(number: Decimal) -> None:
    value = to_value(number)
    assert isinstance(value, Decimal)
    assert str(value) == str(number)
    assert Decimal(str(through_json(value))) == number


@given(st.integers())
def test_an_integer_keeps_every_digit(number: int) -> None:
    assert through_json(to_value(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_as_the_same_float(number: float) -> None:
    assert math.copysign(1, json.loads(json.dumps(to_value(number)))) == math.copysign(1, number)
    assert json.loads(json.dumps(to_value(number))) == number


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_of_any_language_comes_back(text: str) -> None:
    assert through_json(to_value(text)) == text


@given(st.binary(), st.sampled_from([bytes, bytearray, memoryview]))
def test_binary_becomes_base64(raw: bytes, form: type) -> None:
    value = to_value(form(raw))
    assert isinstance(value, str)
    assert base64.b64decode(value, validate=True) == raw


@given(st.datetimes())
def test_a_naive_time_keeps_its_microseconds(moment: dt.datetime) -> None:
    value = to_value(moment)
    assert isinstance(value, str)
    assert dt.datetime.fromisoformat(value) == moment


@given(st.datetimes(timezones=st.sampled_from([dt.timezone(dt.timedelta(minutes=m)) for m in (-570, 0, 345)])))
def test_an_aware_time_keeps_its_offset(moment: dt.datetime) -> None:
    value = to_value(moment)
    assert isinstance(value, str)
    back = dt.datetime.fromisoformat(value)
    assert (back, back.utcoffset()) == (moment, moment.utcoffset())


@given(st.dates() | st.times())
def test_dates_and_times_of_day_become_iso_text(moment: dt.date | dt.time) -> None:
    assert to_value(moment) == moment.isoformat()


@given(st.uuids())
def test_a_guid_becomes_lower_case_text(guid: uuid.UUID) -> None:
    value = to_value(guid)
    assert isinstance(value, str)
    assert value == value.lower()
    assert uuid.UUID(value) == guid


@pytest.mark.parametrize("raw", [None, True, False])
def test_none_and_booleans_stay_what_they_are(raw: object) -> None:
    assert to_value(raw) is raw


def test_subclasses_become_plain_values() -> None:
    class Colour(enum.IntEnum):
        RED = 1

    class Name(str):
        __slots__ = ()

    assert type(to_value(Colour.RED)) is int
    assert type(to_value(Name("a"))) is str


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (float("nan"), "the number is NaN; JSON cannot represent it"),
        (float("inf"), "the number is Infinity; JSON cannot represent it"),
        (float("-inf"), "the number is -Infinity; JSON cannot represent it"),
        (Decimal("NaN"), "the number is NaN; JSON cannot represent it"),
        (Decimal("sNaN"), "the number is NaN; JSON cannot represent it"),
        (Decimal("-Infinity"), "the number is -Infinity; JSON cannot represent it"),
        ("ab\ud800", "the text has half a character at position 2 (U+D800); JSON cannot represent it"),
        (object(), "JSON cannot represent a value of type object"),
        ({1}, "JSON cannot represent a value of type set"),
    ],
)
def test_a_value_without_a_form_in_json_is_refused_with_the_reason(raw: object, reason: str) -> None:
    with pytest.raises(ValueError, match="JSON") as caught:
        to_value(raw)
    assert str(caught.value) == reason


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_single_becomes_the_shortest_number_that_is_the_same_single(number: float) -> None:
    short = shorten_single(number)
    assert struct.pack("f", short) == struct.pack("f", number)
    if number.is_integer():
        assert short == number or abs(number) >= 2**53
    else:
        assert len(Decimal(repr(short)).normalize().as_tuple().digits) <= 9


@pytest.mark.parametrize("short", [0.1, -123.456, 3.4e38, 16777216.0, 1e-40, -0.0, 3.4028235e38])
def test_a_single_is_shown_as_it_was_written(short: float) -> None:
    (driven,) = struct.unpack("f", struct.pack("f", short))
    assert repr(shorten_single(driven)) == repr(short)


def test_a_single_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="the number is NaN"):
        shorten_single(math.nan)
