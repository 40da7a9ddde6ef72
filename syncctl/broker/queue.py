"""Celery's queues in Redis, the connection to Redis, and the translation of its errors."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from syncctl.broker.messages import CONTROL, DELIVER, QUEUES, Seal, is_number
from syncctl.core.redaction import find_secrets, redact
from syncctl.errors import ServiceUnavailable

if TYPE_CHECKING:
    from celery import Celery

SOCKET_TIMEOUT_SECONDS = 10.0
IN_PASSING_SECONDS = 0.5
"""The deadline of a command of callers that must not wait for Redis: see `outage.Rest`."""
_RESULT_LOOK_SECONDS = 0.01

_TABLES = ("celery.pidbox", "reply.celery.pidbox", "celeryev", *QUEUES)
KEY_TYPES: Mapping[str, str] = {
    **dict.fromkeys(QUEUES, "list"),
    **{f"_kombu.binding.{name}": "set" for name in _TABLES},
    **{f"_kombu.binding_permanent.{name}": "set" for name in _TABLES},
    "_kombu.binding_deadlines": "zset",
}
"""The keys with fixed names, and the type of each. Celery writes the tables of bindings for its remote control, and
wrote them for the queues of earlier versions. Every other key is replaced when it is written, whatever its type is."""

# In one step: between a check and the removal, another process could put a genuine message there.
_REMOVE_FOREIGN = """
local found = redis.call('TYPE', KEYS[1]).ok
if found == 'none' or found == ARGV[1] then return false end
redis.call('DEL', KEYS[1])
return found
"""


def retry_once() -> Retry:
    """Return the driver's rule for repeating a command: once after a broken connection, never after one that hangs.

    The driver repeats both a command and the connecting within it, so it would wait for each timeout four times.
    """
    return Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


def connect(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> Any:
    """Return a client of this Redis; it connects with its first command."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(5.0, timeout_seconds),
        socket_keepalive=True,
        health_check_interval=25,
        retry=retry_once(),
        client_name="syncctl",
    )


def is_wrong_type(error: BaseException | None) -> bool:
    """Tell whether Redis refused a command because a key of another type is in the place of its key."""
    while error is not None:
        if isinstance(error, redis.ResponseError) and "WRONGTYPE" in str(error):
            return True
        error = error.__cause__
    return False


def unavailable(url: str, error: Exception) -> ServiceUnavailable:
    """Return the error for a Redis that cannot be reached; names the host, never the password."""
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, redis.AuthenticationError):
        return _login_refused(where, cause, url)
    refuses = isinstance(error, redis.ResponseError)
    return ServiceUnavailable(
        f"Redis at {where} refuses commands" if refuses else f"cannot reach Redis at {where}",
        service="redis",
        why=redact(cause, find_secrets(url)),
        hint="check REDIS_URL, then run: syncctl doctor redis",
    )


def _login_refused(where: str, cause: str, url: str) -> ServiceUnavailable:
    if find_secrets(url):
        why, hint = redact(cause, find_secrets(url)), "check the user and password in REDIS_URL"
    else:
        why = "REDIS_URL has no password"
        hint = f"set REDIS_URL=redis://:PASSWORD@{where}/0; "
        hint += "for the server of syncctl local: syncctl local up --save --force"
    return ServiceUnavailable(f"Redis at {where} refuses the login", service="redis", why=why, hint=hint)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the driver's errors into `ServiceUnavailable`."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise unavailable(url, error) from error


