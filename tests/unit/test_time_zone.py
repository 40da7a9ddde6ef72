"""Days and hours of a time zone: those of 23 and 25 hours, half hours, and names that do not exist."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.time_zone import (
    HOUR,
    ceil_hour,
    floor_day,
    floor_hour,
    format_in_zone,
    load_zone,
    shift_back,
    shorten_time,
    start_of_day,
)

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Cairo"])
TIMES = st.integers(0, 10 * 365 * 86_400).map(
    lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_has_the_hours_that_its_clocks_show(day: str, hours: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=BERLIN)
    start = floor_day(noon, BERLIN)
    end = start_of_day(noon, 1, BERLIN)
    assert end - start == hours * HOUR
    assert {floor_day(start + number * HOUR, BERLIN) for number in range(hours)} == {start}
    assert floor_day(end, BERLIN) == end


@given(TIMES, ZONES)
def test_each_time_is_in_its_day(at: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    start = floor_day(at, zone)
    assert start <= at < start_of_day(at.astimezone(zone), 1, zone)
    assert start.astimezone(zone).date() == at.astimezone(zone).date()
    assert floor_day(start, zone) == start


def test_a_day_without_a_midnight_begins_when_its_clocks_go_forward() -> None:
    cairo = ZoneInfo("Africa/Cairo")
    assert floor_day(datetime(2026, 4, 24, 12, tzinfo=cairo), cairo).astimezone(cairo).hour == 1


@given(TIMES)
def test_hours_are_rounded_down_and_up(at: datetime) -> None:
    assert floor_hour(at) <= at <= ceil_hour(at)
    assert ceil_hour(at) - floor_hour(at) in (timedelta(), HOUR)


def test_the_period_before_whole_days_has_as_many_days() -> None:
    since, until = (datetime(2026, 3, day, tzinfo=BERLIN).astimezone(UTC) for day in (29, 31))
    assert shift_back(since, until, BERLIN) == datetime(2026, 3, 27, tzinfo=BERLIN)
    assert until - since == 47 * HOUR


def test_the_period_before_some_hours_has_as_many_hours() -> None:
    since = datetime(2026, 3, 29, 0, tzinfo=UTC)
    assert shift_back(since, since + 5 * HOUR, BERLIN) == since - 5 * HOUR


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("New York", "America/New_York"),
        ("Asia/Calcuta", "Asia/Calcutta"),
        ("../../etc/passwd", "no such name"),
        ("/etc/localtime", "no such name"),
        ("Europe", "no such name"),
        ("", "no such name"),
        ("\0", "no such name"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_name_that_was_probably_meant(name: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        load_zone(name)


def test_all_names_of_the_database_are_known() -> None:
    assert load_zone("utc") is UTC
    for name in sorted(available_timezones())[::25]:
        assert load_zone(name) is not None


def test_a_time_is_shown_with_its_offset() -> None:
    both = [datetime(2026, 10, 25, hour, tzinfo=UTC) for hour in (0, 1)]
    assert [format_in_zone(at, BERLIN) for at in both] == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]
    assert [shorten_time(at, BERLIN, is_day=False) for at in both] == [
        "10-25 02:00 +0200", "10-25 02:00 +0100",
    ]  # fmt: skip
    assert shorten_time(both[0] + 5 * HOUR, BERLIN, is_day=False) == "10-25 06:00"
    assert shorten_time(both[0], BERLIN, is_day=True) == "2026-10-25"
    assert format_in_zone(both[0], UTC) == "2026-10-25T00:00Z"
    assert format_in_zone(datetime(2026, 1, 1, tzinfo=UTC), ZoneInfo("Europe/London")) == "2026-01-01T00:00+00:00"
