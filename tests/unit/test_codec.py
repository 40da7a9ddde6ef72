"""A row's values on their way into a MongoDB document and back."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.json_text import JsonText
from syncctl.core.rows import Value
from syncctl.ledger.codec import DOCUMENT_BYTES_AT_MOST, decode_values, encode_document, encode_values
from syncctl.ledger.records import RECORD_FIELDS, record_of

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.integers(min_value=10**34, max_value=10**60).map(Decimal)
    | st.decimals(min_value=-(10**40), max_value=10**40, places=10)
)
NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5)

NESTED = st.recursive(
    VALUES | st.sampled_from(['{"a":1.50}', "null", "[]"]).map(JsonText),
    lambda inner: (
        st.lists(st.dictionaries(NAMES, inner, max_size=3), max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=12,
)


def spell(value: Any) -> Any:
    """Tell values apart as a person does: by type and every digit."""
    if isinstance(value, dict):
        return [(name, spell(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return [spell(inner) for inner in value]
    return type(value), str(value)


def through_bson(values: dict[str, Value]) -> dict[str, Any]:
    """Bring values through the bytes that MongoDB keeps."""
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    return decode_values(bson.decode(bson.encode({"payload": encode_values(values)}), options)["payload"])


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_value_comes_back_with_its_type_and_all_its_digits(values: dict[str, Value]) -> None:
    found = through_bson(values)
    assert found == values
    assert {name: (type(each), str(each)) for name, each in found.items()} == {
        name: (type(each), str(each)) for name, each in values.items()
    }


@pytest.mark.parametrize(
    "value",
    [
        Decimal("12345678901234567890123456789012345678"),
        Decimal("0.12345678901234567890123456789012345678"),
        Decimal("-99999999999999999999999999999999999999"),
        Decimal("1.50"), Decimal("-0.00"), Decimal("1E+3"), Decimal("1E-6176"), Decimal("1E-7000"), Decimal("1E+7000"),
        2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**38, True, False,
    ],
)  # fmt: skip
def test_numbers_at_and_beyond_the_limits_of_bson_come_back_exactly(value: Value) -> None:
    found = through_bson({"x": value})["x"]
    assert (type(found), str(found)) == (type(value), str(value))


@pytest.mark.parametrize("name", ["$price", "a.b", "", "number", "$", "Ærø"])
def test_a_column_may_be_called_whatever_sql_allows(name: str) -> None:
    assert through_bson({name: Decimal("1.5")}) == {name: Decimal("1.5")}
    assert bson.decode(encode_document(encode_values({name: 1}))) == {name: 1}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"x": "\ud800"}, "cannot be stored"),
        ({"a\0b": 1}, "cannot be stored"),
        ({"x": 2**63}, "cannot be stored"),
        ({"x": object()}, "cannot be stored"),
        ({"x": "a" * DOCUMENT_BYTES_AT_MOST}, "the ledger stores at most 16,515,072"),
    ],
)
def test_a_value_that_mongodb_would_refuse_is_found_before_it_is_stored(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        encode_document(values)


def test_a_value_that_just_fits_is_accepted() -> None:
    frame = len(bson.encode({"x": ""}))
    assert len(encode_document({"x": "a" * (DOCUMENT_BYTES_AT_MOST - frame)})) == DOCUMENT_BYTES_AT_MOST
    with pytest.raises(ValueError, match="stores at most"):
        encode_document({"x": "a" * (DOCUMENT_BYTES_AT_MOST - frame + 1)})


@given(st.dictionaries(NAMES, NESTED, max_size=4))
def test_documents_and_rows_of_other_tables_come_back_exactly(values: dict[str, Value]) -> None:
    assert spell(through_bson(values)) == spell(values)


@pytest.mark.parametrize("name", ["decimal", "integer", "json", "pairs", "$ref", "$id", "$", "", "a.b"])
@pytest.mark.parametrize(
    "value", ["1", "[1]", None, [], [{"json": "1"}], {"decimal": "1"}, Decimal("1.5"), 2**70, JsonText("[1]")], ids=repr
)
def test_a_row_of_another_table_is_never_taken_for_a_tagged_value(name: str, value: Value) -> None:
    for nested in (value, {name: value}, [{name: value}], {name: {name: value}}, {"n": 1, name: value}):
        values: dict[str, Value] = {name: nested}
        assert spell(through_bson(values)) == spell(values)
        assert spell(through_bson({"id": 1, **values})) == spell({"id": 1, **values})


def test_a_document_is_stored_as_text_so_that_no_key_and_no_depth_of_it_matters() -> None:
    text = '{"$ref":1,"a.b":2,"\\u0000":' + "[" * 150 + "1e400" + "]" * 150 + "}"
    assert encode_values({"x": JsonText(text)}) == {"x": {"json": text}}
    assert through_bson({"x": JsonText(text)}) == {"x": JsonText(text)}


def test_a_column_of_another_table_may_hold_a_nul_in_its_name() -> None:
    values: dict[str, Value] = {"lines": [{"a\0b": Decimal("1.5")}]}
    assert through_bson(values) == values


class _NotingDocument(dict[str, Any]):
    """A stored record that notes which of its fields are read."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(document)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def test_a_claim_asks_for_every_field_of_a_record_that_is_read() -> None:
    """One that was left out would silently be as if the record did not have it."""
    document = _NotingDocument(
        {"_id": "a", "stream": "s", "key": {"id": 1}, "seq": 1, "op": "upsert", "payload": None, "state": "sending"}
    )
    record_of(document)
    assert document.read == {"_id", *RECORD_FIELDS}
