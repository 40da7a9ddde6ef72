"""How rows and their records are named, and what it means when a name is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncctl.core.ids import chained_version, epoch_of, key_id, record_id
from syncctl.core.rows import Row
from syncctl.core.stream import Stream
from syncctl.errors import SourceRestored
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.records import Duplicate, NewRecord

DELETE_NOT_SENT = "the row is gone, and the stream sends no deletes (delete_endpoint = none)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One row of a page, named."""

    row: Row
    key_id: str
    hash: str
    seq: int


def identify(row: Row) -> tuple[Row, str]:
    """Return the row and the id of its key.

    A key with a NULL in it names no row: two such rows would pass for two versions of one, and the older be dropped.
    Each is a failed row, under an id of its own (invariant 9).
    """
    empty = next((name for name, value in row.key.items() if value is None), None)
    if empty is None:
        return row, key_id(row.key)
    error = row.error or f"key column {empty} is NULL, so the key names no row"
    return replace(row, payload=None, error=error, nameless=True), key_id({**row.key, "": row.at})


def settle_duplicates(
    stream: Stream,
    changed: Sequence[tuple[Seen, NewRecord]],
    known: Mapping[str, KnownKey],
    duplicates: Sequence[Duplicate],
    rewound_epoch: int = 0,
) -> tuple[dict[str, int], dict[str, NewRecord]]:
    """Judge records that were in the ledger before their keys knew them.

    Args:
        rewound_epoch: Of records that were logged before it, an operator knows that their versions may run again.

    Returns:
        Those an interrupted poll had logged, with the seq they get now; and, by key id, those to log under another
        name because the table's columns have changed since, or because the name is that of another content.

    Raises:
        SourceRestored: The same version holds another content, or an old version came back.
    """
    there = {each.id: each for each in duplicates}
    adopted: dict[str, int] = {}
    renamed: dict[str, NewRecord] = {}
    for each, record in changed:
        duplicate = there.get(record.id)
        if duplicate is None:
            continue
        before = known.get(each.key_id)
        if duplicate.hash == record.hash and (before is None or duplicate.seq > before.seq):
            adopted[record.id] = each.seq
        elif before is None or duplicate.seq > before.seq:
            # No key ever knew it: an interrupted poll saw the row while what it is joined with was another.
            version = f"{record.version}/{record.hash}"
            renamed[each.key_id] = new_record(stream, each, before, record.columns_fingerprint, version)
        elif epoch_of(duplicate.seq) < rewound_epoch or (stream.query is not None and before.version == record.id):
            # Read again in the version that its key knows, while what it is joined with has changed.
            version = unused_version(each, before, record.version)
            renamed[each.key_id] = new_record(stream, each, before, record.columns_fingerprint, version)
        elif duplicate.columns_fingerprint != record.columns_fingerprint:
            version = f"{record.version}/{record.columns_fingerprint}"
            renamed[each.key_id] = new_record(stream, each, before, record.columns_fingerprint, version)
        else:
            raise restored(stream, each.row.key, record.version)
    return adopted, renamed


def unused_version(each: Seen, before: KnownKey | None, version: str | None) -> str:
    """Return a version that names no record yet, chained on what was known before; the same if a poll repeats it."""
    chained = chained_version(before.seq if before else 0, each.hash)
    return chained if version is None else f"{version}/{chained}"


def new_record(
    stream: Stream, each: Seen, before: KnownKey | None, columns_fingerprint: str, version: str | None = None
) -> NewRecord:
    """Return the record of a row: in the version that the source keeps, or one chained on what was known before."""
    row = each.row
    version = version or row.version or chained_version(before.seq if before else 0, each.hash)
    return NewRecord(
        id=record_id(stream.name, each.key_id, version),
        stream=stream.name,
        key_id=each.key_id,
        key=row.key,
        seq=each.seq,
        version=version,
        hash=each.hash,
        columns_fingerprint=columns_fingerprint,
        op=row.op,
        payload=row.payload,
        error=row.error,
        acknowledge=row.acknowledge,
        not_sent=None if stream.sends_deletes or row.op != "delete" else DELETE_NOT_SENT,
    )


def restored(stream: Stream, key: Mapping[str, Any], version: str) -> SourceRestored:
    """Return the error of a row whose versions run again."""
    shown = ",".join(f"{name}={value}" for name, value in key.items())
    name = stream.name
    return SourceRestored(
        f"stream {name} stopped: the source's versions run again",
        why=f"row {shown} came back in version {version}, which the ledger holds with another content or as older",
        hint=f"see syncctl show {name} {shown}; if the database was restored: syncctl rewind {name} --to beginning",
    )
