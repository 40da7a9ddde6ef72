"""The numbers that an identity has given out and that no row has shown yet.

SQL Server gives an identity value out when the INSERT runs, and the row is seen when its transaction commits. A number
that is left out below one that was read may therefore still come. It may also never come: rolled back, deleted, or
skipped by the server's cache ("IDENTITY (Property)", Microsoft). Which of the two, only time tells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

GAPS_AT_MOST = 500
GIVEN_UP_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Numbers from `first` to `last`, both included, first seen to be missing `at` (by the source's clock)."""

    first: int
    last: int
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GapMemory:
    """Every gap that is still waited for, in ascending order, and what was given up.

    `step` is the identity's increment: the numbers between its steps are no gaps.
    """

    gaps: tuple[Gap, ...] = ()
    given_up: int = 0
    last_given_up: tuple[tuple[int, int], ...] = ()
    step: int = 1

    def note(self, before: int, values: Sequence[int], at: datetime) -> "GapMemory":
        """Remember the numbers left out between values that were read, in ascending order, behind `before`."""
        step, stretches = self.decide_step(before, values), []
        for value in values:
            if value - before > step:
                stretches.append((before, value))
            before = max(before, value)
        return self.note_stretches(stretches, at)

    def note_stretches(self, stretches: Iterable[tuple[int, int]], at: datetime) -> "GapMemory":
        """Remember the numbers between the two of each pair, which come behind all that is remembered."""
        new = [Gap(first=before + 1, last=value - 1, at=at) for before, value in stretches]
        return replace(self, gaps=(*self.gaps, *new)) if new else self

    def decide_step(self, before: int, values: Sequence[int]) -> int:
        """Return how far apart two numbers are that have none missing between them.

        Numbers that are off the identity's steps come from another seed, or by hand: then each may be one.
        """
        return self.step if all((value - before) % self.step == 0 for value in values) else 1

    def fill(self, values: Iterable[int]) -> "GapMemory":
        """Forget numbers that a row has shown now."""
        found = sorted(values)
        if not found or not self.gaps:
            return self
        gaps: list[Gap] = []
        for gap in self.gaps:
            first = gap.first
            for value in found:
                if not first <= value <= gap.last:
                    continue
                if value > first:
                    gaps.append(replace(gap, first=first, last=value - 1))
                first = value + 1
            if first <= gap.last:
                gaps.append(replace(gap, first=first))
        return replace(self, gaps=tuple(gaps))

    def expire(self, now: datetime, *, timeout_seconds: float) -> tuple["GapMemory", tuple[Gap, ...]]:
        """Give up what has been missing for longer than the timeout.

        Args:
            now: When every gap was last asked for began: what is given up was asked for after its time was over.
        """
        limit = now - timedelta(seconds=timeout_seconds)
        return self._give_up([gap for gap in self.gaps if gap.at <= limit])

    def trim(self) -> tuple["GapMemory", tuple[Gap, ...]]:
        """Give up what is more than can be remembered: the lowest numbers, whose transactions are the oldest."""
        return self._give_up(self.gaps[: max(0, len(self.gaps) - GAPS_AT_MOST)])

    def _give_up(self, gone: Sequence[Gap]) -> tuple["GapMemory", tuple[Gap, ...]]:
        if not gone:
            return self, ()
        shown = (*self.last_given_up, *((gap.first, gap.last) for gap in gone))[-GIVEN_UP_SHOWN:]
        kept = tuple(gap for gap in self.gaps if gap not in set(gone))
        return replace(self, gaps=kept, given_up=self.given_up + len(gone), last_given_up=shown), tuple(gone)

    def to_document(self) -> dict[str, Any]:
        """Return what a cursor document says of gaps; nothing where there are none."""
        document: dict[str, Any] = {}
        if self.gaps:
            document["gaps"] = [{"from": gap.first, "to": gap.last, "at": gap.at.isoformat()} for gap in self.gaps]
        if self.given_up:
            document["gaps_given_up"] = {"count": self.given_up, "last": [list(each) for each in self.last_given_up]}
        return document


def read_memory(document: Any, *, step: int) -> GapMemory:
    """Return what a cursor document says of gaps."""
    given_up = document.get("gaps_given_up", {})
    return GapMemory(
        gaps=tuple(
            Gap(first=int(each["from"]), last=int(each["to"]), at=datetime.fromisoformat(each["at"]))
            for each in document.get("gaps", ())
        ),
        given_up=int(given_up.get("count", 0)),
        last_given_up=tuple((int(first), int(last)) for first, last in given_up.get("last", ())),
        step=step,
    )


def show_gaps(gaps: Iterable[Gap]) -> str:
    """Return the numbers for people: `5, 7-9 and 3 more`."""
    shown = [str(gap.first) if gap.first == gap.last else f"{gap.first}-{gap.last}" for gap in gaps]
    rest = f" and {len(shown) - GIVEN_UP_SHOWN} more" if len(shown) > GIVEN_UP_SHOWN else ""
    return ", ".join(shown[:GIVEN_UP_SHOWN]) + rest
