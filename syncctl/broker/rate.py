"""A partner's rate limit: permits that all workers share through Redis, judged by Redis's clock alone.

Slower rates are in `ledger/rolling_rate.py`. Here, a flush of Redis lets a tenth of a second's calls through too early.
"""

import time
from typing import Any

import redis

from syncctl.broker.outage import Rest
from syncctl.broker.queue import IN_PASSING_SECONDS, connect
from syncctl.logs import get_logger

log = get_logger(__name__)

AHEAD_SECONDS = 0.1
"""A permit may be taken this long before it is valid; its taker waits until then."""
AT_ONCE_SECONDS = 0.1
"""After a rest, the calls of this much time, and at least one, may be made at once."""

# The script runs in Redis, in one step and by one clock. It returns whether a permit was taken, and in how many
# microseconds it is valid. A permit further off than `ahead` is not taken.
_PACED = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, slack, ahead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- Somebody else may have put anything there, of another type too: then it is replaced.
local kept = redis.pcall('GET', KEYS[1])
local due = type(kept) == 'string' and tonumber(kept) or 0
if due ~= due then due = 0 end
-- Nothing is ever due later: this clock was set back, or the rate was slower before.
if due > now + ahead + interval then due = now end
local at = math.max(due, now - slack)
local wait = math.max(0, at - now)
if wait > ahead then return {0, wait} end
local expires = math.ceil((at + interval + slack - now) / 1000) + 1
redis.call('SET', KEYS[1], string.format('%.0f', at + interval), 'PX', expires)
return {1, wait}
"""
"""Permits an interval apart, by the generic cell rate algorithm (ITU-T I.371): the key holds when the next one is due.
Permits that were not taken are made up for as far as `slack` reaches back."""


class SharedRate:
    """A limit on calls per span over all workers, of one call a second or more; calls are paced evenly.

    Args:
        name: The partner's name.
        calls: How many calls.
        seconds: The span.
        rest: How long Redis is left alone after it did not answer; shared by all who ask it in one process.
    """

    def __init__(
        self, url: str, *, prefix: str, name: str, calls: int, seconds: float, rest: Rest | None = None
    ) -> None:
        self.name = name
        self.calls_per_second = calls / seconds
        self._rest = rest or Rest()
        self._redis: Any = connect(url, timeout_seconds=IN_PASSING_SECONDS)
        self._key = f"{prefix}rate:paced:{name}"
        self._script = self._redis.register_script(_PACED)
        interval = seconds / calls
        self._args = (_micros(interval), _micros(max(0.0, AT_ONCE_SECONDS - interval)), _micros(AHEAD_SECONDS))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def take(self) -> tuple[bool, float]:
        """Take the next permit unless it is too far off; return whether it was, and in how many seconds it is valid."""
        taken, micros = self._script(keys=[self._key], args=self._args)
        return bool(taken), micros / 1_000_000

    def try_take(self) -> tuple[bool, float] | None:
        """Take the next permit as `take` does; None if Redis is away: without it the rate limit cannot be kept."""
        if not self._rest.is_over:
            return None
        started = time.monotonic()
        try:
            return self.take()
        except (redis.RedisError, OSError) as error:
            self._rest.begin(since=started)
            log.warning("rate.without_redis", partner=self.name, error=type(error).__name__)
            return None


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
