"""The time of the next call."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.retry import RETRY_AFTER_AT_MOST_SECONDS, decide_delay, parse_retry_after
from syncctl.core.stream import RetrySchedule

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DAY = RETRY_AFTER_AT_MOST_SECONDS

schedules = st.builds(
    RetrySchedule,
    delays_seconds=st.lists(st.floats(0, 86400), min_size=1, max_size=8).map(tuple),
    jitter=st.floats(0, 1),
)
chances = st.floats(0, 1, exclude_max=True)
asked = st.none() | st.floats(0, DAY)


@given(schedules, chances, asked, st.data())
def test_a_delay_is_bounded_and_never_shorter_than_the_partner_asked_for(
    schedule: RetrySchedule, random: float, retry_after: float | None, data: st.DataObject
) -> None:
    tries = data.draw(st.integers(1, len(schedule.delays_seconds)))
    delay = decide_delay(schedule, tries=tries, retry_after_seconds=retry_after, random=random)
    base = schedule.delays_seconds[tries - 1]
    spread = base * schedule.jitter
    assert delay is not None
    assert delay >= max(0.0, base - spread) - 1e-9
    assert delay >= (retry_after or 0.0)
    assert delay <= max(base, retry_after or 0.0) + spread + 1e-9


@given(schedules, chances, asked, st.integers(1, 1000))
def test_a_schedule_is_used_up_exactly_after_its_last_delay(
    schedule: RetrySchedule, random: float, retry_after: float | None, beyond: int
) -> None:
    last = len(schedule.delays_seconds)
    assert decide_delay(schedule, tries=last, retry_after_seconds=retry_after, random=random) is not None
    assert decide_delay(schedule, tries=last + beyond, retry_after_seconds=retry_after, random=random) is None


def test_each_try_takes_its_own_delay() -> None:
    schedule = RetrySchedule(delays_seconds=(5.0, 60.0, 300.0), jitter=0.0)
    delays = [decide_delay(schedule, tries=n, retry_after_seconds=None, random=0.5) for n in (1, 2, 3, 4)]
    assert delays == [5.0, 60.0, 300.0, None]


def test_jitter_spreads_in_both_directions() -> None:
    schedule = RetrySchedule(delays_seconds=(100.0,), jitter=0.2)
    delays = [decide_delay(schedule, tries=1, retry_after_seconds=None, random=r) for r in (0.0, 0.5, 0.999)]
    assert delays == pytest.approx([80.0, 100.0, 119.96])


def test_jitter_never_shortens_a_delay_that_the_partner_asked_for() -> None:
    schedule = RetrySchedule(delays_seconds=(10.0,), jitter=0.2)
    delays = [decide_delay(schedule, tries=1, retry_after_seconds=60.0, random=r) for r in (0.0, 0.5)]
    assert delays == [60.0, 61.0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("86401", DAY),
        ("999999999999", DAY),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120.0),
        ("Sunday, 01-Mar-26 12:02:00 GMT", 120.0),
        ("Sun Mar  1 12:02:00 2026", 120.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2099 11:00:00 GMT", DAY),
    ],
)
def test_retry_after_is_read_and_bounded(value: str, seconds: float) -> None:
    assert parse_retry_after(value, answered_at=None, now=NOW) == seconds


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "1e3", "١٢", "12 minutes", "0x10", "9" * 5000, "Sun, 99 Mar 2026 12:02:00 GMT"]
)
def test_garbage_in_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, answered_at=None, now=NOW) is None


def test_a_date_is_held_against_the_partners_clock() -> None:
    partner_says = {"value": "Tue, 01 Jan 2030 00:00:30 GMT", "answered_at": "Tue, 01 Jan 2030 00:00:00 GMT"}
    assert parse_retry_after(**partner_says, now=NOW) == 30.0


def test_an_unreadable_date_header_leaves_our_own_clock() -> None:
    assert parse_retry_after("Sun, 01 Mar 2026 12:00:09 GMT", answered_at="today", now=NOW) == 9.0


@given(st.text(max_size=80), st.none() | st.text(max_size=80))
def test_no_retry_after_text_leads_out_of_bounds(value: str, answered_at: str | None) -> None:
    seconds = parse_retry_after(value, answered_at=answered_at, now=NOW)
    assert seconds is None or 0.0 <= seconds <= DAY
