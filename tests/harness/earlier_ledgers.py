"""Ledgers that earlier versions of syncctl wrote, with the tables that they had read; tests/data/README.md says how."""

import gzip
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bson.json_util import JSONOptions, loads
from pymongo import IndexModel

from tests.harness.passing_time import shift

DATA = Path(__file__).parent.parent / "data"
NAMES = ("ledger-first", "ledger-retries", "ledger-batches")
"""The first version; one whose cursors record gaps; and the first whose records in flight belong to batches."""
WRITTEN_AT = datetime(2025, 6, 2, tzinfo=UTC)
_OPTIONS = JSONOptions(tz_aware=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierLedger:
    """The contents of a dump."""

    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    indexes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    rows: dict[str, list[list[Any]]] = field(default_factory=dict)

    def restore(self, database: Any) -> None:
        """Put the documents and the indexes into a database, as if they had been written two days ago."""
        by = timedelta(days=(datetime.now(UTC) - WRITTEN_AT).days - 2)
        for name, documents in self.documents.items():
            database[name].insert_many([_move(document, by) for document in documents])
        for name, indexes in self.indexes.items():
            database[name].create_indexes([_to_model(index) for index in indexes])

    def write_source(self, path: Path) -> None:
        """Write the tables that were read into a SQLite file."""
        with sqlite3.connect(path) as source:
            for statement in self.statements:
                source.execute(statement)
            for table, rows in self.rows.items():
                places = ", ".join("?" * len(rows[0]))
                source.executemany(f"insert into {table} values ({places})", rows)  # noqa: S608 - our own names
        source.close()

    def count(self, stream: str, state: str) -> int:
        """Return how many records of a stream had a state."""
        return sum((record["stream"], record["state"]) == (stream, state) for record in self.documents["records"])


def read_ledger(name: str) -> EarlierLedger:
    """Read one of `NAMES`."""
    ledger = EarlierLedger()
    for line in _read_lines(name):
        if "document" in line:
            ledger.documents.setdefault(line["collection"], []).append(line["document"])
        elif "index" in line:
            ledger.indexes.setdefault(line["collection"], []).append(line["index"])
        elif "sql" in line:
            ledger.statements.append(line["sql"])
        else:
            ledger.rows.setdefault(line["table"], []).append(line["row"])
    return ledger


def _read_lines(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            yield loads(line, json_options=_OPTIONS)


def _move(document: dict[str, Any], by: timedelta) -> dict[str, Any]:
    """Return a document with its dates moved; the id of an hour has its date too."""
    moved: dict[str, Any] = shift(document, by)
    if "window_start" in moved:
        moved["_id"] = f"{moved['stream']}:{moved['window_start']:%Y-%m-%dT%H}"
    return moved


def _to_model(index: dict[str, Any]) -> IndexModel:
    keys = [(name, way) for name, way in index["key"]]
    return IndexModel(keys, **{name: value for name, value in index.items() if name not in ("v", "key")})
