"""One line when an outage of Redis begins, and one when it ends."""

import time
from typing import Any

from syncctl.logs import get_logger

log = get_logger(__name__)


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
