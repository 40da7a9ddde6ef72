"""Mode snapshot: the whole table, compared with what the ledger knows; for tables without any cursor."""

from collections.abc import Iterator
from typing import Any

from syncctl.core.rows import Cursor, Page
from syncctl.sources.modes.scan import Scan

READ, SWEEP = "read", "sweep"


class Snapshot(Scan):
    """Reads all rows; those that are new or changed are logged. Then the poll asks which known rows are gone.

    Both halves keep their place in the cursor document: `phase` is `read` or `sweep`, `rows` how many were read.
    """

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield all rows that are left to read, and then the turn to the second half."""
        if cursor.get("phase") == SWEEP:
            return
        rows = int(cursor.get("rows", 0))
        kept = {name: cursor[name] for name in ("known",) if name in cursor}
        for page in self._walk_on(cursor):
            rows += len(page.rows)
            yield Page(rows=page.rows, cursor={**page.cursor, "phase": READ, "rows": rows, **kept})
        yield Page(rows=(), cursor=begin_sweep(cursor, rows))


def begin_sweep(cursor: Cursor, rows: int) -> dict[str, Any]:
    """Return the cursor at the beginning of the second half: looking for known rows that are gone."""
    return {**cursor, "at": "all rows read", "kind": "null", "key": None, "phase": SWEEP, "rows": rows, "swept": ""}
