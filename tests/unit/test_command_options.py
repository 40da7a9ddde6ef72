"""How commands read times, durations and numbers."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.commands.add import parse_number
from syncctl.commands.times import parse_seconds, parse_time, parse_window
from syncctl.errors import UsageError

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=UTC)),
        ("2026-01-30T08:00", datetime(2026, 1, 30, 8, tzinfo=UTC)),
        ("2026-01-30T08:00:00Z", datetime(2026, 1, 30, 8, tzinfo=UTC)),
        ("2026-01-30T09:00:00+01:00", datetime(2026, 1, 30, 8, tzinfo=UTC)),
    ],
)
def test_a_time_is_an_age_a_date_or_iso_8601(text: str, expected: datetime) -> None:
    assert parse_time(text, flag="--since", now=NOW) == expected


@given(st.text(max_size=20))
def test_any_text_is_a_time_in_utc_or_a_usage_error(text: str) -> None:
    try:
        found = parse_time(text, flag="--since", now=NOW)
    except UsageError:
        return
    assert found.utcoffset() == timedelta(0)


def test_a_window_must_not_end_before_it_begins() -> None:
    begin, end = parse_window("2h", "1h")
    assert begin is not None
    assert end is not None
    assert end - begin == timedelta(hours=1)
    assert parse_window(None, None) == (None, None)
    with pytest.raises(UsageError):
        parse_window("1h", "2h")


@pytest.mark.parametrize("text", ["5", "0", "0.5"])
def test_a_duration_needs_its_unit(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_seconds(text, flag="--older-than")
    assert caught.value.what == f"--older-than {text!r} is not a duration"
    assert caught.value.why.startswith(f"{text} has no unit")
    assert caught.value.hint == "for example: --older-than 30s or --older-than 7d"
    assert parse_seconds(f"{text}d", flag="--older-than") == float(text) * 86400


@pytest.mark.parametrize("text", ["", "-5", "soon", "5 parsecs", "nan", "inf"])
def test_a_text_that_is_not_a_duration_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seconds(text, flag="--timeout")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        ("-2", -2),
        ("0.5", 0.5),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("12345678901234567890", 12345678901234567890),
    ],
)
def test_whole_numbers_stay_whole(text: str, number: float) -> None:
    parsed = parse_number(text, "X")
    assert parsed == number
    assert type(parsed) is type(number)


@pytest.mark.parametrize("text", ["", "two", "nan", "inf", "1e400", "0x10"])
def test_a_number_that_is_not_finite_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_number(text, "X")
