"""Times as databases write them, moved back exactly."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncctl.sources.cursor import CursorState, Position, parse_rowversion, read_cursor, tag, untag
from syncctl.sources.instants import add_offset, fit_fraction, join_with_t, parse_instant, step_back


@st.composite
def written_times(draw: st.DrawFn) -> str:
    moment = draw(st.datetimes(min_value=dt.datetime(1900, 1, 1)))  # noqa: DTZ001
    separator = draw(st.sampled_from(["T", " "]))
    digits = draw(st.integers(0, 7))
    fraction = "." + f"{draw(st.integers(0, 10**7 - 1)):07}"[:digits] if digits else ""
    offset = draw(st.sampled_from(["", "Z", "+01:00", "-09:30"]))
    return f"{moment:%Y-%m-%d}{separator}{moment:%H:%M:%S}{fraction}{offset}"


@given(written_times())
def test_a_time_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_instant(text)) == text


@given(written_times(), st.floats(0, 10**8))
def test_a_step_back_is_never_later_and_keeps_the_form(text: str, seconds: float) -> None:
    earlier = step_back(text, seconds)
    assert earlier <= text
    assert len(earlier) == len(text)
    assert str(parse_instant(earlier)) == earlier


@given(written_times(), st.integers(1, 10**7))
def test_a_step_back_by_whole_seconds_is_exact(text: str, seconds: int) -> None:
    assume("Z" not in text)
    before, after = parse_instant(step_back(text, seconds)), parse_instant(text)
    assert after.moment - before.moment == dt.timedelta(seconds=seconds)
    assert before.fraction == after.fraction
    assert before.offset == after.offset


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("2026-01-01T00:00:00.1234567", 0.5, "2025-12-31T23:59:59.6234567"),
        ("2026-01-01 00:00:00.003", 300, "2025-12-31 23:55:00.003"),
        ("2026-01-01T00:00:00", 0.5, "2025-12-31T23:59:59"),
        ("2026-01-01", 300, "2025-12-31"),
        ("0001-01-01T00:01:00.5", 300, "0001-01-01T00:00:00.0"),
    ],
)
def test_a_fraction_finer_than_the_type_is_rounded_down(text: str, seconds: float, expected: str) -> None:
    assert step_back(text, seconds) == expected


def test_a_step_back_stops_at_the_first_time_of_the_type() -> None:
    assert step_back("1900-01-01T00:00:00", 300, earliest="1900-01-01") == "1900-01-01T00:00:00"


@pytest.mark.parametrize("text", ["", "soon", "2026-02-30", "2026-01-01T25:00:00", "2026-01-01x", "20260101"])
def test_a_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_instant(text)


@given(st.none() | st.integers() | st.decimals(allow_nan=False) | st.floats(allow_nan=False) | st.text() | st.binary())
def test_a_position_keeps_value_and_type(raw: object) -> None:
    back = untag(tag(raw))
    assert type(back) is type(raw)
    assert repr(back) == repr(raw)


@given(st.integers() | st.text() | st.binary(), st.none() | st.tuples(st.integers(), st.text()))
def test_a_cursor_document_gives_back_its_position(value: object, key: tuple[object, ...] | None) -> None:
    position = Position(value=value, key=key)
    mark = CursorState(mode="increasing", column="c", position=position, floor=position)
    assert read_cursor(mark.to_document(), stream="s", mode="increasing", column="c", ties=2) == mark


@given(st.binary(min_size=8, max_size=8))
def test_a_rowversion_reads_back_its_own_text(version: bytes) -> None:
    assert parse_rowversion(Position(value=version).text) == version


@pytest.mark.parametrize("text", ["", "5", "0x", "0xzz", "0x10000000000000000", "-0x1"])
def test_a_text_that_is_not_a_rowversion_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rowversion"):
        parse_rowversion(text)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-01-31T10:00:00.1234567", "Europe/Berlin", "2026-01-31T10:00:00.1234567+01:00"),
        ("2026-07-31 10:00", "Europe/Berlin", "2026-07-31 10:00+02:00"),
        ("2026-01-31T10:00:00", "America/St_Johns", "2026-01-31T10:00:00-03:30"),
        ("2026-01-31T10:00:00", "UTC", "2026-01-31T10:00:00+00:00"),
        ("2026-10-25T02:30:00", "Europe/Berlin", "2026-10-25T02:30:00+02:00"),
        ("2026-03-29T02:30:00", "Europe/Berlin", "2026-03-29T02:30:00+01:00"),
        ("0001-01-01T00:00:00", "Asia/Kolkata", "0001-01-01T00:00:00+05:53"),
        ("2026-01-31T10:00:00Z", "Europe/Berlin", "2026-01-31T10:00:00Z"),
        ("2026-01-31 10:00:00 -05:00", "Europe/Berlin", "2026-01-31 10:00:00 -05:00"),
        ("2026-01-31", "Europe/Berlin", "2026-01-31"),
        ("soon", "Europe/Berlin", "soon"),
    ],
)
def test_a_time_without_an_offset_gets_that_of_its_zone(text: str, zone: str, expected: str) -> None:
    assert add_offset(text, ZoneInfo(zone)) == expected


@given(written_times(), st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]))
def test_an_offset_changes_no_digit(text: str, zone: str) -> None:
    placed = add_offset(text, ZoneInfo(zone))
    assert placed.startswith(text)
    assert parse_instant(placed).offset
    assert add_offset(placed, ZoneInfo(zone)) == placed


@given(written_times(), st.integers(0, 7))
def test_a_fraction_is_fitted_to_the_digits_of_its_type(text: str, digits: int) -> None:
    fitted = parse_instant(fit_fraction(text, digits))
    given_ = parse_instant(text)
    assert fitted.fraction == f"{given_.fraction:0<7}"[:digits]
    assert (fitted.moment, fitted.offset) == (given_.moment, given_.offset)
    assert fit_fraction(text, None) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31 10:00:00.1234567 +01:00", "2026-01-31T10:00:00.1234567+01:00"),
        ("2026-01-31 10:00:00", "2026-01-31T10:00:00"),
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
        ("2026-01-31", "2026-01-31"),
    ],
)
def test_a_time_is_joined_with_a_t(text: str, expected: str) -> None:
    assert join_with_t(text) == expected
