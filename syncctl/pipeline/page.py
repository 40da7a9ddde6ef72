"""One page on its way into the ledger: its records, its keys, the cursor; in this order (invariant 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncctl.core.ids import chained_version, content_hash, epoch_of, key_id, make_seq, record_id
from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import Stream
from syncctl.errors import InternalError, LeaseHeld, SourceRestored
from syncctl.ledger.keys import KnownKey, Observation
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import Duplicate, NewRecord
from syncctl.ledger.streams import PollLease

COMPARISONS_AT_MOST = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One row of a page, named."""

    row: Row
    key_id: str
    hash: str
    seq: int


@dataclass(kw_only=True, slots=True)
class Progress:
    """What a poll has done so far."""

    position: int = 0
    read: int = 0
    logged: int = 0
    unchanged: int = 0
    failed: int = 0
    dispatched: int = 0
    cursor: Cursor | None = None
    complete: bool = False


class PageLog:
    """Brings the pages of one poll into the ledger.

    Args:
        lease_seconds: What the lease is prolonged by, where it is asked whether it is still ours.
    """

    def __init__(self, ledger: Ledger, stream: Stream, lease: PollLease, *, lease_seconds: float) -> None:
        self.progress = Progress(cursor=lease.cursor)
        self._ledger = ledger
        self._stream = stream
        self._lease = lease
        self._lease_seconds = lease_seconds

    def log(self, page: Page, *, shape: str) -> None:
        """Log a page; safe to repeat.

        Raises:
            LeaseHeld: Somebody has taken this poll over.
            SourceRestored: Versions of the source run again.
        """
        seen = self._name(page.rows)
        self.progress.read += len(seen)
        if self._stream.append_only:
            self._log_append_only(seen, shape)
        else:
            self._log_with_keys(seen, shape)
        self.move_cursor(page.cursor)

    def move_cursor(self, cursor: Cursor) -> None:
        """Move the cursor, unless somebody has taken this poll over."""
        if not self._ledger.streams.move_cursor(self._lease, cursor):
            raise self._taken_over()
        self.progress.cursor = cursor

    def _taken_over(self) -> LeaseHeld:
        return LeaseHeld(
            f"the poll of {self._stream.name} was taken over",
            why="its lease ran out while this process stood still",
            hint="nothing is lost; the other poll goes on from the same place",
        )

    def _name(self, rows: Sequence[Row]) -> list[Seen]:
        """Give each row its key id, its content hash and its seq."""
        named = []
        for row in rows:
            self.progress.position += 1
            row, key = identify(row)  # noqa: PLW2901 - one without a whole key is a failed one from here on
            content = content_hash(row.payload, row.op, row.error)
            seq = make_seq(self._lease.epoch, self.progress.position)
            named.append(Seen(row=row, key_id=key, hash=content, seq=seq))
        return named

    def _log_with_keys(self, seen: Sequence[Seen], shape: str) -> None:
        remaining = list({each.key_id: each for each in seen}.values())
        self.progress.unchanged += len(seen) - len(remaining)
        for _ in range(COMPARISONS_AT_MOST):
            if not remaining:
                return
            known = self._ledger.keys.load(self._stream.name, [each.key_id for each in remaining])
            # Only a later poll gives a higher seq. What it saw is newer than this page, however late that was read.
            if any(each.key_id in known and known[each.key_id].seq > each.seq for each in remaining):
                raise self._taken_over()
            conflicts = set(self._log_changes(remaining, known, shape))
            # Somebody else wrote these keys since they were read: either this poll was taken over, or they were.
            remaining = [each for each in remaining if each.key_id in conflicts]
            if remaining and not self._ledger.streams.renew_poll(self._lease, seconds=self._lease_seconds):
                raise self._taken_over()
        if remaining:
            what = f"{len(remaining)} keys of {self._stream.name} would not settle"
            raise InternalError(what, why="they changed on each look")

    def _log_changes(self, seen: Sequence[Seen], known: Mapping[str, KnownKey], shape: str) -> list[str]:
        """Log the rows that are new or changed, then tell their keys; return the keys to compare anew."""
        changed: list[tuple[Seen, NewRecord]] = []
        observations: list[Observation] = []
        for each in seen:
            before = known.get(each.key_id)
            if before is None and each.row.op == "delete":
                # Nobody was told of this row. Its key says that it is gone to whoever still holds a version of it.
                self.progress.unchanged += 1
                observations.append(_observe(each, None, _new_record(self._stream.name, each, None, shape).id))
                continue
            if before is not None and before.hash == each.hash and not self._is_flagged_again(before):
                self.progress.unchanged += 1
                # A row seen under a new version, or for the first time since a poll was taken over, is observed
                # anew: what that poll may still write about it is then older.
                if each.row.version is not None or epoch_of(before.seq) < self._lease.contested_epoch:
                    observations.append(_observe(each, before, before.version))
                continue
            record = _new_record(self._stream.name, each, before, shape)
            changed.append((each, record))
            observations.append(_observe(each, before, record.id))
        renamed = self._log_records(changed, known)
        observations = [
            replace(each, version=renamed[each.key_id].id) if each.key_id in renamed else each for each in observations
        ]
        return self._ledger.keys.observe(self._stream.name, observations)

    def _is_flagged_again(self, before: KnownKey) -> bool:
        """Say whether a row that the source was told of stands there anew: somebody wants it sent once more."""
        return before.acknowledged_epoch is not None and before.acknowledged_epoch < self._lease.epoch

    def _log_records(
        self, changed: Sequence[tuple[Seen, NewRecord]], known: Mapping[str, KnownKey]
    ) -> dict[str, NewRecord]:
        """Insert records and judge those that were there already; return, by key id, those that got another name."""
        records = self._ledger.records
        sent, failed, duplicates = records.log([record for _, record in changed], self._lease.clock.now())
        adopted, renamed = settle_duplicates(self._stream, changed, known, duplicates)
        records.raise_seq(adopted)
        self.progress.logged += len(adopted)
        if renamed:
            more_sent, more_failed, again = records.log(list(renamed.values()), self._lease.clock.now())
            sent, failed = sent + more_sent, failed + more_failed
            self.progress.logged += len(again)
        self.progress.logged += sent + failed
        self.progress.failed += failed
        return renamed

    def _log_append_only(self, seen: Sequence[Seen], shape: str) -> None:
        """Log rows of a table that is only ever appended to: no keys; a row is known by its key and cursor value."""
        name = self._stream.name
        new = [_new_record(name, each, None, shape, each.row.version or each.row.at) for each in seen]
        sent, failed, duplicates = self._ledger.records.log(new, self._lease.clock.now())
        by_id = {record.id: (each, record) for each, record in zip(seen, new, strict=True)}
        for duplicate in duplicates:
            each, record = by_id[duplicate.id]
            if duplicate.hash != record.hash and duplicate.shape == record.shape:
                raise _restored(self._stream, each.row.key, record.version)
        self.progress.logged += sent + failed
        self.progress.failed += failed
        self.progress.unchanged += len(duplicates)


