"""A fault, and a timed script of faults."""

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.harness.deployment import Deployment

AGAIN_AFTER_SECONDS = 0.05
TAKES_EFFECT_WITHIN_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that goes wrong, and its repair.

    Each step is repeated until it returns that it took effect: a fault without effect proves nothing.

    Args:
        kind: The kind, for counting over many runs.
        detail: The particulars of this fault.
        first: Causes the fault; returns False if there is nothing to break at the moment.
        then: Repairs it; returns False while the fault has had no effect.
        after_seconds: The time from the fault to its repair.
    """

    kind: str
    first: Callable[[], bool]
    then: Callable[[], bool] | None = None
    after_seconds: float = 0.0
    detail: str = ""

    @property
    def name(self) -> str:
        """The kind with its detail."""
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


Draw = Callable[[Deployment, Random], Fault]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """A fault, and the time at which it begins."""

    at_seconds: float
    fault: Fault


def play(script: Sequence[Timed], note: Callable[[str], None]) -> tuple[str, ...]:
    """Play a script; return the kinds of its faults, each of which took effect.

    Raises:
        AssertionError: a fault took no effect.
    """
    began = time.monotonic()
    order = itertools.count()
    # The due time, a number that keeps the order, the fault, whether it is its end, and since when it has been tried.
    waiting: list[tuple[float, int, Fault, bool, float | None]] = []
    for timed in script:
        heapq.heappush(waiting, (timed.at_seconds, next(order), timed.fault, False, None))
    took: list[str] = []
    while waiting:
        due, _, fault, is_end, since = heapq.heappop(waiting)
        time.sleep(max(0.0, began + due - time.monotonic()))
        now = time.monotonic() - began
        since = now if since is None else since
        act = fault.then if is_end else fault.first
        if act is None or act():
            note(f"{now:5.1f} s  {fault.name}{': end' if is_end else ''}")
            if is_end or fault.then is None:
                took.append(fault.kind)
            else:
                end = time.monotonic() - began + fault.after_seconds
                heapq.heappush(waiting, (end, next(order), fault, True, None))
            continue
        assert now - since < TAKES_EFFECT_WITHIN_SECONDS, f"{fault.name}: {'had no effect' if is_end else 'no effect'}"
        heapq.heappush(waiting, (now + AGAIN_AFTER_SECONDS, next(order), fault, is_end, since))
    return tuple(took)
