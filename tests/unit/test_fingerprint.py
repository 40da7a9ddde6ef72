"""Errors that differ only in their values are one error."""

import random
import re
import subprocess
import sys
import uuid
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.fingerprint import MESSAGE_AT_MOST, fingerprint, normalise


@pytest.mark.parametrize(
    ("message", "normal"),
    [
        ("order 4711 is locked", "order <n> is locked"),
        ("amount -12.50 is below 0", "amount <n> is below <n>"),
        ("order-17 and order17", "order-<n> and order<n>"),
        ("no such user 'Ann O.'", "no such user <text>"),
        ('field "total" is missing', "field <text> is missing"),
        ("column `a b`", "column <text>"),
        ("can't say, won't say", "can't say, won't say"),
        ("id 3f2504e0-4f89-11d3-9a0c-0305e82c3301 unknown", "id <uuid> unknown"),
        ("version 0x00000000000007D1", "version <hex>"),
        ("record orders-0af43e55c1d24b9a failed", "record orders-<hex> failed"),
        ("a facade of deadbeef", "a facade of deadbeef"),
        ("since 2026-03-01T12:00:00.123Z", "since <time>"),
        ("since 2026-03-01 12:00:00+01:00", "since <time>"),
        ("on 2026-03-01 it broke", "on <time> it broke"),
        ("at 12:00:01 it broke", "at <time> it broke"),
        ("api.example:443 refused the connection", "api.example:<n> refused the connection"),
        ("mail to ann.o+x@mail.example bounced", "mail to <email> bounced"),
        ("no customer \u201cAnn\u201d, \u00abBob\u00bb or \u2018Cleo\u2019", "no customer <text>, <text> or <text>"),
        ("no customer 'O'Neil'", "no customer <text>"),
        ('{"error":"no customer \\"Ann\\""}', "{<text>:<text>}"),
        ('no customer "Ann who was cut', "no customer <text>"),
        ("since Sun, 06 Nov 1994 08:49:37 GMT", "since <time>"),
        ("request 01ARZ3NDEKTSV4RRFFQ69G5FAV failed", "request <id> failed"),
        ("token V1StGXR8_Z5jdHi6BmyT is used", "token <id> is used"),
        ("ADDRESS and OrderLineQuantityMustBePositive", "ADDRESS and OrderLineQuantityMustBePositive"),
        ("  two \n lines ", "two lines"),
    ],
)
def test_the_varying_parts_of_a_message_are_replaced(message: str, normal: str) -> None:
    assert normalise(message) == normal


def test_one_error_of_two_rows_is_one_fingerprint() -> None:
    assert fingerprint(422, "order 1 of 'Ann' is invalid") == fingerprint(422, "order 2 of 'Bob' is invalid")


def test_status_and_words_make_a_difference() -> None:
    fingerprints = {
        fingerprint(422, "bad"),
        fingerprint(400, "bad"),
        fingerprint(None, "bad"),
        fingerprint(422, "worse"),
    }
    assert len(fingerprints) == 4


@given(st.none() | st.integers(100, 599), st.text(max_size=400))
def test_a_fingerprint_is_twelve_hex_digits(status: int | None, message: str) -> None:
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(status, message))


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_numbers_make_no_difference(first: int, second: int) -> None:
    assert fingerprint(422, f"order {first} is late") == fingerprint(422, f"order {second} is late")


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = "from syncctl.core.fingerprint import fingerprint; print(fingerprint(422, 'order 1 is invalid'))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {fingerprint(422, "order 2 is invalid")}


def test_a_huge_message_is_cut() -> None:
    assert len(normalise("x " * 1_000_000)) <= MESSAGE_AT_MOST


def with_letters(content: bytes) -> str:
    """Return hexadecimal text that no chance makes a number."""
    return f"a{content.hex()}1"


TIMES = st.datetimes(min_value=datetime(1000, 1, 1)).map(lambda at: f"{at:%Y-%m-%d %H:%M:%S}")  # noqa: DTZ001
QUOTABLE = st.text(alphabet=st.characters(exclude_characters='"\\'))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SAMPLES = {
    "order {} of {} is locked": st.tuples(st.integers(), st.uuids()),
    'field "{}" has {} characters': st.tuples(QUOTABLE, st.integers()),
    "customer '{}' since {}": st.tuples(st.text(alphabet="abc XYZ.-"), TIMES),
    "row {} has {}": st.tuples(st.uuids().map(lambda each: str(each).upper()), st.integers(0).map(hex)),
    "trace {} of {}": st.tuples(st.binary(min_size=16, max_size=16).map(with_letters), FLOATS),
}


@pytest.mark.parametrize("message", SAMPLES)
@given(data=st.data())
def test_errors_of_one_kind_are_one_error(message: str, data: st.DataObject) -> None:
    first, second = (message.format(*data.draw(SAMPLES[message])) for _ in range(2))
    assert fingerprint(422, first) == fingerprint(422, second)


WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyzäöüABCDEFGH0123456789-_./ ", min_size=2, max_size=20).filter(
    lambda text: text.strip() == text
)


@given(WORDS, WORDS)
def test_the_keys_of_rows_make_no_difference(first: str, second: str) -> None:
    texts = [normalise(f"Zzz ({key}): Qqq", [key, 17]) for key in (first, second)]
    assert texts == ["Zzz (<key>): Qqq"] * 2


def test_a_key_is_found_in_other_letters_only_where_it_has_numerals() -> None:
    assert normalise("order a-17x and A-17X", ["A-17X"]) == "order <key> and <key>"
    assert normalise("this IS it", ["IS"]) == "this <key> it"
    assert normalise("it is this", ["IS"]) == "it is this"
    assert normalise("a b", ["a"]) == "a b"
    assert normalise("order IS-1", ["IS", "IS-1"]) == "order <key>"


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_where_a_long_message_was_cut_makes_no_difference(first: int, second: int) -> None:
    messages = [
        f"HTTP 422: order {number} " + "was refused because it is not complete " * 9 for number in (first, second)
    ]
    assert len({fingerprint(422, message[:210]) for message in messages}) == 1


def test_ten_thousand_failures_of_one_kind_are_one_group() -> None:
    chance = random.Random(7)
    messages = set()
    for number in range(10_000):
        key = f"{chance.choice(['eu', 'us-west', 'Zürich'])}/{number}"
        bits = chance.getrandbits(128)
        at = f"2026-03-01T12:00:{number % 60:02}"
        message = f"order {key} ({uuid.UUID(int=bits)}) of 'customer {number}' at {at} is {bits:x}"
        messages.add(fingerprint(409, message, [key, number]))
    assert len(messages) == 1
