"""Name rows and their records, and judge records whose name is already taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncctl.core.ids import chained_version, content_hash, epoch_of, key_id, record_id, show_key
from syncctl.core.rows import Row
from syncctl.core.stream import Stream
from syncctl.errors import SourceRestored
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.records import Duplicate, NewRecord

DELETE_NOT_SENT = "the row is gone, and the stream sends no deletes (delete_endpoint = none)"


@dataclass(kw_only=True, slots=True)  # one for each row that is read: frozen, it costs twice as much
class NamedRow:
    """A row with the names under which the ledger knows it and its content."""

    row: Row
    key_id: str
    hash: str
    seq: int
    #: The seq that its version is chained on while the row has no key.
    first_seq: int = 0


def name_row(row: Row, *, seq: int, first_seq: int = 0) -> NamedRow:
    """Return a row with its key id and the hash of its content."""
    row, identity = identify(row)
    content = content_hash(row.content if row.unnoticed else row.payload, row.op, row.error)
    return NamedRow(row=row, key_id=identity, hash=content, seq=seq, first_seq=first_seq)


def identify(row: Row) -> tuple[Row, str]:
    """Return the row and the id of its key.

    A key that contains a NULL identifies no row: two such rows would be treated as two versions of one row, and the
    older would be dropped. Each becomes a failed row with its own id (invariant 9).
    """
    if None not in row.key.values():
        return row, key_id(row.key)
    empty = next(name for name, value in row.key.items() if value is None)
    error = row.error or f"key column {empty} is NULL, so the key names no row"
    return replace(row, payload=None, error=error, nameless=True), key_id({**row.key, "": row.at})


def settle_duplicates(
    stream: Stream,
    changed: Sequence[tuple[NamedRow, NewRecord]],
    known: Mapping[str, KnownKey],
    duplicates: Sequence[Duplicate],
    rewound_epoch: int = 0,
) -> tuple[dict[str, int], dict[str, NewRecord]]:
    """Judge records that were in the ledger before their keys knew them (invariant 1).

    A record is unknown to its key if it was logged after the version that the key knows: no poll has written it to the
    key, even if a later poll has since observed the row in an older page.

    Args:
        rewound_epoch: An operator accepts that versions of records logged before this epoch may come again.

    Returns:
        By record id, the new seq of records that an interrupted poll had logged; and by key id, the records to log
        under another name, because the table's columns have changed since or the name belongs to other content.

    Raises:
        SourceRestored: The same version has other content, or an old version came back.
    """
    duplicates_by_id = {duplicate.id: duplicate for duplicate in duplicates}
    adopted: dict[str, int] = {}
    renamed: dict[str, NewRecord] = {}
    for named, record in changed:
        duplicate = duplicates_by_id.get(record.id)
        if duplicate is None:
            continue
        before = known.get(named.key_id)
        is_unknown_to_key = before is None or duplicate.seq > before.version_seq
        if duplicate.hash == record.hash and is_unknown_to_key:
            adopted[record.id] = named.seq
            continue
        if before is None or is_unknown_to_key:
            # An interrupted poll saw the row when the rows joined with it were different.
            version = f"{record.version}/{record.hash}"
        elif epoch_of(duplicate.seq) < rewound_epoch or (stream.query is not None and before.version == record.id):
            # The row was read again in the version that its key knows, but the rows joined with it have changed.
            version = unused_version(named, before, record.version)
        elif duplicate.columns_fingerprint != record.columns_fingerprint:
            version = f"{record.version}/{record.columns_fingerprint}"
        else:
            raise source_restored(stream, named.row.key, record.version)
        renamed[named.key_id] = new_record(stream, named, before, record.columns_fingerprint, version)
    return adopted, renamed


def unused_version(named: NamedRow, before: KnownKey | None, version: str | None) -> str:
    """Return a version that no record of this key has had; a repeated poll gets the same version."""
    chained = _chained(named, before)
    return chained if version is None else f"{version}/{chained}"


def _chained(named: NamedRow, before: KnownKey | None) -> str:
    previous = before.version if before is not None else f"{named.first_seq:x}"
    return chained_version(previous, named.hash)


def new_record(
    stream: Stream, named: NamedRow, before: KnownKey | None, columns_fingerprint: str, version: str | None = None
) -> NewRecord:
    """Return the record of a row, with the version that the source keeps or with one chained on the key."""
    row = named.row
    version = version or row.version or _chained(named, before)
    return NewRecord(
        id=record_id(stream.name, named.key_id, version),
        stream=stream.name,
        key_id=named.key_id,
        key=row.key,
        seq=named.seq,
        version=version,
        hash=named.hash,
        columns_fingerprint=columns_fingerprint,
        op=row.op,
        payload=row.payload,
        error=row.error,
        acknowledge=row.acknowledge,
        writes_back=bool(stream.write_back) and row.op == "upsert" and not row.nameless,
        kept=stream.append_only and row.ahead,
        not_sent=None if stream.sends_deletes or row.op != "delete" else DELETE_NOT_SENT,
    )


def source_restored(stream: Stream, key: Mapping[str, Any], version: str) -> SourceRestored:
    """Return the error for a row whose version came again with other content, or that came back in an older version."""
    shown = show_key(key)
    name = stream.name
    return SourceRestored(
        f"stream {name} stopped: the source's versions have begun again",
        why=f"row {shown} came back in version {version}, which the ledger has with other content, or as an older "
        "version of this row",
        hint=f"see syncctl show {name} {shown}; if the database was restored: syncctl rewind {name} --to beginning",
    )
