"""Mode increasing: follow a column that grows with each new or changed row; look again for rows that commit late."""

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from syncctl.core.gaps import Gap, GapMemory, read_memory, show_gaps
from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.errors import SourceRestored
from syncctl.sources.catalog.relation import Column, Kind
from syncctl.sources.cursor import CursorState, Position, Raw, read_position, write_position
from syncctl.sources.instants import is_instant, load_zone, parse_instant, step_back
from syncctl.sources.open_stream import OpenStream, make_page
from syncctl.sources.pages import PositionedRow

CLOCK_TOLERANCE = timedelta(hours=15)
"""How far a time may be ahead of the source's clock (in UTC) and still be a present time: zones reach to UTC+14."""

RECENT_NUMBERS = 10_000
"""How far before its first row a stream that starts at `now` looks for numbers that are still to come."""

LOOKBACK_KINDS = frozenset({Kind.TIME, Kind.DATE, Kind.TEXT, Kind.OTHER})
"""The kinds of columns whose values may be times; text that is not a time has no lookback."""

RANGES_AT_ONCE = 500
"""The number of ranges in one statement; SQL Server accepts 2,100 parameters."""

PAGES_ASKED_AGAIN = 10
"""How many pages of rows a poll reads again where gaps were joined; the next poll continues from there."""

STRETCHES_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LookbackMemory:
    """How far the rows before the cursor were read again; this is stored in the cursor's document."""

    #: The value up to which the last round looked; None before the first round.
    looked: str | None = None
    #: Where the present round continues; None between rounds.
    place: Position | None = None
    #: Where the present round ends; None between rounds.
    upto: Position | None = None
    #: Whether the round began when no row could commit late any more; it is then the last one until the cursor moves.
    settled: bool = False
    #: The place before which no row of an append-only stream is read again: its record may have been cleaned up.
    since: Position | None = None

    def add_to(self, document: Cursor) -> Cursor:
        """Return a cursor's document with this memory."""
        kept: dict[str, Any] = {"looked": self.looked, "settled": self.settled}
        if self.place is not None and self.upto is not None:
            kept |= {"place": write_position(self.place), "upto": write_position(self.upto)}
        if self.since is not None:
            kept["since"] = write_position(self.since)
        return {**document, "lookback": kept}


def read_lookback(cursor: Cursor, stream: str) -> LookbackMemory:
    """Return the memory in a cursor's document; if it has none, the memory of a stream that begins at the cursor."""
    kept = cursor.get("lookback")
    if kept is None:
        return LookbackMemory(since=read_position(cursor, stream))
    positions = {
        name: read_position(kept[name], stream) for name in ("place", "upto", "since") if kept.get(name) is not None
    }
    return LookbackMemory(looked=kept.get("looked"), settled=bool(kept.get("settled")), **positions)


