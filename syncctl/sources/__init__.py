"""SQL sources: readers, cursor modes, ODBC drivers, rows as exact values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.rows import Cursor, Page, Row, Scanned, Value
from syncctl.core.stream import Mode, Source, Stream


class StreamReader(Protocol):
    """Reads one stream of one source; close it, or use it as a context manager."""

    key_columns: tuple[str, ...]
    cursor_column: str
    mode: Mode
    columns_fingerprint: str
    """A short hash of what a payload looks like: another one when a column comes or goes, or `timezone` changes."""
    advice: tuple[str, ...]
    """Those of its warnings that are known without another query."""

    @property
    def driver(self) -> str:
        """The driver, and where it comes from."""

    def start_cursor(self) -> Cursor:
        """Return where a stream begins that was never read, from its `start`."""

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor at `beginning`, `now`, or a value of the cursor column."""

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor, each read when it is asked for."""

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row there is, page by page, and say which of them the next poll will read anyway.

        Args:
            since: Only the rows behind this cursor; modes without a cursor column yield all.
        """

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows lie behind a cursor; None where the mode cannot tell."""

    def find_rows(self, keys: Sequence[Mapping[str, Value]]) -> list[Row]:
        """Return the rows that have one of these keys now."""

    def find_missing(self, keys: Sequence[Mapping[str, Value]]) -> list[Mapping[str, Value]]:
        """Return the keys that no row has now; each was asked for by itself before it counts as missing."""

    def acknowledge(self, rows: Sequence[Acknowledgement]) -> list[Acknowledged]:
        """Run the statement of mode flag for rows that were delivered, or have failed for good. Safe to repeat."""

    def first_row(self) -> Row | None:
        """Return the first row in cursor order, None where the table is empty."""

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know of this stream, one line each; may scan an unindexed column."""

    def ceiling(self) -> str | None:
        """Return the bound below which no transaction is open (0x-hex); None in a mode that has none."""

    def close(self) -> None:
        """Let go of the source's connections."""

    def __enter__(self) -> Self:
        """Return the reader."""

    def __exit__(self, *_: object) -> None:
        """Close the reader."""


def open_reader(source: Source, stream: Stream) -> StreamReader:
    """Connect to a source and look at what a stream reads.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The URL, the login, the key, the cursor, the mode or the start is wrong.
        SourceError: The table or the query cannot be read.
    """
    from syncctl.sources.reader import SqlReader

    return SqlReader(source, stream)
