"""Gaps: the numbers that an identity has given out and that no row has had yet.

SQL Server gives an identity value out when the INSERT runs, and the row is seen when its transaction commits. A missing
number below one that was read may therefore still appear. It may also never appear, because it was rolled back,
deleted, or skipped by the server's cache ("IDENTITY (Property)", Microsoft). Only time tells which.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from itertools import groupby
from typing import Any

GAPS_AT_MOST = 500
GIVEN_UP_SHOWN = 10
STEPS_OF_TIMEOUT = 50
"""Times are rounded up to steps of the timeout divided by this, so that neighbours share a time and can be joined."""
_AWAITED = ("gaps", "asked", "lookback")
"""The parts of a cursor document about rows before the cursor."""
_CHILDREN = "children"
"""The part with the cursor documents of the children that are followed, by path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Numbers from `first` to `last`, both included, first noticed as missing at `at` (by the source's clock)."""

    first: int
    last: int
    at: datetime
    #: Never joined with a neighbour, because the stream may not have read the rows between them.
    exact: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GapMemory:
    """The gaps that are still awaited, and those that were given up.

    No number is given up before its time. Beyond `GAPS_AT_MOST`, neighbours are joined instead; then the reader also
    asks for some numbers that rows already have.
    """

    #: Still awaited, in ascending order.
    gaps: tuple[Gap, ...] = ()
    #: How many gaps were given up.
    given_up: int = 0
    last_given_up: tuple[tuple[int, int], ...] = ()
    #: The identity's increment: the numbers between its steps are not missing.
    step: int = 1
    timeout_seconds: float = 3600.0
    #: The current round: up to which number it has asked, and when it began; None between rounds.
    asked: tuple[int, datetime] | None = None
    #: A number that a row had at this time: all lower numbers had been given out by then.
    given_out: tuple[int, datetime] | None = None

    def note(self, before: int, values: Sequence[int], at: datetime) -> "GapMemory":
        """Remember the numbers missing between `before` and the values read after it, which are in ascending order."""
        step, stretches = self.decide_step(before, values), []
        for value in values:
            if value - before > step:
                stretches.append((before, value))
            before = max(before, value)
        return self.note_stretches(stretches, at)

    def note_stretches(self, stretches: Iterable[tuple[int, int]], at: datetime, *, exact: bool = False) -> "GapMemory":
        """Remember the numbers between the two values of each pair; they are above all numbers remembered so far.

        Args:
            at: When the query that did not find them began.
        """
        new = [
            Gap(first=before + 1, last=value - 1, at=self._round_up(self._missing_since(value, at)), exact=exact)
            for before, value in stretches
        ]
        if not new:
            return self
        over = [gap for gap in new if self._is_over(gap, at)]
        kept = (*self.gaps, *(gap for gap in new if not self._is_over(gap, at)))
        return replace(self, gaps=kept)._count_given_up(over)._join()

    def decide_step(self, before: int, values: Sequence[int]) -> int:
        """Return the distance of two numbers between which none is missing.

        Numbers off the identity's steps come from another seed or were inserted by hand: then any number may appear.
        """
        return self.step if all((value - before) % self.step == 0 for value in values) else 1

    def fill(self, values: Iterable[int]) -> "GapMemory":
        """Forget the numbers that rows have now."""
        numbers = sorted(values)
        if not numbers or not self.gaps:
            return self
        gaps: list[Gap] = []
        for gap in self.gaps:
            first = gap.first
            for value in numbers[bisect_left(numbers, gap.first) : bisect_left(numbers, gap.last + 1)]:
                if value > first:
                    gaps.append(replace(gap, first=first, last=value - 1))
                first = value + 1
            if first <= gap.last:
                gaps.append(replace(gap, first=first))
        return replace(self, gaps=tuple(gaps))._join()

    def up_to(self, number: int) -> "GapMemory":
        """Forget the numbers above `number`, which will be noted again."""
        gaps = tuple(replace(gap, last=min(gap.last, number)) for gap in self.gaps if gap.first <= number)
        return replace(self, gaps=gaps)

    def find_unasked(self, *, limit: int) -> tuple[Gap, ...]:
        """Return the lowest gaps that the current round has not asked for yet."""
        if self.asked is None:
            return self.gaps[:limit]
        place = self.asked[0]
        start = bisect_left(self.gaps, place + 1, key=lambda gap: gap.last)
        return tuple(replace(gap, first=max(gap.first, place + 1)) for gap in self.gaps[start : start + limit])

    def end_round(self, began: datetime) -> tuple["GapMemory", tuple[Gap, ...]]:
        """End a round of questions, and give up the gaps that were older than the timeout when it began."""
        gone = tuple(gap for gap in self.gaps if self._is_over(gap, began))
        kept = tuple(gap for gap in self.gaps if not self._is_over(gap, began)) if gone else self.gaps
        return replace(self, gaps=kept, asked=None)._count_given_up(gone), gone

    def to_document(self) -> dict[str, Any]:
        """Return the part of a cursor document about gaps; empty if there are none."""
        document: dict[str, Any] = {}
        if self.gaps:
            groups = groupby(self.gaps, key=lambda gap: (gap.at, gap.exact))
            document["gaps"] = [
                {"at": at.isoformat(), "exact": exact, "numbers": ",".join(map(_write_numbers, gaps))}
                for (at, exact), gaps in groups
            ]
        if self.asked is not None:
            document["asked"] = {"up_to": self.asked[0], "since": self.asked[1].isoformat()}
        if self.given_out is not None:
            document["given_out"] = {"number": self.given_out[0], "at": self.given_out[1].isoformat()}
        if self.given_up:
            document["gaps_given_up"] = {
                "count": self.given_up,
                "last": [list(pair) for pair in self.last_given_up],
            }
        return document

    def _missing_since(self, number: int, at: datetime) -> datetime:
        """Return the latest time since which the numbers below a row's number may have been missing."""
        if self.given_out is None or number > self.given_out[0]:
            return at
        return min(at, self.given_out[1])

    def _round_up(self, at: datetime) -> datetime:
        step = self.timeout_seconds / STEPS_OF_TIMEOUT
        return datetime.fromtimestamp(math.ceil(at.timestamp() / step) * step, UTC)

    def _is_over(self, gap: Gap, now: datetime) -> bool:
        return gap.at + timedelta(seconds=self.timeout_seconds) <= now

    def _join(self) -> "GapMemory":
        """Join neighbours, those with the fewest rows between first, until few enough are left (invariant 11).

        Only neighbours of the same time are joined, so that none is given up early and none is kept forever.
        """
        surplus = sum(not gap.exact for gap in self.gaps) - GAPS_AT_MOST
        if surplus <= 0:
            return self
        seams = [
            index
            for index in range(1, len(self.gaps))
            if self.gaps[index - 1].at == self.gaps[index].at
            and not self.gaps[index - 1].exact
            and not self.gaps[index].exact
        ]
        closed = set(nsmallest(surplus, seams, key=lambda index: self.gaps[index].first - self.gaps[index - 1].last))
        gaps: list[Gap] = []
        for index, gap in enumerate(self.gaps):
            if index in closed:
                gaps[-1] = replace(gaps[-1], last=gap.last)
            else:
                gaps.append(gap)
        return replace(self, gaps=tuple(gaps))

    def _count_given_up(self, gone: Sequence[Gap]) -> "GapMemory":
        if not gone:
            return self
        shown = (*self.last_given_up, *((gap.first, gap.last) for gap in gone))[-GIVEN_UP_SHOWN:]
        return replace(self, given_up=self.given_up + len(gone), last_given_up=shown)


def read_memory(document: Mapping[str, Any], *, step: int = 1, timeout_seconds: float = 3600.0) -> GapMemory:
    """Return the gaps of a cursor document."""
    given_up, asked, given_out = document.get("gaps_given_up", {}), document.get("asked"), document.get("given_out")
    return GapMemory(
        gaps=tuple(gap for group in document.get("gaps", ()) for gap in _read_group(group)),
        given_up=int(given_up.get("count", 0)),
        last_given_up=tuple((int(first), int(last)) for first, last in given_up.get("last", ())),
        step=step,
        timeout_seconds=timeout_seconds,
        asked=None if asked is None else (int(asked["up_to"]), datetime.fromisoformat(asked["since"])),
        given_out=None if given_out is None else (int(given_out["number"]), datetime.fromisoformat(given_out["at"])),
    )


def find_oldest(document: Mapping[str, Any]) -> datetime | None:
    """Return since when the oldest gap in a cursor document has been awaited; None if there is no gap."""
    return min((datetime.fromisoformat(group["at"]) for group in document.get("gaps", ())), default=None)


def without_awaited(cursor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the place in a cursor document alone, without the rows that are awaited before it."""
    place = {name: value for name, value in cursor.items() if name not in _AWAITED}
    if _CHILDREN in place:
        place[_CHILDREN] = {path: without_awaited(child) for path, child in place[_CHILDREN].items()}
    return place


def keep_awaited(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new cursor document with the old one's gaps before the new place, which no later page would find.

    These gaps are never joined from now on, because the stream may have passed over rows between them.
    """
    kept = _keep_gaps(before, after)
    if _CHILDREN in after:
        old = before.get(_CHILDREN, {})
        kept[_CHILDREN] = {path: keep_awaited(old.get(path, {}), child) for path, child in after[_CHILDREN].items()}
    return kept


def _keep_gaps(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    try:
        first = int(after["at"])
        reached = int(before["at"])
    except (KeyError, ValueError):
        return dict(after)
    old, new = read_memory(before), read_memory(after)
    held = [replace(gap, exact=True) for gap in old.up_to(first - 1).gaps]
    added = [replace(gap, first=max(gap.first, reached + 1)) for gap in new.gaps if gap.last > reached]
    return {**without_awaited(after), **replace(new, gaps=(*held, *added)).to_document()}


def show_gaps(gaps: Iterable[Gap]) -> str:
    """Return the numbers of gaps for people: `5, 7-9 and 3 more`."""
    return show_ranges([(gap.first, gap.last) for gap in gaps])


def show_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Return ranges of numbers for people: `5, 7-9 and 3 more`."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    rest = f" and {len(shown) - GIVEN_UP_SHOWN:,} more" if len(shown) > GIVEN_UP_SHOWN else ""
    return ", ".join(shown[:GIVEN_UP_SHOWN]) + rest


def _write_numbers(gap: Gap) -> str:
    return str(gap.first) if gap.first == gap.last else f"{gap.first}:{gap.last}"


def _read_group(group: Mapping[str, Any]) -> Iterator[Gap]:
    at = datetime.fromisoformat(group["at"])
    if "numbers" not in group:
        # The format of an earlier version: one gap in each document.
        yield Gap(first=int(group["from"]), last=int(group["to"]), at=at)
        return
    for text in group["numbers"].split(","):
        first, _, last = text.partition(":")
        yield Gap(first=int(first), last=int(last or first), at=at, exact=group.get("exact", False))
