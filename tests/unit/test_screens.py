"""Screens: lines that are cut and never wrapped, pictures of which only what has changed is written."""

import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.commands.status_screen import StatusScreen
from syncctl.console import live
from syncctl.console.lines import Line, cut_end, cut_middle, draw_line, fill, measure
from syncctl.console.live import LivePicture
from syncctl.console.pictures import draw_path, draw_progress, draw_sparkline, draw_title, format_rate
from syncctl.core.minute_rates import read_flow
from syncctl.pipeline.monitoring.status import Status
from syncctl.pipeline.monitoring.watch import Activity, Event

NOW = datetime(2026, 1, 31, 8, 30, 15, tzinfo=UTC)
TEXTS = ("", "orders", "2026-11-29 22:25:20.930772", "注文の明細の行", "é" * 9, "a\N{COMBINING ACUTE ACCENT}b")


@pytest.mark.parametrize("width", range(30))
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_cut_to_a_width(text: str, width: int) -> None:
    for cut in (cut_end(text, width), cut_middle(text, width)):
        assert measure(cut) <= width
        assert cut == text or "…" in cut or width == 0
    if width >= 2:
        assert measure(fill(text, width)) == width


def test_names_are_cut_in_the_middle_and_sentences_at_the_end() -> None:
    assert cut_middle("orders_of_the_year_2026", 11) == "order…_2026"
    assert cut_end("the partner is down", 11) == "the partne…"


def test_a_line_has_at_most_the_width_and_cannot_drive_the_terminal() -> None:
    line = [("orders ", "bold"), ("\x1b[2J" + "x" * 30, "red"), ("never seen", "")]
    assert draw_line(line, width=20, colour=False) == "orders \\x1b[2Jxxxxx…"
    assert draw_line(line, width=20, colour=True) == "\x1b[1morders \x1b[0m\x1b[31m\\x1b[2Jxxxxx…\x1b[0m"
    assert draw_line([("abc", ""), ("def", "")], width=6, colour=False) == "abcdef"
    assert draw_line([("abc", ""), ("def", "")], width=3, colour=False) == "ab…"


def test_parts_of_screens_fit() -> None:
    stations = [[("source", ""), ("12,345,678 rows of many", "")], [("ledger", "")], [("queue", "")]]
    for width in (40, 80, 200):
        lines = [draw_title("syncctl", "every 2s", width), draw_progress(0.4, "40 %", width)]
        assert [sum(measure(text) for text, _ in line) for line in lines] == [width, width]
        assert all(sum(measure(text) for text, _ in line) <= width for line in draw_path(stations, width))
    assert draw_sparkline([0, 1, 50, 100]) == " ▁▅█"
    assert [format_rate(rate) for rate in (0.0, 0.03, 2.55, 1234.5)] == ["0.0", "0.03", "2.5", "1,234"]


class Terminal(io.StringIO):
    """A terminal that keeps what was written."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def size(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of the terminal, which a test may change."""
    size = [20, 5]
    monkeypatch.setattr(live, "measure_terminal", lambda _: tuple(size))
    monkeypatch.setenv("NO_COLOR", "1")
    return size


def lines(*texts: str) -> Any:
    return lambda _width, height: [[(text, "")] for text in texts][:height]


def test_only_changed_lines_are_written_and_the_terminal_is_left_as_it_was(size: list[int]) -> None:
    terminal = Terminal()
    with LivePicture(terminal, has_own_screen=True) as picture:
        picture.draw(lines("one", "two", "three"))
        begin = terminal.take()
        assert begin.startswith("\x1b[?25l\x1b[?1049h")
        picture.draw(lines("one", "2", "three"))
        assert terminal.take() == "\x1b[2;1H\x1b[K2"
        picture.draw(lines("one", "2"))
        assert terminal.take() == "\x1b[3;1H\x1b[K"
        picture.draw(lines("one", "2"))
        assert terminal.take() == ""
        assert not picture.is_resized
        size[0] = 30
        assert picture.is_resized
        picture.draw(lines("one", "2"))
        assert terminal.take() == "\x1b[H\x1b[2J\x1b[1;1H\x1b[Kone\x1b[2;1H\x1b[K2"
    assert terminal.take() == "\x1b[?7h\x1b[?1049l\x1b[?25h"


