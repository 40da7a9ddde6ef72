"""redis: reachable, and set up so that no wake-up is lost without need."""

from collections.abc import Sequence

from syncctl.doctor.check import Finding, Unit, failed, passed, warned
from syncctl.doctor.examined import Examined
from syncctl.doctor.runner import explain
from syncctl.errors import ServiceUnavailable

OLDEST_TRIED = (6, 0)
FULL = 0.9


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return the checks of Redis."""
    return (
        Unit(name="redis", look=lambda: check_server(examined)),
        Unit(name="redis eviction", look=lambda: check_eviction(examined), needs=("redis",)),
        Unit(name="redis memory", look=lambda: check_memory(examined), needs=("redis",)),
        Unit(name="redis persistence", look=lambda: check_persistence(examined), needs=("redis",)),
    )


def check_server(examined: Examined) -> Finding:
    """Tell whether Redis answers, and its version."""
    try:
        facts = examined.broker.describe_server()
    except ServiceUnavailable as error:
        return explain(error, hint=_find_hint(error.why.lower()))
    version = str(facts["version"])
    if read_version(version) < OLDEST_TRIED:
        return warned(
            f"Redis {version} answers; it is older than syncctl was tried with", "upgrade to Redis 6.2 or later"
        )
    return passed(f"Redis {version} answers")


def check_eviction(examined: Examined) -> Finding:
    """Tell whether Redis may throw keys away: the queue is a key."""
    policy = examined.broker.describe_server()["maxmemory_policy"]
    hint = "run: redis-cli CONFIG SET maxmemory-policy noeviction; and in redis.conf: maxmemory-policy noeviction"
    if not policy:
        return warned("this Redis does not tell its eviction policy", "see that its maxmemory-policy is noeviction")
    if policy == "noeviction":
        return passed("noeviction")
    if policy.startswith("volatile-"):
        return warned(f"{policy}: a full Redis throws away results and the counters of partners' rates", hint)
    return failed(f"{policy}: a full Redis throws away the queue", hint)


def check_memory(examined: Examined) -> Finding:
    """Tell whether Redis has room for more messages."""
    facts = examined.broker.describe_server()
    used, most = int(facts["used_memory_bytes"] or 0), int(facts["maxmemory_bytes"] or 0)
    if not most:
        return passed(f"{_show_size(used)} used, no limit")
    detail = f"{_show_size(used)} of {_show_size(most)} used"
    if used < FULL * most:
        return passed(detail)
    return warned(
        f"{detail}: a full Redis refuses messages, and nothing is dispatched",
        "raise maxmemory, or see what fills it: redis-cli --bigkeys",
    )


def check_persistence(examined: Examined) -> Finding:
    """Tell whether the queue outlives a restart of Redis."""
    if examined.broker.describe_server()["aof"]:
        return passed("append-only file")
    return warned(
        "no append-only file: after a restart nothing is lost, but what was queued waits for its lease to run out",
        "run: redis-cli CONFIG SET appendonly yes; and in redis.conf: appendonly yes",
    )


def read_version(text: str) -> tuple[int, int]:
    """Return major and minor number of a version; (0, 0) where it has none, which is lower than every other."""
    numbers = [int(part) for part in text.split(".")[:2] if part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _find_hint(why: str) -> str:
    """Return what helps against a Redis that cannot be used; empty where its edge knows better."""
    if "password" in why or "auth" in why:
        return "check the user and password in REDIS_URL"
    if "refused" in why:
        return "start it (for a try on this machine: syncctl local up), or correct REDIS_URL"
    return ""


def _show_size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