class Increasing:
    """Reads the rows after the cursor, and those that may commit late: a value is assigned before its row commits.

    If the cursor column is a time, the lookback is read again. If it is an identity, missing numbers are remembered and
    asked for again until they come or the gap timeout is over.
    """

    def __init__(self, opened: OpenStream) -> None:
        assert opened.layout.cursor is not None  # noqa: S101 - decide_layout has checked it
        self._opened = opened
        self._stream = opened.stream
        self._dialect = opened.source.dialect
        self._column: Column = opened.layout.cursor
        self._keyset = opened.pages.keyset
        self._remembers_gaps = has_gaps(opened)

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows, after all rows, or before a value.

        Raises:
            ValueError: The text is not a value of the cursor column.
        """
        match text:
            case "beginning":
                position = Position()
            case "now":
                return self._start_now()
            case _:
                sample = self._opened.run(self._opened.pages.read_sample)
                position = Position(value=self._dialect.parse_start(self._column, text, sample))
        return self._opened.cursor_at(position, None if position.value is None else position).to_document()

    def _start_now(self) -> Cursor:
        """Return the cursor after all rows, with the numbers before it that open transactions may hold."""
        position = self._opened.run(self._opened.pages.read_last) or Position()
        state = self._opened.cursor_at(position, None if position.value is None else position)
        if position.value is None or not self._remembers_gaps:
            return state.to_document()
        now = self._opened.run(self._dialect.read_clock)
        step, last = self._column.increment, int(position.value)
        begin = max(self._before_all, last - RECENT_NUMBERS * step)
        # These gaps are never joined, because the rows between them do not belong to the stream.
        memory = find_gaps(self._opened, self._new_memory({}), begin, last, at=now, step=step, exact=True)
        if begin > self._before_all:
            # Numbers that are missing right where the search begins have been missing for a long time.
            memory = replace(memory, gaps=tuple(gap for gap in memory.gaps if gap.first != begin + 1))
        return _with_gaps(state, memory)

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after the cursor, then the rows that came late."""
        state = self._opened.read_cursor(cursor)
        if not self._remembers_gaps:
            yield from self._pages_with_lookback(state, read_lookback(cursor, self._stream.name))
            return
        self._check_not_restarted(state)
        state, memory, read = yield from self._pages_with_gaps(state, self._new_memory(cursor))
        if memory.gaps:
            # The bound is higher than the number of new rows, so that a round always ends.
            yield from self._ask_again(state, memory, rows=PAGES_ASKED_AGAIN * self._stream.page_size + 2 * read)

    def _new_memory(self, cursor: Cursor) -> GapMemory:
        """Return the gaps of a cursor document."""
        step, timeout_seconds = self._column.increment, self._stream.gap_timeout_seconds
        return read_memory(cursor, step=step, timeout_seconds=timeout_seconds)

    def _check_not_restarted(self, state: CursorState) -> None:
        """Refuse to continue if new rows get numbers before the cursor, which no poll would read (invariant 12).

        Raises:
            SourceRestored: The table was truncated or created again, or its identity was reset.
        """
        name, command_name = self._stream.name, self._stream.command_name
        if state.position.key is None:
            return
        given_out = self._opened.run(lambda connection: self._dialect.read_identity(connection, self._stream))
        reached = int(state.position.value)
        if given_out is not None and given_out < reached:
            raise SourceRestored(
                f"stream {name} cannot go on: the numbers of {self._column.name} have started again",
                why=f"they are at {given_out}, but were read up to {reached} before",
                hint="if the table was truncated, created anew or restored: "
                f"syncctl rewind {command_name} --to beginning",
            )

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row, and mark those that come after a cursor, or are read again as they may have come late."""
        state = self._opened.cursor_at(Position()) if cursor is None else self._opened.read_cursor(cursor)
        earlier = self._earlier(state)
        new_after = state.position if earlier is None else Position(value=earlier)
        gaps = self._new_memory(cursor or {}).gaps if self._remembers_gaps else ()
        for rows in self._opened.scan(new_after, since):
            yield [row if row.is_ahead else replace(row, is_ahead=_is_in(gaps, row)) for row in rows]

    def count_behind(self, cursor: Cursor) -> int:
        """Return how many rows come after a cursor."""
        return self._opened.count([self._keyset.after(self._opened.read_cursor(cursor).position)])

    def warnings(self) -> tuple[str, ...]:
        """Warn if a lookback has no effect, or if rows that commit late are missed."""
        name = self._column.name
        if self._column.kind in LOOKBACK_KINDS and self._stream.lookback_seconds > 0:
            sample = self._opened.run(self._opened.pages.read_sample)
            if sample is not None and not is_instant(sample):
                return (f"the values of {name} are not times: lookback has no effect, late commits are missed",)
        elif self._remembers_gaps and self._stream.query is not None:
            return (f"numbers of {name} that the query leaves out look like missing rows: late commits may be missed",)
        elif self._column.kind not in LOOKBACK_KINDS and not self._remembers_gaps:
            return (f"{name} is not an identity: rows that commit out of its order are missed",)
        return ()

    def _pages_with_lookback(self, state: CursorState, memory: LookbackMemory) -> Iterator[Page]:
        """Read the rows after the cursor, then the lookback again, in a round that keeps its place between polls.

        New rows come first, so that they do not wait even if a bulk update has put many rows into the lookback.
        """
        clock = self._opened.run(self._dialect.read_clock)
        ceiling = self._find_ceiling(state, clock)
        bound = [] if ceiling is None else [self._up_to(Position(value=ceiling))]
        begun, more = state, True
        while more:
            rows, more = self._opened.read([self._keyset.after(state.position), *bound])
            if not rows:
                break
            state, memory = replace(state, position=rows[-1].position), replace(memory, settled=False)
            if self._stream.lookback_seconds <= 0:
                # A lookback that is set later begins here.
                memory = replace(memory, since=state.position)
            yield make_page(rows, memory.add_to(state.to_document()))
        if ceiling is not None:
            yield from self._page_ahead_of_clock(state, memory, ceiling)
        yield from self._look_back(begun, state, memory, clock)

    def _find_ceiling(self, state: CursorState, clock: datetime) -> Raw:
        """Return the latest time with which a row may move the cursor; None if the column does not contain times.

        A row from the year 9999 would otherwise hide all later ones. The tolerance covers every time zone, because a
        column does not state the time zone of its times.
        """
        if self._column.kind not in LOOKBACK_KINDS:
            return None
        sample = state.position.value
        if sample is None or state.position.key is None:
            sample = self._opened.run(self._opened.pages.read_sample)
        if not is_instant(sample):
            return None
        latest = clock.replace(tzinfo=None, microsecond=0) + CLOCK_TOLERANCE
        form = parse_instant(str(sample))
        text = str(replace(form, moment=latest, fraction="0" * len(form.fraction)))
        try:
            return self._dialect.parse_start(self._column, text, sample)
        except ValueError:
            return None

    def _page_ahead_of_clock(self, state: CursorState, memory: LookbackMemory, ceiling: Raw) -> Iterator[Page]:
        """Read the first rows whose time is ahead of the source's clock, without moving the cursor."""
        is_beyond = _is_beyond(state.position.value, ceiling)
        place = state.position if is_beyond else Position(value=ceiling)
        rows, more = self._opened.read([self._keyset.after(place)], new_after=Position(value=ceiling))
        name = self._column.name
        if is_beyond:
            note = (
                f"the cursor is at {state.position.text}, ahead of the source's clock: changes before it are not read"
            )
            note += f"; to go back: syncctl rewind {self._stream.command_name} --to 1d"
        elif rows:
            note = f"{name} has times ahead of the source's clock; these rows are read, but do not move the cursor"
            note += f"; only the first {len(rows)} of them" if more else ""
        else:
            return
        rows = [replace(row, row=replace(row.row, ahead=True), is_new=False) for row in rows]
        yield make_page(rows, memory.add_to(state.to_document()), (note,))

    def _look_back(
        self, begun: CursorState, state: CursorState, memory: LookbackMemory, clock: datetime
    ) -> Iterator[Page]:
        """Read a recent window again, page by page, from a lookback before the end of the last round.

        An interrupted round continues where it stopped. Once the source's clock has passed the cursor by the whole
        lookback, one last round is made, and then none until the cursor moves.

        Args:
            begun: The cursor before this poll read new rows; these need not be read again at once.
        """
        seconds, known = self._stream.lookback_seconds, memory
        if self._earlier(begun) is None or (memory.settled and memory.looked == begun.position.text):
            return
        if memory.place is None:
            since = memory.looked if memory.looked is not None else begun.position.text
            earlier = self._step_back(since, seconds) or self._earlier(begun)
            if (local := self._local_time(clock, begun)) is not None:
                earlier = min(str(earlier), self._step_back(local, seconds) or str(earlier))
            elif memory.since is None or memory.since.value is None or _is_beyond(earlier, memory.since.value):
                # No later round looks further back, even if the lookback is made longer.
                memory = replace(memory, since=Position(value=earlier))
            is_last = self._is_past(begun, clock) and begun.position == state.position
            memory = replace(memory, place=Position(value=earlier), upto=begun.position, settled=is_last)
        more = True
        while more and memory.place is not None and memory.upto is not None:
            after = self._keyset.after(memory.place)
            if memory.place.key is None:
                after = self._keyset.from_value(memory.place.value)
            where = [after, self._up_to(memory.upto)]
            if state.floor is not None:
                where.append(self._keyset.after(state.floor))
            if memory.since is not None and self._stream.append_only and self._local_time(clock, begun) is None:
                where.append(self._keyset.after(memory.since))
            rows, more = self._opened.read(where, new_after=memory.upto)
            finished = LookbackMemory(looked=memory.upto.text, settled=memory.settled, since=memory.since)
            more = more and bool(rows)
            memory = replace(memory, place=rows[-1].position) if more else finished
            if rows or memory != known:
                yield make_page(rows, memory.add_to(state.to_document()), ends_round=not more)

    def _up_to(self, position: Position) -> sa.ColumnElement[bool]:
        """Return the condition for rows up to a position; for one without a key, rows before its value's first row."""
        return sa.not_(self._keyset.after(position))

    def _step_back(self, text: str, seconds: float) -> str | None:
        try:
            return step_back(text, seconds, earliest=self._dialect.earliest(self._column))
        except ValueError:
            return None

    def _is_past(self, state: CursorState, clock: datetime) -> bool:
        """Tell whether the source's clock has passed the cursor and its lookback, in any time zone of the column."""
        moment = parse_instant(str(state.position.value)).moment
        over = moment + timedelta(seconds=self._stream.lookback_seconds) + CLOCK_TOLERANCE
        return clock.replace(tzinfo=None) > over

    def _local_time(self, clock: datetime, state: CursorState) -> str | None:
        """Return the time of the source's clock in the stream's zone if it is before the cursor, otherwise None.

        When clocks are set back, an hour occurs twice: new rows then have earlier times than rows that were read.
        """
        if self._stream.timezone is None:
            return None
        zone = load_zone(self._stream.timezone, f"streams.{self._stream.name}.timezone")
        form = parse_instant(str(state.position.value))
        if form.offset:
            return None
        local = clock.astimezone(zone).replace(tzinfo=None, microsecond=0)
        return str(replace(form, moment=local, fraction="0" * len(form.fraction))) if local < form.moment else None

    def _earlier(self, state: CursorState) -> str | None:
        """Return the time to which the first page goes back; None if it does not go back."""
        position, seconds = state.position, self._stream.lookback_seconds
        if seconds <= 0 or position.key is None or not isinstance(position.value, str):
            return None
        if self._column.kind not in LOOKBACK_KINDS:
            return None
        try:
            return step_back(position.value, seconds, earliest=self._dialect.earliest(self._column))
        except ValueError:
            return None

    def _ask_again(self, state: CursorState, memory: GapMemory, *, rows: int) -> Iterator[Page]:
        """Read rows that have come in gaps, in a round that keeps its place; give up gaps that expired before it began.

        Where gaps were joined, the rows between them are read again. So that new rows need not wait for these, a poll
        ends after `rows` rows, and the next one continues the round.

        Args:
            rows: How many rows may be read.
        """
        began = memory.asked[1] if memory.asked else self._opened.run(self._dialect.read_clock)
        is_kept = memory.asked is not None
        while gaps := memory.find_unasked(limit=RANGES_AT_ONCE):
            late, more = self._opened.read([self._between(gaps)], new_after=state.position)
            numbers = _numbers(late)
            place = numbers[-1] if more and late else gaps[-1].last
            memory = replace(memory.fill(numbers), asked=(place, began))
            if late:
                is_kept = True
                yield make_page(late, _with_gaps(state, memory))
            rows -= len(late)
            if rows <= 0:
                return
        memory, gone = memory.end_round(began)
        notes: tuple[str, ...] = ()
        if gone:
            name = self._column.name
            note = f"gave up waiting for the missing numbers {show_gaps(gone)} of {name}"
            notes = (f"{note}: they were rolled back or deleted, or are committed later than this",)
        if gone or is_kept:
            yield Page(rows=(), cursor=_with_gaps(state, memory), notes=notes)

    def _pages_with_gaps(
        self, state: CursorState, memory: GapMemory
    ) -> Generator[Page, None, tuple[CursorState, GapMemory, int]]:
        """Read the rows after the cursor, and remember which numbers are missing.

        Returns:
            The cursor after these rows, the gaps that are waited for, and how many rows were read.
        """
        more, read = True, 0
        while more:
            now = self._opened.run(self._dialect.read_clock)
            rows, more = self._opened.read([self._keyset.after(state.position)])
            if not rows:
                break
            if more:
                memory = self._note_given_out(state, memory)
            noted = memory.note(self._last_number(state), _numbers(rows), now)
            if noted is not memory and self._stream.where is not None:
                rows, is_longer, noted = self._look_behind_where(state, memory, rows)
                more = more or is_longer
                if not rows:
                    continue
            state, memory, read = replace(state, position=rows[-1].position), noted, read + len(rows)
            yield make_page(rows, _with_gaps(state, memory))
        return state, memory, read

    def _note_given_out(self, state: CursorState, memory: GapMemory) -> GapMemory:
        """Remember which number the identity has reached by now.

        If a table takes hours to read, the numbers found missing later have been missing since this time, so that they
        are not waited for all over again.
        """
        if memory.given_out is not None and self._last_number(state) < memory.given_out[0]:
            return memory
        last = self._opened.run(self._opened.pages.read_last)
        if last is None:
            return memory
        return replace(memory, given_out=(int(last.value), self._opened.run(self._dialect.read_clock)))

    def _look_behind_where(
        self, state: CursorState, memory: GapMemory, rows: list[PositionedRow]
    ) -> tuple[list[PositionedRow], bool, GapMemory]:
        """Read a page again, without the gaps that the stream's `where` makes.

        The numbers are read first: a row that commits between the two queries is then in the page, and not lost.
        """
        before, last = self._last_number(state), _numbers(rows)[-1]
        now = self._opened.run(self._dialect.read_clock)
        step = memory.decide_step(before, _numbers(rows))
        noted = find_gaps(self._opened, memory, before, last, at=now, step=step)
        upto = self._keyset.expressions[0] <= self._dialect.bound(self._column, last)
        rows, is_longer = self._opened.read([self._keyset.after(state.position), upto])
        reached = _numbers(rows)[-1] if rows else before
        return rows, is_longer, noted.up_to(reached).fill(_numbers(rows))

    def _last_number(self, state: CursorState) -> int:
        """Return the number before the first one that the next page may contain."""
        position = state.position
        if position.value is None:
            return self._before_all
        return int(position.value) if position.key is not None else int(position.value) - self._column.increment

    @property
    def _before_all(self) -> int:
        """The number before the first one that is assigned."""
        return (1 if self._column.seed is None else self._column.seed) - self._column.increment

    def _between(self, gaps: Sequence[Gap]) -> sa.ColumnElement[bool]:
        expression, bound = self._keyset.expressions[0], self._dialect.bound
        return sa.or_(
            *(expression.between(bound(self._column, gap.first), bound(self._column, gap.last)) for gap in gaps)
        )


