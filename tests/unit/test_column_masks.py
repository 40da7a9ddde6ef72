"""The rest of a value under a mask."""

import hashlib
import hmac
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.column_masks import HIDDEN, MASKS, Mask, mask_value
from syncctl.core.rows import Value

SECRET = "5" * 32
VALUES = st.booleans() | st.integers() | st.decimals(allow_nan=False) | st.text()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("DE89370400440532013000", "****3000"),
        ("DE89 3704 0044 0532 0130 00", "****3000"),
        ("GB29NWBK60161331926819   ", "****6819"),
        (4111111111111111, "****1111"),
        (Decimal("123456.78"), "****6.78"),
        ("12345678", "****5678"),
        ("1234567", HIDDEN),
        ("1 2 3 4 5", HIDDEN),
        ("", HIDDEN),
        (True, HIDDEN),
    ],
)
def test_last4_shows_no_more_than_half(value: Value, shown: str) -> None:
    assert mask_value(value, "last4", SECRET) == shown


@pytest.mark.parametrize(
    ("value", "text"),
    [("a@b.example", "a@b.example"), (42, "42"), (Decimal("1.50"), "1.50"), (False, "false"), ("é", "é")],
)
def test_a_hash_is_the_hmac_of_the_value_as_json_writes_it(value: Value, text: str) -> None:
    wanted = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
    assert mask_value(value, "hash", SECRET) == wanted


@given(st.text(), st.text(), st.text(min_size=1), st.text(min_size=1))
def test_equal_values_stay_equal_and_others_stay_apart(first: str, second: str, secret: str, other: str) -> None:
    assert (mask_value(first, "hash", SECRET) == mask_value(second, "hash", SECRET)) == (first == second)
    # HMAC fills a short key up with zeros, so that only they make no difference.
    is_same = secret.rstrip("\0") == other.rstrip("\0")
    if not is_same and len(secret.encode("utf-8", "surrogatepass")) <= 64 >= len(
        other.encode("utf-8", "surrogatepass")
    ):
        assert mask_value(first, "hash", secret) != mask_value(first, "hash", other)


@given(st.text(min_size=9, alphabet="0123456789"), st.sampled_from(("hash", "last4")))
def test_a_masked_value_is_not_part_of_the_result(value: str, mask: Mask) -> None:
    assert value not in str(mask_value(value, mask, SECRET))


@given(VALUES, st.sampled_from(MASKS))
def test_the_same_value_has_the_same_mask_each_time(value: Value, mask: Mask) -> None:
    assert mask_value(value, mask, SECRET) == mask_value(value, mask, SECRET)


@pytest.mark.parametrize("mask", MASKS)
def test_null_stays_null(mask: Mask) -> None:
    assert mask_value(None, mask, SECRET) is None
