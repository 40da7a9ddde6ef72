"""SQL sources: readers, cursor modes, ODBC drivers, rows as exact values."""

from collections.abc import Iterator
from typing import Protocol, Self

from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import Mode, Source, Stream


class StreamReader(Protocol):
    """Reads one stream of one source, page after page; close it, or use it as a context manager."""

    key_columns: tuple[str, ...]
    mode: Mode
    shape: str
    """A short hash of the column names: another one when a column is added, renamed or dropped."""
    advice: tuple[str, ...]
    """Those of its warnings that are known without another query."""

    def start_cursor(self) -> Cursor:
        """Return where a stream begins that was never read, from its `start`."""

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor, each read when it is asked for; an empty page is never yielded."""

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
