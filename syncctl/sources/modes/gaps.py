"""Gaps: the numbers that an identity has given out and that no row has had yet.

SQL Server gives an identity value out when the INSERT runs, and the row is seen when its transaction commits. A missing
number below one that was read may therefore still come. It may also never come: rolled back, deleted, or skipped by the
server's cache ("IDENTITY (Property)", Microsoft). Only time tells which.
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
    """The gaps that are still waited for, and those that were given up."""

    #: Still waited for, in ascending order.
    gaps: tuple[Gap, ...] = ()
    #: How many gaps were given up.
    given_up: int = 0
    last_given_up: tuple[tuple[int, int], ...] = ()
    #: The identity's increment: the numbers between its steps are not missing.
    step: int = 1

    def note(self, before: int, values: Sequence[int], at: datetime) -> "GapMemory":
        """Remember the numbers that are missing between values that were read, in ascending order, after `before`."""
        step, stretches = self.decide_step(before, values), []
        for value in values:
            if value - before > step:
                stretches.append((before, value))
            before = max(before, value)
        return self.note_stretches(stretches, at)

    def note_stretches(self, stretches: Iterable[tuple[int, int]], at: datetime) -> "GapMemory":
        """Remember the numbers between the two of each pair, which are above all that are remembered already."""
        new = [Gap(first=before + 1, last=value - 1, at=at) for before, value in stretches]
        return replace(self, gaps=(*self.gaps, *new)) if new else self

    def decide_step(self, before: int, values: Sequence[int]) -> int:
        """Return how far apart two numbers are without one missing between them.

        Numbers off the identity's steps come from another seed or were inserted by hand: then any number may come.
        """
        return self.step if all((value - before) % self.step == 0 for value in values) else 1

    def fill(self, values: Iterable[int]) -> "GapMemory":
        """Forget numbers that a row has now."""
        numbers = sorted(values)
        if not numbers or not self.gaps:
            return self
        gaps: list[Gap] = []
        for gap in self.gaps:
            first = gap.first
            for value in numbers:
                if not first <= value <= gap.last:
                    continue
                if value > first:
                    gaps.append(replace(gap, first=first, last=value - 1))
                first = value + 1
            if first <= gap.last:
                gaps.append(replace(gap, first=first))
        return replace(self, gaps=tuple(gaps))

    def expire(self, now: datetime, *, timeout_seconds: float) -> tuple["GapMemory", tuple[Gap, ...]]:
        """Give up the gaps that are older than the timeout.

        Args:
            now: When the last query for all gaps began: a gap is given up only if it was asked for after its time.
        """
        limit = now - timedelta(seconds=timeout_seconds)
        return self._give_up([gap for gap in self.gaps if gap.at <= limit])

    def trim(self) -> tuple["GapMemory", tuple[Gap, ...]]:
        """Give up the gaps that are too many to remember (invariant 11): the lowest, with the oldest transactions."""
        return self._give_up(self.gaps[: max(0, len(self.gaps) - GAPS_AT_MOST)])

    def _give_up(self, gone: Sequence[Gap]) -> tuple["GapMemory", tuple[Gap, ...]]:
        if not gone:
            return self, ()
        shown = (*self.last_given_up, *((gap.first, gap.last) for gap in gone))[-GIVEN_UP_SHOWN:]
        kept = tuple(gap for gap in self.gaps if gap not in set(gone))
        return replace(self, gaps=kept, given_up=self.given_up + len(gone), last_given_up=shown), tuple(gone)

    def to_document(self) -> dict[str, Any]:
        """Return the part of a cursor document about gaps; empty if there are none."""
        document: dict[str, Any] = {}
        if self.gaps:
            document["gaps"] = [{"from": gap.first, "to": gap.last, "at": gap.at.isoformat()} for gap in self.gaps]
        if self.given_up:
            document["gaps_given_up"] = {
                "count": self.given_up,
                "last": [list(pair) for pair in self.last_given_up],
            }
        return document


def read_memory(document: Any, *, step: int) -> GapMemory:
    """Return the gaps of a cursor document."""
    given_up = document.get("gaps_given_up", {})
    return GapMemory(
        gaps=tuple(
            Gap(first=int(gap["from"]), last=int(gap["to"]), at=datetime.fromisoformat(gap["at"]))
            for gap in document.get("gaps", ())
        ),
        given_up=int(given_up.get("count", 0)),
        last_given_up=tuple((int(first), int(last)) for first, last in given_up.get("last", ())),
        step=step,
    )


def show_gaps(gaps: Iterable[Gap]) -> str:
    """Return the numbers of gaps for people: `5, 7-9 and 3 more`."""
    return show_ranges([(gap.first, gap.last) for gap in gaps])


def show_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Return ranges of numbers for people: `5, 7-9 and 3 more`."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    rest = f" and {len(shown) - GIVEN_UP_SHOWN:,} more" if len(shown) > GIVEN_UP_SHOWN else ""
    return ", ".join(shown[:GIVEN_UP_SHOWN]) + rest
