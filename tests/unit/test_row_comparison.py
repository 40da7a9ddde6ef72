"""The fields in which a row in the source, its newest version and the delivered one differ."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from syncctl.commands.show_story import draw_comparison
from syncctl.console.lines import draw_line, measure
from syncctl.core.json_text import JsonText
from syncctl.core.rows import Row
from syncctl.core.stream import Child
from syncctl.pipeline.inspection.row_comparison import (
    Comparison,
    Difference,
    compare_versions,
    hide_masked,
    keep_masked,
)
from tests.harness.cases import make_stream

STREAM = make_stream(key=("id",))
LINES = Child(name="lines", table="order_lines", on=(("order_id", "id"),), sort=("line",), mask={"sku": "last4"})


def version(seq: int, state: str, payload: dict[str, Any] | None, op: str = "upsert") -> dict[str, Any]:
    return {"_id": f"orders-{seq}", "seq": seq, "state": state, "key": {"id": 5}, "payload": payload, "op": op}


def compare(
    source: dict[str, Any] | None, *versions: dict[str, Any], stream: Any = STREAM, delivered_seq: int = 1
) -> Comparison:
    row = None if source is None else Row(key={"id": 5}, payload=source)
    return compare_versions(
        stream=stream,
        name="orders",
        versions=versions,
        delivered_seq=delivered_seq,
        row=row,
        source="gone" if source is None else "read",
    )


def fields(comparison: Comparison) -> dict[str, tuple[Any, Any, Any]]:
    return {found.field: (found.source, found.newest, found.delivered) for found in comparison.differences}


def test_only_fields_that_differ_are_listed_with_their_value_on_each_side() -> None:
    old = {"id": 5, "amount": Decimal("1.50"), "note": None, "gone": 1}
    new = {"id": 5, "amount": Decimal("2.50"), "note": None}
    found = compare({**new, "note": "x"}, version(2, "failed", new), version(1, "delivered", old))
    assert fields(found) == {
        "amount": (Decimal("2.50"), Decimal("2.50"), Decimal("1.50")),
        "note": ("x", None, None),
        "gone": (None, None, 1),
    }
    assert [(each.field, each.absent_in) for each in found.differences if each.absent_in] == [
        ("gone", ("source", "newest"))
    ]
    assert (found.newest, found.delivered, found.compared) == (
        "orders-2",
        "orders-1",
        ("source", "newest", "delivered"),
    )


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, "1"), (Decimal("1.0"), Decimal("1.00")), (None, "")])
def test_values_that_are_sent_differently_differ(one: Any, other: Any) -> None:
    assert len(compare({"v": one}, version(1, "delivered", {"v": other})).differences) == 1
    assert compare({"v": one}, version(1, "delivered", {"v": one})).differences == ()


def test_children_are_told_apart_by_what_orders_them_and_json_by_its_paths() -> None:
    stream = replace(STREAM, children=(LINES,))
    old = {"lines": [{"line": 1, "qty": 2}, {"line": 2, "qty": 5}], "attributes": JsonText('{"a":{"b":[1,2]}}')}
    new = {"lines": [{"line": 2, "qty": 6}], "attributes": JsonText('{"a":{"b":[1,3]}}')}
    found = compare(new, version(2, "pending", new), version(1, "delivered", old), stream=stream)
    assert fields(found) == {
        "lines[line=2].qty": (6, 6, 5),
        "attributes.a.b[2]": (3, 3, 2),
        "lines[line=1].line": (None, None, 1),
        "lines[line=1].qty": (None, None, 2),
    }


def test_masked_columns_stay_masked_also_where_they_were_logged_before_the_mask() -> None:
    stream = replace(STREAM, mask={"iban": "last4", "email": "hash", "ssn": "drop"}, children=(LINES,))
    digits = "0123456789abcdef" * 4
    now = {"iban": "****3000", "email": digits, "lines": [{"line": 1, "sku": "****9999"}]}
    old = {"iban": "DE123000", "email": "a@b", "ssn": "123-45", "lines": [{"line": 1, "sku": "SECRET99"}]}
    found = compare(now, version(1, "delivered", old), stream=stream)
    assert fields(found) == {
        "iban": ("****3000", "****", "****"),
        "email": (digits, "****", "****"),
        "ssn": (None, "****", "****"),
        "lines[line=1].sku": ("****9999", "****", "****"),
    }
    assert keep_masked(None, "hash") is None
    assert hide_masked(old, stream) == {
        "iban": "****", "email": "****", "ssn": "****", "lines": [{"line": 1, "sku": "****"}]
    }  # fmt: skip
    assert hide_masked(now, stream) == now


def test_a_row_that_is_gone_or_was_deleted_has_no_fields() -> None:
    found = compare(
        None, version(2, "delivered", None, op="delete"), version(1, "superseded", {"id": 5}), delivered_seq=2
    )
    assert (found.source, found.compared, found.differences) == ("gone", ("source", "newest", "delivered"), ())
    gone = compare(None, version(1, "delivered", {"id": 5}))
    assert [(each.field, each.absent_in) for each in gone.differences] == [("id", ("source",))]


def test_what_could_not_be_read_is_not_compared() -> None:
    found = compare_versions(
        stream=None,
        name="orders",
        versions=[version(2, "failed", None), version(1, "superseded", {"id": 5})],
        delivered_seq=0,
        source="unreachable",
        source_error="login timed out",
    )
    assert (found.compared, found.differences, found.delivered) == ((), (), None)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_long_values_are_cut_to_where_they_differ(width: int) -> None:
    before = "x" * 300
    difference = Difference(
        field="a_very_long_name_of_a_column_in_a_view.note", source=f"{before}A", newest=f"{before}B"
    )
    comparison = Comparison(
        stream="orders", key={"id": 5}, source="read", newest="orders-1", compared=("source", "newest"),
        differences=(difference,),
    )  # fmt: skip
    lines = [draw_line(line, width=None, colour=False) for line in draw_comparison(comparison, width)]
    assert all(measure(line) <= width for line in lines)
    assert "xxxA" in lines[-1]
    assert "xxxB" in lines[-1]
