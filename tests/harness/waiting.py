"""Wait for a result: poll a condition until a deadline, never sleep and hope."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LONGEST_PAUSE_SECONDS = 1.0


def eventually(
    predicate: Callable[[], T],
    timeout: float = 30.0,
    *,
    interval: float = 0.05,
    ignore: tuple[type[Exception], ...] = (),
) -> T:
    """Call `predicate` until it returns something true, and return that.

    After a call that takes long, such as a command, the pause is as long, which leaves time to the observed processes.

    Args:
        ignore: Exceptions that mean "not yet", as from a server that is being restarted.

    Raises:
        AssertionError: no result was true in time; with the last result or exception.
    """
    until = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        try:
            result = predicate()
            last: object = result
        except ignore as error:
            last = error
        else:
            if result:
                return result
        now = time.monotonic()
        if now >= until:
            raise AssertionError(f"not within {timeout:g} s; last seen: {last!r}")
        time.sleep(max(interval, min(now - began, LONGEST_PAUSE_SECONDS)))
