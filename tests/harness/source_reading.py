"""Read a source as a poll does, without a ledger."""

from collections.abc import Iterable
from typing import Any

from syncctl.core.rows import Cursor, Row
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb


def open_stream(db: SourceDb, **settings: Any) -> StreamReader:
    """Open a reader of the stream `orders` with these settings."""
    return StreamReader(make_source(db.url), make_stream(**settings))


def read(db: SourceDb, after: Cursor | None = None, /, **settings: Any) -> tuple[list[Row], Cursor]:
    """Read all pages once; return the rows and the last cursor."""
    with open_stream(db, **settings) as reader:
        cursor = reader.start_cursor() if after is None else after
        rows: list[Row] = []
        for page in reader.pages(cursor):
            # A page without rows must at least move the cursor: it ends a round over the lookback.
            assert page.rows or page.cursor != cursor
            assert len(page.rows) <= settings.get("page_size", 1000)
            rows += page.rows
            cursor = page.cursor
    return rows, cursor


def list_ids(rows: Iterable[Row]) -> list[Any]:
    """Return the ids of rows."""
    return [row.key["id"] for row in rows]
