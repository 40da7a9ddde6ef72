"""What all processes find under a name for a while: sealed texts, and who alone may make the next one."""

import secrets
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import redis

from syncctl.broker.queue import connect, unavailable

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_SECONDS = 1.0
"""A call to a partner waits for this, and goes on without it."""

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def _edge(function: "Callable[Concatenate[RedisTokenCache, P], T]") -> "Callable[Concatenate[RedisTokenCache, P], T]":
    """Translate the driver's errors of a method."""

    @wraps(function)
    def call(self: "RedisTokenCache", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(self, *args, **kwargs)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self.url, error) from error

    return call


class RedisTokenCache:
    """Sealed texts in Redis, each for a while. How long that still is, Redis's clock says.

    Args:
        url: `redis://…`, a secret.
        prefix: What begins every key, so that one Redis can be shared.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self.url = url
        self._prefix = f"{prefix}shelf:"
        self._redis: Any = connect(url, timeout_seconds=TIMEOUT_SECONDS)
        self._release = self._redis.register_script(_RELEASE)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @_edge
    def read(self, name: str) -> tuple[bytes, float] | None:
        """Return what is kept under a name and for how many seconds still; None where nothing is."""
        with self._redis.pipeline() as pipeline:
            text, millis = pipeline.get(self._prefix + name).pttl(self._prefix + name).execute()
        return None if text is None or millis <= 0 else (bytes(text), millis / 1000)

    @_edge
    def write(self, name: str, text: bytes, *, seconds: float) -> None:
        """Keep a text under a name for a while, in place of what was there."""
        self._redis.set(self._prefix + name, text, px=max(1, int(seconds * 1000)))

    @_edge
    def claim(self, name: str, *, seconds: float) -> str | None:
        """Return the right to make what is kept next; None while another has it."""
        claim = secrets.token_hex(16)
        taken = self._redis.set(f"{self._prefix}{name}:claim", claim, nx=True, px=int(seconds * 1000))
        return claim if taken else None

    @_edge
    def release(self, name: str, claim: str) -> None:
        """Give that right back, if it is still held."""
        self._release(keys=[f"{self._prefix}{name}:claim"], args=[claim])
