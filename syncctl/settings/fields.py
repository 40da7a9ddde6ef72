"""The types of single settings: how each is read, checked and shown."""

import json
import math
import re
from enum import Enum
from typing import Annotated, Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

from syncctl.core.conditions import parse_condition, parse_path
from syncctl.core.durations import parse_duration, parse_rate
from syncctl.partner.auth import KINDS

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_LONGEST_SECONDS = 100 * 365 * 86400.0


class Kind(Enum):
    """How a value is shown: a duration with its unit, a URL and a token without what is secret."""

    DURATION = "duration"
    URL = "url"
    CREDENTIAL = "credential"


def _read_duration(value: object) -> float:
    seconds = parse_duration(value if isinstance(value, str | int | float) else str(value))
    if not math.isfinite(seconds) or seconds > _LONGEST_SECONDS:
        raise ValueError("must end within 100 years")
    return seconds


def _read_optional_duration(value: object) -> float | None:
    return None if read_absent(value) is None else _read_duration(value)


def _read_whole(value: object) -> object:
    """Make true and false text, which is no number: Python would take them for 1 and 0."""
    return str(value) if isinstance(value, bool) else value


def _read_number(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a number that has an end")
    return _read_whole(value)


def _read_list(value: object) -> object:
    """Take a list, JSON text of one, or text with commas (the form for environment variables)."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('is not a JSON list; write ["id", "line"] or id,line') from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _read_start(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError('write "beginning", "now" or a cursor value in quotes')
    text = value.strip()
    return text.lower() if text.lower() in ("beginning", "now") else text


def read_absent(value: object) -> object:
    """Take empty text as not set: composed environments often pass variables that are empty."""
    return None if isinstance(value, str) and not value.strip() else value


def _read_lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def is_dots(segment: str) -> bool:
    """Tell whether a segment of a path is `.` or `..`, also encoded: servers and proxies resolve it."""
    return unquote(segment) in (".", "..")


def check_name(name: str) -> str:
    """Return the name of a stream, a source or a partner, or raise ValueError with the rule."""
    if _NAME.fullmatch(name) is None or len(name) > 60:
        raise ValueError("is not a name; use a small letter, then small letters, digits, _ or -, at most 60 in all")
    return name


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text.strip()


def _check_rate(text: str | None) -> str | None:
    if text is not None:
        parse_rate(text)
    return text


def _check_auth_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError("must be one of " + ", ".join(f'"{each}"' for each in KINDS))
    return kind


def _read_headers(value: object) -> object:
    """Take a table, or JSON text of one (the form for environment variables, whose names have no dashes)."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError:
            value = None
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError('must be a table of texts, as in { X-Tenant = "acme" }; in a variable {"X-Tenant": "acme"}')
    return value


def _check_share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("must be between 0 and 1")
    return value


def _check_part(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError("must be greater than 0 and at most 1")
    return value


def _check_optional_duration(value: float | None) -> float | None:
    if value == 0:
        raise ValueError("must be greater than 0")
    return value


def _check_time_zone(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        ZoneInfo(name.strip())
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError(f"{name!r} is not a time zone; write an IANA name such as Europe/Berlin or UTC") from None
    return name.strip()


def _check_path(text: str | None) -> str | None:
    if text is not None and text != "$":
        parse_path(text)
    return text


def _check_condition(text: str | None) -> str | None:
    if text is not None:
        parse_condition(text)
    return text


Name = Annotated[str, AfterValidator(check_name)]
Text = Annotated[str, AfterValidator(_check_text)]
OptionalText = Annotated[str | None, BeforeValidator(read_absent)]
TextList = Annotated[tuple[Text, ...], BeforeValidator(_read_list)]
Start = Annotated[str, BeforeValidator(_read_start)]
Lower = BeforeValidator(_read_lower)

Span = Annotated[float, BeforeValidator(_read_duration), Kind.DURATION]
Duration = Annotated[Span, Field(gt=0)]
OptionalSpan = Annotated[float | None, BeforeValidator(_read_optional_duration), Kind.DURATION]
OptionalDuration = Annotated[OptionalSpan, AfterValidator(_check_optional_duration)]
Spans = Annotated[tuple[Span, ...], BeforeValidator(_read_list)]
Whole = Annotated[int, BeforeValidator(_read_whole), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_read_number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_read_number), AfterValidator(_check_share)]
Part = Annotated[float, BeforeValidator(_read_number), AfterValidator(_check_part)]
JsonPath = Annotated[str | None, BeforeValidator(read_absent), AfterValidator(_check_path)]
Condition = Annotated[str | None, BeforeValidator(read_absent), AfterValidator(_check_condition)]
TimeZone = Annotated[str | None, BeforeValidator(read_absent), AfterValidator(_check_time_zone)]
Rate = Annotated[str | None, BeforeValidator(read_absent), AfterValidator(_check_rate)]
AuthKind = Annotated[str, Lower, AfterValidator(_check_auth_kind)]
Headers = Annotated[dict[str, str], BeforeValidator(_read_headers), Kind.CREDENTIAL]
Token = Annotated[str | None, BeforeValidator(read_absent), Kind.CREDENTIAL]


def find_kind(metadata: list[Any], annotation: object = None) -> Kind | None:
    """Return the kind that a field's metadata names; a tuple of durations counts as durations."""
    for mark in metadata:
        if isinstance(mark, Kind):
            return mark
    return Kind.DURATION if annotation == tuple[Span, ...] else None
