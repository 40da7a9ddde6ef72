"""A mapping of fields: how it is read, and the JSON that it builds."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.mapping import FieldRule, parse_fields
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import FieldMap
from tests.harness.cases import make_record

ROW = {"id": 7, "amount": Decimal("10.50"), "note": None}


def encode(table: dict[str, Any], row: dict[str, Any] | None = None, **changes: Any) -> str:
    record = make_record(payload=ROW if row is None else row, **changes)
    return FieldMap(parse_fields(table), "number").encode(record).decode()


@pytest.mark.parametrize(
    ("table", "sent"),
    [
        ({"id": "id"}, '{"id":7}'),
        ({"b": "amount", "a": "id"}, '{"b":10.50,"a":7}'),
        ({"order.id": "id", "total": "amount", "order.note": "note"}, '{"order":{"id":7,"note":null},"total":10.50}'),
        ({"order": {"id": "id", "sum": {"net": "amount"}}}, '{"order":{"id":7,"sum":{"net":10.50}}}'),
        ({"@odata\\.type": {"const": "#order"}}, '{"@odata.type":"#order"}'),
        ({"kind": {"const": "order"}, "n": {"const": [1, {"a": True}]}}, '{"kind":"order","n":[1,{"a":true}]}'),
        ({"id": {"const": "id"}}, '{"id":"id"}'),
        ({"const": "id"}, '{"const":7}'),
        ({"*": "*"}, '{"id":7,"amount":10.50,"note":null}'),
        ({"no": "id", "*": "*"}, '{"no":7,"amount":10.50,"note":null}'),
        ({"*": "*", "note": {"const": 1}}, '{"id":7,"amount":10.50,"note":1}'),
        ({"row.*": "*", "at": {"const": 1}}, '{"row":{"id":7,"amount":10.50,"note":null},"at":1}'),
        ({"*": "*", "note.text": {"const": 1}}, '{"id":7,"amount":10.50,"note":{"text":1}}'),
    ],
)
def test_a_mapping_builds_its_document_from_a_row(table: dict[str, Any], sent: str) -> None:
    assert encode(table) == sent


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({}, "names no field"),
        ({"a": 1}, "'a' is neither a column nor a constant"),
        ({"a": ""}, "'a' names no column"),
        ({"a": {}}, "'a' is neither a column nor a constant"),
        ({"a..b": "id"}, "'a..b' has an empty part"),
        ({"a": "id", "a.b": "id"}, "'a' holds a value"),
        ({"a.b": "id", "a": "id"}, "'a' holds a value"),
        ({"a": "id", "a.*": "*"}, "'a' holds a value"),
        ({"a.b": "id", "a": {"b": "id"}}, "two fields have the place 'a.b'"),
        ({"*": "*", "a.*": "*"}, "it can be used only once"),
        ({"*": "id"}, "on both sides"),
        ({"a": "*"}, "on both sides"),
        ({"a": {"const": float("nan")}}, "the constant of 'a' is nan"),
        ({"a": {"const": {"b": [float("inf")]}}}, "the constant of 'a.b' is inf"),
    ],
)
def test_a_wrong_mapping_is_refused_with_the_reason(table: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("*", r"\*")):
        parse_fields(table)


def test_a_column_that_the_row_lacks_fails_that_record_and_is_named() -> None:
    with pytest.raises(Unsendable) as error:
        encode({"order.total": "amuont"})
    assert error.value.reason == "field order.total needs column amuont, which the row does not have"


def test_of_a_row_that_is_gone_only_the_key_is_sent() -> None:
    record = make_record(op="delete")
    gone = FieldMap(parse_fields({"order.no": "id", "order.total": "amount", "k": {"const": 1}}), "number")
    object.__setattr__(record, "payload", None)
    assert gone.encode(record) == b'{"order":{"no":7},"k":1}'


def test_decimals_and_values_without_a_form_in_json_are_as_without_a_mapping() -> None:
    rules = parse_fields({"a": "amount"})
    assert FieldMap(rules, "string").encode(make_record(payload=ROW)) == b'{"a":"10.50"}'
    with pytest.raises(Unsendable, match="column amount is NaN"):
        FieldMap(rules, "number").encode(make_record(payload={"amount": Decimal("NaN")}))
    with pytest.raises(Unsendable, match="half a surrogate pair"):
        FieldMap(rules, "number").encode(make_record(payload={"amount": "\ud800"}))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters=".\\*"), min_size=1).filter(str.strip)


@given(st.dictionaries(NAMES, st.integers(), min_size=1, max_size=6), st.randoms())
def test_every_chosen_column_stands_in_its_place_whatever_the_order_of_the_columns(
    row: dict[str, int], random: Any
) -> None:
    table = {f"at.{name}": name for name in row}
    shuffled = list(row.items())
    random.shuffle(shuffled)
    sent = encode(table, row)
    assert json.loads(sent) == {"at": row}
    assert encode(table, dict(shuffled)) == sent


def test_rules_are_values() -> None:
    assert parse_fields({"a.b": "id"}) == (FieldRule(target=("a", "b"), column="id"),)
