"""Mode snapshot: compare the whole table with the ledger; and the scan in key order, which other modes share."""

from collections.abc import Iterator
from typing import Any

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.sources.cursor import Position
from syncctl.sources.open_stream import OpenStream, make_page
from syncctl.sources.pages import Where

READ, SWEEP = "read", "sweep"


class KeyScan:
    """Reads all rows that meet a condition in the order of the key; its cursor says how far it has come."""

    def __init__(self, opened: OpenStream) -> None:
        self._opened = opened
        self._keyset = opened.pages.keyset

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows.

        Raises:
            ValueError: Any other place was asked for.
        """
        if text != "beginning":
            raise ValueError(f"mode {self._opened.layout.mode} has no cursor column to start at")
        return self._opened.cursor_at(Position()).to_document()

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:  # noqa: ARG002
        """Yield every row, none marked as ahead, because only a cursor column can show that."""
        for rows in self._opened.walk():
            yield [Scanned(row=row.row, is_ahead=False) for row in rows]

    def count_behind(self, cursor: Cursor) -> int | None:  # noqa: ARG002
        """Return how many rows there are, because each is compared again."""
        return self._opened.count([])

    def warnings(self) -> tuple[str, ...]:
        """Return nothing: the layout's advice is enough."""
        return ()

    def _walk_on(self, cursor: Cursor, where: Where = ()) -> Iterator[Page]:
        """Yield the pages after a cursor, in the order of the key."""
        position, more = self._opened.read_cursor(cursor).position, True
        while more:
            rows, more = self._opened.read([self._keyset.after(position), *where])
            if not rows:
                return
            position = rows[-1].position
            yield make_page(rows, self._opened.cursor_at(position).to_document())


class Snapshot(KeyScan):
    """Reads all rows, of which the poll logs new and changed ones; then the poll looks for known rows that are gone.

    Both halves keep their place in the cursor document: `phase` is `read` or `sweep`; `rows` is how many were read.
    """

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the rows that are left to read, and then the start of the second half."""
        if cursor.get("phase") == SWEEP:
            return
        rows = int(cursor.get("rows", 0))
        kept = {name: cursor[name] for name in ("known",) if name in cursor}
        for page in self._walk_on(cursor):
            rows += len(page.rows)
            yield Page(rows=page.rows, cursor={**page.cursor, "phase": READ, "rows": rows, **kept})
        yield Page(rows=(), cursor=begin_sweep(cursor, rows))


def begin_sweep(cursor: Cursor, rows: int) -> dict[str, Any]:
    """Return the cursor at the start of the second half, which looks for known rows that are gone."""
    return {**cursor, "at": "all rows read", "kind": "null", "key": None, "phase": SWEEP, "rows": rows, "swept": ""}
