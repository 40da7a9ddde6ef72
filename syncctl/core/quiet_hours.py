"""Times of day in a time zone, and quiet hours between two of them, also across midnight and clock changes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_WALL_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_QUIET_HOURS = re.compile(rf"({_WALL_TIME.pattern})\s*-\s*({_WALL_TIME.pattern})(?:\s+(\S+))?")
_FORM = 'write for example "22:00-06:00", or "22:00-06:00 Europe/Berlin"'


@dataclass(frozen=True, kw_only=True, slots=True)
class QuietHours:
    """The hours of each day in which a stream sends nothing."""

    begin: time
    #: On the next day if not after `begin`.
    end: time
    #: An IANA name; None: the time zone of the machine.
    timezone: str | None = None

    def find_end(self, now: datetime) -> datetime | None:
        """Return when the present quiet hours end, in UTC; None if there are none now."""
        return next((end for begin, end in self._list_spans(now) if begin <= now < end), None)

    def _list_spans(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        today = to_local(now, self.timezone).date()
        across_midnight = timedelta(days=1 if self.end <= self.begin else 0)
        for day in (today - timedelta(days=1), today):
            begin = find_instant(day, self.begin, self.timezone)
            yield begin, find_instant(day + across_midnight, self.end, self.timezone)

    def __str__(self) -> str:
        """Return it as it is written in the settings."""
        zone = f" {self.timezone}" if self.timezone else ""
        return f"{self.begin:%H:%M}-{self.end:%H:%M}{zone}"


def parse_quiet_hours(text: str, timezone: str | None = None) -> QuietHours:
    """Return the quiet hours that a text such as `22:00-06:00` or `22:00-06:00 Europe/Berlin` names.

    Args:
        timezone: The time zone if the text names none; None: that of the machine.

    Raises:
        ValueError: with the forms that are allowed.
    """
    match = _QUIET_HOURS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a span of hours; {_FORM}")
    begin, end = parse_wall_time(match[1]), parse_wall_time(match[4])
    if begin == end:
        raise ValueError(f"begins and ends at {begin:%H:%M}; {_FORM}, or run: syncctl pause STREAM")
    zone: str | None = match[7] or timezone
    if zone is not None:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise ValueError(f"{zone!r} is not a time zone; {_FORM}") from None
    return QuietHours(begin=begin, end=end, timezone=zone)


def parse_wall_time(text: str) -> time:
    """Return the time of day that a text such as `06:00` or `6:00` names.

    Raises:
        ValueError: the text is not a time of day.
    """
    match = _WALL_TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time of day; write for example 06:00")
    return time(int(match[1]), int(match[2]))


def to_local(at: datetime, timezone: str | None = None) -> datetime:
    """Return an instant in a time zone; None: that of the machine."""
    return at.astimezone(ZoneInfo(timezone) if timezone else None)


def find_instant(day: date, wall_time: time, timezone: str | None = None) -> datetime:
    """Return when clocks show a time on a day, in UTC.

    If a time comes twice, the first one is returned. A skipped time comes later, by as much as the clocks are set
    forward (RFC 5545, 3.3.5).
    """
    local = datetime.combine(day, wall_time)
    if timezone:
        return local.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)
    # `astimezone` would move a skipped local time earlier.
    return datetime.fromtimestamp(local.timestamp(), UTC)


def find_next(wall_time: time, *, after: datetime, timezone: str | None = None) -> datetime:
    """Return when clocks show a time of day next, in UTC."""
    day = to_local(after, timezone).date()
    instants = (find_instant(day + timedelta(days=days), wall_time, timezone) for days in range(3))
    return next(instant for instant in instants if instant > after)