def has_gaps(opened: OpenStream) -> bool:
    """Tell whether missing numbers are waited for: only if the database itself assigns them, one for each row."""
    return opened.layout.is_numbered and opened.stream.gap_timeout_seconds > 0


def find_gaps(
    opened: OpenStream, memory: GapMemory, before: int, last: int, *, at: datetime, step: int, exact: bool = False
) -> GapMemory:
    """Remember which numbers are missing in the cursor column, after `before` and up to `last`.

    Rows that the stream's `where` leaves out are not missing: they exist, and are not still to come.

    Args:
        at: When this query began.
        step: The largest distance between two numbers at which no number is missing between them.
        exact: Whether the gaps must not be joined.
    """
    expression, bound = opened.pages.keyset.expressions[0], opened.source.dialect.bound
    column = opened.pages.keyset.columns[0]
    previous: sa.ColumnElement[Any] = sa.func.coalesce(
        sa.func.lag(expression).over(order_by=expression), bound(column, before)
    )
    numbers = (
        sa.select(previous.label("previous"), expression.label("number"))
        .select_from(opened.pages.relation)
        .where(expression > bound(column, before), expression <= bound(column, last))
        .subquery("numbers")
    )
    statement = (
        sa.select(numbers.c.previous, numbers.c.number)
        .where(numbers.c.number - numbers.c.previous > step)
        .order_by(numbers.c.number)
    )

    def read(connection: sa.Connection) -> GapMemory:
        noted = memory
        for pairs in connection.execute(statement).partitions(STRETCHES_AT_ONCE):
            noted = noted.note_stretches([(int(previous), int(number)) for previous, number in pairs], at, exact=exact)
        return noted

    return opened.run(read)


def _with_gaps(state: CursorState, memory: GapMemory) -> Cursor:
    return {**state.to_document(), **memory.to_document()}


def _numbers(rows: Sequence[PositionedRow]) -> list[int]:
    return [int(row.position.value) for row in rows]


def _is_in(gaps: Sequence[Gap], scanned: Scanned) -> bool:
    if not gaps:
        return False
    number = int(scanned.row.at)
    index = bisect_right(gaps, number, key=lambda gap: gap.first)
    return index > 0 and number <= gaps[index - 1].last


def _is_beyond(value: Raw, ceiling: Raw) -> bool:
    """Tell whether a time is later than another time of the same form."""
    try:
        return parse_instant(str(value)).moment > parse_instant(str(ceiling)).moment
    except ValueError:
        return False