def identify(row: Row) -> tuple[Row, str]:
    """Return the row and the id of its key.

    A key with a NULL in it names no row: two such rows would pass for two versions of one, and the older be dropped.
    Each is a failed row, under an id of its own (invariant 9).
    """
    empty = next((name for name, value in row.key.items() if value is None), None)
    if empty is None:
        return row, key_id(row.key)
    error = row.error or f"key column {empty} is NULL, so the key names no row"
    return replace(row, payload=None, error=error), key_id({**row.key, "": row.at})


def settle_duplicates(
    stream: Stream,
    changed: Sequence[tuple[Seen, NewRecord]],
    known: Mapping[str, KnownKey],
    duplicates: Sequence[Duplicate],
) -> tuple[dict[str, int], dict[str, NewRecord]]:
    """Judge records that were in the ledger before their keys knew them.

    Returns:
        Those an interrupted poll had logged, with the seq they get now; and, by key id, those to log under another
        name because the table's columns have changed since.

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
            renamed[each.key_id] = _new_record(stream.name, each, before, record.shape, version)
        elif duplicate.shape != record.shape:
            version = f"{record.version}/{record.shape}"
            renamed[each.key_id] = _new_record(stream.name, each, before, record.shape, version)
        else:
            raise _restored(stream, each.row.key, record.version)
    return adopted, renamed


def _observe(each: Seen, before: KnownKey | None, version: str) -> Observation:
    return Observation(
        key_id=each.key_id,
        key=each.row.key,
        previous_seq=None if before is None else before.seq,
        seq=each.seq,
        version=version,
        hash=each.hash,
        op=each.row.op,
    )


def _new_record(stream: str, each: Seen, before: KnownKey | None, shape: str, version: str | None = None) -> NewRecord:
    row = each.row
    version = version or row.version or chained_version(before.seq if before else 0, each.hash)
    return NewRecord(
        id=record_id(stream, each.key_id, version),
        stream=stream,
        key_id=each.key_id,
        key=row.key,
        seq=each.seq,
        version=version,
        hash=each.hash,
        shape=shape,
        op=row.op,
        payload=row.payload,
        error=row.error,
        acknowledge=row.acknowledge,
    )


def _restored(stream: Stream, key: Mapping[str, Any], version: str) -> SourceRestored:
    shown = ",".join(f"{name}={value}" for name, value in key.items())
    return SourceRestored(
        f"stream {stream.name} stopped: the source's versions run again",
        why=f"row {shown} came back in version {version}, which the ledger holds with another content or as older",
        hint=f"was the database restored? The cursor has not moved; look at: syncctl show {stream.name} {shown}",
    )
