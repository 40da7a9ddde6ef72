"""Instants as databases write them: exact text, compared by the database, and shifted without losing a digit."""

import datetime as dt
import re
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from syncctl.errors import ConfigurationError

_FORM = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:(?P<separator>[T ])(?P<minutes>\d\d:\d\d)(?::(?P<seconds>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<offset> ?(?:Z|[+-]\d\d:?\d\d))?)?"
)
_TAIL = re.compile(r"(?:\.(\d+))?(.*)", re.DOTALL)
_SECONDS_END = len("2026-01-31T23:59:59")
_EARLIEST = dt.datetime(1, 1, 1)  # noqa: DTZ001
_NANOSECONDS = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Instant:
    """A time in the form in which it is written."""

    #: The time to the second, without the offset.
    moment: dt.datetime
    separator: str
    has_seconds: bool
    #: The digits of the fraction of a second.
    fraction: str
    offset: str

    def __str__(self) -> str:
        text = self.moment.date().isoformat()
        if not self.separator:
            return text
        text += self.separator + self.moment.strftime("%H:%M:%S" if self.has_seconds else "%H:%M")
        return text + (f".{self.fraction}" if self.fraction else "") + self.offset


def parse_instant(text: str) -> Instant:
    """Read `2026-01-31`, `2026-01-31T23:59:59.1234567+01:00` or a form in between; a space may replace the T.

    Raises:
        ValueError: The text is not such a time.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time; write it like 2026-01-31 or 2026-01-31T23:59:59.123")
    try:
        moment = dt.datetime.fromisoformat(f"{match['date']}T{match['minutes'] or '00:00'}:{match['seconds'] or '00'}")
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: {error}") from None
    return Instant(
        moment=moment,
        separator=match["separator"] or "",
        has_seconds=match["seconds"] is not None,
        fraction=match["fraction"] or "",
        offset=match["offset"] or "",
    )


def join_with_t(text: str) -> str:
    """Return `2026-01-31 23:59:59.12 +01:00` in the form of ISO 8601, with a T and without blanks."""
    if text[10:11] != " ":
        return text
    return f"{text[:10]}T{text[11:].replace(' ', '')}"


def fit_fraction(text: str, digits: int | None) -> str:
    """Return a time with this number of fractional digits of a second; None leaves it unchanged."""
    match = _TAIL.fullmatch(text, _SECONDS_END)
    if digits is None or match is None:
        return text
    fraction = f"{match[1] or '':0<{digits}}"[:digits]
    return text[:_SECONDS_END] + (f".{fraction}" if fraction else "") + match[2]


def load_zone(name: str, setting: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        ConfigurationError: This machine does not have the time zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"{setting} is wrong",
            why=f"this machine has no time zone {name}",
            hint="write a name like Europe/Berlin; if it is one, install tzdata: pip install tzdata",
        ) from error


def add_offset(text: str, zone: ZoneInfo) -> str:
    """Return a time with the offset that its zone had then; text with an offset, or without a time, stays unchanged.

    A time in an hour that occurs twice is read as the first occurrence; a time in a skipped hour gets the offset before
    it. Before standard time, zones had seconds in their offsets; these are rounded to the minute, because RFC 3339 has
    no seconds.
    """
    try:
        instant = parse_instant(text)
    except ValueError:
        return text
    if not instant.separator or instant.offset:
        return text
    offset = zone.utcoffset(instant.moment) or dt.timedelta()
    minutes = round(offset.total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    return str(replace(instant, offset=f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}"))


def step_back(text: str, seconds: float, *, earliest: str = "0001-01-01") -> str:
    """Return a time at least `seconds` earlier, written in the form of `text`.

    Digits that the form does not have are rounded down, so that no row in between is missed.

    Args:
        earliest: The first time that the column's type can hold; the result is never before it.

    Raises:
        ValueError: `text` is not a time.
    """
    instant = parse_instant(text)
    scale = 10 ** len(instant.fraction)
    nanoseconds = int(instant.fraction or 0) * (_NANOSECONDS // scale) - round(seconds * _NANOSECONDS)
    whole, rest = divmod(nanoseconds, _NANOSECONDS)
    floor = max(parse_instant(earliest).moment, _EARLIEST)
    try:
        moment = instant.moment + dt.timedelta(seconds=whole)
    except OverflowError:
        moment, rest = _EARLIEST, 0
    if moment < floor:
        moment, rest = floor, 0
    digits = len(instant.fraction)
    fraction = f"{rest:09}"[:digits] if digits else ""
    return str(
        Instant(
            moment=moment,
            separator=instant.separator,
            has_seconds=instant.has_seconds,
            fraction=fraction,
            offset=instant.offset,
        )
    )


def is_instant(raw: object) -> bool:
    """Tell whether a raw value is a time as text."""
    try:
        parse_instant(str(raw))
    except ValueError:
        return False
    return isinstance(raw, str)
