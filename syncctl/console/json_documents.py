"""The JSON documents that commands print: snake_case keys, RFC 3339 times in UTC, exact decimals."""

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

from syncctl.core.json_text import JsonNumber, JsonText
from syncctl.core.safe_text import make_safe_json


def format_time(at: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC with milliseconds and `Z`.

    Raises:
        ValueError: the time has no zone, so UTC would be a guess.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_document(value: Any) -> Any:
    """Convert dataclasses, times, decimals and enumerations to types that JSON can represent."""
    if isinstance(value, JsonText):
        parsed = value.parse()
        return parsed.text if isinstance(parsed, JsonText) else to_document(parsed)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(to_document(key)): to_document(inner) for key, inner in value.items()}
    if isinstance(value, Enum):
        return to_document(value.value)
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, JsonNumber):
        return value.literal
    if isinstance(value, Decimal | PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [to_document(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(to_document(inner) for inner in value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"cannot represent {type(value).__name__} in JSON")


def to_json(value: Any, *, encoding: str = "utf-8", indent: int | None = 2) -> str:
    """Return one JSON document as text that `encoding` can represent."""
    document = to_document(value)
    text = make_safe_json(json.dumps(document, ensure_ascii=False, indent=indent, allow_nan=False))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(document, ensure_ascii=True, indent=indent, allow_nan=False)
    return text


def to_line(value: Any) -> str:
    """Return a value as one line of JSON for a person, with decimals as the numbers that a partner receives."""
    from simplejson import RawJSON, dumps

    def represent(inner: Any) -> Any:
        return RawJSON(inner.text) if isinstance(inner, JsonText) else to_document(inner)

    return dumps(value, use_decimal=True, ignore_nan=True, ensure_ascii=False, default=represent)
