"""Errors that differ only in their values are one error."""

import re
import subprocess
import sys

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
        ("  two \n lines ", "two lines"),
    ],
)
def test_what_varies_is_replaced(message: str, normal: str) -> None:
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
