"""An outage of Redis: one line when it begins, one when it ends, and how long it is left alone meanwhile."""

import time
from typing import Any

from syncctl.logs import get_logger

log = get_logger(__name__)

REST_AT_LEAST_SECONDS = 2.0
REST_TIMES = 9
"""How many times as long as it took to find out that Redis does not answer it is left alone."""


class Rest:
    """How long those who must not wait leave Redis alone after it did not answer.

    A Redis that hangs costs a time-out each time it is asked. In a delivery loop, calls, leases and every other stream
    wait for that time; with this it is a tenth of a process's time at most (invariant 12).
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
            since: When it was asked, by the monotonic clock.
        """
        now = time.monotonic()
        self._until = now + max(REST_AT_LEAST_SECONDS, REST_TIMES * (now - since))


class Outage:
    """Logs an outage once, however often it is noticed.

    Args:
        action: The action of the line that begins it; the one that ends it is `redis.back`.
    """

    def __init__(self, action: str = "redis.away") -> None:
        self._action = action
        self._since: float | None = None

    def note(self, error: BaseException | str, **facts: Any) -> None:
        """Log that Redis cannot be used, unless that is known."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._action, error=str(error), **facts)

    def end(self) -> None:
        """Log that Redis can be used again, if it could not."""
        if self._since is not None:
            log.info("redis.back", seconds=round(time.monotonic() - self._since, 1))
            self._since = None
