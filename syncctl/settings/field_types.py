"""The types of single settings: how each value is read, checked and shown."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from syncctl.core.answer_conditions import parse_condition, parse_path
from syncctl.core.column_masks import MASKS, Mask
from syncctl.core.durations import parse_duration, parse_rate
from syncctl.core.quiet_hours import parse_quiet_hours
from syncctl.core.write_backs import check_value_name

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_CHILD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHORTEST_LEASE_SECONDS = 1.0
_LONGEST_SECONDS = 100 * 365 * 86400.0
_LARGEST_WHOLE = 2**31 - 1
_SHORTEST_MASK_SECRET = 32


class Kind(Enum):
    """The way in which a value is shown: a duration with its unit, a URL and a credential without their secrets."""

    DURATION = "duration"
    URL = "url"
    CREDENTIAL = "credential"


def find_kind(field: FieldInfo) -> Kind | None:
    """Return the kind of a field; a list of durations is of the kind of its durations."""
    return next((mark for mark in field.metadata if isinstance(mark, Kind)), None)


def show_toml(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Mapping):
        pairs = (f"{_show_key(key)} = {show_toml(inner)}" for key, inner in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_toml, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    # A JSON string is a TOML string too, except that TOML requires DEL to be escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _show_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def check_name(name: str) -> str:
    """Return the name of a stream, a source or a partner.

    Raises:
        ValueError: with the rule for names.
    """
    if _NAME.fullmatch(name) is None or len(name) > 60:
        raise ValueError(
            "is not a name; use a lower-case letter, then lower-case letters, digits, _ or -, at most 60 in all"
        )
    return name


def check_child_name(name: str) -> str:
    """Return the name of a child, which is a field of the JSON that is sent.

    Raises:
        ValueError: with the rule for such names.
    """
    if _CHILD_NAME.fullmatch(name) is None or len(name) > 60:
        raise ValueError("is not a name; use a letter, then letters, digits, _ or -, at most 60 in all")
    return name


def read_absent(value: object) -> object:
    """Read empty text as not set: composed environments often pass variables that are empty."""
    return None if isinstance(value, str) and not value.strip() else value


def read_table(value: object) -> object:
    """Read a table, or JSON text of one (the form for variables), as in `{"ssn": "drop"}`."""
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else {}
        except ValueError:
            return value
    return value


def read_choices(table: object, choices: Iterable[str]) -> object:
    """Read a table whose values are words of a list, in any case.

    Raises:
        ValueError: with the first value that is not in the list.
    """
    if not isinstance(table, dict):
        return table
    known = ", ".join(f'"{choice}"' for choice in choices)
    words = {str(key): word.strip().lower() if isinstance(word, str) else word for key, word in table.items()}
    for key, word in words.items():
        if word not in choices:
            raise ValueError(f"{key} must be one of {known}")
    return words


def _read_duration(value: object) -> float:
    return _check_seconds(parse_duration(str(value)))


def _read_whole(value: object) -> object:
    """Read true and false as text, so that they are refused: Python would take them for 1 and 0."""
    return str(value) if isinstance(value, bool) else value


def _read_number(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return _read_whole(value)


def _check_size(number: int) -> int:
    if number > _LARGEST_WHOLE:
        raise ValueError(f"must be at most {_LARGEST_WHOLE:,}")
    return number


def _check_seconds(seconds: float) -> float:
    if not seconds <= _LONGEST_SECONDS:
        raise ValueError("must be at most 100 years")
    return seconds


def _check_lease(seconds: float) -> float:
    if seconds < _SHORTEST_LEASE_SECONDS:
        raise ValueError("must be at least 1s; a shorter lease would run out before a call begins, and nothing be sent")
    return seconds


def _read_list(value: object) -> object:
    """Read a list, JSON text of one, or text with commas (the forms for variables)."""
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
        raise ValueError('must be "beginning", "now" or a cursor value in quotes')
    text = value.strip()
    return text.lower() if text.lower() in ("beginning", "now") else text


def _read_lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _read_pairs(value: object) -> object:
    """Read a table of column names, as in `{ order_id = "id" }`."""
    table = read_table(value)
    if isinstance(table, dict):
        for name, column in table.items():
            if not str(name).strip() or not isinstance(column, str) or not column.strip():
                raise ValueError('must name a column of the row for each column of the child: { order_id = "id" }')
    return table


def _read_masks(value: object) -> object:
    return read_choices(read_table(value), MASKS)


def _check_write_back(columns: dict[str, str]) -> dict[str, str]:
    folded = [column.casefold() for column in columns]
    for column, name in columns.items():
        if not column.strip():
            raise ValueError("names no column")
        if folded.count(column.casefold()) > 1:
            raise ValueError(f"names {column} twice")
        try:
            check_value_name(name)
        except ValueError as error:
            raise ValueError(f"{column}: {error}") from None
    return columns


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text.strip()


def _check_share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("must be between 0 and 1")
    return value


def _check_failure_rate(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError("must be greater than 0 and at most 1")
    return value


def parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator that checks that a text, if there is one, can be parsed; it does not change the text."""

    def check(text: str | None) -> str | None:
        if text is not None:
            parse(text)
        return text

    return AfterValidator(check)


