"""A clock for leases that keeps running while the machine sleeps."""

import time

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Return the seconds since the machine started, including the time that it was suspended.

    The monotonic clock stands still during a suspension (clock_gettime(2)): a process would continue under a lease
    that another process took over long ago.
    """
    return time.clock_gettime(_CLOCK)
