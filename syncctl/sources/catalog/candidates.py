"""Which modes a table allows, the safest first, and why."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from syncctl.core.stream import Mode
from syncctl.sources.advice import tells_of_changes
from syncctl.sources.catalog.found import FoundColumn, FoundTable
from syncctl.sources.tables import Kind

SNAPSHOT_ROWS_AT_MOST = 100_000
_NAMES_A_BIRTH = re.compile(
    r"(?:creat|insert|enter|add|log|receiv)ed?(?:[ _]?(?:at|on|date|time|utc))*$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A mode in which a table could be read.

    `indexed` says whether an index serves the cursor, None where there is no cursor column. `finds_changes` is False
    where only new rows are found.
    """

    mode: Mode
    cursor: str | None
    why: str
    indexed: bool | None
    finds_changes: bool = True


def rank_candidates(found: FoundTable, key: tuple[str, ...]) -> tuple[Candidate, ...]:
    """Return the candidates of a table, the safest first."""
    ranked = [*_follow_changes(found, key), *_follow_times(found), *_read_all(found), *_follow_numbers(found, key)]
    return tuple(candidate for _, candidate in sorted(ranked, key=lambda each: each[0]))


_Ranked = tuple[int, Candidate]


def _follow_changes(found: FoundTable, key: tuple[str, ...]) -> Iterator[_Ranked]:
    primary = next((index.columns for index in found.indexes if index.is_primary), ())
    # The tracked changes tell the primary key and nothing else.
    if found.is_tracked and set(key) == set(primary):
        why = "finds inserts, updates and deletes, in the order in which they were committed"
        yield 0, Candidate(mode="change_tracking", cursor=None, why=why, indexed=None)
    for each in found.columns:
        if each.column.kind is Kind.ROWVERSION:
            why = "finds inserts and updates, none missed whatever commits when; no deletes"
            yield 1, _follow("rowversion", found, each, why)


def _follow_times(found: FoundTable) -> Iterator[_Ranked]:
    for each in found.columns:
        column = each.column
        hole = f"; rows without a {column.name} are never read" if column.nullable else ""
        if tells_of_changes(column):
            why = f"finds inserts and updates only if every change sets it; late commits within lookback{hole}"
            yield (4 if column.nullable else 2), _follow("increasing", found, each, why)
        elif column.kind is Kind.TIME and _NAMES_A_BIRTH.search(column.name):
            why = f"finds new rows only; late commits within lookback{hole}"
            yield 6, _follow("increasing", found, each, why, finds_changes=False)


def _read_all(found: FoundTable) -> Iterator[_Ranked]:
    is_small = found.rows is not None and found.rows <= SNAPSHOT_ROWS_AT_MOST
    now = "" if found.rows is None else f" ({found.rows:,} row{'' if found.rows == 1 else 's'} now)"
    why = f"finds inserts, updates and deletes, but reads the whole table at each poll{now}"
    if not is_small:
        why += f"; good up to some {SNAPSHOT_ROWS_AT_MOST:,}"
    yield (3 if is_small else 7), Candidate(mode="snapshot", cursor=None, why=why, indexed=None)


def _follow_numbers(found: FoundTable, key: tuple[str, ...]) -> Iterator[_Ranked]:
    for each in found.columns:
        column = each.column
        if column.kind is not Kind.INTEGER or not (each.is_numbered or key == (column.name,)):
            continue
        why = "finds new rows only; numbers left out are remembered and asked for again"
        if not each.is_numbered:
            why += "; only if each new row gets a higher one"
        yield 5, _follow("increasing", found, each, why, finds_changes=False)


def _follow(mode: Mode, found: FoundTable, each: FoundColumn, why: str, *, finds_changes: bool = True) -> Candidate:
    name = each.column.name
    return Candidate(mode=mode, cursor=name, why=why, indexed=found.serves(name), finds_changes=finds_changes)
