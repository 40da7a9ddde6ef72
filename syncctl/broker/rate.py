"""A partner's `rate`, shared by all workers through Redis."""

import threading
import time
from collections.abc import Callable

import redis
from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from syncctl.broker.queue import SOCKET_TIMEOUT_SECONDS, retry_once
from syncctl.logs import get_logger

log = get_logger(__name__)


class SharedRate:
    """At most so many calls per span over all workers.

    The fixed window's expiry is kept by Redis itself: `limits`' moving window would stamp with each worker's clock.

    Args:
        name: The partner's name.
        calls: How many.
        seconds: In how many seconds.
    """

    def __init__(self, url: str, *, prefix: str, name: str, calls: int, seconds: float) -> None:
        storage = RedisStorage(
            url,
            key_prefix=f"{prefix}rate",
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=5.0,
            retry=retry_once(),
        )
        self._limiter = FixedWindowRateLimiter(storage)
        # A span that gives at least one call a second is cut into seconds, so that calls do not come in bursts.
        per_second, left = divmod(calls, int(seconds))
        evenly = left == 0 and per_second > 0
        self._limit = RateLimitItemPerSecond(per_second if evenly else calls, 1 if evenly else int(seconds))
        self._name = name
        self._lock = threading.Lock()

    def wait(self, may_wait: Callable[[], bool]) -> bool:
        """Wait for a turn; False once `may_wait` says no, or when Redis is away: without it the rate cannot be kept."""
        while may_wait():
            try:
                with self._lock:
                    if self._limiter.hit(self._limit, self._name):
                        return True
                    reset = self._limiter.get_window_stats(self._limit, self._name).reset_time - time.time()
            except (redis.RedisError, OSError) as error:
                log.warning("rate.without_redis", partner=self._name, error=type(error).__name__)
                return False
            time.sleep(min(max(reset, 0.005), 0.25))
        return False
