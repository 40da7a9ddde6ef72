"""A clock for leases that goes on while the machine sleeps."""

import time

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Return seconds since the machine started, the time that it was suspended included.

    The monotonic clock stands still during a suspension (clock_gettime(2)): a process would go on with a lease that
    others have long taken over.
    """
    return time.clock_gettime(_CLOCK)
