"""`.env` and `syncctl.toml` for tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ORDERS: Mapping[str, Any] = {
    "table": "orders",
    "start": "beginning",
    "key": ["id"],
    "mode": "increasing",
    "cursor": "id",
    "poll_every": "1s",
    "endpoint": "POST /orders",
    "retry": {"schedule": ["200ms", "500ms", "1s"], "jitter": 0.2},
}
NOWHERE: Mapping[str, str] = {
    "mongo_url": "mongodb://127.0.0.1:1/ledger",
    "redis_url": "redis://127.0.0.1:1/0",
    "partner_url": "http://127.0.0.1:1",
}
"""Addresses at which no service answers."""
BEAT: Mapping[str, Any] = {"upkeep_every": "1s", "roll_up_every": "2s"}


def write_settings(
    directory: Path,
    *,
    mongo_url: str,
    redis_url: str,
    source_url: str,
    partner_url: str,
    redis_prefix: str = "syncctl",
    project: str = "celery_logs",
    partner_token: str = "",
    stream: Mapping[str, Any] | None = None,
    sections: Mapping[str, Any] | None = None,
) -> Path:
    """Write `.env` and `syncctl.toml` with the stream `orders`, and return the directory.

    Args:
        project: The default adds nothing to the keys in Redis, so that tests can name them.
        stream: Keys of the stream that differ; None takes a key away.
        sections: Further sections of the TOML file, as `{"worker": {"concurrency": 1}}`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lines = {
        "MONGO_URL": mongo_url,
        "REDIS_URL": redis_url,
        "SOURCE_URL": source_url,
        "PARTNER_URL": partner_url,
        "PARTNER_TOKEN": partner_token,
        "REDIS_PREFIX": redis_prefix,
        "PROJECT": project,
    }
    (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    orders = {name: value for name, value in {**ORDERS, **(stream or {})}.items() if value is not None}
    document = {"beat": BEAT, **(sections or {}), "streams": {"orders": orders}}
    if sections and "streams" in sections:
        document["streams"] = {"orders": orders, **sections["streams"]}
    (directory / "syncctl.toml").write_text(to_toml(document))
    return directory


def to_toml(document: Mapping[str, Any]) -> str:
    """Return a TOML document whose tables are all written inline."""
    return "".join(f"{name} = {_to_value(value)}\n" for name, value in document.items())


def _to_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_to_value(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_to_value(inner) for inner in value) + "]"
    return json.dumps(value)
