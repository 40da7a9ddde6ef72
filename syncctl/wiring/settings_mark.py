"""A mark of the settings that a process runs with, by which others see that theirs are not the same."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncctl.settings import Settings

OWN = ("mongo_url", "worker", "log")
"""What each machine may have its own way; who reads a heartbeat is on the same ledger anyway."""
ROUNDS = 20_000
LENGTH = 4


def mark_settings(settings: "Settings") -> str:
    """Return eight hex digits: others for other settings, other secrets or another content of a schema.

    No secret can be got back from it: of the many guesses that fit 32 bits none is confirmed, and each costs 20,000
    rounds.
    """
    values = settings.model_dump(mode="json", exclude=set(OWN))
    schemas = {
        name: _read_schema(settings, stream.body_schema)
        for name, stream in settings.streams.items()
        if stream.body_schema
    }
    text = json.dumps([values, schemas], sort_keys=True, default=str)
    return hashlib.pbkdf2_hmac("sha256", text.encode("utf-8", "surrogatepass"), b"syncctl", ROUNDS, LENGTH).hex()


def _read_schema(settings: "Settings", path: str) -> str:
    try:
        return hashlib.sha256((settings.layers.directory / path).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
