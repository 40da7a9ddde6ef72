"""The one reader of SQL sources: it opens a source, looks at what a stream reads, and follows it in its mode."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import sqlalchemy as sa

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.rows import Cursor, Page, Row, Scanned, Value
from syncctl.core.stream import Mode, Source, Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.acknowledge import acknowledge, check_statements
from syncctl.sources.advice import advise
from syncctl.sources.changes import ChangeFeed
from syncctl.sources.dialect import ReadCeiling
from syncctl.sources.engines import open_source
from syncctl.sources.key_lookup import find_missing, find_rows
from syncctl.sources.layout import decide_layout
from syncctl.sources.modes import MODES
from syncctl.sources.modes.reading import Reading, connect
from syncctl.sources.modes.rowversion import Rowversion
from syncctl.sources.pages import PageReader
from syncctl.sources.positions import Position
from syncctl.sources.tables import ALIAS, Relation, describe_query, reflect_table

_PLACES: dict[Mode, str] = {
    "snapshot": 'write "beginning"',
    "flag": 'write "beginning"',
    "change_tracking": 'write "beginning", "now" or a version that the database still knows',
}
"""What can be named as a place in modes that follow no column."""


class SqlReader:
    """Reads one stream; see `syncctl.sources.StreamReader`.

    Args:
        read_ceiling: Where mode rowversion learns below which value no transaction is open; the database's own by
            default.
        changes: Where mode change_tracking learns what has changed; the database's own by default.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The URL, the login, the key, the cursor or the mode is wrong.
        SourceError: The table or the query cannot be read.
    """

    def __init__(
        self,
        source: Source,
        stream: Stream,
        *,
        read_ceiling: ReadCeiling | None = None,
        changes: ChangeFeed | None = None,
    ) -> None:
        self._stream = stream
        self._opened = open_source(source)
        dialect = self._opened.dialect
        read_ceiling = read_ceiling or dialect.read_ceiling
        changes = changes or dialect.changes
        try:
            with connect(self._opened, f"stream {stream.name} cannot be read") as connection:
                relation = self._describe(connection)
            has_rowversions = read_ceiling is not None
            layout = decide_layout(stream, relation, has_rowversions=has_rowversions, has_changes=changes is not None)
            self._reading = Reading(
                stream=stream,
                opened=self._opened,
                relation=relation,
                layout=layout,
                pages=PageReader(relation, layout, dialect, stream=stream),
                read_ceiling=read_ceiling,
                changes=changes,
            )
            check_statements(stream, layout)
            self._mode = MODES[layout.mode](self._reading)
        except BaseException:
            self.close()
            raise
        self.advice = advise(stream, relation, layout, has_rowversions=has_rowversions)
        self.mode: Mode = layout.mode
        self.key_columns = tuple(column.name for column in layout.key)
        self.cursor_column = layout.cursor_name
        self.columns_fingerprint = self._reading.pages.columns_fingerprint

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
        return self._parse(self._stream.start, f"streams.{self._stream.name}.start is wrong")

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor at `beginning`, `now`, or a value of the cursor column.

        Raises:
            ConfigurationError: It is no place in this stream.
        """
        return self._parse(text, f"stream {self._stream.name} has no place {text!r}")

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages behind a cursor until one is short; nothing where there is no row.

        Each page is a statement of its own on a pooled connection, run when the page is asked for. What a mode asks
        for again comes first; the cursor stays where it was until rows behind it come.

        Raises:
            SourceError: The cursor belongs to another mode or column, or a key does not tell rows apart.
            SourceRestored: The database was restored, or the place is not known any more.
            ServiceUnavailable: The source cannot be reached, or does not answer in time.
        """
        return self._mode.pages(cursor)

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row there is, page by page, and say which of them the next poll will read anyway.

        Args:
            since: Only the rows behind this cursor; modes without a cursor column yield all.
        """
        return self._mode.scan(cursor, since=since)

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows lie behind a cursor; None where the mode cannot tell."""
        return self._mode.count_behind(cursor)

    def find_rows(self, keys: Sequence[Mapping[str, Value]]) -> list[Row]:
        """Return the rows that have one of these keys now."""
        return find_rows(self._reading, keys)

    def find_missing(self, keys: Sequence[Mapping[str, Value]]) -> list[Mapping[str, Value]]:
        """Return the keys that no row has now; each was asked for by itself before it counts as missing."""
        return find_missing(self._reading, keys)

    def acknowledge(self, rows: Sequence[Acknowledgement]) -> list[Acknowledged]:
        """Run the statement of mode flag for rows that were delivered, or have failed for good."""
        return acknowledge(self._reading, rows)

    def first_row(self) -> Row | None:
        """Return the first row in cursor order, None where there is none."""
        pages = self._reading.pages
        found, _ = self._reading.ask(lambda connection: pages.read(connection, [pages.keyset.after(Position())], 1))
        return found[0].row if found else None

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know, one line each; it may scan an unindexed cursor column."""
        found = [*([self._opened.warning] if self._opened.warning else []), *self.advice]
        if self._reading.ask(self._reading.pages.has_null_cursor):
            name = self.cursor_column
            found.append(f"rows without a {name} are never read: give the column a value in each row")
        return (*found, *self._mode.warnings())

    def ceiling(self) -> str | None:
        """Return the rowversion below which no transaction is open; None in other modes."""
        return self._mode.ceiling() if isinstance(self._mode, Rowversion) else None

    def close(self) -> None:
        """Let go of the source's connections; safe to repeat."""
        self._opened.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parse(self, text: str, what: str) -> Cursor:
        try:
            return self._mode.parse_cursor(text)
        except ValueError as error:
            column = self._reading.layout.cursor or self._reading.layout.order[0]
            raise ConfigurationError(
                what,
                why=f"{error}; the cursor column {column.name} is {column.kind}",
                hint=_PLACES.get(self._reading.layout.mode, 'write "beginning", "now" or a value of that column'),
            ) from None

    def _describe(self, connection: sa.Connection) -> Relation:
        dialect = self._opened.dialect
        if self._stream.query is not None:
            return describe_query(self._stream, dialect.query_columns(connection, self._stream))
        name, schema, reflected, primary_key = reflect_table(connection, self._stream)
        columns = tuple(dialect.column(each) for each in reflected)
        table = sa.table(name, *(sa.column(column.name) for column in columns), schema=schema)
        return Relation(
            title=f"table {self._stream.table}",
            clause=table.alias(ALIAS),
            columns=columns,
            primary_key=tuple(primary_key),
        )
