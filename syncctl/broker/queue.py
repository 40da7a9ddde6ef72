"""What Redis holds of Celery's queues, and how Redis is set up."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from syncctl.errors import ServiceUnavailable

P = ParamSpec("P")
T = TypeVar("T")

DELIVER, POLL, CONTROL = "deliver", "poll", "control"
QUEUES = (DELIVER, POLL, CONTROL)
SOCKET_TIMEOUT_SECONDS = 10.0


def retry_once() -> Retry:
    """Return when the driver repeats a command: once on a connection that was cut, never on one that hangs.

    The driver repeats both a command and the connecting within it: each timeout would be waited for four times.
    """
    return Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


def connect(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> Any:
    """Return a client of this Redis; it connects when it is first asked something."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(5.0, timeout_seconds),
        socket_keepalive=True,
        health_check_interval=25,
        retry=retry_once(),
        client_name="syncctl",
    )


def unavailable(url: str, error: Exception) -> ServiceUnavailable:
    """Return the error for a Redis that cannot be reached; names the host, never the password."""
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ServiceUnavailable(
        f"cannot reach Redis at {where}",
        service="redis",
        why=cause.replace(parts.password, "***") if parts.password else cause,
        hint="check REDIS_URL, then run: syncctl doctor redis",
    )


def _edge(function: "Callable[Concatenate[Broker, P], T]") -> "Callable[Concatenate[Broker, P], T]":
    """Translate the driver's errors of a broker method."""

    @wraps(function)
    def call(self: "Broker", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(self, *args, **kwargs)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self.url, error) from error

    return call


class Broker:
    """Redis beside Celery.

    Args:
        url: `redis://…`, a secret.
        prefix: What begins every key, so that one Redis can be shared.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self._redis = connect(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @_edge
    def count_waiting(self, queue: str = DELIVER) -> int:
        """Return how many messages wait in a queue."""
        return int(self._redis.llen(f"{self.prefix}{queue}"))

    @_edge
    def describe_server(self) -> dict[str, Any]:
        """Return version, eviction policy, persistence and memory, for `doctor`."""
        info = self._redis.info()
        try:
            policy = self._redis.config_get("maxmemory-policy").get("maxmemory-policy")
        except redis.ResponseError:
            policy = info.get("maxmemory_policy")
        return {
            "version": info.get("redis_version"),
            "maxmemory_policy": policy or info.get("maxmemory_policy"),
            "aof": bool(info.get("aof_enabled")),
            "rdb_changes": info.get("rdb_changes_since_last_save"),
            "used_memory_bytes": info.get("used_memory"),
            "maxmemory_bytes": info.get("maxmemory"),
        }
