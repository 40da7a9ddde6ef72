"""Backoff: the stream's retry schedule, spread by jitter, never earlier than the partner asked."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from syncctl.core.stream import RetrySchedule

RETRY_AFTER_AT_MOST_SECONDS = 24 * 3600.0
"""A longer `Retry-After` is cut to a day: a mistyped header must not park a record for years."""

_SECONDS = re.compile(r"(\d{1,12})(\.\d{1,9})?", re.ASCII)


def decide_delay(
    schedule: RetrySchedule,
    *,
    tries: int,
    retry_after_seconds: float | None,
    random: float,
    elapsed_seconds: float = 0.0,
) -> float | None:
    """Return the seconds until the next attempt; None when the schedule is used up, or it is time to give up.

    Jitter changes a delay in both directions. To a `Retry-After` it only adds, so that records that were given the
    same time do not all come back in the same instant.

    Args:
        tries: Calls made so far, from 1.
        retry_after_seconds: The delay that the partner asked for; None where it did not ask.
        random: A number in [0, 1).
        elapsed_seconds: Since the first attempt.
    """
    if tries < 1 or not schedule.delays_seconds:
        return None
    if schedule.give_up_after_seconds is None:
        if tries > len(schedule.delays_seconds):
            return None
    elif elapsed_seconds >= schedule.give_up_after_seconds:
        return None
    base = schedule.delays_seconds[min(tries, len(schedule.delays_seconds)) - 1]
    delay = base * (1 + schedule.jitter * (2 * random - 1))
    if retry_after_seconds is not None:
        delay = max(delay, retry_after_seconds + base * schedule.jitter * random)
    return max(0.0, delay)


def parse_retry_after(value: str | None, *, answered_at: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, within [0, one day] (RFC 9110, 10.2.3).

    A date is compared with the response's own `Date`, so that a wrong clock on this machine does no harm.

    Args:
        value: The header, None where there is none. A value that is neither seconds nor a date is ignored.
        answered_at: The response's `Date` header.
        now: The time on this machine, for a response without a readable `Date`.
    """
    if value is None:
        return None
    match = _SECONDS.fullmatch(value.strip())
    if match is not None:
        return min(float(match[0]), RETRY_AFTER_AT_MOST_SECONDS)
    due_at = _parse_http_date(value)
    if due_at is None:
        return None
    seconds = (due_at - (_parse_http_date(answered_at) or now)).total_seconds()
    return min(max(0.0, seconds), RETRY_AFTER_AT_MOST_SECONDS)


def _parse_http_date(value: str | None) -> datetime | None:
    if value is None or len(value) > 64:
        return None
    try:
        parsed = parsedate_to_datetime(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def find_last_retry(schedule: RetrySchedule) -> float:
    """Return how many seconds after its first attempt a record is tried for the last time, at the latest."""
    most = 1 + schedule.jitter
    if schedule.give_up_after_seconds is not None:
        return schedule.give_up_after_seconds + most * max(schedule.delays_seconds, default=0.0)
    return most * sum(schedule.delays_seconds)
