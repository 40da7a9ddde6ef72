"""The basis and the witnesses of a cursor, which show when the cursor no longer fits its stream.

The basis is the database, table and key that the cursor is a place in, and the settings that chose the rows before it.
If one of these changes and the cursor is kept, rows are passed over: rows of the other table with lower values, or rows
that another condition includes.

The witnesses are the last rows before the cursor as they were read. A table that is filled anew, or a database that is
restored, may give out the numbers up to the cursor a second time. Only the witnesses show this: there are rows before
the cursor, as always, and the new ones among them would be passed over.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from syncctl.core.ids import canonical_text
from syncctl.core.rows import Row, Value
from syncctl.core.stream import SCANS, Mode

Part = Literal["database", "table", "key", "query", "where", "start"]

_OF_A_PLACE: frozenset[Part] = frozenset({"database", "table", "key"})
"""If one of these changes, the cursor marks no place. The other parts decided which rows before it were read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """The database, table and key that a cursor is a place in, and the settings that chose the rows before it."""

    #: The database's name and unique id; empty if the database does not report them.
    database: str
    #: The table's name as the database resolves it; None for a query.
    table: str | None
    key: tuple[str, ...]
    #: A hash; None for a table.
    query: str | None
    #: A hash; None if there is no condition.
    where: str | None
    #: As written in the settings.
    start: str

    @property
    def place(self) -> str:
        """A short hash of the parts without which a cursor marks no place."""
        return hash_text(repr((self.database, _fold(self.table), self.key)))

    def to_document(self) -> dict[str, Any]:
        """Return the JSON-safe document."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"key": list(self.key)}

    def keep(self, before: "Basis", parts: frozenset[Part]) -> "Basis":
        """Return this basis with some parts of an earlier one."""
        return replace(self, **{part: getattr(before, part) for part in parts})


def read_basis(document: Mapping[str, Any]) -> Basis:
    """Return the basis that a document holds."""
    values = {field.name: document[field.name] for field in fields(Basis)}
    return Basis(**{**values, "key": tuple(values["key"])})


def hash_text(text: str) -> str:
    """Return a short hash of a text; its spacing makes no difference."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def list_changes(before: Basis, now: Basis, mode: Mode) -> tuple[frozenset[Part], frozenset[Part]]:
    """Return the changed parts: those after whose change the cursor no longer marks a place, and the others.

    For a mode that reads all rows again both are empty, because it passes over none. Mode change_tracking recognizes
    its database and table by its own identities.
    """
    if mode in SCANS and mode != "change_tracking":
        return frozenset(), frozenset()
    changed: set[Part] = set()
    if before.database and now.database and before.database != now.database:
        changed.add("database")
    if _fold(before.table) != _fold(now.table):
        changed.add("table")
    elif before.query != now.query:
        changed.add("query")
    if before.key != now.key:
        changed.add("key")
    if before.where != now.where:
        changed.add("where")
    if before.start != now.start:
        changed.add("start")
    if mode == "change_tracking":
        changed -= {"database", "table"}
    return frozenset(changed & _OF_A_PLACE), frozenset(changed - _OF_A_PLACE)


def _fold(table: str | None) -> str | None:
    return None if table is None else table.casefold()


WITNESSES_AT_MOST = 8
COMPARED_AT_LEAST = 3
"""Fewer rows prove nothing: each of them may have been changed."""
COLUMNS_AT_LEAST = 2
"""A single column may be changed in all rows at once."""
AGREEING_AT_MOST = 0.25
"""The share of rows that may agree in a column by chance; rows that were only changed still agree in other columns."""

Kind = Literal["versions", "numbers", "values"]
"""The kind of values in the cursor column: rowversions, numbers that the database gives out one per row, or others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """A row before the cursor as it was read."""

    #: Its cursor value.
    at: str
    key: Mapping[str, Value]
    #: A short hash of each value that is not NULL, by column name.
    columns: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Witnesses:
    """The last rows that were read before the cursor."""

    rows: tuple[Witness, ...] = ()
    #: The fingerprint of the columns when the rows were read.
    columns_fingerprint: str = ""

    def add(self, rows: Sequence[Row], columns: Collection[str]) -> "Witnesses":
        """Return the witnesses after more rows were read; a row replaces its own earlier witness."""
        last: dict[str, Row] = {}
        for row in rows:
            if not row.again:
                name = canonical_text(row.key)
                last.pop(name, None)
                last[name] = row
        kept = [witness for witness in self.rows if canonical_text(witness.key) not in last]
        readable = [row for row in last.values() if row.payload is not None and not row.nameless]
        new = [_observe(row, columns) for row in readable[-WITNESSES_AT_MOST:]]
        last_rows = (*kept, *new)[-WITNESSES_AT_MOST:]
        return self if last_rows == self.rows else replace(self, rows=last_rows)

    def look_again(self, now: Sequence[Row | None], columns: Collection[str]) -> "Witnesses":
        """Return the witnesses, with the present content of each row whose cursor value is unchanged."""
        rows = tuple(
            _observe(row, columns) if row is not None and row.payload is not None and row.at == witness.at else witness
            for witness, row in zip(self.rows, now, strict=True)
        )
        return replace(self, rows=rows)


def _observe(row: Row, columns: Collection[str]) -> Witness:
    values = {**(row.payload or {}), **row.key}
    hashes = {name: _hash(value) for name, value in values.items() if name in columns and value is not None}
    return Witness(at=row.at, key=row.key, columns=hashes)


def _hash(value: Value) -> str:
    return hashlib.sha256(canonical_text({"": value}).encode("utf-8", "surrogatepass")).hexdigest()[:6]


def find_impostors(
    witnesses: Witnesses,
    now: Sequence[Row | None],
    columns: Collection[str],
    *,
    kind: Kind,
    reached: str,
    is_table: bool,
) -> list[Witness]:
    """Return the witnesses whose place another row has taken; none if the rows may be the same ones.

    A missing row proves nothing. A row that was only changed has a higher version, or agrees in the columns that were
    not changed.

    Args:
        now: The row in the place of each witness now: with the same number, or with the same key.
        columns: The columns that tell rows apart.
        reached: The cursor.
        is_table: Whether all rows come from one table, so that the version of a row never becomes lower.
    """
    pairs = [(witness, row) for witness, row in zip(witnesses.rows, now, strict=True) if row is not None]
    if kind == "versions" and is_table:
        # Every version up to the cursor was read, so an unread one there was given out a second time.
        unread = [witness for witness, row in pairs if row.at != witness.at and row.at <= reached]
        if unread:
            return unread
    alike = [
        (witness, _observe(row, columns)) for witness, row in pairs if row.at == witness.at and row.payload is not None
    ]
    return [witness for witness, _ in alike] if _are_others(alike) else []


def _are_others(pairs: Sequence[tuple[Witness, Witness]]) -> bool:
    """Tell whether rows and their witnesses agree, except by chance, in no column that tells rows apart."""
    if len(pairs) < COMPARED_AT_LEAST:
        return False
    shared = set.intersection(*(set(before.columns) for before, _ in pairs))
    distinct = [name for name in shared if len({before.columns[name] for before, _ in pairs}) == len(pairs)]
    agreeing = [
        sum(now.columns.get(name) == before.columns[name] for before, now in pairs) / len(pairs) for name in distinct
    ]
    is_enough = len(distinct) >= COLUMNS_AT_LEAST or any(name in pairs[0][0].key for name in distinct)
    return is_enough and max(agreeing) <= AGREEING_AT_MOST
