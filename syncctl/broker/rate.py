"""A partner's rate limit: permits that all workers share through Redis, judged by Redis's clock alone."""

from typing import Any

import redis

from syncctl.broker.queue import connect, translated
from syncctl.logs import get_logger

log = get_logger(__name__)

WAIT_AT_MOST_SECONDS = 1.0
"""Under a slow rate no record is taken before its permit is as near as this."""
AHEAD_SECONDS = 0.1
"""A permit may be taken this long before it is valid; whoever takes it waits until then."""
AT_ONCE_SECONDS = 0.1
"""After a rest, the calls of this much time, and at least one, may be made at once."""
ARRIVES_WITHIN_SECONDS = 0.5
"""A call may take this much longer than a later one to arrive; the partner's own count must not exceed its limit."""

# The scripts run in Redis, in one step and by one clock. Each returns whether a permit was taken, and in how many
# microseconds it is valid. A permit further off than `ahead` is not taken; with `take` 0 none is.
_BEGIN = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local first, second, ahead, take = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
"""

_PACED = (
    _BEGIN
    + """
local interval, slack = first, second
local due = tonumber(redis.call('GET', KEYS[1]) or 0)
-- Nothing is ever due later: this clock was set back, or the rate was slower before.
if due > now + ahead + interval then due = now end
local at = math.max(due, now - slack)
local wait = math.max(0, at - now)
if wait > ahead or not take then return {0, wait} end
local expires = math.ceil((at + interval + slack - now) / 1000) + 1
redis.call('SET', KEYS[1], string.format('%.0f', at + interval), 'PX', expires)
return {1, wait}
"""
)
"""Permits an interval apart, by the generic cell rate algorithm (ITU-T I.371): the key holds when the next one is due.
Permits that were not taken are made up for as far as `slack` reaches back."""

_ROLLING = (
    _BEGIN
    + """
local most, span = first, second
local kept = redis.call('LLEN', KEYS[1])
-- This clock was set back: as if all of them had been made just now.
if kept > 0 and tonumber(redis.call('LINDEX', KEYS[1], 0)) > now + ahead then
    redis.call('DEL', KEYS[1])
    for _ = 1, kept do redis.call('LPUSH', KEYS[1], string.format('%.0f', now)) end
    redis.call('PEXPIRE', KEYS[1], math.ceil(span / 1000) + 1)
end
local wait = 0
if kept >= most then wait = math.max(0, tonumber(redis.call('LINDEX', KEYS[1], most - 1)) + span - now) end
if wait > ahead or not take then return {0, wait} end
redis.call('LPUSH', KEYS[1], string.format('%.0f', now + wait))
redis.call('LTRIM', KEYS[1], 0, most - 1)
redis.call('PEXPIRE', KEYS[1], math.ceil((wait + span) / 1000) + 1)
return {1, wait}
"""
)
"""At most `most` permits in any span: the key holds the times of the latest ones."""


class SharedRate:
    """A limit on calls per span over all workers.

    From one call a second on, calls are paced evenly. A slower rate allows all calls of a span together, and never
    more of them in any span, wherever the span begins.

    Args:
        name: The partner's name.
        calls: How many calls.
        seconds: The span.
    """

    def __init__(self, url: str, *, prefix: str, name: str, calls: int, seconds: float) -> None:
        self.name = name
        self.calls_per_second = calls / seconds
        self.is_slow = calls < seconds
        """Whether the next permit may be too far off to wait for."""
        self._url = url
        self._redis: Any = connect(url)
        # Each algorithm has a key of its own: after a change of the rate it must not find what it cannot read.
        algorithm = "rolling" if self.is_slow else "paced"
        self._key = f"{prefix}rate:{algorithm}:{name}"
        self._script = self._redis.register_script(_ROLLING if self.is_slow else _PACED)
        interval = seconds / calls
        first, second = (
            (calls, _micros(seconds + ARRIVES_WITHIN_SECONDS))
            if self.is_slow
            else (_micros(interval), _micros(max(0.0, AT_ONCE_SECONDS - interval)))
        )
        self._args = (first, second, _micros(AHEAD_SECONDS))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def take(self) -> tuple[bool, float]:
        """Take the next permit unless it is too far off; return whether it was taken, and in how many seconds."""
        taken, micros = self._script(keys=[self._key], args=[*self._args, 1])
        return bool(taken), micros / 1_000_000

    def try_take(self) -> tuple[bool, float] | None:
        """Take the next permit as `take` does; None where Redis is away: without it the rate cannot be kept."""
        try:
            return self.take()
        except (redis.RedisError, OSError) as error:
            log.warning("rate.without_redis", partner=self.name, error=type(error).__name__)
            return None

    def is_permit_near(self) -> bool:
        """Tell whether a permit is valid within about a second; takes none.

        Raises:
            ServiceUnavailable: Redis cannot be reached.
        """
        with translated(self._url):
            _, micros = self._script(keys=[self._key], args=[*self._args, 0])
        return bool(micros <= _micros(WAIT_AT_MOST_SECONDS))


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
