"""A mark of the settings that a process runs with, by which others see that theirs are not the same."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncctl.settings import Settings

OWN = ("mongo_url", "redis_url", "worker", "log")
"""What each machine may have its own way; who reads a heartbeat is on the same ledger anyway."""
LENGTH = 8


def fingerprint_settings(settings: "Settings") -> str:
    """Return eight hex digits: others for other settings, or another content of a schema.

    Secrets have no part in it, not even as a hash: a weak one could be found by trying.
    """
    from syncctl.settings import describe_settings

    values = {each.key: each.value for each in describe_settings(settings) if each.key.split(".")[0] not in OWN}
    schemas = {
        name: _read_schema(settings, stream.body_schema)
        for name, stream in settings.streams.items()
        if stream.body_schema
    }
    text = json.dumps([values, schemas], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def _read_schema(settings: "Settings", path: str) -> str:
    try:
        return hashlib.sha256((settings.layers.directory / path).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
