"""Points in time as databases write them: exact text, compared by the database, moved without losing a digit."""

import datetime as dt
import re
from dataclasses import dataclass

_FORM = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:(?P<separator>[T ])(?P<minutes>\d\d:\d\d)(?::(?P<seconds>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<offset> ?(?:Z|[+-]\d\d:?\d\d))?)?"
)
_EARLIEST = dt.datetime(1, 1, 1)  # noqa: DTZ001
_NANOSECONDS = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Instant:
    """A time as it is written: `moment` to the second without its offset, the other digits as text."""

    moment: dt.datetime
    separator: str
    has_seconds: bool
    fraction: str
    offset: str

    def __str__(self) -> str:
        text = self.moment.date().isoformat()
        if not self.separator:
            return text
        text += self.separator + self.moment.strftime("%H:%M:%S" if self.has_seconds else "%H:%M")
        return text + (f".{self.fraction}" if self.fraction else "") + self.offset


def parse_instant(text: str) -> Instant:
    """Read `2026-01-31`, `2026-01-31T23:59:59.1234567+01:00` and what lies between; a space may stand for the T.

    Raises:
        ValueError: It is no such time.
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


def step_back(text: str, seconds: float, *, earliest: str = "0001-01-01") -> str:
    """Return a time at least `seconds` earlier, written in the form of `text`.

    What the form has no digits for is rounded down, so that nothing in between is missed.

    Args:
        earliest: The first time that the column's type knows; the result is never before it.

    Raises:
        ValueError: `text` is no time.
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
