"""Days and hours of a time zone, also days of 23 and 25 hours; names as in the IANA time zone database."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from syncctl.core.spelling import find_near

HOUR = timedelta(hours=1)
LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Before every stored time. A range with this bound can be counted from an index alone, unlike `$exists`."""
_NO_PLACES = {"localtime", "posixrules", "Factory"}


def load_zone(name: str) -> tzinfo:
    """Return the time zone with an IANA name such as `Europe/Berlin`.

    Raises:
        ValueError: there is none; the message says which name was probably meant.
    """
    if name.upper() in ("UTC", "Z", "ETC/UTC"):
        return UTC
    known = available_timezones() - _NO_PLACES
    by_folded = {zone.casefold().replace(" ", "_"): zone for zone in known}
    folded = name.strip().casefold().replace(" ", "_")
    try:
        if name in known:
            return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        pass
    # A city is also known by its name alone: "berlin" means Europe/Berlin.
    cities = {zone.casefold().rpartition("/")[2]: zone for zone in sorted(known, reverse=True)}
    near = by_folded.get(folded) or cities.get(folded)
    if near is None and (guess := find_near(folded, by_folded) or find_near(folded.rpartition("/")[2], cities)):
        near = by_folded.get(guess) or cities.get(guess)
    raise ValueError(f"did you mean {near}?" if near else "the IANA time zone database has no such name")


def name_zone(zone: tzinfo) -> str:
    """Return the IANA name of a zone."""
    return str(getattr(zone, "key", None) or "UTC")


def floor_hour(at: datetime) -> datetime:
    """Return the full hour of UTC at or before a time, in UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def ceil_hour(at: datetime) -> datetime:
    """Return the full hour of UTC at or after a time, in UTC."""
    floor = floor_hour(at)
    return floor if floor == at else floor + HOUR


def floor_day(at: datetime, zone: tzinfo) -> datetime:
    """Return the beginning of the day of a zone that contains a time, in UTC.

    Where a day begins without a midnight, because the clocks went forward then, it begins at that moment.
    """
    return start_of_day(at.astimezone(zone), 0, zone)


def ceil_day(at: datetime) -> datetime:
    """Return the midnight of UTC at or after a time, in UTC."""
    floor = floor_day(at, UTC)
    return floor if floor == at else floor + timedelta(days=1)


def start_of_day(local: datetime, days: int, zone: tzinfo) -> datetime:
    """Return the beginning of the day that is `days` days after that of a local time, in UTC."""
    day = local.date() + timedelta(days=days)
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def shift_back(since: datetime, until: datetime, zone: tzinfo) -> datetime:
    """Return the start of the period before: as many days if both ends begin a day, otherwise as many hours."""
    local_since, local_until = since.astimezone(zone), until.astimezone(zone)
    if since == floor_day(since, zone) and until == floor_day(until, zone):
        return start_of_day(local_since, -(local_until.date() - local_since.date()).days, zone)
    return since - (until - since)


def format_in_zone(at: datetime, zone: tzinfo) -> str:
    """Return a time to the minute with its offset, as in `2026-03-29T01:00+01:00`, or with `Z` in UTC."""
    return at.astimezone(zone).isoformat(timespec="minutes").replace("+00:00", "Z" if zone is UTC else "+00:00")


def shorten_time(at: datetime, zone: tzinfo, *, is_day: bool) -> str:
    """Return the date of a day, or a time without year, and without offset unless the clocks show that time twice."""
    local = at.astimezone(zone)
    if is_day:
        return f"{local:%Y-%m-%d}"
    is_clear = local.replace(fold=0).utcoffset() == local.replace(fold=1).utcoffset()
    return f"{local:%m-%d %H:%M}" if is_clear else f"{local:%m-%d %H:%M %z}"


def is_cut_by_hours(at: datetime, zone: tzinfo) -> bool:
    """Tell whether the hours of a zone begin when those of UTC do; not so if its offset is not in whole hours."""
    offset = at.astimezone(zone).utcoffset() or timedelta()
    return not offset % HOUR
