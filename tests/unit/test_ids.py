"""Names of keys, records and contents, and the number that decides newer or older."""

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncctl.core.ids import (
    canonical_text,
    chained_version,
    content_hash,
    epoch_of,
    format_seq,
    key_id,
    make_seq,
    record_id,
)
from syncctl.core.json_text import JsonText
from syncctl.core.records import idempotency_key

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.decimals(allow_nan=False, allow_infinity=False)
)
ROWS = st.dictionaries(st.text(max_size=3), VALUES, max_size=4)
EPOCHS = st.integers(min_value=0, max_value=2**31 - 1)
POSITIONS = st.integers(min_value=0, max_value=2**32 - 1)


def exactly(row: dict[str, Any]) -> Any:
    """Distinguish rows as a person does: by column, type and every digit."""
    return sorted((name, type(value).__name__, str(value)) for name, value in row.items())


@given(ROWS, ROWS)
def test_two_contents_have_one_hash_only_when_they_are_one_content(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = exactly(one) == exactly(other)
    assert (content_hash(one, "upsert") == content_hash(other, "upsert")) == same
    assert (key_id(one) == key_id(other)) == same


@given(ROWS)
def test_the_order_of_columns_does_not_matter(row: dict[str, Any]) -> None:
    turned = dict(reversed(row.items()))
    assert content_hash(turned, "upsert") == content_hash(row, "upsert")
    assert key_id(turned) == key_id(row)
    assert canonical_text(turned) == canonical_text(row)


def test_the_type_of_a_value_is_part_of_the_content() -> None:
    values = [1, "1", 1.0, Decimal(1), Decimal("1.0"), True, None, "", "None", "true", '{"d":"1"}']
    assert len({content_hash({"x": value}, "upsert") for value in values}) == len(values)
    assert len({key_id({"x": value}) for value in values}) == len(values)


def test_the_operation_and_the_error_are_part_of_the_content() -> None:
    hashes = {
        content_hash({}, "upsert"),
        content_hash(None, "delete"),
        content_hash(None, "upsert", "unreadable"),
        content_hash(None, "upsert", "too large"),
    }
    assert len(hashes) == 4


def test_a_text_that_cannot_be_encoded_still_has_a_name() -> None:
    assert key_id({"x": "\ud800"}) != key_id({"x": "\ud801"})
    assert re.fullmatch(r"orders-[0-9a-f]{32}", record_id("orders", "k", "\ud800"))


def test_names_stay_what_they_are_from_one_release_to_the_next() -> None:
    """They are in ledgers and at partners: another name would send every row again."""
    row = {"id": 7, "amount": Decimal("1.50"), "note": "Ærø"}
    assert key_id({"id": 7}) == "590139a67c12aba12a2fc4de5c76c933"
    assert content_hash(row, "upsert") == "0e51b766e2bb35d21838b674c3f4fe8f"
    assert record_id("orders", key_id({"id": 7}), "0x07d1") == "orders-7f748da7a732133f4db8ebcb494bf924"


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_a_record_is_named_by_its_key_and_its_version(key: str, version: str, key2: str, version2: str) -> None:
    assume("\x1f" not in key + key2 + version + version2)
    same = (key, version) == (key2, version2)
    assert (record_id("orders", key, version) == record_id("orders", key2, version2)) == same


def test_the_same_row_of_two_streams_is_two_records() -> None:
    assert record_id("orders", "k", "1")[-32:] != record_id("returns", "k", "1")[-32:]


def test_a_content_that_comes_back_is_another_version() -> None:
    before, after = (record_id("orders", "k", version) for version in "12")
    assert chained_version(before, "a") != chained_version(after, "a")
    assert chained_version(before, "a") != chained_version(before, "b")
    assert chained_version("", "a") == "0.a"


@given(EPOCHS, POSITIONS, EPOCHS, POSITIONS)
def test_a_later_poll_is_always_newer_and_within_one_the_later_row(e1: int, p1: int, e2: int, p2: int) -> None:
    assert (make_seq(e1, p1) < make_seq(e2, p2)) == ((e1, p1) < (e2, p2))


@given(EPOCHS, POSITIONS)
def test_a_seq_tells_its_epoch_and_fits_into_64_bits(epoch: int, position: int) -> None:
    seq = make_seq(epoch, position)
    assert epoch_of(seq) == epoch
    assert format_seq(seq) == f"{epoch}.{position}"
    assert 0 <= seq < 2**63


@pytest.mark.parametrize(("epoch", "position"), [(-1, 0), (0, -1), (2**31, 0), (0, 2**32)])
def test_a_seq_that_would_run_over_is_refused(epoch: int, position: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        make_seq(epoch, position)


def test_each_generation_has_an_idempotency_key_of_its_own() -> None:
    assert [idempotency_key("orders-1", generation) for generation in range(3)] == [
        "orders-1",
        "orders-1-2",
        "orders-1-3",
    ]


def test_a_row_of_single_values_keeps_the_hash_that_it_has_in_ledgers() -> None:
    row = {"id": 7, "name": "Ærø", "sum": Decimal("1.50"), "rate": 0.1, "note": None, "ok": True}
    assert content_hash(row, "upsert") == "7f5e00e2803b72371bff9f62837a95c8"
    assert content_hash(None, "delete") == "c8e8b7e54081c898d2354370feae0c70"
    assert key_id({"id": 7, "part": Decimal("1.5")}) == "9e33c1cb61497fee4aaf635d2780cb8b"


def test_documents_and_rows_of_other_tables_are_part_of_the_content() -> None:
    values: list[Any] = [
        "[1]", JsonText("[1]"), JsonText("[1.0]"), JsonText("[1,2]"), [1], ["1"], [Decimal(1)], [1.0], [], {}, None,
        {"a": 1}, [{"a": 1}], [{"a": "1"}], [{"a": Decimal(1)}], [{"a": Decimal("1.0")}], {"d": "1"}, Decimal(1),
        {"o": {"d": "1"}}, {"o": Decimal(1)}, {"j": "[1]"}, {"f": "1.0"}, 1.0, [{"a": 1}, {"a": 1}],
        [{"a": [{"a": 1}]}],
    ]  # fmt: skip
    assert len({content_hash({"x": value}, "upsert") for value in values}) == len(values)


def test_the_order_of_the_columns_of_another_table_does_not_matter_but_that_of_its_rows_does() -> None:
    one, other = {"a": 1, "b": Decimal(2)}, {"b": Decimal(2), "a": 1}
    assert content_hash({"x": [one]}, "upsert") == content_hash({"x": [other]}, "upsert")
    assert content_hash({"x": [one, {}]}, "upsert") != content_hash({"x": [{}, one]}, "upsert")
