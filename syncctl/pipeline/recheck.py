"""A second look at rows that seem to differ: they may have changed, and been polled, while all were read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from syncctl.core.ids import content_hash, key_id
from syncctl.core.rows import Row, Value
from syncctl.errors import SourceError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.identity import identify

Key = Mapping[str, Value]
Found = TypeVar("Found")
Verdict = Literal["accounted", "ahead", "gone", "missing", "stale"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRow:
    """One row of the source as the first look saw it. `at` is its cursor value."""

    key_id: str
    hash: str
    is_ahead: bool
    at: str
    key: Key


class Lookup(Protocol):
    """What a second look needs of a source."""

    def find_rows(self, keys: Sequence[Key]) -> list[Row]:
        """Return the rows that have one of these keys now."""

    def find_missing(self, keys: Sequence[Key]) -> list[Key]:
        """Return the keys that no row has now."""


def hash_row(row: Row) -> tuple[str, str, Row]:
    """Return the id of a row's key, the hash of its content, and the row, as a poll would log it."""
    row, identity = identify(row)
    return identity, content_hash(row.payload, row.op, row.error), row


def find_readable(reader: Lookup, keys: Sequence[Key]) -> tuple[list[Row], set[str]]:
    """Return the rows that have one of these keys now, and the ids of keys whose row the database cannot read.

    Raises:
        SourceError: Several were asked for, and none can be read: it is not the rows.
    """
    return _each_alone(reader.find_rows, keys)


def recheck(ledger: Ledger, stream: str, reader: Lookup, suspects: Sequence[SourceRow]) -> list[Verdict]:
    """Judge rows that the ledger did not know, or knew with another content: as they are now, in their order."""
    rows, unreadable = find_readable(reader, [each.key for each in suspects])
    now = {identity: (content, row.at) for identity, content, row in map(hash_row, rows)}
    known = ledger.keys.load(stream, [each.key_id for each in suspects])
    verdicts: list[Verdict] = []
    for each in suspects:
        as_it_was = (each.hash, each.at) if key_id(each.key) in unreadable else None
        found, key = now.get(each.key_id, as_it_was), known.get(each.key_id)
        if found is None:
            verdicts.append("gone")
        elif key is not None and key.hash == found[0]:
            verdicts.append("accounted")
        elif found[1] != each.at:
            # It moved on behind the cursor after the first look: the next poll finds it.
            verdicts.append("ahead")
        else:
            verdicts.append("missing" if key is None else "stale")
    return verdicts


def find_gone(ledger: Ledger, stream: str, reader: Lookup, suspects: Mapping[str, Key]) -> list[Key]:
    """Return those of these keys (by their id) that the ledger still takes for live and that no row has now."""
    missing, _ = _each_alone(reader.find_missing, list(suspects.values()))
    gone = {key_id(each) for each in missing} & suspects.keys()
    known = ledger.keys.load(stream, gone)
    return [key for each, key in suspects.items() if each in known and known[each].op == "upsert"]


def _each_alone(find: Callable[[Sequence[Key]], list[Found]], keys: Sequence[Key]) -> tuple[list[Found], set[str]]:
    """Ask for keys together, and where that fails one by one; return what was found, and the ids that fail alone."""
    if not keys:
        return [], set()
    try:
        return find(keys), set()
    except SourceError:
        found: list[Found] = []
        failed: set[str] = set()
        for key in keys:
            try:
                found += find([key])
            except SourceError:
                failed.add(key_id(key))
        if len(failed) == len(keys) > 1:
            raise
        return found, failed
