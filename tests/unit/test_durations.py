"""Durations and rates as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.durations import format_age, format_duration, parse_duration, parse_rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("5s", 5), ("1.5m", 90), ("2h", 7200), ("30d", 2_592_000), ("1w", 604_800),
        (" 10 s ", 10), ("0s", 0),
    ],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "5 parsecs", "-5s", "-5", "5s 3m", "1e3s", "1e3", "5S", ".5s", "5.s", "nan", "True", "5s\n6s"]
)
def test_a_wrong_duration_is_refused_with_the_valid_forms(text: str) -> None:
    with pytest.raises(ValueError, match="500ms, 5s, 10m, 2h, 30d, 1w"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "30", " 30 ", "1.5"])
def test_a_number_without_a_unit_is_refused_with_the_units(text: str) -> None:
    with pytest.raises(ValueError, match=rf'{text.strip()} has no unit; write for example "{text.strip()}s" or'):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**10).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_that_was_shown_can_be_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12)


@given(st.floats(min_value=0, max_value=1e9))
def test_any_number_of_seconds_can_be_shown_and_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (60, "1m"), (90, "90s"), (3600, "1h"), (86400, "1d"), (604800, "1w")],
)
def test_the_largest_unit_that_fits_is_shown(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50/second", (50, 1)), ("600/minute", (600, 60)), ("10000 / day", (10000, 86400)), ("7/hour", (7, 3600))],
)
def test_rates_are_read_as_people_write_them(text: str, rate: tuple[int, float]) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "50", "0/second", "-1/second", "50/fortnight", "1.5/second", "50/seconds", "50 per second"]
)
def test_a_wrong_rate_is_refused_with_the_valid_forms(text: str) -> None:
    with pytest.raises(ValueError, match="50/second, 600/minute or 10000/day"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (59.9, "59s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (10**6, "11d")],
)
def test_an_age_is_shown_in_one_unit_and_rounded_down(seconds: float, text: str) -> None:
    assert format_age(seconds) == text
