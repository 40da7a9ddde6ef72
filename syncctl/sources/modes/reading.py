"""What every mode reads with: a relation, its layout, and a connection that asks again where that helps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.core.stream import Stream
from syncctl.errors import ServiceUnavailable, SourceError
from syncctl.sources.changes import ChangeFeed
from syncctl.sources.dialect import ReadCeiling
from syncctl.sources.engines import Opened
from syncctl.sources.failures import is_transient, translated
from syncctl.sources.layout import Layout
from syncctl.sources.pages import UNSPOKEN, Found, PageReader, Where
from syncctl.sources.positions import Bookmark, Position, read_cursor
from syncctl.sources.tables import Relation

T = TypeVar("T")
_ASK_THE_DATABASE = "run what the stream reads, with its where, as its login: the database tells what is wrong"
PAUSES_SECONDS = (0.2, 1.0)
"""Between the tries of a statement that the server ended for a deadlock, or refused because it is busy."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One stream of one source, opened and looked at.

    `read_ceiling` tells below which rowversion no transaction is open; None where the database has no rowversions.
    `changes` tells what has changed; None where the database keeps no track.
    """

    stream: Stream
    opened: Opened
    relation: Relation
    layout: Layout
    pages: PageReader
    read_ceiling: ReadCeiling | None
    changes: ChangeFeed | None

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """Give a pooled connection that is alive; errors within are about this stream."""
        what = f"stream {self.stream.name} cannot be read"
        with connect(self.opened, what) as connection:
            try:
                yield connection
            except exc.DBAPIError as error:
                spoils = isinstance(error, exc.IntegrityError) or self.opened.dialect.is_row_data_error(error)
                if not (self.stream.mask and spoils):
                    raise
                # Without the driver's error: a traceback would show its words.
                raise SourceError(
                    what, why=f"the database refused a value; {UNSPOKEN}", hint=_ASK_THE_DATABASE
                ) from None

    def ask(self, question: Callable[[sa.Connection], T]) -> T:
        """Run one question on a connection; ask again where a deadlock or a busy server is the reason it failed."""
        for pause in (*PAUSES_SECONDS, None):
            try:
                with self.connect() as connection:
                    return question(connection)
            except ServiceUnavailable as error:
                if pause is None or error.__cause__ is None or not is_transient(error.__cause__):
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def read(self, where: Where, *, mark: Position | None = None) -> tuple[list[Found], bool]:
        """Return one page in order, and whether there are more rows."""
        return self.ask(lambda connection: self.pages.read(connection, where, self.stream.page_size, mark=mark))

    def walk(self, where: Where = (), *, mark: Position | None = None) -> Iterator[list[Found]]:
        """Yield all rows of a condition, page by page."""
        position, more = Position(), True
        while more:
            found, more = self.read([self.pages.keyset.after(position), *where], mark=mark)
            if not found:
                return
            position = found[-1].position
            yield found

    def bookmark(self, position: Position, floor: Position | None = None) -> Bookmark:
        """Return a place in this stream."""
        return Bookmark(mode=self.layout.mode, column=self.layout.cursor_name, position=position, floor=floor)

    def read_bookmark(self, cursor: Cursor) -> Bookmark:
        """Return what a cursor document says.

        Raises:
            SourceError: It belongs to another mode, column or key.
        """
        order = self.layout.order
        return read_cursor(
            cursor,
            stream=self.stream.name,
            mode=self.layout.mode,
            column=self.layout.cursor_name,
            ties=len(order) - 1,
        )

    def scan(self, mark: Position, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row behind a cursor, or all there are, and say which of them lie behind a position."""
        where = [] if since is None else [self.pages.keyset.after(self.read_bookmark(since).position)]
        for found in self.walk(where, mark=mark):
            yield [Scanned(row=each.row, is_ahead=each.is_new) for each in found]

    def count(self, where: Where) -> int:
        """Return how many rows there are of a condition."""
        return self.ask(lambda connection: self.pages.count(connection, where))


@contextmanager
def connect(opened: Opened, reading: str) -> Iterator[sa.Connection]:
    """Give a pooled connection that is alive; driver errors become ours, with what cannot be done then.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: It refuses the login.
        SourceError: A statement within failed.
    """
    with translated(opened.address, connecting=True):
        connection = opened.engine.connect()
    with connection, translated(opened.address, reading):
        yield connection


def make_page(found: list[Found], cursor: Cursor, notes: tuple[str, ...] = ()) -> Page:
    """Return a page of what was found."""
    rows = tuple(each.row if each.is_new else replace(each.row, again=True) for each in found)
    return Page(rows=rows, cursor=cursor, notes=notes)
