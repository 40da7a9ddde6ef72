"""Read rows that seem to differ once more: they may have changed, and been polled, while all rows were read."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from syncctl.core.ids import key_id
from syncctl.core.rows import Cursor, Row, Value
from syncctl.errors import SourceError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.polling.identity import name_row

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

Key = Mapping[str, Value]
Found = TypeVar("Found")
Verdict = Literal["accounted", "ahead", "gone", "missing", "stale"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRow:
    """One row of the source as it was when all rows were read."""

    key_id: str
    hash: str
    #: Whether the row lies behind the cursor, so that the next poll will find it.
    is_ahead: bool
    #: The row's cursor value.
    at: str
    key: Key


def find_readable(reader: "StreamReader", keys: Sequence[Key]) -> tuple[list[Row], set[str]]:
    """Return the rows that have one of these keys now, and the ids of keys whose row the database cannot read.

    Raises:
        SourceError: None of several rows can be read, so the cause is not a single row.
    """
    return _find_together_or_alone(reader.find_rows, keys)


def recheck(ledger: Ledger, stream: str, reader: "StreamReader", suspects: Sequence[SourceRow]) -> list[Verdict]:
    """Judge rows that the ledger did not know, or knew with other content, as they are now; keep their order."""
    cursor = ledger.polls.load_cursor(stream)
    rows, unreadable = find_readable(reader, [suspect.key for suspect in suspects])
    now = {named.key_id: (named.hash, named.row.at) for named in (name_row(row, seq=0) for row in rows)}
    known = ledger.keys.load(stream, [suspect.key_id for suspect in suspects])
    verdicts: list[Verdict] = []
    for suspect in suspects:
        as_it_was = (suspect.hash, suspect.at) if key_id(suspect.key) in unreadable else None
        present, key = now.get(suspect.key_id, as_it_was), known.get(suspect.key_id)
        if present is None:
            verdicts.append("gone")
        elif key is not None and key.hash == present[0]:
            verdicts.append("accounted")
        elif present[1] != suspect.at:
            # The row has moved behind the cursor since all rows were read: the next poll finds it.
            verdicts.append("ahead")
        else:
            verdicts.append("missing" if key is None else "stale")
    differing = {
        suspect.key_id for suspect, verdict in zip(suspects, verdicts, strict=True) if verdict in ("missing", "stale")
    }
    ahead = _find_children_ahead(reader, cursor, differing)
    return [
        "ahead" if suspect.key_id in ahead else verdict for suspect, verdict in zip(suspects, verdicts, strict=True)
    ]


def _find_children_ahead(reader: "StreamReader", cursor: Cursor | None, key_ids: Set[str]) -> set[str]:
    """Return the rows among these that the next poll reads because their children have changed.

    Args:
        cursor: The stream's cursor from before the rows were read: a child that has changed since lies behind it.
    """
    ahead: set[str] = set()
    if cursor is None or not key_ids:
        return ahead
    for keys in reader.find_ahead(cursor):
        ahead |= key_ids & {key_id(key) for key in keys}
        if ahead == key_ids:
            break
    return ahead


def find_gone(ledger: Ledger, stream: str, reader: "StreamReader", suspects: Mapping[str, Key]) -> list[Key]:
    """Return the keys (given by id) that no row has now, although the ledger still knows them as live."""
    missing, _ = _find_together_or_alone(reader.find_missing, list(suspects.values()))
    gone = {key_id(key) for key in missing} & suspects.keys()
    known = ledger.keys.load(stream, gone)
    return [key for identity, key in suspects.items() if identity in known and known[identity].op == "upsert"]


def _find_together_or_alone(
    find: Callable[[Sequence[Key]], list[Found]], keys: Sequence[Key]
) -> tuple[list[Found], set[str]]:
    """Look up keys together, or one by one if that fails; return the results, and the ids that fail alone."""
    if not keys:
        return [], set()
    try:
        return find(keys), set()
    except SourceError:
        results: list[Found] = []
        failed: set[str] = set()
        for key in keys:
            try:
                results += find([key])
            except SourceError:
                failed.add(key_id(key))
        if len(failed) == len(keys) > 1:
            raise
        return results, failed
