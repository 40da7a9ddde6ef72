"""What a reconciliation counts, and the lines in which it sorts what it has read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from typing import Any

from syncctl.core.rows import Value
from syncctl.pipeline.recheck import Key, SourceRow, Verdict

SAMPLES_AT_MOST = 10


@dataclass(kw_only=True, slots=True)
class Differences:
    """How the rows of a source and what the ledger knows of them agree. None: not counted.

    `ahead`: rows that the next poll finds anyway.
    """

    stream: str
    source_rows: int = 0
    accounted: int = 0
    ahead: int = 0
    missing: int | None = 0
    stale: int = 0
    extra: int | None = 0
    samples: dict[str, list[Key]] = field(default_factory=lambda: {"missing": [], "stale": [], "extra": []})
    repaired: int = 0

    @property
    def repairable(self) -> int:
        """How many rows a repair would log."""
        return (self.missing or 0) + self.stale

    @property
    def all(self) -> int:
        """How many differences there are."""
        return self.repairable + (self.extra or 0)

    def count(self, verdict: Verdict, key: Key) -> bool:
        """Count one row of the source; True where it is to be repaired."""
        if verdict == "gone":
            self.source_rows -= 1
        elif verdict == "accounted":
            self.accounted += 1
        elif verdict == "ahead":
            self.ahead += 1
        elif verdict == "stale":
            self.stale += 1
            self._keep("stale", key)
            return True
        elif self.missing is not None:
            self.missing += 1
            self._keep("missing", key)
            return True
        return False

    def count_extra(self, key: Key) -> None:
        """Count one row that the ledger knows and the source does not have."""
        self.extra = (self.extra or 0) + 1
        self._keep("extra", key)

    def _keep(self, kind: str, key: Key) -> None:
        if len(self.samples[kind]) < SAMPLES_AT_MOST:
            self.samples[kind].append(key)


def write_line(row: SourceRow) -> str:
    """Return a row as one line, which sorts by the id of its key."""
    return f"{row.key_id} {row.hash} {int(row.is_ahead)} {json.dumps([row.at, write_key(row.key)])}"


def read_line(line: str) -> SourceRow:
    """Return the row of a line."""
    identity, content, ahead, rest = line.split(" ", 3)
    at, key = json.loads(rest)
    return SourceRow(key_id=identity, hash=content, is_ahead=ahead == "1", at=at, key=read_key(key))


def write_key(key: Key) -> dict[str, Any]:
    """Return a key as JSON holds it, exact."""
    return {name: {"decimal": str(value)} if isinstance(value, Decimal) else value for name, value in key.items()}


def read_key(written: Mapping[str, Any]) -> dict[str, Value]:
    """Return the key that was written."""
    return {name: Decimal(value["decimal"]) if isinstance(value, dict) else value for name, value in written.items()}


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a row."""

    key_id: str
    hash: str
    is_live: bool


def join(lines: Iterator[str], known: Iterator[Known]) -> Iterator[tuple[str, list[str], Known | None]]:
    """Yield, by key id and in its order, the source's lines of a row and what the ledger knows of it."""
    key = next(known, None)
    for identity, group in groupby(lines, key=lambda line: line.partition(" ")[0]):
        while key is not None and key.key_id < identity:
            yield key.key_id, [], key
            key = next(known, None)
        is_known = key is not None and key.key_id == identity
        yield identity, list(group), key if is_known else None
        if is_known:
            key = next(known, None)
    while key is not None:
        yield key.key_id, [], key
        key = next(known, None)
