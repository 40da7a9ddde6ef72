"""The token cache in Redis: sealed tokens that all processes share, and the claim to fetch the next one."""

import secrets
from typing import Any

import redis

from syncctl.broker.queue import connect, is_wrong_type, translated

TIMEOUT_SECONDS = 1.0
"""A call to a partner waits this long for the cache, and then continues without it."""

# A claim without an expiry, or with one that is too late, is not one of ours.
_CLAIM = """
local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > tonumber(ARGV[2]) then redis.call('DEL', KEYS[1]) end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class RedisTokenCache:
    """Sealed texts in Redis, each with an expiry that Redis's clock judges.

    Every method raises ServiceUnavailable when Redis cannot be reached.

    Args:
        url: `redis://…`, a secret.
        prefix: The beginning of every key, so that several installations can share one Redis.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self.url = url
        # The name in the keys stays: workers of several versions share the tokens.
        self._prefix = f"{prefix}shelf:"
        self._redis: Any = connect(url, timeout_seconds=TIMEOUT_SECONDS)
        self._claim = self._redis.register_script(_CLAIM)
        self._release = self._redis.register_script(_RELEASE)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def read(self, name: str) -> tuple[bytes, float] | None:
        """Return the text under a name and the seconds until it expires; None if there is none."""
        with translated(self.url), self._redis.pipeline() as pipeline:
            try:
                text, millis = pipeline.get(self._prefix + name).pttl(self._prefix + name).execute()
            except redis.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                self._redis.delete(self._prefix + name)
                return None
        return None if text is None or millis <= 0 else (bytes(text), millis / 1000)

    def write(self, name: str, text: bytes, *, seconds: float) -> None:
        """Store a text under a name until it expires, in place of an earlier one."""
        with translated(self.url):
            self._redis.set(self._prefix + name, text, px=max(1, int(seconds * 1000)))

    def claim(self, name: str, *, seconds: float) -> str | None:
        """Return a claim to fetch the next text under a name; None while another process holds it."""
        claim = secrets.token_hex(16)
        with translated(self.url):
            taken = self._claim(keys=[f"{self._prefix}{name}:claim"], args=[claim, int(seconds * 1000)])
        return claim if taken else None

    def release(self, name: str, claim: str) -> None:
        """Release a claim, if it is still held."""
        with translated(self.url):
            self._release(keys=[f"{self._prefix}{name}:claim"], args=[claim])
