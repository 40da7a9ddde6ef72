"""What is kept with a cursor: its basis, and the last rows before it."""

from typing import Any

import pytest

from syncctl.core.cursors import Basis, Kind, Witnesses, find_impostors, list_changes, read_basis
from syncctl.core.rows import Row, Value
from syncctl.core.stream import Mode

BASIS = Basis(database="d", table="dbo.t", key=("id",), query=None, where=None, start="now")
COLUMNS = frozenset({"order_no", "name", "price", "state"})


def change(mode: Mode = "increasing", **changes: Any) -> tuple[set[str], set[str]]:
    lost, told = list_changes(BASIS, read_basis({**BASIS.to_document(), **changes}), mode)
    return set(lost), set(told)


@pytest.mark.parametrize(
    ("changes", "lost", "told"),
    [
        ({}, set(), set()),
        ({"table": "DBO.T"}, set(), set()),
        ({"database": ""}, set(), set()),
        ({"database": "e"}, {"database"}, set()),
        ({"table": "dbo.u", "start": "7"}, {"table"}, {"start"}),
        ({"table": None, "query": "h"}, {"table"}, set()),
        ({"key": ["a", "id"]}, {"key"}, set()),
        ({"where": "h"}, set(), {"where"}),
    ],
)
def test_what_makes_a_cursor_a_place_and_what_chooses_rows(
    changes: dict[str, Any], lost: set[str], told: set[str]
) -> None:
    assert change(**changes) == (lost, told)
    assert change("rowversion", **changes) == (lost, told)
    assert change("snapshot", **changes) == change("flag", **changes) == (set(), set())
    assert change("change_tracking", **changes) == (lost & {"key"}, told)


def make_row(number: int, name: Value, price: Value, *, at: int | None = None, **changes: Any) -> Row:
    payload = {"order_no": f"A{number}", "name": name, "price": price, "state": "open"}
    fields: dict[str, Any] = {"key": {"id": number}, "payload": payload, "at": str(number if at is None else at)}
    return Row(**{**fields, **changes})


def judge(
    before: list[Row], now: list[Row | None], *, kind: Kind = "numbers", is_table: bool = True, columns: Any = COLUMNS
) -> list[str]:
    witnesses = Witnesses().add(before, columns)
    found = find_impostors(witnesses, now, columns, kind=kind, reached="994", is_table=is_table)
    return [witness.at for witness in found]


FIVE = [make_row(number, f"n{number}", number * 10) for number in range(5)]
OTHERS: list[Row | None] = [
    make_row(number, f"m{number}", number * 10 + 1, payload={"name": f"m{number}", "price": number * 10 + 1})
    for number in range(5)
]


def test_other_rows_agree_in_no_column() -> None:
    assert judge(FIVE, OTHERS) == ["0", "1", "2", "3", "4"]
    assert judge(FIVE, [*OTHERS[:3], None, None]) == ["0", "1", "2"]
    # One that agrees by chance.
    assert judge(FIVE, [*OTHERS[:4], make_row(4, "n4", 41, payload={"name": "n4", "price": 41})]) != []


def test_rows_that_were_changed_agree_in_what_was_not() -> None:
    changed: list[Row | None] = [make_row(number, "x", f"y{number}") for number in range(5)]
    assert judge(FIVE, changed) == []
    assert judge(FIVE, [*OTHERS[:2], None, None, None]) == []
    assert judge(FIVE, [*OTHERS[:3], *FIVE[3:]]) == []
    assert judge(FIVE, [None] * 5) == []


def test_one_column_alone_tells_nothing_unless_it_is_in_the_key() -> None:
    assert judge(FIVE, OTHERS, columns={"name", "state"}) == []
    keyed = [make_row(number, "", "", key={"order_no": f"A{number}"}) for number in range(5)]
    others: list[Row | None] = [
        make_row(number, "", "", key={"order_no": f"B{number}"}, payload={"order_no": f"B{number}"})
        for number in range(5)
    ]
    assert judge(keyed, others, columns={"order_no", "state"}) == ["0", "1", "2", "3", "4"]


def test_a_version_up_to_the_cursor_that_was_not_read_was_given_out_again() -> None:
    row = [make_row(1, "a", 1, at=50)]
    assert judge(row, [make_row(1, "b", 1, at=40)], kind="versions") == ["50"]
    assert judge(row, [make_row(1, "b", 1, at=60)], kind="versions") == ["50"]
    assert judge(row, [make_row(1, "b", 1, at=995)], kind="versions") == []
    assert judge(row, [make_row(1, "b", 1, at=50)], kind="versions") == []
    # In a view, the version may be that of another row that it is joined with.
    assert judge(row, [make_row(1, "b", 1, at=40)], kind="versions", is_table=False) == []
    # A time may be set back by hand.
    assert judge(row, [make_row(1, "b", 1, at=40)], kind="values") == []


def test_the_last_rows_are_kept_each_of_them_once() -> None:
    witnesses = Witnesses().add([make_row(number, "a", 1) for number in range(20)], COLUMNS)
    assert [row.at for row in witnesses.rows] == [str(number) for number in range(12, 20)]
    witnesses = witnesses.add([make_row(15, "b", 1, at=21), make_row(16, "b", 1, at=22)], COLUMNS)
    assert [row.at for row in witnesses.rows] == ["12", "13", "14", "17", "18", "19", "21", "22"]
    # Rows that could not be read, or were read before, stand for nothing.
    failed = make_row(17, "c", 1, at=23, payload=None, error="bad")
    again = make_row(18, "c", 1, at=18, again=True)
    kept = witnesses.add([failed, again], COLUMNS)
    assert [row.at for row in kept.rows] == ["12", "13", "14", "18", "19", "21", "22"]
    assert kept.add([again], COLUMNS) is kept
