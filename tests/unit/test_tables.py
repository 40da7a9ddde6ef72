"""Tables on a terminal: no wider than it, no broken word, numbers and times whole."""

from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.console.lines import draw_line, fold, measure, wrap
from syncctl.console.tables import Table, to_lines

NAMES = (
    "orders",
    "customer_loyalty_programme_memberships_history",
    "đơn_hàng_khách_hàng_miền_nam_việt_nam_2024",
    "顧客注文明細履歴テーブル" * 3,
    "ลูกค้าสัมพันธ์",
)
COUNTS = ("pending", "retrying", "queued", "sending", "delivered", "failed", "superseded", "discarded")
AT = datetime(2026, 1, 31, 8, 30, 15, 250_000, tzinfo=UTC)


def draw(table: Table, width: int) -> list[str]:
    return [draw_line(line, width=None, colour=False) for line in to_lines(table, width)]


def make_table(**changes: Any) -> Table:
    rows = [(name, f"cursor {name}", AT, *range(1_234_567, 1_234_575), "this row is not valid") for name in NAMES]
    fields: dict[str, Any] = {
        "columns": ("stream", "cursor", "last poll", *COUNTS, "message"), "rows": rows, "prose": ("message",),
    }  # fmt: skip
    return Table(**{**fields, **changes})


@pytest.mark.parametrize("width", [60, 72, 80, 120, 200, 400])
def test_a_table_fits_the_terminal_and_breaks_no_word(width: int) -> None:
    shown = draw(make_table(), width)
    assert all(measure(line) <= width for line in shown), shown
    words = " ".join(shown).split()
    assert {"last", "poll", *COUNTS, "message", "this", "valid"} <= set(words)
    assert words.count("2026-01-31T08:30:15Z") == len(NAMES)
    assert all(words.count(str(number)) == len(NAMES) for number in range(1_234_567, 1_234_575))
    assert "2026-01-31T08:30:15.250Z" not in words


def test_columns_without_room_continue_below_the_first_one() -> None:
    shown = draw(make_table(), 80)
    headers = [line for line in shown if line.startswith("stream ")]
    assert len(headers) == len([line for line in shown if line.startswith("orders ")]) == shown.count("") + 1 > 1
    wide = draw(make_table(), 400)
    assert len(wide) == 1 + len(NAMES)


def test_a_name_is_cut_in_the_middle_an_id_is_not_and_a_value_is_shown_in_full() -> None:
    columns = ("name", "id", "value")
    rows = [("a" * 50 + "z", "orders-3f2a9c01", "x" * 60)]
    plain = draw(Table(columns=columns, rows=rows, whole=("id",)), 60)
    name, record, value = plain[1].split()
    assert (name[0], name[-1], record) == ("a", "z", "orders-3f2a9c01")
    assert "…" in name
    assert "…" in value
    folded = draw(Table(columns=columns, rows=rows, whole=("id",), folded=("value",)), 60)
    assert "".join(folded[1:]).count("x") == 60


def test_a_column_without_any_value_gives_way_to_others() -> None:
    columns = ("stream", *COUNTS, "error")
    rows = [(name, *[1] * len(COUNTS), None) for name in ("orders", "returns")]
    assert "error" in draw(Table(columns=columns, rows=rows), 120)[0]
    assert "error" not in draw(Table(columns=columns, rows=rows), 90)[0]
    assert draw(Table(columns=("stream", "n"), rows=[]), 40) == ["stream  n"]


def test_what_drives_a_terminal_shifts_no_column() -> None:
    keys = ("a\tb", "a\nb", "a\x1b[31mb", "注文", "e\N{COMBINING ACUTE ACCENT}", "ที่")
    shown = draw(Table(columns=("key", "n"), rows=[(key, "x") for key in keys]), 80)
    ends = {measure(line) for line in shown[1:]}
    assert ends == {measure("a\\x1b[31mb") + 3}


def test_lines_are_broken_at_blanks_or_anywhere() -> None:
    assert wrap("a word that is_far_too_long for it", 8) == ["a word", "that", "is_f…ong", "for it"]
    assert wrap("is_far_too_long", 8, cuts=False) == ["is_far_too_long"]
    assert fold("注文abc", 5) == ["注文a", "bc"]
    assert wrap("", 8) == fold("", 8) == [""]
