"""Mode rowversion: every change, in the order in which SQL Server numbered it, below every open transaction."""

from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.modes.reading import Reading, make_page
from syncctl.sources.pages import Found, Where
from syncctl.sources.positions import Position, parse_rowversion, show


class Rowversion:
    """Reads `(cursor, ceiling)`: a value is given out when a statement runs, and seen when its transaction commits.

    What lies below `MIN_ACTIVE_ROWVERSION()` has been committed or rolled back; it is asked in a statement of its own
    before each page. (Microsoft, "MIN_ACTIVE_ROWVERSION".)
    """

    def __init__(self, reading: Reading) -> None:
        assert reading.read_ceiling is not None  # noqa: S101 - the layout has looked
        self._reading = reading
        self._read_ceiling = reading.read_ceiling
        self._keyset = reading.pages.keyset

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows, behind all that is committed, or before a rowversion (0x0...7D1).

        Raises:
            ValueError: It is no rowversion, or the database has not reached it.
        """
        match text:
            case "beginning":
                position = Position()
            case "now":
                position = Position(value=self._ask_ceiling())
            case _:
                position = Position(value=self._parse(text))
        return self._reading.bookmark(position, None if position.value is None else position).to_cursor()

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages behind a cursor, up to the ceiling.

        Raises:
            SourceRestored: The rowversions of the database run again.
        """
        mark = self._reading.read_bookmark(cursor)
        self._refuse_copy()
        more = True
        while more:
            found, more = self._reading.ask(lambda connection, at=mark.position: self._read(connection, at))  # type: ignore[misc]
            if not found:
                return
            mark = replace(mark, position=found[-1].position)
            yield make_page(found, mark.to_cursor())

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row, and say which lie behind a cursor."""
        mark = Position() if cursor is None else self._reading.read_bookmark(cursor).position
        return self._reading.scan(mark, since)

    def count_behind(self, cursor: Cursor) -> int:
        """Return how many rows lie behind a cursor."""
        return self._reading.count([self._keyset.after(self._reading.read_bookmark(cursor).position)])

    def warnings(self) -> tuple[str, ...]:
        """Return nothing: the doctor asks for the age of what holds the ceiling back."""
        return ()

    def ceiling(self) -> str:
        """Return the rowversion below which no transaction is open."""
        return show(self._ask_ceiling())[1]

    def _read(self, connection: sa.Connection, position: Position) -> tuple[list[Found], bool]:
        where: Where = [self._keyset.after(position), self._bound(connection, position)]
        return self._reading.pages.read(connection, where, self._reading.stream.page_size)

    def _bound(self, connection: sa.Connection, position: Position) -> sa.ColumnElement[bool]:
        """Return the upper bound of a page: the ceiling, read before the page."""
        ceiling = self._read_ceiling(connection)
        reached = position.value
        if reached is not None and (ceiling < reached or (ceiling == reached and position.key is not None)):
            name = self._reading.stream.name
            raise SourceRestored(
                f"stream {name} cannot go on: the database was restored",
                why=f"its rowversions stand at {show(ceiling)[1]} and were read up to {position.text} before",
                hint=f"find out what was restored, then run: syncctl rewind {name} --to beginning",
            )
        return self._keyset.below(ceiling)

    def _ask_ceiling(self) -> bytes:
        self._refuse_copy()
        return self._reading.ask(self._read_ceiling)

    def _refuse_copy(self) -> None:
        """Refuse a readable secondary: it knows nothing of the transactions that are open on the primary."""
        opened, name = self._reading.opened, self._reading.stream.name
        if self._reading.ask(opened.dialect.is_read_only_copy):
            raise ConfigurationError(
                f"stream {name} cannot be read in mode rowversion from a read-only copy",
                why="MIN_ACTIVE_ROWVERSION() proves nothing there: transactions are open on the primary",
                hint=f"let {opened.address.setting} lead to the primary, without ApplicationIntent=ReadOnly",
            )

    def _parse(self, text: str) -> bytes:
        version = parse_rowversion(text)
        reached = self._ask_ceiling()
        if version > reached:
            raise ValueError(f"{show(version)[1]} lies ahead: the database stands at {show(reached)[1]}")
        return version