def _check_time_zone(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        ZoneInfo(name.strip())
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError(f"{name!r} is not a time zone; write an IANA name such as Europe/Berlin or UTC") from None
    return name.strip()


def _check_mask_secret(secret: str | None) -> str | None:
    if secret is not None and len(secret.strip()) < _SHORTEST_MASK_SECRET:
        raise ValueError(
            f"has fewer than {_SHORTEST_MASK_SECRET} characters, so hashes could be reversed by trying; "
            "create one with: openssl rand -hex 32"
        )
    return None if secret is None else secret.strip()


Name = Annotated[str, AfterValidator(check_name)]
Text = Annotated[str, AfterValidator(_check_text)]
OptionalText = Annotated[str | None, BeforeValidator(read_absent)]
TextList = Annotated[tuple[Text, ...], BeforeValidator(_read_list)]
ColumnPairs = Annotated[dict[str, str], BeforeValidator(_read_pairs)]
ChildName = Annotated[str, AfterValidator(check_child_name)]
Start = Annotated[str, BeforeValidator(_read_start)]
Lower = BeforeValidator(_read_lower)

Span = Annotated[float, BeforeValidator(_read_duration), Kind.DURATION]
Duration = Annotated[Span, Field(gt=0)]
Lease = Annotated[Duration, AfterValidator(_check_lease)]
OptionalSpan = Annotated[Span | None, BeforeValidator(read_absent), Kind.DURATION]
OptionalDuration = Annotated[Duration | None, BeforeValidator(read_absent), Kind.DURATION]
Spans = Annotated[tuple[Span, ...], BeforeValidator(_read_list), Kind.DURATION]
Whole = Annotated[int, BeforeValidator(_read_whole), Field(gt=0), AfterValidator(_check_size)]
Count = Annotated[int, BeforeValidator(_read_whole), Field(ge=0), AfterValidator(_check_size)]
OptionalWhole = Annotated[Whole | None, BeforeValidator(read_absent)]
Seconds = Annotated[float, BeforeValidator(_read_number), Field(gt=0), AfterValidator(_check_seconds)]
Share = Annotated[float, BeforeValidator(_read_number), AfterValidator(_check_share)]
FailureRate = Annotated[float, BeforeValidator(_read_number), AfterValidator(_check_failure_rate)]
Rate = Annotated[OptionalText, parsed_by(parse_rate)]

JsonPath = Annotated[OptionalText, parsed_by(lambda text: text == "$" or parse_path(text))]
Condition = Annotated[OptionalText, parsed_by(parse_condition)]
QuietSpan = Annotated[OptionalText, parsed_by(parse_quiet_hours)]
TimeZone = Annotated[OptionalText, AfterValidator(_check_time_zone)]

Token = Annotated[OptionalText, Kind.CREDENTIAL]
MaskSecret = Annotated[Token, AfterValidator(_check_mask_secret)]
Masks = Annotated[dict[str, Mask], BeforeValidator(_read_masks)]
WriteBack = Annotated[dict[str, str], BeforeValidator(read_table), AfterValidator(_check_write_back)]
