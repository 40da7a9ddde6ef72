"""Mode rowversion: read every change in the order of SQL Server's numbers, up to the lowest open transaction."""

from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.cursor import Position, parse_rowversion, to_text
from syncctl.sources.open_stream import OpenStream, make_page
from syncctl.sources.pages import PositionedRow, Where


class Rowversion:
    """Reads from the cursor up to a ceiling: a value is assigned when a statement runs, and visible when it commits.

    Every value below `MIN_ACTIVE_ROWVERSION()` has been committed or rolled back. The ceiling is read in a separate
    statement before each page. (Microsoft, "MIN_ACTIVE_ROWVERSION".)
    """

    def __init__(self, opened: OpenStream) -> None:
        assert opened.read_ceiling is not None  # noqa: S101 - decide_layout has checked it
        self._opened = opened
        self._read_ceiling = opened.read_ceiling
        self._keyset = opened.pages.keyset

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows, after all committed changes, or before a rowversion (0x0...7D1).

        Raises:
            ValueError: The text is not a rowversion, or the database has not reached it.
        """
        match text:
            case "beginning":
                position = Position()
            case "now":
                position = Position(value=self._ask_ceiling())
            case _:
                position = Position(value=self._parse(text))
        return self._opened.cursor_at(position, None if position.value is None else position).to_document()

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor, up to the ceiling.

        Raises:
            SourceRestored: The database assigns rowversions again that were read before.
        """
        state = self._opened.read_cursor(cursor)
        self._refuse_copy()
        more = True
        while more:
            rows, more = self._opened.run(lambda connection, at=state.position: self._read(connection, at))  # type: ignore[misc]
            if not rows:
                return
            state = replace(state, position=rows[-1].position)
            yield make_page(rows, state.to_document())

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row, and mark those that come after a cursor."""
        position = Position() if cursor is None else self._opened.read_cursor(cursor).position
        return self._opened.scan(position, since)

    def count_behind(self, cursor: Cursor) -> int:
        """Return how many rows come after a cursor."""
        return self._opened.count([self._keyset.after(self._opened.read_cursor(cursor).position)])

    def warnings(self) -> tuple[str, ...]:
        """Return nothing: `doctor` asks for the age of the transaction that holds back the ceiling."""
        return ()

    def ceiling(self) -> str:
        """Return the rowversion below which no transaction is open."""
        return to_text(self._ask_ceiling())

    def _read(self, connection: sa.Connection, position: Position) -> tuple[list[PositionedRow], bool]:
        where: Where = [self._keyset.after(position), self._bound(connection, position)]
        return self._opened.pages.read(connection, where, self._opened.stream.page_size)

    def _bound(self, connection: sa.Connection, position: Position) -> sa.ColumnElement[bool]:
        """Return the upper bound of a page: the ceiling, read before the page."""
        ceiling = self._read_ceiling(connection)
        reached = position.value
        if reached is not None and (ceiling < reached or (ceiling == reached and position.key is not None)):
            # invariant 12: rows with new, lower rowversions would be passed over silently.
            name, command_name = self._opened.stream.name, self._opened.stream.command_name
            raise SourceRestored(
                f"stream {name} cannot go on: the database was restored",
                why=f"its rowversions are at {to_text(ceiling)}, but were read up to {position.text} before",
                hint=f"find out what was restored, then run: syncctl rewind {command_name} --to beginning",
            )
        return self._keyset.below(ceiling)

    def _ask_ceiling(self) -> bytes:
        self._refuse_copy()
        return self._opened.run(self._read_ceiling)

    def _refuse_copy(self) -> None:
        """Refuse a readable secondary, which does not know the open transactions on the primary."""
        source, name = self._opened.source, self._opened.stream.name
        if self._opened.run(source.dialect.is_read_only_copy):
            raise ConfigurationError(
                f"stream {name} cannot be read in mode rowversion from a read-only copy",
                why="MIN_ACTIVE_ROWVERSION() proves nothing there: transactions are open on the primary",
                hint=f"let {source.address.setting} lead to the primary, without ApplicationIntent=ReadOnly",
            )

    def _parse(self, text: str) -> bytes:
        version = parse_rowversion(text)
        reached = self._ask_ceiling()
        if version > reached:
            raise ValueError(f"{to_text(version)} is in the future: the database is at {to_text(reached)}")
        return version
