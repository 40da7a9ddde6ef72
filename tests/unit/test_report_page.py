"""The HTML report: whatever stands in the ledger is text in it, it loads nothing, and its charts stand any values."""

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.console.charts import Axis, Series, choose_labels, choose_marks, draw_bars, draw_lines, round_up
from syncctl.console.markup import element
from syncctl.console.report_page import ReportPage
from syncctl.core.durations import format_change, format_ms
from syncctl.core.histogram import bucket_of
from syncctl.core.report_points import Point
from syncctl.core.time_zone import HOUR

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
NASTY = """</title></style><script>alert(1)</script><img src=x onerror=alert(2)>"'&\u202e\x1b[31m"""


def totals(**changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("logged", "delivered", "failed", "superseded", "attempts", "retries", "delivery_count"), 5)
    shares = {f"{prefix}p{share}_ms": 12.5 for prefix in ("", "delivery_") for share in (50, 95, 99)}
    return {**counts, **shares, **changes}


def page(text: str = "orders", **changes: Any) -> ReportPage:
    points = [
        Point(start=START + n * HOUR, end=START + (n + 1) * HOUR, delivered=n, failed=1, retried=2, **TIMES)
        for n in range(4)
    ]
    values: dict[str, Any] = {
        "since": START,
        "until": START + 4 * HOUR,
        "zone": UTC,
        "made_at": START,
        "rolled_up_at": START,
        "version": "0",
        "by": "stream",
        "streams": (text,),
        "totals": totals(),
        "rows": [{"stream": text, "window_start": None, **totals()}],
        "errors": [{"count": 7, "status": 503, "message": text, "fingerprint": text, "sample_id": text}],
        "before": (START - 4 * HOUR, totals()),
        "failed_now": 1,
        "unit": "hour",
        "outcomes": points,
        "times": points,
        "latency": {bucket_of(12): 5, bucket_of(70_000): 1},
        "delivery": {bucket_of(1000): 5},
    }
    return ReportPage(**{**values, **changes})


TIMES: dict[str, Any] = {"latency_ms": (1.0, 2.0, 3.0), "delivery_ms": (None, None, None)}


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_comes_from_elsewhere_stays_text() -> None:
    harmless, nasty = Elements(page().render()), Elements(page(NASTY).render())
    assert nasty.names == harmless.names
    assert [name for name, _ in nasty.attributes] == [name for name, _ in harmless.attributes]
    assert "script" not in nasty.names
    shown = NASTY.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert nasty.text.count(shown) >= 5


@given(st.text())
def test_any_text_and_any_attribute_comes_back_as_it_was(text: str) -> None:
    parsed = Elements(f'<p title="{0}">'.replace("0", "x") + element("b", text, title=text) + "</p>")
    assert parsed.names == ["p", "b"]
    assert "<" not in element("b", text).removeprefix("<b>").removesuffix("</b>")


def test_a_page_allows_its_own_style_and_nothing_else() -> None:
    html = page(NASTY).render()
    policy = dict(
        re.findall(r"([\w-]+) '([^;]*)'", re.search(r'Policy" content="([^"]*)"', html)[1].replace("&#x27;", "'"))
    )  # type: ignore[index]
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == {"default-src": "none", "style-src": f"sha256-{digest}", "base-uri": "none", "form-action": "none"}
    attributes = dict(Elements(html).attributes)
    assert not {"style", "src", "href", "action", "srcdoc"} & attributes.keys()
    assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in style
    assert "@import" not in style


def test_each_chart_says_in_words_what_it_shows() -> None:
    html = page().render()
    charts = re.findall(r'<svg[^>]*role="img"[^>]*>|<svg role="img"[^>]*>', html)
    assert len(charts) >= 4
    titles = re.findall(r"<svg[^>]*><title>([^<]+)</title>", html)
    assert len(titles) == len(charts)
    assert "8 calls to be repeated and 4 failed records by hour" in titles[1]
    assert "These figures as a table" in html


def test_what_is_not_known_is_said_and_not_drawn_as_zero() -> None:
    unknown = dict.fromkeys(("delivery_p50_ms", "delivery_p95_ms", "delivery_p99_ms", "delivery_count"))
    html = page(totals=totals(**unknown), delivery=None).render()
    assert "not known" in html
    assert "were not kept yet" in html
    assert "Logged to delivered by hour" not in html


def test_an_empty_period_says_so() -> None:
    nothing = {name: None if name.endswith("_ms") else 0 for name in totals()}
    empty = page(totals=nothing, rows=(), errors=(), outcomes=(), times=(), latency={}, delivery={}, before=None)
    html = empty.render()
    assert "Nothing happened in this period." in html
    assert "<figure>" not in html
    assert "Errors" not in html


@pytest.mark.parametrize("by", ["hour", "day", "error"])
def test_rows_are_of_what_was_asked_for(by: str) -> None:
    rows = [{"stream": "orders", "window_start": START, **totals()}]
    berlin = ZoneInfo("Europe/Berlin")
    html = page(by=by, zone=berlin, rows=() if by == "error" else rows).render()
    assert ("2026-06-01T14:00+02:00</td>" in html) == (by != "error")
    assert "2026-06-01 14:00 to 2026-06-01 18:00 · Europe/Berlin" in html


@pytest.mark.parametrize("values", [[], [None], [0, 0], [1], [3, None, 1e12], [0.01, 5e11]])
def test_charts_stand_any_values(values: list[float | None]) -> None:
    names = [str(number) for number in range(len(values))]
    axis = Axis(labels=names, names=names, show=format_ms)
    series = [Series(name="some", colour="good", values=values)]
    for drawn in (draw_bars(axis, series, title="t"), draw_lines(axis, series, title="t")):
        numbers = re.findall(r' (?:y|y1|y2|cy|height)="(-?[\d.]+)"', drawn)
        assert all(-5 <= float(number) <= 140 for number in numbers)
        assert "nan" not in drawn


@given(st.floats(0, 1e15), st.floats(0.1, 1e12), st.integers(0, 5000))
def test_scales_hold_their_values_and_have_few_labels(value: float, duration: float, units: int) -> None:
    assert round_up(value) >= value
    marks = choose_marks(duration, duration * 3)
    assert marks == sorted(set(marks))
    assert 2 <= len(marks) <= 6
    assert len(choose_labels(["x"] * units)) <= 6


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.5, "0.5 ms"), (999, "999 ms"), (1500, "1.5 s"), (60_000, "1 min"), (594_407, "9.9 min"),
     (7_200_000, "2 h"), (86_400_000, "24 h"), (604_800_000, "7 d")],
)  # fmt: skip
def test_durations_are_short(value: float | None, text: str) -> None:
    assert format_ms(value) == text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (5, 5, "unchanged"),
        (5, 0, "new"),
        (110, 100, "+10 %"),
        (90, 100, "-10 %"),
        (2000, 100, "20 times"),
        (1, None, "-"),
    ],
)
def test_changes_are_in_percent_or_in_words(now: float, before: float | None, text: str) -> None:
    assert format_change(now, before) == text


def test_a_page_of_one_unit_has_no_course_of_times() -> None:
    few = page()
    assert "Latency of calls by hour" in few.render()
    assert "Latency of calls by hour" not in replace(few, times=few.times[:2]).render()