class Broker:
    """The Redis that Celery uses.

    Args:
        url: `redis://…`, a secret.
        prefix: The beginning of every key, so that several installations can share one Redis.
        timeout_seconds: The deadline of every command.
    """

    def __init__(self, url: str, *, prefix: str, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> None:
        self.url = url
        self.prefix = prefix
        self._redis = connect(url, timeout_seconds=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def count_waiting(self, queue: str = DELIVER) -> int:
        """Return how many messages wait in a queue."""
        with translated(self.url):
            return int(self._redis.llen(f"{self.prefix}{queue}"))

    def find_foreign_keys(self) -> dict[str, str]:
        """Return those of this project's keys whose type syncctl never gives them, each with that type."""
        with translated(self.url), self._redis.pipeline(transaction=False) as pipeline:
            for name in KEY_TYPES:
                pipeline.type(f"{self.prefix}{name}")
            types = [kind.decode() for kind in pipeline.execute()]
        return {
            f"{self.prefix}{name}": actual
            for (name, kind), actual in zip(KEY_TYPES.items(), types, strict=True)
            if actual not in (kind, "none")
        }

    def remove_foreign_keys(self) -> dict[str, str]:
        """Remove the keys that `find_foreign_keys` finds, and return them: they would stop every worker forever.

        Redis holds nothing that could be lost (invariant 2).
        """
        removed: dict[str, str] = {}
        with translated(self.url):
            remove = self._redis.register_script(_REMOVE_FOREIGN)
            for name, kind in KEY_TYPES.items():
                if foreign := remove(keys=[f"{self.prefix}{name}"], args=[kind]):
                    removed[f"{self.prefix}{name}"] = foreign.decode()
        return removed

    def take_result(self, task_id: str) -> bytes | None:
        """Return the result of a task as Redis has it, and remove it; None while there is none."""
        key = f"{self.prefix}celery-task-meta-{task_id}"
        with translated(self.url):
            answer: bytes | None = self._redis.get(key)
            if answer is not None:
                self._redis.delete(key)
        return answer

    def prove_usable(self) -> None:
        """Write to Redis, and look at every queue: a replica or a full Redis answers, but cannot be used.

        Raises:
            ServiceUnavailable: Redis cannot be reached, or refuses.
        """
        with translated(self.url):
            self._redis.set(f"{self.prefix}probe", "1", ex=60)
            for queue in QUEUES:
                self._redis.llen(f"{self.prefix}{queue}")

    def describe_server(self) -> dict[str, Any]:
        """Return version, eviction policy, persistence and memory, for `doctor`."""
        with translated(self.url):
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip:
    """Two numbers that went through the queue and a worker, and the sum that came back."""

    x: float
    y: float
    sum: float
    round_trip_ms: float
    worker: str


def add_through_queue(app: "Celery", broker: Broker, x: float, y: float, *, timeout_seconds: float) -> RoundTrip:
    """Send two numbers through broker, worker and result backend, and return what came back (`syncctl add`).

    Raises:
        ServiceUnavailable: It names the hop that failed. Broker: Redis cannot be reached. Worker: no worker took the
            task. Result: a worker took the task, but no result came back.
    """
    from kombu.exceptions import OperationalError

    started = time.monotonic()
    broker.count_waiting(CONTROL)
    try:
        with translated(broker.url):
            # The worker knows that this task has a result; this side reads it itself.
            sent = app.send_task("syncctl.add_and_sign", args=[x, y], queue=CONTROL, ignore_result=True)
    except OperationalError as error:
        raise unavailable(broker.url, error) from error
    while (answer := broker.take_result(sent.id)) is None:
        if time.monotonic() - started > timeout_seconds:
            raise _explain_missing_result(broker, timeout_seconds)
        time.sleep(_RESULT_LOOK_SECONDS)
    elapsed = round((time.monotonic() - started) * 1000, 1)
    total, worker = _read_result(app.seal, sent.id, answer)
    return RoundTrip(x=x, y=y, sum=total, round_trip_ms=elapsed, worker=worker)


def _read_result(seal: Seal, task_id: str, answer: bytes) -> tuple[float, str]:
    """Return the sum and the worker's name from a result, after checking that a worker of this project wrote it.

    Not through Celery, which would make an exception of any class that the result names (invariant 14).
    """
    try:
        result = json.loads(answer)["result"]
        total, worker, signature = result["sum"], result["worker"], result["signature"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _distrust("it is not in the form in which workers write results") from None
    if not is_number(total) or not isinstance(worker, str) or not isinstance(signature, str):
        raise _distrust("it is not in the form in which workers write results")
    if not seal.is_own_result(task_id, {"sum": total, "worker": worker}, signature):
        raise _distrust("it is not signed by a worker of this project")
    return total, worker


def _distrust(why: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        "broker: reached; result: not written by a worker of this project",
        service="result",
        why=why,
        hint="bring all workers to one version, and find out who else writes to this Redis",
    )


def _explain_missing_result(broker: Broker, timeout_seconds: float) -> ServiceUnavailable:
    """Return the error for a missing result: either no worker took the task, or the result did not come back."""
    if broker.count_waiting(CONTROL) > 0:
        return ServiceUnavailable(
            "broker: reached; worker: did not take the task",
            service="worker",
            why=f"the task still waits in the queue {CONTROL} after {timeout_seconds:g} s",
            hint="start one: syncctl worker",
        )
    return ServiceUnavailable(
        "broker: reached; worker: took the task; result: did not come back",
        service="result",
        why=f"no result within {timeout_seconds:g} s: the worker is busy, died, or writes to another Redis",
        hint="read the worker's log, and compare its REDIS_URL with this one",
    )
