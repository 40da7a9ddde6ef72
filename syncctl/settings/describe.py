"""The settings in force: every key, its value with secrets masked, and where it stands; and their fingerprint."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from syncctl.core.durations import format_duration
from syncctl.core.redaction import REDACTED, mask_url
from syncctl.settings.convert import find_partner_url, find_source_url, find_token
from syncctl.settings.fields import Kind, find_kind
from syncctl.settings.model import Settings
from syncctl.settings.schema_paths import Path, list_values, read_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One setting in force.

    Args:
        value: JSON-safe, secrets masked, durations as text; None where it is not set.
        origin: `environment`, `.env line 3`, `syncctl.toml line 12`, `command line` or `default`.
    """

    key: str
    value: Any
    origin: str


def describe_settings(settings: Settings) -> list[Entry]:
    """Return every setting in the order of the model."""
    return list(_list_entries(settings))


def _list_entries(settings: Settings) -> Iterator[Entry]:
    named = {name: tuple(getattr(settings, name)) for name in ("sources", "partners", "streams")}
    for path, field in list_values(Settings, named):
        value, stands_at = _find_value(settings, path)
        yield Entry(
            key=".".join(path),
            value=show_value(value, field),
            origin=_find_origin(settings, path, stands_at, is_set=value is not None),
        )


def _find_value(settings: Settings, path: Path) -> tuple[Any, Path]:
    """Return a value and the path it stands at: a shared URL or token stands in for one that is not set."""
    value: Any = settings
    for key in path:
        value = value[key] if isinstance(value, dict) else read_key(value, key)
    if value is None and path[:2] == ("sources", "default") and path[2:] == ("url",):
        return find_source_url(settings, "default"), ("source_url",)
    if value is None and path[:2] == ("partners", "default"):
        if path[2:] == ("url",):
            return find_partner_url(settings, "default"), ("partner_url",)
        if path[2:] == ("auth", "token"):
            return find_token(settings, "default"), ("partner_token",)
    return value, path


def _find_origin(settings: Settings, path: Path, stands_at: Path, *, is_set: bool) -> str:
    if stands_at != path and is_set:
        return f"{settings.layers.find_origin(stands_at)} ({stands_at[0].upper()})"
    return settings.layers.find_origin(path) or "default"


def show_value(value: Any, field: FieldInfo) -> Any:
    """Return a value as people may see it."""
    kind = find_kind(field.metadata, field.annotation)
    if value is None:
        return None
    if kind is Kind.CREDENTIAL:
        return dict.fromkeys(value, REDACTED) if isinstance(value, dict) else REDACTED
    if kind is Kind.URL:
        return mask_url(value)
    if kind is Kind.DURATION:
        return [format_duration(one) for one in value] if isinstance(value, tuple) else format_duration(value)
    return list(value) if isinstance(value, tuple) else value


PER_MACHINE = ("mongo_url", "redis_url", "worker", "log")
"""Settings that each machine may have of its own; whoever reads a heartbeat is on the same ledger anyway."""
FINGERPRINT_LENGTH = 8


def fingerprint_settings(settings: Settings) -> str:
    """Return eight hex digits by which a process tells that another runs with other settings, or another schema.

    Secrets have no part in it, not even as a hash: a weak one could be found by trying.
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
        return hashlib.sha256((settings.layers.directory / path).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
