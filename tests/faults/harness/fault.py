"""What a fault is, and a script of them played in time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.faults.harness.plant import Plant


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One act at one time of a run."""

    at_seconds: float
    name: str
    act: Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that goes wrong, and how it is put right again.

    Args:
        first: What goes wrong.
        then: What puts it right.
        after_seconds: When that is done, from when it went wrong.
    """

    name: str
    first: Callable[[], None]
    then: Callable[[], None] | None = None
    after_seconds: float = 0.0

    def steps(self, at_seconds: float) -> list[Step]:
        """Return its steps when it begins at this time."""
        steps = [Step(at_seconds=at_seconds, name=self.name, act=self.first)]
        if self.then is not None:
            end = at_seconds + self.after_seconds
            steps.append(Step(at_seconds=end, name=f"{self.name}: end", act=self.then))
        return steps


Draw = Callable[[Plant, Random], Fault]


def play(steps: Sequence[Step], note: Callable[[str], None]) -> None:
    """Play a script: each step at its time, or as soon as the one before it has ended."""
    began = time.monotonic()
    for step in steps:
        time.sleep(max(0.0, began + step.at_seconds - time.monotonic()))
        note(f"{time.monotonic() - began:5.1f} s  {step.name}")
        step.act()
