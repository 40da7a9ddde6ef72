"""Times and ages on the command line: the flags of a period, and the parsing of their values."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated

import typer

from syncctl.core.durations import parse_duration
from syncctl.errors import UsageError

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Start of the period: 24h (ago), 7d, or 2026-01-31T08:00Z."),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="End of the period: 1h (ago), or 2026-01-31T09:00Z.")
]


def parse_time(text: str, *, flag: str, now: datetime | None = None, zone: tzinfo = UTC) -> datetime:
    """Return the time for an age (`24h` means 24 hours ago), a date or an ISO 8601 time.

    Args:
        zone: The zone of a time that names none.

    Raises:
        UsageError: it is none of these.
    """
    try:
        return (now or datetime.now(UTC)) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{flag} {text!r} is not a time",
            why="it is not an age, a date or an ISO 8601 time",
            hint=f"for example: {flag} 24h, {flag} 2026-01-31 or {flag} 2026-01-31T08:00:00Z",
        ) from None


def parse_window(
    since: str | None, until: str | None, *, zone: tzinfo = UTC
) -> tuple[datetime | None, datetime | None]:
    """Return the start and the end of a period, None where it is open.

    Args:
        zone: The zone of times that name none.

    Raises:
        UsageError: a value is not a time, or the period ends before it begins.
    """
    now = datetime.now(UTC)
    begin = parse_time(since, flag="--since", now=now, zone=zone) if since else None
    end = parse_time(until, flag="--until", now=now, zone=zone) if until else None
    if begin and end and begin >= end:
        raise UsageError(
            f"--since {since} is not before --until {until}",
            why="the period between them is empty",
            hint="swap them, or give --since a longer age",
        )
    return begin, end


def parse_seconds(text: str, *, flag: str) -> float:
    """Return the seconds of an age or a timeout such as `90s` or `7d`.

    Raises:
        UsageError: it is not a duration.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(
            f"{flag} {text!r} is not a duration",
            why=str(error),
            hint=f"for example: {flag} 30s or {flag} 7d",
        ) from None
