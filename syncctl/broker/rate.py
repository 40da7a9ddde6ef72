"""A partner's `rate`, shared by all workers through Redis and judged by Redis's clock alone."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from syncctl.broker.queue import connect, unavailable
from syncctl.broker.scripts import PACED, ROLLING
from syncctl.logs import get_logger

log = get_logger(__name__)

WAITED_FOR_SECONDS = 1.0
"""A turn that is further off is not waited for: who waits keeps a place in the worker from others."""
AHEAD_SECONDS = 0.1
"""A turn is given out so long before it comes; whose turn it is sleeps until then."""
AT_ONCE_SECONDS = 0.1
"""The calls of so much time, and one at least, may be made at once after a rest."""
ARRIVES_WITHIN_SECONDS = 0.5
"""A call may take so much longer to arrive than a later one: a partner that counts a span must not see one too many."""
LOOKED_EVERY_SECONDS = 0.25


class SharedRate:
    """At most so many calls per span over all workers.

    From one call a second on, calls are paced evenly. A slower rate lets as many calls as it names come together, and
    never more of them in any span, wherever that begins.

    Args:
        name: The partner's name.
        calls: How many.
        seconds: In how many seconds.
    """

    def __init__(self, url: str, *, prefix: str, name: str, calls: int, seconds: float) -> None:
        self.name = name
        self.is_slow = calls < seconds
        """Whether its next turn may be further off than is waited for."""
        self._url = url
        self._redis: Any = connect(url)
        # Each way of counting has a key of its own: a changed rate must not find what it cannot read.
        way = "rolling" if self.is_slow else "paced"
        self._key = f"{prefix}rate:{way}:{name}"
        self._script = self._redis.register_script(ROLLING if self.is_slow else PACED)
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

    def begin(self) -> "RatePermits":
        """Return the turns of one batch."""
        return RatePermits(self)

    def take(self) -> tuple[bool, float]:
        """Take the next turn unless it is too far off; return whether it was taken, and how many seconds off it is."""
        taken, micros = self._script(keys=[self._key], args=[*self._args, 1])
        return bool(taken), micros / 1_000_000

    def is_turn_near(self) -> bool:
        """Tell whether a turn would come before it is given up; takes none.

        Raises:
            ServiceUnavailable: Redis cannot be reached.
        """
        try:
            _, micros = self._script(keys=[self._key], args=[*self._args, 0])
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        return bool(micros <= _micros(WAITED_FOR_SECONDS))


class RatePermits:
    """The turns of one batch, which its threads take one after the other."""

    def __init__(self, rate: SharedRate) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self.given_up = False
        """Whether a turn was too far off, or not to be had: what is left of the batch makes room for others."""

    def wait(self, may_wait: Callable[[], bool]) -> bool:
        """Wait for a turn; False once `may_wait` says no, or when it is given up.

        It is given up when it does not come within about a second, and when Redis is away: without it the rate cannot
        be kept.
        """
        while not self.given_up and may_wait():
            if self._lock.acquire(timeout=LOOKED_EVERY_SECONDS):
                try:
                    return not self.given_up and self._take(may_wait)
                finally:
                    self._lock.release()
        return False

    def _take(self, may_wait: Callable[[], bool]) -> bool:
        began = time.monotonic()
        while may_wait():
            try:
                taken, seconds = self._rate.take()
            except (redis.RedisError, OSError) as error:
                log.warning("rate.without_redis", partner=self._rate.name, error=type(error).__name__)
                self.given_up = True
                return False
            if taken:
                time.sleep(seconds)
                return True
            waited = time.monotonic() - began
            if seconds > WAITED_FOR_SECONDS + AHEAD_SECONDS or waited > WAITED_FOR_SECONDS:
                self.given_up = True
                return False
            # By chance, so that of several batches now one and now the other is first.
            time.sleep(min(seconds - AHEAD_SECONDS * random.random(), LOOKED_EVERY_SECONDS))  # noqa: S311
        return False


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
