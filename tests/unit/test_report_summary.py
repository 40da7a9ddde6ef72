"""Hours added up: by day of a zone, with and without what older roll-ups lack, and in units that can be drawn."""

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from syncctl.core.histogram import bucket_of
from syncctl.core.time_zone import HOUR
from syncctl.pipeline.reporting.report import choose_period
from syncctl.pipeline.reporting.report_summary import Figures, Summary

BERLIN = ZoneInfo("Europe/Berlin")
KOLKATA = ZoneInfo("Asia/Kolkata")
START = datetime(2026, 10, 24, tzinfo=UTC)


def hour(at: datetime, *, is_old: bool = False, **counts: Any) -> dict[str, Any]:
    """Return a stored hour in which one record was delivered, after a minute and with a call of 10 ms."""
    stored = {"stream": "orders", "window_start": at, "logged": 1, "delivered": 1, "failed": 0, "superseded": 0}
    stored |= {"attempts": 3, "retries": 2, "latency": {str(bucket_of(10)): 3}, "errors": []}
    if not is_old:
        stored |= {"delivery": {str(bucket_of(60_000)): 1}, "slices": {"delivered": {"3": 1}, "retried": {"2": 2}}}
    return stored | counts


def add_up(hours: list[dict[str, Any]], by: Any = "day", zone: tzinfo = BERLIN) -> list[Any]:
    summary = Summary(by, zone)
    for each in hours:
        summary.add(each)
    return summary.rows()


def test_days_of_23_and_25_hours_have_all_their_hours() -> None:
    autumn = add_up([hour(START + number * HOUR) for number in range(72)])
    assert [(row["window_start"].astimezone(BERLIN).day, row["delivered"]) for row in autumn] == [
        (24, 22), (25, 25), (26, 24), (27, 1),
    ]  # fmt: skip
    spring = add_up([hour(datetime(2026, 3, 28, 23, tzinfo=UTC) + number * HOUR) for number in range(24)])
    assert [row["delivered"] for row in spring] == [23, 1]


def test_both_hours_of_a_clock_that_goes_back_are_rows() -> None:
    rows = add_up([hour(datetime(2026, 10, 25, at, tzinfo=UTC)) for at in (0, 1)], by="hour")
    assert [row["window_start"].astimezone(BERLIN).hour for row in rows] == [2, 2]


def test_what_older_hours_lack_is_absent_and_not_zero() -> None:
    (old,) = add_up([hour(START, is_old=True)], by="stream")
    assert (old["delivery_count"], old["delivery_p50_ms"]) == (None, None)
    assert old["p50_ms"] == pytest.approx(10, rel=0.05)
    for hours in ([hour(START, is_old=True), hour(START + HOUR)], [hour(START), hour(START + HOUR, is_old=True)]):
        (both,) = add_up(hours, by="stream")
        assert (both["delivered"], both["delivery_count"]) == (2, 1)
        assert both["delivery_p50_ms"] == pytest.approx(60_000, rel=0.05)


def test_an_hour_without_deliveries_is_known_to_have_none() -> None:
    (row,) = add_up([hour(START, is_old=True, delivered=0)], by="stream")
    assert row["delivery_count"] == 0


def draw(hours: list[dict[str, Any]], length: timedelta, zone: tzinfo = BERLIN, start: datetime = START) -> Figures:
    figures = Figures(start, start + length, zone)
    for each in hours:
        figures.add(each)
    return figures


def test_a_few_hours_are_drawn_by_five_minutes() -> None:
    figures = draw([hour(START + HOUR)], 2 * HOUR)
    found = {point.start: (point.delivered, point.retried) for point in figures.outcomes()}
    assert (figures.unit, len(found)) == ("slice", 24)
    assert {at: counts for at, counts in found.items() if any(counts)} == {
        START + HOUR + timedelta(minutes=15): (1, 0),
        START + HOUR + timedelta(minutes=10): (0, 2),
    }


def test_hours_without_slices_are_drawn_as_hours() -> None:
    figures = draw([hour(START), hour(START + HOUR, is_old=True)], 2 * HOUR)
    assert figures.unit == "hour"
    assert [(point.delivered, point.retried) for point in figures.outcomes()] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(("days", "unit", "points"), [(7, "hour", 168), (30, "day", 31), (365, "day", 366)])
def test_longer_periods_are_drawn_by_hour_or_day(days: int, unit: str, points: int) -> None:
    figures = draw([hour(START)], timedelta(days=days))
    assert (figures.unit, len(figures.outcomes())) == (unit, points)
    assert figures.outcomes()[0].delivered == 1
    assert figures.times()[1].latency_ms == (None, None, None)


def test_days_are_drawn_one_after_another_through_a_change_of_the_clocks() -> None:
    points = draw([], timedelta(days=30)).times()
    assert all(one.end == next_one.start for one, next_one in pairwise(points))
    assert {point.end - point.start for point in points} == {24 * HOUR, 25 * HOUR}


NOW = datetime(2026, 6, 1, 14, 20, tzinfo=UTC)


def test_a_period_is_of_full_hours() -> None:
    assert choose_period(NOW - HOUR, None, zone=UTC, now=NOW) == (
        NOW.replace(hour=13, minute=0),
        NOW.replace(hour=15, minute=0),
    )
    assert choose_period(NOW, NOW, zone=UTC, now=NOW)[1] == NOW.replace(hour=15, minute=0)


def test_what_is_compared_ends_with_the_last_full_hour() -> None:
    whole = choose_period(NOW - HOUR, None, zone=UTC, now=NOW, compare=True)
    assert whole == (NOW.replace(hour=13, minute=0), NOW.replace(hour=14, minute=0))
    # Less than an hour is all that there is.
    assert choose_period(NOW, None, zone=UTC, now=NOW, compare=True)[1] == NOW.replace(hour=15, minute=0)


def test_a_day_that_begins_within_an_hour_has_the_hours_that_begin_in_it() -> None:
    since, until = (datetime(2026, 1, day, tzinfo=KOLKATA) for day in (30, 31))
    start, end = choose_period(since, until, zone=KOLKATA, now=NOW)
    hours = [hour(start + number * HOUR) for number in range((end - start) // HOUR)]
    assert [row["delivered"] for row in add_up(hours, zone=KOLKATA)] == [24]
