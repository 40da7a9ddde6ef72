"""The HTML report of a real run: it shows an outage, and a browser shows it without anything from elsewhere."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncctl.commands.report import make_page
from syncctl.core.stream import BreakerRules
from syncctl.pipeline.reporting.report import draw_report
from tests.harness.chromium import CHROMIUM, Chromium, open_chromium
from tests.harness.outage import run_outage
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

ROWS = 3


def draw_page(testbed: Testbed, start: datetime, **options: Any) -> str:
    asked: dict[str, Any] = {"by": "stream", "zone": UTC, "compare": True, "streams": (), "states": (), "error": None}
    end = start + timedelta(hours=1)
    drawn = draw_report(ledger=testbed.ledger, since=start, until=end, limit=None, **{**asked, **options})
    return make_page(drawn, zone=UTC, streams=(), failed_now=0)


def read_table(html: str) -> dict[str, tuple[int, ...]]:
    """Return delivered, to be repeated and failed of each five minutes, from the table below the charts."""
    (table,) = re.findall(r"<details>.*?</details>", html, re.DOTALL)
    rows = re.findall(r"<tr><td>[\d-]+ (\d\d:\d\d) to [^<]*</td>((?:<td[^>]*>[\d,]+</td>)+)", table)
    return {start: tuple(int(count) for count in re.findall(r">(\d+)<", counts)) for start, counts in rows}


def test_a_partner_that_goes_down_for_ten_minutes_shows(testbed: Testbed, source_db: SourceDb) -> None:
    testbed.partner = replace(testbed.partner, breaker=BreakerRules(minimum_calls=ROWS))
    start = run_outage(testbed, source_db, slices=12, down={5, 6}, rows=ROWS)
    html = draw_page(testbed, start)
    hour = f"{start:%H}"
    found = read_table(html)
    calm = [f"{hour}:{minute:02}" for minute in (0, 5, 10, 15, 20, 40, 45, 50, 55)]
    assert {at: found[at] for at in calm} == dict.fromkeys(calm, (ROWS, 0, 0))
    # The circuit opens: only a probe is made in the second five minutes.
    assert found[f"{hour}:25"] == (0, ROWS, 0)
    assert found[f"{hour}:30"] == (0, 1, 0)
    assert found[f"{hour}:35"] == (3 * ROWS, 0, 0)
    assert f"Most refusals and failures: {start:%Y-%m-%d} {hour}:25 to {hour}:30, {ROWS} of {ROWS + 1}." in html
    assert "127.0.0.1:9 refused the connection" in html
    # Rows of those ten minutes took up to ten.
    assert re.search(r"Logged to delivered</dt>.*?99 % within <b>(9\.\d|1\d) min", html, re.DOTALL)


def test_the_days_and_hours_of_the_page_are_those_of_its_period(testbed: Testbed, source_db: SourceDb) -> None:
    start = run_outage(testbed, source_db, slices=1, down=(), rows=ROWS)
    assert len(read_table(draw_page(testbed, start))) == 12
    assert "Nothing happened in this period." in draw_page(testbed, start - timedelta(days=2))


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with open_chromium(tmp_path / "profile") as browser:
        yield browser


def test_a_browser_shows_the_page_on_every_screen_and_asks_nobody(
    testbed: Testbed, source_db: SourceDb, chromium: Chromium, tmp_path: Path
) -> None:
    start = run_outage(testbed, source_db, slices=2, down=(), rows=ROWS)
    nasty = "<img src=http://127.0.0.1:9/x onerror=document.title='taken'><script>document.title='taken'</script>"
    report = {"stream": nasty, "window_start": start, "attempts": 1, "failed": 1, "errors": [
        {"fingerprint": nasty, "status": None, "message": nasty * 5, "count": 1, "sample_id": nasty}
    ]}  # fmt: skip
    testbed.database.reports.insert_one(report)
    file = tmp_path / "report.html"
    file.write_text(draw_page(testbed, start), encoding="utf-8")
    for width, media, scheme in ((1200, "screen", "light"), (360, "screen", "dark"), (794, "print", "light")):
        chromium.open(file, width=width, media=media, scheme=scheme)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        assert chromium.evaluate("document.title").startswith("Delivery report")
        shown = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (shown == "rgb(255, 255, 255)") == (scheme == "light")
        # Each chart has a size, and every bar lies within its chart.
        assert chromium.evaluate(
            "[...document.querySelectorAll('svg[role=img]')].every(chart => [...chart.querySelectorAll('rect')].every("
            "bar => bar.getBoundingClientRect().right <= chart.getBoundingClientRect().right + 1"
            " && bar.getBoundingClientRect().width > 0 || bar.getAttribute('width') == '0%'))"
        )
    assert set(chromium.requested) == {file.resolve().as_uri()}
    assert chromium.complaints == []


def test_this_browser_would_have_noticed(chromium: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    file.write_text(
        f"<html><head>{policy}</head><body><script>1</script><p style='width: 2000px'>wide</p></body></html>"
    )
    chromium.open(file, width=360)
    assert len(chromium.complaints) == 2
    file.write_text("<html><body><img src='missing.png'><p style='width: 2000px'>wide</p></body></html>")
    chromium.open(file, width=360)
    assert (tmp_path / "missing.png").resolve().as_uri() in chromium.requested
    assert chromium.evaluate("document.documentElement.scrollWidth") > 360
