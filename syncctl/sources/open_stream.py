"""One open stream, through which all modes read: its relation, its layout, and queries that are tried again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.core.stream import Stream
from syncctl.errors import SourceError
from syncctl.sources.catalog.relation import Relation
from syncctl.sources.column_choice import MESSAGE_LEFT_OUT
from syncctl.sources.cursor import CursorState, Position, read_cursor
from syncctl.sources.dialect import ReadCeiling
from syncctl.sources.engines import OpenSource, connect
from syncctl.sources.layout import Layout
from syncctl.sources.pages import PageReader, PositionedRow, Where
from syncctl.sources.statement_retries import run_with_retries

if TYPE_CHECKING:
    from syncctl.sources.modes.change_tracking import ChangeFeed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class OpenStream:
    """One stream of one open source."""

    stream: Stream
    source: OpenSource
    relation: Relation
    layout: Layout
    pages: PageReader
    #: Reads the rowversion below which no transaction is open; None if the database has no rowversions.
    read_ceiling: ReadCeiling | None
    #: Reads changes; None if the database cannot track changes.
    changes: "ChangeFeed | None"
    #: Whether an error of the database may show a value that is masked.
    has_masks: bool = False

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """Yield a pooled connection that is alive; errors in the block name this stream."""
        what = f"stream {self.stream.name} cannot be read"
        with connect(self.source, what) as connection:
            try:
                yield connection
            except exc.DBAPIError as error:
                has_value = isinstance(error, exc.IntegrityError) or self.source.dialect.is_row_data_error(error)
                if not (self.has_masks and has_value):
                    raise
                # The driver's error is left out, because a traceback would show its message (invariant 10).
                raise SourceError(
                    what,
                    why=f"the database refused a value; {MESSAGE_LEFT_OUT}",
                    hint="run the stream's query, with its where, as its login: the database says what is wrong",
                ) from None

    def run(self, query: Callable[[sa.Connection], T]) -> T:
        """Run a query on a connection; try again after a deadlock or when the server is busy."""

        def run_once() -> T:
            with self.connect() as connection:
                return query(connection)

        return run_with_retries(run_once)

    def read(self, where: Where, *, new_after: Position | None = None) -> tuple[list[PositionedRow], bool]:
        """Return one page in order, and whether there are more rows."""
        size = self.stream.page_size
        return self.run(lambda connection: self.pages.read(connection, where, size, new_after=new_after))

    def walk(self, where: Where = (), *, new_after: Position | None = None) -> Iterator[list[PositionedRow]]:
        """Yield all rows that meet a condition, page by page."""
        position, more = Position(), True
        while more:
            rows, more = self.read([self.pages.keyset.after(position), *where], new_after=new_after)
            if not rows:
                return
            position = rows[-1].position
            yield rows

    def cursor_at(self, position: Position, floor: Position | None = None) -> CursorState:
        """Return the cursor at a position of this stream."""
        return CursorState(mode=self.layout.mode, column=self.layout.cursor_name, position=position, floor=floor)

    def read_cursor(self, cursor: Cursor) -> CursorState:
        """Return the values of a cursor document.

        Raises:
            SourceError: The document belongs to another mode, column, type of column or key.
        """
        return read_cursor(
            cursor,
            stream=self.stream.name,
            mode=self.layout.mode,
            column=self.layout.cursor_name,
            ties=len(self.layout.order) - 1,
            holds_text=self.layout.cursor is not None and isinstance(self.layout.cursor.type, sa.String),
        )

    def scan(self, new_after: Position, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row, or the rows after a cursor, and mark those that come after a position."""
        where = [] if since is None else [self.pages.keyset.after(self.read_cursor(since).position)]
        for rows in self.walk(where, new_after=new_after):
            yield [Scanned(row=row.row, is_ahead=row.is_new) for row in rows]

    def count(self, where: Where) -> int:
        """Return how many rows meet a condition."""
        return self.run(lambda connection: self.pages.count(connection, where))


def make_page(
    rows: list[PositionedRow], cursor: Cursor, notes: tuple[str, ...] = (), *, ends_round: bool = False
) -> Page:
    """Return a page of these rows; rows that are not new are marked as read again."""
    read = tuple(row.row if row.is_new else replace(row.row, again=True) for row in rows)
    return Page(rows=read, cursor=cursor, notes=notes, ends_round=ends_round)
