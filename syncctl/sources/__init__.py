"""SQL sources: the stream reader, cursor modes, ODBC drivers, catalogs, and rows as exact values."""

from typing import TYPE_CHECKING

from syncctl.core.stream import Source, Stream

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader


def open_reader(source: Source, stream: Stream) -> "StreamReader":
    """Connect to a source and describe what a stream reads; SQLAlchemy is imported only now.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The URL, the login, the key, the cursor, the mode or the start is wrong.
        SourceError: The table or the query cannot be read.
    """
    from syncctl.sources.reader import StreamReader

    return StreamReader(source, stream)
