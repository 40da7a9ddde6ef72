"""The demo's account never calls an inexact result exact."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from syncctl.local.demo.account import (
    CallCounts,
    DocumentCounts,
    RowCounts,
    compare_rows,
    count_calls,
    count_documents,
    find_differences,
    find_document_differences,
)

ROW: Mapping[str, Any] = {"id": 1, "amount": Decimal("19.9"), "note": None}
ROWS = RowCounts(source_rows=2, delivered=2, lost=0, stale=0, extra=0)
CALLS = CallCounts(
    calls=3, distinct_keys=2, repeated_calls=1, applied_before=1, resent=0, violations=0, duplicated_effects=0
)


def call(key: str, fate: str, *, row: str = "1", body: str = "a", method: str = "POST") -> dict[str, str]:
    return {"method": method, "key": key, "fate": fate, "row": row, "body_hash": body}


def differences(compared: RowCounts = ROWS, called: CallCounts = CALLS, **changed: int) -> list[str]:
    expected = {"rows": 2, "keys_applied": 2, "unfinished": 0, "still_failed": 0}
    return list(find_differences(compared=compared, called=called, **{**expected, **changed}))


def test_equal_values_are_delivered_however_they_are_written() -> None:
    counts = compare_rows({"1": ROW}, {"1": {**ROW, "amount": Decimal("19.90")}})
    assert counts == RowCounts(source_rows=1, delivered=1, lost=0, stale=0, extra=0)


@pytest.mark.parametrize("held", [{"note": ""}, {"amount": Decimal("19.91")}, {"more": 1}])
def test_a_row_with_any_other_value_is_stale_and_lost(held: dict[str, Any]) -> None:
    counts = compare_rows({"1": ROW}, {"1": {**ROW, **held}})
    assert (counts.delivered, counts.lost, counts.stale) == (0, 1, 1)
    assert next(iter(held)) in counts.samples[0]


def test_rows_that_only_one_side_has_are_lost_or_extra() -> None:
    counts = compare_rows({"1": ROW, "2": ROW}, {"2": ROW, "3": ROW})
    assert (counts.delivered, counts.lost, counts.stale, counts.extra) == (1, 1, 0, 1)


def test_calls_are_counted_by_their_keys() -> None:
    counts = count_calls(
        [
            call("k1", "error"),
            call("k1", "dropped_after"),
            call("k1", "repeated"),
            call("k2", "dropped_before", row="2"),
            call("k2", "applied", row="2"),
            call("k3", "applied", row="2"),
        ]
    )
    assert counts == CallCounts(
        calls=6, distinct_keys=3, repeated_calls=3, applied_before=1, resent=1, violations=0, duplicated_effects=0
    )


def test_other_bytes_and_a_second_effect_are_found_without_the_partners_help() -> None:
    counts = count_calls([call("k", "applied"), call("k", "applied", body="b")])
    assert (counts.violations, counts.duplicated_effects) == (1, 1)


def test_an_account_without_differences_is_exact() -> None:
    assert differences() == []


@pytest.mark.parametrize(
    ("rows", "calls", "changed"),
    [
        (replace(ROWS, lost=1), CALLS, {}),
        (replace(ROWS, extra=1), CALLS, {}),
        (ROWS, replace(CALLS, violations=1), {}),
        (ROWS, replace(CALLS, duplicated_effects=1), {}),
        (ROWS, CALLS, {"rows": 3}),
        (ROWS, CALLS, {"keys_applied": 3}),
        (ROWS, CALLS, {"unfinished": 1}),
        (ROWS, CALLS, {"still_failed": 1}),
    ],
)
def test_each_difference_is_reported(rows: RowCounts, calls: CallCounts, changed: dict[str, int]) -> None:
    assert len(differences(rows, calls, **changed)) == 1


def test_a_question_is_a_call_that_has_no_key() -> None:
    counts = count_calls([call("", "not_found", method="GET"), call("", "found", method="GET"), call("k", "applied")])
    assert (counts.calls, counts.distinct_keys, counts.repeated_calls) == (3, 1, 0)


ORDERS: Mapping[str, Any] = {"1": {"id": 1, "lines": [{}, {}]}, "2": {"id": 2, "lines": []}}
CREATED = [call("k1", "dropped_after"), call("k2", "applied", row="2"), call("k3", "applied", method="PUT")]
WRITTEN: Mapping[str, Any] = {
    "1": {"partner_id": "P-1", "sync_error": None},
    "2": {"partner_id": "P-2", "sync_error": None},
}


def count(
    objects: Mapping[str, Any], *calls: dict[str, str], written: Mapping[str, Any] = WRITTEN
) -> tuple[DocumentCounts, list[str]]:
    counts = count_documents(ORDERS, objects, [*CREATED, *calls], written)
    return counts, list(find_document_differences(counts, rows=2))


def test_objects_are_counted_by_the_rows_they_were_created_from() -> None:
    asked = [call("", "found", method="GET"), call("", "not_found", method="GET"), call("", "error", method="GET")]
    counts, differences = count({"P-1": ORDERS["1"], "P-2": ORDERS["2"]}, *asked)
    expected = {"lines": 2, "created": 2, "created_twice": 0, "updated": 1, "lookups": 2, "found": 1, "written_back": 2}
    assert counts == DocumentCounts(**expected)
    assert differences == []


def test_an_object_created_twice_is_found_although_its_answer_was_lost() -> None:
    counts, differences = count(
        {"P-1": ORDERS["1"], "P-2": ORDERS["2"], "P-3": ORDERS["1"]}, call("k1", "dropped_after"), written=WRITTEN
    )
    assert (counts.created, counts.created_twice) == (3, 1)
    assert "the partner has created row 1 as P-1 and P-3" in differences


@pytest.mark.parametrize("held", [{"partner_id": None}, {"partner_id": "P-2"}, {"sync_error": "HTTP 422"}])
def test_a_row_without_the_id_of_its_object_is_a_difference(held: dict[str, Any]) -> None:
    objects = {"P-1": ORDERS["1"], "P-2": ORDERS["2"]}
    counts, differences = count(objects, written={**WRITTEN, "1": {**WRITTEN["1"], **held}})
    assert counts.written_back == 1
    assert differences[0] == "1 rows do not have the id of their object"
