"""An outage of Redis: one log line when it begins, one when it ends, and the time for which Redis is left alone."""

import time
from typing import Any

from syncctl.logs import get_logger

log = get_logger(__name__)

REST_AT_LEAST_SECONDS = 2.0
REST_TIMES = 9
"""How long Redis is left alone, as a multiple of the time that it took to find out that it does not answer."""


class Rest:
    """The time for which callers that must not wait leave Redis alone after it did not answer.

    A Redis that hangs costs a timeout each time it is asked. In a delivery loop, calls, leases and every other stream
    wait for that time; with these rests it is at most a tenth of a process's time (invariant 12).
    """

    def __init__(self) -> None:
        self._until = float("-inf")

    @property
    def is_over(self) -> bool:
        """Whether Redis may be asked."""
        return time.monotonic() >= self._until

    def begin(self, *, since: float) -> None:
        """Leave Redis alone for a while.

        Args:
            since: When Redis was asked, by the monotonic clock.
        """
        now = time.monotonic()
        self._until = now + max(REST_AT_LEAST_SECONDS, REST_TIMES * (now - since))


class Outage:
    """Logs an outage once, however often it is noticed.

    Args:
        action: The action of the log line at its beginning; that of the line at its end is `redis.back`.
    """

    def __init__(self, action: str = "redis.away") -> None:
        self._action = action
        self._since: float | None = None

    def note(self, error: BaseException | str, **facts: Any) -> None:
        """Log that Redis cannot be used, unless that was logged before."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._action, error=str(error), **facts)

    def end(self) -> None:
        """Log that Redis can be used again, if an outage was logged."""
        if self._since is not None:
            log.info("redis.back", seconds=round(time.monotonic() - self._since, 1))
            self._since = None
