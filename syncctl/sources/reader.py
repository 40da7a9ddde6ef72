"""The reader of a stream: open its source, decide how to read it, and follow it in its mode."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Self, TypeVar

import sqlalchemy as sa

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.cursors import Basis, Kind, Witness, hash_text
from syncctl.core.rows import Cursor, Page, Row, Scanned
from syncctl.core.schema_changes import DeclaredRelation
from syncctl.core.stream import Mode, Source, Stream, has_masks
from syncctl.core.write_backs import WriteBack, Written
from syncctl.errors import ConfigurationError, SourceError, SyncctlError
from syncctl.sources.catalog.relation import declare_relation, describe_relation
from syncctl.sources.change_time_names import may_be_change_time
from syncctl.sources.child_changes import ChildFollower
from syncctl.sources.child_relation import advise_children, declare_children, describe_children, list_chains
from syncctl.sources.cursor import Position
from syncctl.sources.dialect import ReadCeiling
from syncctl.sources.engines import connect, open_source
from syncctl.sources.layout import advise, decide_layout
from syncctl.sources.modes import MODES
from syncctl.sources.modes.change_tracking import ChangeFeed
from syncctl.sources.modes.flag import acknowledge
from syncctl.sources.modes.rowversion import Rowversion
from syncctl.sources.open_stream import OpenStream
from syncctl.sources.pages import Key, PageReader
from syncctl.sources.write_back import RowWriter

T = TypeVar("T")
CHILDREN = "children"
"""The field of a cursor document with the cursors of followed children, by their paths."""
PARAMETERS_AT_MOST = 1000
"""The number of parameters in one statement; SQL Server accepts 2,100."""

_PLACES: dict[Mode, str] = {
    "snapshot": 'write "beginning"',
    "flag": 'write "beginning"',
    "change_tracking": 'write "beginning", "now" or a version that the database still knows',
}
"""Advice on the places that exist in modes without a cursor column."""


class StreamReader:
    """Reads one stream of one source; close it, or use it as a context manager.

    Args:
        read_ceiling: Reads the rowversion below which no transaction is open; by default the dialect's function.
        changes: The record of changes for mode change_tracking; by default the database's own.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The URL, the login, the key, the cursor or the mode is wrong.
        SourceError: The table or the query cannot be read.
    """

    key_columns: tuple[str, ...]
    cursor_column: str
    mode: Mode
    #: A short hash that changes when a column is added or removed, or when `timezone` or a mask changes.
    columns_fingerprint: str
    #: The relations that the stream and its children read, with the types that the database declares.
    declared: tuple[DeclaredRelation, ...]
    #: The columns in the payload; columns of a child have its name in front: `lines.quantity`.
    sent_columns: frozenset[str]
    #: The basis (database, table or query, key, settings) to which a cursor of this stream applies.
    basis: Basis
    #: The kind of values in the cursor column.
    cursor_kind: Kind
    #: The columns whose values distinguish rows, and which not every change sets.
    telling_columns: frozenset[str]
    #: Whether the rows come from one table; a view or a query may join several tables.
    reads_table: bool
    #: The warnings that are known without another query.
    advice: tuple[str, ...]

    def __init__(
        self,
        source: Source,
        stream: Stream,
        *,
        read_ceiling: ReadCeiling | None = None,
        changes: ChangeFeed | None = None,
    ) -> None:
        self._stream = stream
        self._source = open_source(source)
        dialect = self._source.dialect
        read_ceiling = read_ceiling or dialect.read_ceiling
        changes = changes or (ChangeFeed() if dialect.has_change_tracking else None)
        has_rowversions = read_ceiling is not None
        try:
            with connect(self._source, f"stream {stream.name} cannot be read") as connection:
                relation = describe_relation(connection, stream, dialect)
                children = describe_children(connection, stream, relation, dialect)
                database = dialect.read_database(connection)
                self.declared = (
                    declare_relation("", stream, relation, connection),
                    *declare_children(children, connection),
                )
            layout = decide_layout(stream, relation, has_rowversions=has_rowversions, has_changes=changes is not None)
            self._opened = OpenStream(
                stream=stream,
                source=self._source,
                relation=relation,
                layout=layout,
                pages=PageReader(relation, layout, dialect, stream=stream, children=children),
                read_ceiling=read_ceiling,
                changes=changes,
                has_masks=has_masks(stream),
            )
            self._mode = MODES[layout.mode](self._opened)
            self._writer = RowWriter(self._opened) if stream.write_back else None
            follows = layout.mode not in ("snapshot", "flag")
            followed = [chain for chain in list_chains(children) if follows and chain[-1].child.cursor]
            self._followers = [ChildFollower(self._opened, chain) for chain in followed]
        except BaseException:
            self.close()
            raise
        self.advice = (
            *advise(stream, relation, layout, has_rowversions=has_rowversions),
            *advise_children(stream, layout.mode, children),
        )
        self.mode = layout.mode
        self.key_columns = tuple(column.name for column in layout.key)
        self.cursor_column = layout.cursor_name
        self.columns_fingerprint = self._opened.pages.columns_fingerprint
        self.sent_columns = self._opened.pages.sent_columns
        self.cursor_kind = "versions" if layout.mode == "rowversion" else "numbers" if layout.is_numbered else "values"
        names = {column.name for column in relation.columns if not may_be_change_time(column)}
        self.telling_columns = frozenset(names - {self.cursor_column})
        # Views have no primary key.
        self.reads_table = bool(relation.primary_key)
        self.basis = Basis(
            database=database,
            table=relation.name,
            key=self.key_columns,
            query=None if stream.query is None else hash_text(stream.query),
            where=None if stream.where is None else hash_text(stream.where),
            start=stream.start,
        )

    @property
    def driver(self) -> str:
        """The driver and its origin."""
        return self._source.driver

    def start_cursor(self) -> Cursor:
        """Return the cursor of a stream that was never read, from its `start`.

        Raises:
            ConfigurationError: `start` is not a value of the cursor column.
        """
        return self._parse(self._stream.start, f"streams.{self._stream.name}.start is wrong")

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor at `beginning`, `now`, or a value of the cursor column.

        Raises:
            ConfigurationError: The text is not a place in this stream.
        """
        return self._parse(text, f"stream {self._stream.name} has no place {text!r}")

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor until one is short; none if there is no row.

        Each page is a separate statement on a pooled connection, which runs when the page is asked for. Pages of rows
        that a mode asks for again do not move the cursor's position.

        Raises:
            SourceError: The cursor belongs to another mode or column, or the key does not identify each row.
            SourceRestored: The database was restored, or the place is no longer known.
            ServiceUnavailable: The source cannot be reached, or does not answer in time.
        """
        return self._follow_children(cursor) if self._followers else self._mode.pages(cursor)

    def _follow_children(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages of the stream itself, and then the rows whose children have changed.

        A child without a cursor begins now, before the first row is read, so that rows of later changes are read again.
        """
        kept = cursor.get(CHILDREN, {})
        new = [follower for follower in self._followers if not follower.fits(kept.get(follower.path))]
        places = {follower.path: kept.get(follower.path) for follower in self._followers}
        places |= {follower.path: follower.start() for follower in new}
        bare = {name: value for name, value in cursor.items() if name != CHILDREN}
        for page in self._mode.pages(bare):
            bare, new = dict(page.cursor), []
            yield replace(page, cursor={**bare, CHILDREN: places})
        if new:
            yield Page(rows=(), cursor={**bare, CHILDREN: places})
        for follower in self._followers:
            for page in follower.pages(places[follower.path]):
                if page.rows or page.notes or page.cursor != places[follower.path]:
                    places = {**places, follower.path: page.cursor}
                    yield replace(page, cursor={**bare, CHILDREN: places})

    def keep_children(self, before: Cursor, after: Cursor) -> Cursor:
        """Return the new cursor, with the children's cursors of the previous one where it has none."""
        kept = {**before.get(CHILDREN, {}), **after.get(CHILDREN, {})}
        return {**after, CHILDREN: kept} if kept else after

    def find_ahead(self, cursor: Cursor) -> Iterator[list[Key]]:
        """Yield the keys of the rows that the next poll reads because their children have changed."""
        kept = cursor.get(CHILDREN, {})
        for follower in self._followers:
            place = kept.get(follower.path)
            if follower.fits(place):
                yield from follower.find_ahead(place)

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row, page by page, and mark those that the next poll will read anyway.

        Args:
            since: Yield only the rows after this cursor; modes without a cursor column yield all.
        """
        return self._mode.scan(cursor, since=since)

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows come after a cursor; None if the mode cannot count them."""
        return self._mode.count_behind(cursor)

    def find_rows(self, keys: Sequence[Key]) -> list[Row]:
        """Return the rows that have one of these keys now; a row that cannot be read is among them, with its error.

        Raises:
            SourceError: A key does not fit this stream's key columns.
        """
        return self._look_up(self._opened.pages.find, keys)

    def find_again(self, witnesses: Sequence[Witness]) -> list[Row | None]:
        """Return the row that is now in the place of each witness: the row with its number, otherwise with its key."""
        if self.cursor_kind == "numbers":
            numbers = [int(witness.at) for witness in witnesses]
            rows = self._opened.run(lambda connection: self._opened.pages.find_numbers(connection, numbers))
            by_number = {row.at: row for row in rows}
            return [by_number.get(witness.at) for witness in witnesses]
        rows = self._look_up(self._opened.pages.find_bare, [witness.key for witness in witnesses])
        by_key = {_spell(row.key): row for row in rows}
        return [by_key.get(_spell(witness.key)) for witness in witnesses]

    def find_missing(self, keys: Sequence[Key]) -> list[Key]:
        """Return the keys that no row has now.

        The database compares texts by its own rules, so a key that seems to be missing is looked up again alone: it may
        have come back in another spelling.

        Raises:
            SourceError: A key does not fit this stream's key columns.
        """
        find_keys = self._opened.pages.find_keys
        there = {_spell(key) for key in self._look_up(find_keys, keys)}
        return [key for key in keys if _spell(key) not in there and not self._look_up(find_keys, [key])]

    def _look_up(self, find: Callable[[sa.Connection, Sequence[Key]], list[T]], keys: Sequence[Key]) -> list[T]:
        results: list[T] = []
        size = max(1, PARAMETERS_AT_MOST // len(self.key_columns))
        for start in range(0, len(keys), size):
            batch = keys[start : start + size]
            try:
                results += self._opened.run(lambda connection, keys=batch: find(connection, keys))  # type: ignore[misc]
            except (ValueError, KeyError) as error:
                name = self._stream.name
                raise SourceError(
                    f"stream {name} cannot look up rows by their key",
                    why=f"the ledger has keys that do not fit this table: {error}",
                    hint=f"if streams.{name}.key was changed, undo it, or read the table under a new stream name",
                ) from error
        return results

    def acknowledge(
        self, rows: Sequence[Acknowledgement], before_commit: Callable[[Sequence[Acknowledged]], None]
    ) -> list[Acknowledged]:
        """Run the statement of mode flag for rows that were delivered, or have failed for good. Safe to repeat.

        Args:
            before_commit: Called with the results of statements that changed something, right before they are
                committed; if it raises, nothing is committed.
        """
        return acknowledge(self._opened, rows, before_commit)

    def write_back(
        self, rows: Sequence[WriteBack], before_commit: Callable[[Sequence[WriteBack]], None]
    ) -> list[Written]:
        """Write outcomes into rows; see `RowWriter.write`. Safe to repeat."""
        assert self._writer is not None  # noqa: S101 - the stream writes back
        return self._writer.write(rows, before_commit)

    def try_write_back(self) -> None:
        """Test an update of the columns of `write_back` that matches no row, and roll it back.

        Raises:
            SourceError: The columns cannot be written to, or the login may not write to them.
        """
        assert self._writer is not None  # noqa: S101 - the stream writes back
        self._writer.try_write()

    def first_row(self) -> Row | None:
        """Return the first row in cursor order; None if there is no row."""
        pages = self._opened.pages
        rows, _ = self._opened.run(lambda connection: pages.read(connection, [pages.keyset.after(Position())], 1))
        return rows[0].row if rows else None

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about this stream for the operator, one line each; may scan an unindexed column."""
        driver = [self._source.warning] if self._source.warning else []
        return (*driver, *self.advice, *self._warn_of_nulls(), *self._mode.warnings(), *self._warn_of_children())

    def _warn_of_children(self) -> Iterator[str]:
        for follower in self._followers:
            yield from follower.warnings()

    def first_warnings(self) -> tuple[str, ...]:
        """Return the warnings of the first poll about changes that the stream does not find, as far as is known."""
        try:
            return (*self.advice, *self._warn_of_nulls())
        except SyncctlError:
            # The poll reads the same table next, and reports its error.
            return self.advice

    def _warn_of_nulls(self) -> tuple[str, ...]:
        if not self._opened.run(self._opened.pages.has_null_cursor):
            return ()
        return (f"rows without a value in {self.cursor_column} are never read: set it in each row",)

    def ceiling(self) -> str | None:
        """Return the rowversion below which no transaction is open (0x-hex); None in other modes."""
        return self._mode.ceiling() if isinstance(self._mode, Rowversion) else None

    def close(self) -> None:
        """Close the source's connections; safe to repeat."""
        self._source.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parse(self, text: str, what: str) -> Cursor:
        # The children's cursors are taken before the stream's own, so that no change is lost between the two.
        children = {follower.path: follower.start() for follower in self._followers} if text == "now" else {}
        try:
            cursor = self._mode.parse_cursor(text)
        except ValueError as error:
            layout = self._opened.layout
            column = layout.cursor or layout.order[0]
            raise ConfigurationError(
                what,
                why=f"{error}; the cursor column {column.name} is {column.kind}",
                hint=_PLACES.get(layout.mode, 'write "beginning", "now" or a value of that column'),
            ) from None
        if text not in ("beginning", "now"):
            parsed = {follower.path: follower.parse(text) for follower in self._followers}
            children = {path: place for path, place in parsed.items() if place is not None}
        return {**cursor, CHILDREN: children} if children else cursor


def _spell(key: Key) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in key.items()))
