"""Durations and rates as people write them: `5s`, `1.5m`, `30d`; `50/second`."""

import re
from decimal import Decimal

_DIGITS_AT_MOST = 15
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_TOO_LARGE = "is too large a number"
_SHOWN_AT_MOST = 40
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)")
_UNITLESS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
_RATE_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_RATE = re.compile(r"([0-9]+)\s*/\s*(second|minute|hour|day)")


def parse_duration(text: str) -> float:
    """Return the seconds of `500ms`, `5s`, `1.5m`, `2h`, `30d`, `1w`.

    A number without a unit is refused: a retention period of 30 would be 30 days to one reader, 30 seconds to another.

    Raises:
        ValueError: with the forms that are allowed.
    """
    plain = text.strip()
    if _UNITLESS.fullmatch(plain):
        raise ValueError(f'{plain} has no unit; write for example "{plain}s" or "{plain}d" (ms, s, m, h, d, w)')
    match = _DURATION.fullmatch(plain)
    if match is None:
        raise ValueError(
            f"{_shorten(text)!r} is not a duration; write a number and a unit: 500ms, 5s, 10m, 2h, 30d, 1w"
        )
    if len(match[1].partition(".")[0]) > _DIGITS_AT_MOST:
        raise ValueError(f"{_shorten(text)!r} {_TOO_LARGE}")
    return float(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """Return the shortest form that `parse_duration` reads back to the same number of seconds."""
    for unit in ("w", "d", "h", "m", "s"):
        size = _UNITS[unit]
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    milliseconds = seconds * 1000
    if seconds == 0:
        return "0s"
    # A Decimal shows a tiny number without the exponent that `parse_duration` does not read.
    return f"{int(milliseconds)}ms" if milliseconds == int(milliseconds) else f"{Decimal(repr(seconds)):f}s"


def format_age(seconds: float) -> str:
    """Return an age for people, in one unit and rounded down: `90s`, `5m`, `3h`, `12d`."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNITS[unit]:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return format_duration(max(0, int(seconds)))


def format_ms(value: float | None) -> str:
    """Return a duration for people, with two or three digits: `12 ms`, `1.5 s`, `2 min`, `5 h`, `3 d`."""
    if value is None:
        return "-"
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if value >= size * (2 if unit == "d" else 1):
            return f"{_short(value / size)} {unit}"
    return f"{_short(value)} ms"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def format_change(now: float | None, before: float | None) -> str:
    """Return a change in percent, or in words where there is no percentage."""
    if now is None or before is None:
        return "-"
    if now == before:
        return "unchanged"
    if not before:
        return "new"
    change = 100 * (now - before) / before
    return f"{change:+.0f} %" if abs(change) < 1000 else f"{now / before:.0f} times"


def parse_rate(text: str) -> tuple[int, float]:
    """Return (calls, per how many seconds) for `50/second`, `600/minute`, `10000/day`.

    Raises:
        ValueError: with the forms that are allowed.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or not match[1].strip("0"):
        raise ValueError(f"{_shorten(text)!r} is not a rate; write for example 50/second, 600/minute or 10000/day")
    if len(match[1]) > _DIGITS_AT_MOST:
        raise ValueError(f"{_shorten(text)!r} {_TOO_LARGE}")
    return int(match[1]), _RATE_UNITS[match[2]]


def _shorten(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _SHOWN_AT_MOST else f"{shown[:_SHOWN_AT_MOST]}..."