def test_a_picture_below_other_lines_stays_there(size: list[int]) -> None:
    terminal = Terminal()
    picture = LivePicture(terminal, has_own_screen=False)
    picture.draw(lines("one", "two"))
    assert terminal.take() == "\x1b[?25l\x1b[Kone\n\x1b[Ktwo\n"
    picture.draw(lines("one", "2"))
    assert terminal.take() == "\x1b[2A\r\n\x1b[K2\n"
    picture.draw(lines("one"))
    assert terminal.take() == "\x1b[2A\r\n\x1b[J"
    picture.draw(lines(*"abcdefgh"))
    assert terminal.take().count("\n") == size[1] - 1
    picture.close()
    picture.close()
    assert terminal.take() == "\x1b[?25h"


def test_a_terminal_without_such_characters_gets_others(size: list[int]) -> None:
    terminal = Terminal()
    terminal.encoding = "ascii"
    LivePicture(terminal, has_own_screen=False).draw(lines("▁█ ── ▶ …é"))
    assert terminal.take().endswith("_# -- > ~?\n")


def stream(name: str, **changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("pending", "retrying", "queued", "sending", "delivered", "failed"), 0)
    fields = {
        "stream": name, "partner": "default", "paused": False, "breaker": "closed", "cursor": "0x" + "A7" * 30,
        "last_poll_at": NOW, "oldest_due_seconds": 75.0, "backlog": 1234, "awaiting_poll": 0, "obstacles": [],
        "counts": {**counts, "delivered": 5_000_000, "failed": 12},
    }  # fmt: skip
    return {**fields, **changes}


def make_screen(
    streams: Sequence[dict[str, Any]],
    *,
    workers: int = 1,
    redis_error: str | None = None,
    changed_files: Sequence[str] = (),
    events: Sequence[Event] = (),
) -> StatusScreen:
    partner = {"partner": "default", "paused": False, "breaker": "closed"}
    status = Status(
        streams=tuple(streams),
        partners=(partner,),
        queue={"messages": 3, "error": redis_error, "unserved": [], "dropped_recently": 0},
        workers=tuple(
            {"worker": f"worker-{n}@a-machine", "settings_differ": False, "ledger_differs": False}
            for n in range(workers)
        ),
        beat={
            "last_tick_at": NOW,
            "late": False,
            "overdue": [],
            "failing": [],
            "settings_differ": False,
            "ledger_differs": False,
        },
    )
    sent = [{"at": NOW.replace(second=0) - timedelta(minutes=n), "attempts": 60, "accepted": n} for n in range(30)]
    flows = {each["stream"]: read_flow({"sent": sent}, NOW) for each in streams}
    some = tuple(
        Event(at=NOW, kind="failed", subject=streams[0]["stream"], key={"id": n}, detail=f"HTTP 422: \x1b[2J {n}")
        for n in range(40)
    )
    screen = StatusScreen(every="2s")
    activity = Activity(at=NOW, flows=flows, events=tuple(events) or some)
    screen.take(status, activity, changed_files=changed_files)
    return screen


def drawn(screen: StatusScreen, width: int, height: int) -> list[str]:
    picture: Sequence[Line] = screen.draw(width, height)
    return [draw_line(line, width=width, colour=False) for line in picture]


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (200, 50), (72, 24), (132, 43), (60, 15), (40, 10), (20, 5), (1, 1)]
)
@pytest.mark.parametrize("count", [0, 1, 3, 300])
def test_the_status_fits_any_terminal(width: int, height: int, count: int) -> None:
    streams = [stream(f"orders_of_the_customers_in_region_{n:03}") for n in range(count)]
    screen = make_screen(streams or [stream("orders")], workers=20)
    shown = drawn(screen, width, height)
    assert len(shown) == height
    assert all(measure(line) <= width for line in shown)
    assert "\x1b" not in "".join(shown)


