"""A database on disk for a reconciliation: SQLite sorts more rows than fit in memory."""

import errno
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from syncctl.core.rows import Value
from syncctl.errors import SyncctlError
from syncctl.pipeline.polling.recheck import Key, SourceRow

MEMORY_KIB = 8 * 1024
"""How much SQLite may keep in memory: pages, and the rows of one sorted run before it goes to disk (invariant 11)."""
ROWS_AT_ONCE = 500
_SETUP = (
    # The file is removed with this process, so it needs no journal, no flush to disk and no commit.
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA temp_store = FILE",
    f"PRAGMA cache_size = -{MEMORY_KIB}",
    "CREATE TABLE source_row (key_id TEXT, hash TEXT, is_ahead INTEGER, at_and_key TEXT)",
    "CREATE TABLE to_repair (number INTEGER PRIMARY KEY, key TEXT)",
    "BEGIN",
)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOENT}


class ScratchDatabase:
    """A temporary SQLite database: the rows of a source, and the keys of rows to repair."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in _SETUP:
            connection.execute(statement)

    def clear(self) -> None:
        """Remove all rows and keys."""
        self._connection.execute("DELETE FROM source_row")
        self._connection.execute("DELETE FROM to_repair")

    def add_rows(self, rows: Iterable[SourceRow]) -> None:
        """Add rows in any order."""
        values = [(row.key_id, row.hash, row.is_ahead, f"[{json.dumps(row.at)}, {write_key(row.key)}]") for row in rows]
        self._connection.executemany("INSERT INTO source_row VALUES (?, ?, ?, ?)", values)

    def sorted_rows(self) -> Iterator[SourceRow]:
        """Yield all rows by the ids of their keys; rows of one key come in the order in which they were added."""
        for key_id, content, is_ahead, rest in self._connection.execute(
            "SELECT key_id, hash, is_ahead, at_and_key FROM source_row ORDER BY key_id, rowid"
        ):
            at, key = json.loads(rest)
            yield SourceRow(key_id=key_id, hash=content, is_ahead=bool(is_ahead), at=at, key=_restore_key(key))

    def add_to_repair(self, key: Key) -> None:
        """Add the key of a row that a repair must log."""
        self._connection.execute("INSERT INTO to_repair (key) VALUES (?)", (write_key(key),))

    def keys_to_repair(self) -> Iterator[list[Key]]:
        """Yield the keys of all rows that a repair must log, page by page."""
        query = "SELECT number, key FROM to_repair WHERE number > ? ORDER BY number LIMIT ?"
        after = 0
        while page := self._connection.execute(query, (after, ROWS_AT_ONCE)).fetchall():
            yield [_restore_key(json.loads(key)) for _, key in page]
            after = page[-1][0]


def write_key(key: Key) -> str:
    """Return a key as JSON, with exact decimals."""
    return json.dumps(
        {name: {"decimal": str(value)} if isinstance(value, Decimal) else value for name, value in key.items()}
    )


def _restore_key(written: dict[str, Any]) -> dict[str, Value]:
    return {name: Decimal(value["decimal"]) if isinstance(value, dict) else value for name, value in written.items()}


@contextmanager
def open_scratch() -> Iterator[ScratchDatabase]:
    """Yield a scratch database in its own directory, which only this user may read and which is removed at the end.

    Raises:
        SyncctlError: There is no room for it.
    """
    try:
        with (
            TemporaryDirectory(prefix="syncctl-") as directory,
            closing(sqlite3.connect(Path(directory) / "rows.sqlite", isolation_level=None)) as connection,
        ):
            yield ScratchDatabase(connection)
    except sqlite3.OperationalError as error:
        raise _no_room(str(error)) from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _no_room(error.strerror or str(error)) from error


def _no_room(why: str) -> SyncctlError:
    return SyncctlError(
        "the temporary directory cannot be written",
        why=why,
        hint="it takes some 500 bytes for each row: make room, or set TMPDIR to a larger disk",
    )
