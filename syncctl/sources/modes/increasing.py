"""Mode increasing: a column that grows with each new or changed row; what commits late is asked for again."""

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import sqlalchemy as sa

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.errors import SourceRestored
from syncctl.sources.dialect import LOOKBACK_KINDS
from syncctl.sources.instants import parse_instant, step_back
from syncctl.sources.modes.gaps import Gap, GapMemory, read_memory, show_gaps
from syncctl.sources.modes.missing import find_stretches
from syncctl.sources.modes.reading import Reading, make_page
from syncctl.sources.pages import Found, Where
from syncctl.sources.positions import Bookmark, Position, Raw
from syncctl.sources.tables import Column, Kind

RECENT_NUMBERS = 10_000
"""How far before its first row a stream that starts now looks for numbers that are still to come."""


class Increasing:
    """Reads what lies behind the cursor. A value is given out before its row is seen, so that alone would lose rows.

    On a time, the first pages read the lookback again. On an identity, the numbers that were left out are remembered
    and asked for again until they come or their time is over.
    """

    def __init__(self, reading: Reading) -> None:
        assert reading.layout.cursor is not None  # noqa: S101 - the layout has looked
        self._reading = reading
        self._stream = reading.stream
        self._cursor: Column = reading.layout.cursor
        self._keyset = reading.pages.keyset
        self._remembers_gaps = has_gaps(reading)

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows, behind all, or before a value.

        Raises:
            ValueError: It is no value of the cursor column.
        """
        match text:
            case "beginning":
                position = Position()
            case "now":
                return self._start_now()
            case _:
                sample = self._reading.ask(self._reading.pages.read_sample)
                position = Position(value=self._reading.opened.dialect.parse_start(self._cursor, text, sample))
        return self._reading.bookmark(position, None if position.value is None else position).to_cursor()

    def _start_now(self) -> Cursor:
        """Return the cursor behind all rows, with the numbers before it that open transactions may hold just now."""
        position = self._reading.ask(self._reading.pages.read_last) or Position()
        bookmark = self._reading.bookmark(position, None if position.value is None else position)
        if position.value is None or not self._remembers_gaps:
            return bookmark.to_cursor()
        now = self._reading.ask(self._reading.opened.dialect.read_clock)
        step, last = self._cursor.increment, int(position.value)
        begin = max(self._before_all, last - RECENT_NUMBERS * step)
        stretches = find_stretches(self._reading, begin, last, step=step)
        if begin > self._before_all:
            # What is left out just where the window begins is long past.
            stretches = [each for each in stretches if each[0] != begin]
        memory, _ = GapMemory(step=step).note_stretches(stretches, now).trim()
        return _with_gaps(bookmark, memory)

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield what came late, then the pages behind the cursor."""
        mark = self._reading.read_bookmark(cursor)
        if not self._remembers_gaps:
            yield from self._pages_behind(mark)
            return
        self._check_not_restarted(mark)
        memory = read_memory(cursor, step=self._cursor.increment)
        if memory.gaps:
            memory = yield from self._ask_again(mark, memory)
        yield from self._pages_with_gaps(mark, memory)

    def _check_not_restarted(self, mark: Bookmark) -> None:
        """Refuse to go on where the numbers of new rows lie behind the cursor: no poll would ever see them.

        Raises:
            SourceRestored: The table was truncated or made anew, or its identity was set back.
        """
        dialect, name = self._reading.opened.dialect, self._stream.name
        if mark.position.key is None:
            return
        given_out = self._reading.ask(lambda connection: dialect.read_identity(connection, self._stream))
        reached = int(mark.position.value)
        if given_out is not None and given_out < reached:
            raise SourceRestored(
                f"stream {name} cannot go on: the numbers of {self._cursor.name} begin anew",
                why=f"they stand at {given_out} and were read up to {reached} before",
                hint=f"if the table was truncated, made anew or restored: syncctl rewind {name} --to beginning",
            )

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row, and say which lie behind a cursor, or are read again because they may have come late."""
        bookmark = self._reading.bookmark(Position()) if cursor is None else self._reading.read_bookmark(cursor)
        earlier = self._earlier(bookmark)
        mark = bookmark.position if earlier is None else Position(value=earlier)
        gaps = read_memory(cursor or {}, step=self._cursor.increment).gaps if self._remembers_gaps else ()
        for found in self._reading.scan(mark, since):
            yield [each if each.is_ahead else replace(each, is_ahead=_is_in(gaps, each)) for each in found]

    def count_behind(self, cursor: Cursor) -> int:
        """Return how many rows lie behind a cursor."""
        return self._reading.count([self._keyset.after(self._reading.read_bookmark(cursor).position)])

    def warnings(self) -> tuple[str, ...]:
        """Say what a lookback cannot do, or that nothing finds what commits late."""
        if self._cursor.kind in LOOKBACK_KINDS and self._stream.lookback_seconds > 0:
            sample = self._reading.ask(self._reading.pages.read_sample)
            if sample is not None and not _is_instant(sample):
                return (
                    f"the values of {self._cursor.name} are no times: lookback has no effect, late commits are missed",
                )
        elif self._remembers_gaps and self._stream.query is not None:
            name = self._cursor.name
            return (f"numbers of {name} that the query leaves out pass for ones to come: late commits may be missed",)
        elif self._cursor.kind not in LOOKBACK_KINDS and not self._remembers_gaps:
            return (f"{self._cursor.name} is no identity: rows that are committed out of its order are missed",)
        return ()

    def _pages_behind(self, mark: Bookmark) -> Iterator[Page]:
        """Read the lookback again and go on behind the cursor, which stays where it was until rows behind it come."""
        again = self._look_back(mark)
        where = [self._keyset.after(mark.position)] if again is None else again
        best, is_again, more = mark, again is not None, True
        while more:
            found, more = self._reading.read(where, mark=mark.position if is_again else None)
            if not found:
                return
            last = found[-1]
            if last.is_new:
                best, is_again = replace(mark, position=last.position), False
            where = [self._keyset.after(last.position)]
            yield make_page(found, best.to_cursor())

    def _look_back(self, mark: Bookmark) -> Where | None:
        """Return what the first page reads where it reads a recent window again; None where it does not."""
        earlier = self._earlier(mark)
        if earlier is None:
            return None
        window = [self._keyset.from_value(earlier)]
        return window if mark.floor is None else [*window, self._keyset.after(mark.floor)]

    def _earlier(self, mark: Bookmark) -> str | None:
        """Return the time that the first page goes back to; None where it does not."""
        position, seconds = mark.position, self._stream.lookback_seconds
        if seconds <= 0 or position.key is None or not isinstance(position.value, str):
            return None
        if self._cursor.kind not in LOOKBACK_KINDS:
            return None
        earliest = self._reading.opened.dialect.earliest(self._cursor)
        try:
            return step_back(position.value, seconds, earliest=earliest)
        except ValueError:
            return None

    def _ask_again(self, mark: Bookmark, memory: GapMemory) -> Generator[Page, None, GapMemory]:
        """Read the rows that have come in gaps, then give up the gaps whose time was over before they were asked for.

        Returns:
            What is still waited for.
        """
        now = self._reading.ask(self._reading.opened.dialect.read_clock)
        for found in self._reading.walk([self._between(memory.gaps)]):
            memory = memory.fill(_numbers(found))
            yield make_page(found, _with_gaps(mark, memory))
        memory, gone = memory.expire(now, timeout_seconds=self._stream.gap_timeout_seconds)
        if gone:
            name = self._cursor.name
            note = f"gave up waiting for {name} {show_gaps(gone)}: rolled back or deleted, or committed later than this"
            yield Page(rows=(), cursor=_with_gaps(mark, memory), notes=(note,))
        return memory

    def _pages_with_gaps(self, mark: Bookmark, memory: GapMemory) -> Iterator[Page]:
        """Go on behind the cursor, and remember which numbers were left out."""
        more = True
        notes: tuple[str, ...] = ()
        while more:
            now = self._reading.ask(self._reading.opened.dialect.read_clock)
            found, more = self._reading.read([self._keyset.after(mark.position)])
            if not found:
                return
            before = self._last_number(mark)
            noted = memory.note(before, _numbers(found), now)
            if noted is not memory and self._stream.where is not None:
                found, is_longer, noted = self._look_behind_where(mark, memory, found)
                more = more or is_longer
                if not found:
                    continue
            memory, gone = noted.trim()
            if gone and not notes:
                notes = (f"too many numbers are missing in {self._cursor.name}: the oldest are not waited for",)
            mark = replace(mark, position=found[-1].position)
            yield make_page(found, _with_gaps(mark, memory), notes)

    def _look_behind_where(
        self, mark: Bookmark, memory: GapMemory, found: list[Found]
    ) -> tuple[list[Found], bool, GapMemory]:
        """Read a page once more, with the gaps that are none of the stream's `where`.

        Which numbers are there is asked first: a row that is committed between the two is in the page, and not lost.
        """
        before, last = self._last_number(mark), _numbers(found)[-1]
        now = self._reading.ask(self._reading.opened.dialect.read_clock)
        step = memory.decide_step(before, _numbers(found))
        stretches = find_stretches(self._reading, before, last, step=step)
        upto = self._keyset.expressions[0] <= self._reading.opened.dialect.bound(self._cursor, last)
        found, is_longer = self._reading.read([self._keyset.after(mark.position), upto])
        reached = _numbers(found)[-1] if found else before
        noted = memory.note_stretches([each for each in stretches if each[1] <= reached], now)
        return found, is_longer, noted.fill(_numbers(found))

    def _last_number(self, mark: Bookmark) -> int:
        """Return the number before the first that the next page may hold."""
        position = mark.position
        if position.value is None:
            return self._before_all
        return int(position.value) if position.key is not None else int(position.value) - self._cursor.increment

    @property
    def _before_all(self) -> int:
        """The number before the first that is given out."""
        return (1 if self._cursor.seed is None else self._cursor.seed) - self._cursor.increment

    def _between(self, gaps: Sequence[Gap]) -> sa.ColumnElement[bool]:
        column = self._keyset.expressions[0]
        bound = self._reading.opened.dialect.bound
        return sa.or_(*(column.between(bound(self._cursor, gap.first), bound(self._cursor, gap.last)) for gap in gaps))


def has_gaps(reading: Reading) -> bool:
    """Say whether the cursor is a number that the database itself gives out, one for each row."""
    cursor = reading.layout.cursor
    if cursor is None or reading.stream.gap_timeout_seconds <= 0:
        return False
    return cursor.seed is not None or (cursor.kind is Kind.INTEGER and reading.layout.key == (cursor,))


def _with_gaps(mark: Bookmark, memory: GapMemory) -> Cursor:
    return {**mark.to_cursor(), **memory.to_document()}


def _numbers(found: Sequence[Found]) -> list[int]:
    return [int(each.position.value) for each in found]


def _is_in(gaps: Sequence[Gap], scanned: Scanned) -> bool:
    if not gaps:
        return False
    number = int(scanned.row.at)
    index = bisect_right(gaps, number, key=lambda gap: gap.first)
    return index > 0 and number <= gaps[index - 1].last


def _is_instant(raw: Raw) -> bool:
    try:
        parse_instant(str(raw))
    except ValueError:
        return False
    return isinstance(raw, str)