def test_the_status_shows_each_stream_its_half_hour_and_the_last_events() -> None:
    shown = drawn(make_screen([stream("orders"), stream("returns", paused=True, paused_reason="tests")]), 80, 24)
    (orders,) = (line for line in shown if line.startswith("  orders"))
    assert re.split(r" +", orders.strip())[:6] == ["orders", "0.0", "0.02", "1,234", "75s", "12"]
    assert "█" in orders
    assert any(line.startswith("! returns") for line in shown)
    assert any("syncctl resume returns" in line for line in shown)
    assert "08:30:15  failed        orders 0              HTTP 422: \\x1b[2J 0" in shown
    assert shown[-2:] == ["workers  1: worker-0@a-machine", "beat     0s ago"]


def test_streams_that_need_a_look_come_first_where_there_is_no_room_for_all() -> None:
    streams = [stream(f"s{n:02}", counts={**stream("x")["counts"], "failed": 0}) for n in range(40)]
    streams[33] = stream("s33", breaker="open", breaker_reason="HTTP 503", next_probe_at=NOW)
    shown = drawn(make_screen(streams), 80, 24)
    at = next(n for n, line in enumerate(shown) if "STREAM" in line)
    assert shown[at + 1].startswith("! s33")
    assert any(re.fullmatch(r"  and \d+ more streams", line) for line in shown)
    assert sum(line.startswith("08:30:15") for line in shown) >= 3


def test_old_figures_stay_with_a_word_while_mongodb_is_away() -> None:
    screen = make_screen([stream("orders")])
    screen.note_trouble("cannot reach MongoDB", waited_seconds=0.5)
    screen.note_trouble("cannot reach MongoDB", waited_seconds=20.0)
    assert screen.is_troubled
    shown = drawn(screen, 120, 24)
    assert re.match(r"no new figures since \d\d:\d\d:\d\d: cannot reach MongoDB; trying again", shown[1])
    assert any(line.startswith("  orders") for line in shown)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 10)])
def test_the_screen_says_that_its_settings_are_older_whatever_else_it_has_no_room_for(width: int, height: int) -> None:
    streams = [stream(f"s{n}", paused=True, paused_reason="tests") for n in range(9)]
    shown = drawn(make_screen(streams, changed_files=(".env", "syncctl.toml")), width, height)
    assert shown[1] == "this display has older settings than .env and syncctl.toml: start it again"
    assert len(shown) == height


WIDE_KEY = {"ward": "north wing", "bed": "2026-01-31", "slot": 13}


def draw_wide_key(width: int, **changes: Any) -> str:
    fields = {"at": NOW, "kind": "failed", "subject": "orders", "key": WIDE_KEY, "detail": "HTTP 422: not valid"}
    events = [Event(**fields), Event(**{**fields, **changes})]
    (line, _) = (line for line in drawn(make_screen([stream("orders")], events=events), width, 24) if "422" in line)
    return line


def test_a_key_is_whole_where_the_details_can_spare_the_width() -> None:
    line = draw_wide_key(120)
    assert line == "08:30:15  failed        orders ward=north wing,bed=2026-01-31,slot=13  HTTP 422: not valid"
    assert draw_wide_key(80) == "08:30:15  failed        orders war…1,slot=13  HTTP 422: not valid"
    # The columns stay below each other, and a key that is wider than half of them is cut.
    wider = draw_wide_key(120, key={"id": "x" * 200})
    assert wider.startswith("08:30:15  failed        orders ward=north wing,bed=2026-01-31,slot=13 ")
    assert wider.index("HTTP") == 24 + 47 + 2


def test_the_screen_says_since_when_redis_cannot_be_used() -> None:
    screen = make_screen([stream("orders")], redis_error="cannot reach Redis")
    assert screen.is_troubled
    assert "! since 08:30:15: cannot reach Redis; syncctl doctor redis" in drawn(screen, 120, 24)


def test_a_key_with_controls_shifts_no_column_of_the_events() -> None:
    assert [measure(fill(key, 12)) for key in ("a\tb\nc\x1b[31m", "\x1b" * 9, "注文", "a")] == [12] * 4
    assert fill("a\tb", 6) == "a\\tb  "
