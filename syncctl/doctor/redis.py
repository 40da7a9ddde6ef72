"""redis: whether Redis answers, and whether it is set up so that it loses no message."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from syncctl.broker.queue import KEY_TYPES, is_wrong_type
from syncctl.doctor.check import Finding, Unit, explain, failed, passed, warned
from syncctl.errors import ServiceUnavailable

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services

_REFUSALS = {
    "read only replica": "name the primary in REDIS_URL; if this is to be the primary, run: redis-cli REPLICAOF NO ONE",
    "maxmemory": "raise maxmemory, or find the largest keys: redis-cli --bigkeys",
    "misconf": "free space on Redis's disk, and read Redis's log",
}
"""The hints for a Redis that answers but refuses a write, by a part of its reply."""

OLDEST_TRIED = (6, 0)
FULL = 0.9


def list_units(services: "Services") -> Sequence[Unit]:
    """Return the checks of Redis."""
    return (
        Unit(name="redis", look=lambda: check_server(services)),
        Unit(name="redis keys", look=lambda: check_keys(services), needs=("redis",)),
        Unit(name="redis eviction", look=lambda: check_eviction(services), needs=("redis",)),
        Unit(name="redis memory", look=lambda: check_memory(services), needs=("redis",)),
        Unit(name="redis persistence", look=lambda: check_persistence(services), needs=("redis",)),
    )


def check_server(services: "Services") -> Finding:
    """Check whether Redis answers and can be written to, and its version."""
    try:
        facts = services.broker.describe_server()
        services.broker.prove_usable()
    except ServiceUnavailable as error:
        if is_wrong_type(error):
            return check_keys(services)
        return explain(error, hint=_find_hint(error.why.lower()))
    version = str(facts["version"])
    if read_version(version) < OLDEST_TRIED:
        return warned(
            f"Redis {version} answers; syncctl is not tested with a version that old", "upgrade to Redis 6.2 or later"
        )
    return passed(f"Redis {version} answers and can be written to")


def check_keys(services: "Services") -> Finding:
    """Check whether each key of this project has the type that syncctl gives it."""
    foreign = services.broker.find_foreign_keys()
    if not foreign:
        return passed("the queues and the other keys of Celery have the expected types")
    kinds = [f"{name} is a {kind}, not a {_find_type(services, name)}" for name, kind in foreign.items()]
    names = " ".join(shlex.quote(name) for name in foreign)
    return failed(
        f"something else writes to this project's keys: {'; '.join(kinds)}",
        f"a running worker removes them; without one, run: redis-cli DEL {names}; or set another redis_prefix",
    )


def _find_type(services: "Services", name: str) -> str:
    return KEY_TYPES[name.removeprefix(services.broker.prefix)]


def check_eviction(services: "Services") -> Finding:
    """Check whether Redis may discard keys: the queue is a key."""
    policy = services.broker.describe_server()["maxmemory_policy"]
    hint = "run: redis-cli CONFIG SET maxmemory-policy noeviction; and in redis.conf: maxmemory-policy noeviction"
    if not policy:
        return warned(
            "this Redis does not reveal its eviction policy",
            "set maxmemory-policy noeviction where this Redis is configured",
        )
    if policy == "noeviction":
        return passed("noeviction")
    if policy.startswith("volatile-"):
        return warned(f"{policy}: a full Redis discards results, counters of rates, and oauth2 tokens", hint)
    return failed(f"{policy}: a full Redis discards the queue", hint)


def check_memory(services: "Services") -> Finding:
    """Check whether Redis has room for more messages."""
    facts = services.broker.describe_server()
    used, most = int(facts["used_memory_bytes"] or 0), int(facts["maxmemory_bytes"] or 0)
    if not most:
        return passed(f"{_show_size(used)} used, no limit")
    detail = f"{_show_size(used)} of {_show_size(most)} used"
    if used < FULL * most:
        return passed(detail)
    return warned(
        f"{detail}: a full Redis refuses messages, and nothing is polled or delivered until it has room",
        "raise maxmemory, or find the largest keys: redis-cli --bigkeys",
    )


def check_persistence(services: "Services") -> Finding:
    """Check whether wake-up messages survive a restart of Redis."""
    if services.broker.describe_server()["aof"]:
        return passed("append-only file")
    return warned(
        "no append-only file: a restart loses wake-up messages, counters of rates and oauth2 tokens, but no record",
        "run: redis-cli CONFIG SET appendonly yes; and in redis.conf: appendonly yes",
    )


def read_version(text: str) -> tuple[int, int]:
    """Return the major and minor number of a version; (0, 0), lower than any other, if it has none."""
    numbers = [int(part) for part in text.split(".")[:2] if part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _find_hint(why: str) -> str:
    """Return a hint for a Redis that cannot be used; empty if the error has a better one."""
    for sign, hint in _REFUSALS.items():
        if sign in why:
            return hint
    if "refused" in why:
        return "start it (for a try on this machine: syncctl local up), or correct REDIS_URL"
    return ""


def _show_size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
