"""The settings in force: every key with its value (secrets masked) and its origin; and the fingerprint of all."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from syncctl.core.durations import format_duration
from syncctl.core.files import read_file
from syncctl.core.redaction import REDACTED, Redact, mask_url
from syncctl.settings.field_types import Kind, find_kind
from syncctl.settings.model import Settings
from syncctl.settings.problems import FILE_AT_MOST_BYTES
from syncctl.settings.schema_paths import FILLED_IN, Path, list_values, read_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One setting in force."""

    key: str
    #: JSON-safe, with secrets masked and durations as text; None if it is not set.
    value: Any
    #: `environment`, `.env line 3`, `syncctl.toml line 12`, `command line` or `default`.
    origin: str


def describe_settings(settings: Settings, *, changed: bool = False) -> list[Entry]:
    """Return every setting in the order of the model.

    Args:
        changed: Whether to leave out settings whose value is the default.
    """
    return list(_list_entries(settings, changed=changed))


def _list_entries(settings: Settings, *, changed: bool) -> Iterator[Entry]:
    # A secret may be part of any other value too, such as `where` with ${PARTNER_TOKEN} in it.
    redact = Redact(settings.secrets())
    for path, field in list_values(Settings, settings.section_names()):
        value = read_value(settings, path)
        if changed and _is_default(settings, value, field):
            continue
        origin = _find_origin(settings, path, is_set=value is not None)
        yield Entry(key=".".join(path), value=_redact(show_value(value, field), redact), origin=origin)


def _is_default(settings: Settings, value: Any, field: FieldInfo) -> bool:
    """Tell whether a value is the default, which the model holds in its written form, such as `10s`."""
    if field.is_required():
        return False
    written: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, None, *field.metadata])  # type: ignore[arg-type]
    return bool(value == written.validate_python(field.default, context=settings.layers))


def _redact(value: Any, redact: Redact) -> Any:
    if isinstance(value, list):
        return [_redact(item, redact) for item in value]
    if isinstance(value, dict):
        return {key: _redact(item, redact) for key, item in value.items()}
    return redact(value) if isinstance(value, str) else value


def _find_origin(settings: Settings, path: Path, *, is_set: bool) -> str:
    origin = settings.layers.find_origin(path)
    shared = FILLED_IN.get(path)
    if origin is None and is_set and shared is not None:
        return f"{settings.layers.find_origin((shared,))} ({shared.upper()})"
    return origin or "default"


def show_value(value: Any, field: FieldInfo) -> Any:
    """Return a value in the form that may be shown."""
    kind = find_kind(field)
    if value is None:
        return None
    if kind is Kind.CREDENTIAL:
        return dict.fromkeys(value, REDACTED) if isinstance(value, dict) else REDACTED
    if kind is Kind.URL:
        return mask_url(value)
    if kind is Kind.DURATION:
        return [format_duration(item) for item in value] if isinstance(value, tuple) else format_duration(value)
    return list(value) if isinstance(value, tuple) else value


PER_MACHINE = ("mongo_url", "redis_url", "worker", "log")
"""Settings that may differ between machines: they are not part of the fingerprint."""
FINGERPRINT_LENGTH = 8


def fingerprint_settings(settings: Settings) -> str:
    """Return eight hex digits that differ between processes with other settings or other schemas.

    Secrets do not enter the fingerprint, not even as a hash, because a weak secret could be found by trial.
    """
    values = {
        entry.key: entry.value for entry in describe_settings(settings) if entry.key.split(".")[0] not in PER_MACHINE
    }
    schemas = {
        name: _hash_schema(settings, stream.body_schema)
        for name, stream in settings.streams.items()
        if stream.body_schema
    }
    text = json.dumps([values, schemas], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:FINGERPRINT_LENGTH]


def _hash_schema(settings: Settings, path: str) -> str:
    try:
        content = read_file(settings.layers.directory / path, at_most=FILE_AT_MOST_BYTES)
        return hashlib.sha256(content).hexdigest()
    except (OSError, ValueError):
        return "unreadable"
