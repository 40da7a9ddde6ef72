"""Times of day at a place: quiet hours across midnight and where clocks change, and the next time of day."""

import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncctl.core.dependency_cycles import find_cycles
from syncctl.core.quiet_hours import find_instant, find_next, parse_quiet_hours, parse_wall_time


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NIGHT, BERLIN = "22:00-06:00", "22:00-06:00 Europe/Berlin"


@pytest.mark.parametrize(
    ("hours", "now", "end"),
    [
        ("09:00-17:30", "2026-01-15T08:59:59", None),
        ("09:00-17:30", "2026-01-15T09:00:00", "2026-01-15T17:30:00"),
        ("09:00-17:30", "2026-01-15T17:30:00", None),
        # Across midnight.
        (NIGHT, "2026-01-15T21:59:59", None),
        (NIGHT, "2026-01-15T22:00:00", "2026-01-16T06:00:00"),
        (NIGHT, "2026-01-16T00:00:00", "2026-01-16T06:00:00"),
        (NIGHT, "2026-01-16T05:59:59", "2026-01-16T06:00:00"),
        (NIGHT, "2026-01-16T06:00:00", None),
        # Elsewhere, in winter and in summer.
        (BERLIN, "2026-01-15T21:00:00", "2026-01-16T05:00:00"),
        (BERLIN, "2026-07-15T20:00:00", "2026-07-16T04:00:00"),
        (BERLIN, "2026-07-15T19:59:00", None),
        # Nights in which clocks change: an hour shorter, and an hour longer.
        (BERLIN, "2026-03-28T21:00:00", "2026-03-29T04:00:00"),
        (BERLIN, "2026-10-24T20:00:00", "2026-10-25T05:00:00"),
        # An end that is skipped comes an hour later by the clock; one that comes twice, at the first.
        ("22:00-02:30 Europe/Berlin", "2026-03-29T01:29:59", "2026-03-29T01:30:00"),
        ("22:00-02:30 Europe/Berlin", "2026-10-25T00:29:59", "2026-10-25T00:30:00"),
        ("22:00-02:30 Europe/Berlin", "2026-10-25T01:00:00", None),
    ],
)
def test_quiet_hours_begin_and_end_by_the_clock_of_their_place(hours: str, now: str, end: str | None) -> None:
    assert parse_quiet_hours(hours, "UTC").find_end(at(now)) == (at(end) if end else None)


@given(
    minutes=st.integers(0, 2 * 366 * 1440),
    begin=st.integers(0, 1439),
    end=st.integers(0, 1439),
)
def test_an_end_is_in_the_future_and_less_than_a_day_away(minutes: int, begin: int, end: int) -> None:
    assume(begin != end)
    now = at("2025-01-01") + timedelta(minutes=minutes)
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02} America/New_York"
    hours = parse_quiet_hours(text)
    assert str(hours) == text
    found = hours.find_end(now)
    assert found is None or timedelta(0) < found - now < timedelta(days=1, hours=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("22:00", "is not a span of hours"),
        ("22-6", "is not a span of hours"),
        ("24:00-06:00", "is not a span of hours"),
        ("06:00-06:00", "begins and ends at 06:00"),
        ("22:00-06:00 Mars/Base", "'Mars/Base' is not a time zone"),
        ("22:00-06:00 ../etc", "is not a time zone"),
    ],
)
def test_other_texts_are_no_quiet_hours(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_quiet_hours(text)


def test_the_next_time_of_day_is_today_or_tomorrow() -> None:
    assert parse_wall_time("6:05") == time(6, 5)
    for now, expected in (("2026-01-15T05:00", "2026-01-15T06:00"), ("2026-01-15T06:00", "2026-01-16T06:00")):
        assert find_next(time(6), after=at(now), timezone="UTC") == at(expected)


@pytest.fixture
def machine_in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        clock.tzset()
        yield
    clock.tzset()


@pytest.mark.usefixtures("machine_in_berlin")
@pytest.mark.parametrize(
    ("local", "instant"),
    [
        ("2026-01-15T02:45", "2026-01-15T01:45"),
        ("2026-07-15T02:45", "2026-07-15T00:45"),
        # Skipped, so an hour later by the clock; and twice, so at the first.
        ("2026-03-29T02:45", "2026-03-29T01:45"),
        ("2026-10-25T02:45", "2026-10-25T00:45"),
    ],
)
def test_the_machines_zone_counts_as_one_that_is_named(local: str, instant: str) -> None:
    moment = datetime.fromisoformat(local)
    for zone in (None, "Europe/Berlin"):
        assert find_instant(moment.date(), moment.time(), zone) == at(instant)


@pytest.mark.usefixtures("machine_in_berlin")
def test_a_time_of_day_that_is_skipped_comes_later_and_not_earlier() -> None:
    assert find_next(time(2, 45), after=at("2026-03-29T00:30")) == at("2026-03-29T01:45")


def test_circles_are_found_once() -> None:
    assert list(find_cycles({"a": ["b", "c"], "b": ["c"], "c": []})) == []
    assert list(find_cycles({"a": ["a"]})) == [("a",)]
    assert list(find_cycles({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]})) == [("a", "b", "c")]
