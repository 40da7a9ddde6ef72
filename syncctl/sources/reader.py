"""The one reader of SQL sources: keyset paging over what a stream's layout says."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

import sqlalchemy as sa

from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import Mode, Source, Stream
from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.advice import advise
from syncctl.sources.engines import open_source
from syncctl.sources.failures import translated
from syncctl.sources.flavour import LOOKBACK_KINDS, ReadCeiling
from syncctl.sources.instants import parse_instant, step_back
from syncctl.sources.layout import decide_layout
from syncctl.sources.pages import Found, PageReader, Where
from syncctl.sources.positions import Bookmark, Position, Raw, parse_rowversion, read_cursor, show
from syncctl.sources.tables import ALIAS, Relation, describe_query, reflect_table


class SqlReader:
    """Reads one stream; see `syncctl.sources.StreamReader`.

    Args:
        read_ceiling: Where mode rowversion learns below which value no transaction is open; the database's own by
            default.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The URL, the login, the key, the cursor or the mode is wrong.
        SourceError: The table or the query cannot be read.
    """

    def __init__(self, source: Source, stream: Stream, *, read_ceiling: ReadCeiling | None = None) -> None:
        self._stream = stream
        self._opened = open_source(source)
        self._read_ceiling = read_ceiling or self._opened.flavour.read_ceiling
        try:
            with self._connect() as connection:
                relation = self._describe(connection)
            has_rowversions = self._read_ceiling is not None
            layout = decide_layout(stream, relation, has_rowversions=has_rowversions)
        except BaseException:
            self.close()
            raise
        self._layout = layout
        self._pages = PageReader(relation, layout, self._opened.flavour, stream=stream.name)
        self.advice = advise(stream, relation, layout, has_rowversions=has_rowversions)
        self.mode: Mode = layout.mode
        self.key_columns = tuple(column.name for column in layout.key)
        self.cursor_column = layout.cursor.name
        names = "\x1f".join(column.name for column in relation.columns)
        self.shape = hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def address(self) -> str:
        """The source as people call it: `SQL Server at sqlserver:1433`."""
        return self._opened.address.title

    @property
    def driver(self) -> str:
        """The driver, and where it comes from."""
        return self._opened.driver

    def start_cursor(self) -> Cursor:
        """Return where a stream begins that was never read: before all rows, behind all, or at a value.

        Raises:
            ConfigurationError: `start` is no value of the cursor column.
        """
        match self._stream.start:
            case "beginning":
                start = Position()
            case "now":
                start = self._find_now()
            case text:
                start = Position(value=self._parse_start(text))
        floor = None if start.value is None else start
        return Bookmark(mode=self.mode, column=self.cursor_column, position=start, floor=floor).to_cursor()

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages behind a cursor until one is short; nothing where there is no row.

        Each page is a statement of its own on a pooled connection, run when the page is asked for. In mode increasing
        on a time, the first pages read the lookback again; their cursor stays where it was until rows behind it come.

        Raises:
            SourceError: The cursor belongs to another mode or column, or a key does not tell rows apart.
            SourceRestored: The rowversions of the database run again.
            ServiceUnavailable: The source cannot be reached, or does not answer in time.
        """
        mark = read_cursor(
            cursor,
            stream=self._stream.name,
            mode=self.mode,
            column=self.cursor_column,
            ties=len(self._layout.ties),
        )
        again = self._look_back(mark)
        where = [self._pages.keyset.after(mark.position)] if again is None else again
        best, is_again, more = mark, again is not None, True
        while more:
            with self._connect() as connection:
                bound = self._bound(connection, best.position)
                found, more = self._pages.read(
                    connection,
                    [*where, *bound],
                    self._stream.page_size,
                    mark=mark.position if is_again else None,
                )
            if not found:
                return
            last = found[-1]
            if last.is_new:
                best, is_again = replace(mark, position=last.position), False
            where = [self._pages.keyset.after(last.position)]
            yield _make_page(found, best)

    def first_row(self) -> Row | None:
        """Return the first row in cursor order, None where there is none."""
        with self._connect() as connection:
            found, _ = self._pages.read(connection, [self._pages.keyset.after(Position())], 1)
        return found[0].row if found else None

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know, one line each; it may scan an unindexed cursor column."""
        found = [*([self._opened.warning] if self._opened.warning else []), *self.advice]
        name = self.cursor_column
        with self._connect() as connection:
            if self._pages.has_null_cursor(connection):
                found.append(f"rows without a {name} are never read: give the column a value in each row")
            wants_lookback = self._stream.lookback_seconds > 0 and self._layout.cursor.kind in LOOKBACK_KINDS
            if self.mode == "increasing" and wants_lookback:
                sample = self._pages.read_sample(connection)
                if sample is not None and not _is_instant(sample):
                    found.append(f"the values of {name} are no times: lookback has no effect, late commits are missed")
        return tuple(found)

    def ceiling(self) -> str | None:
        """Return the rowversion below which no transaction is open; None in mode increasing."""
        if self.mode != "rowversion" or self._read_ceiling is None:
            return None
        with self._connect() as connection:
            return show(self._read_ceiling(connection))[1]

    def close(self) -> None:
        """Let go of the source's connections; safe to repeat."""
        self._opened.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        address = self._opened.address
        with translated(address, connecting=True):
            connection = self._opened.engine.connect()
        with connection, translated(address, f"stream {self._stream.name} cannot be read"):
            yield connection

    def _describe(self, connection: sa.Connection) -> Relation:
        flavour = self._opened.flavour
        if self._stream.query is not None:
            return describe_query(self._stream, flavour.query_columns(connection, self._stream))
        name, schema, reflected, primary_key = reflect_table(connection, self._stream)
        columns = tuple(flavour.column(each) for each in reflected)
        table = sa.table(name, *(sa.column(column.name) for column in columns), schema=schema)
        return Relation(
            title=f"table {self._stream.table}",
            clause=table.alias(ALIAS),
            columns=columns,
            primary_key=tuple(primary_key),
        )

    def _find_now(self) -> Position:
        """Return the position behind the last row; in mode rowversion behind all that is committed."""
        with self._connect() as connection:
            if self.mode == "rowversion" and self._read_ceiling is not None:
                return Position(value=self._read_ceiling(connection))
            return self._pages.read_last(connection) or Position()

    def _parse_start(self, text: str) -> Raw:
        flavour, column = self._opened.flavour, self._layout.cursor
        with self._connect() as connection:
            sample = self._pages.read_sample(connection)
        try:
            if self.mode == "rowversion":
                return self._check_reached(parse_rowversion(text))
            return flavour.parse_start(column, text, sample)
        except ValueError as error:
            raise ConfigurationError(
                f"streams.{self._stream.name}.start is wrong",
                why=f"{error}; the cursor column {column.name} is {column.kind}",
                hint='write "beginning", "now" or a value of that column',
            ) from None

    def _check_reached(self, version: bytes) -> bytes:
        reached = self.ceiling() or ""
        if version > parse_rowversion(reached):
            raise ValueError(f"{show(version)[1]} lies ahead: the database stands at {reached}")
        return version

    def _look_back(self, mark: Bookmark) -> Where | None:
        """Return what the first page reads where it reads a recent window again; None where it does not."""
        position, seconds = mark.position, self._stream.lookback_seconds
        if self.mode != "increasing" or seconds <= 0 or position.key is None or not isinstance(position.value, str):
            return None
        if self._layout.cursor.kind not in LOOKBACK_KINDS:
            return None
        try:
            earlier = step_back(position.value, seconds, earliest=self._opened.flavour.earliest(self._layout.cursor))
        except ValueError:
            return None
        window = [self._pages.keyset.from_value(earlier)]
        return window if mark.floor is None else [*window, self._pages.keyset.after(mark.floor)]

    def _bound(self, connection: sa.Connection, position: Position) -> Where:
        """Return the upper bound of a page: none in mode increasing, else the ceiling, read before the page."""
        if self.mode != "rowversion" or self._read_ceiling is None:
            return []
        ceiling = self._read_ceiling(connection)
        reached = position.value
        if reached is not None and (ceiling < reached or (ceiling == reached and position.key is not None)):
            raise SourceRestored(
                f"stream {self._stream.name} cannot go on: the database was restored",
                why=f"its rowversions stand at {show(ceiling)[1]} and were read up to {position.text} before",
                hint="find out what was restored, then read it under a new stream name or set the cursor back",
            )
        return [self._pages.keyset.below(ceiling)]


def _make_page(found: list[Found], mark: Bookmark) -> Page:
    return Page(rows=tuple(each.row for each in found), cursor=mark.to_cursor())


def _is_instant(raw: Raw) -> bool:
    try:
        parse_instant(str(raw))
    except ValueError:
        return False
    return isinstance(raw, str)
