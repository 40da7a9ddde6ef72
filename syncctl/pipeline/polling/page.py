"""Write one page into the ledger: its records, then its keys, then the cursor (invariant 1)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from syncctl.core.cursors import Witnesses
from syncctl.core.gaps import find_oldest
from syncctl.core.ids import epoch_of, make_seq
from syncctl.core.rows import Cursor, Note, Page, Row
from syncctl.core.stream import Stream
from syncctl.errors import InternalError, LeaseHeld
from syncctl.ledger.keys import KnownKey, Observation
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease, RereadTimes
from syncctl.ledger.records import Duplicate, NewRecord
from syncctl.pipeline.polling.identity import (
    NamedRow,
    name_row,
    new_record,
    settle_duplicates,
    source_restored,
    unused_version,
)
from syncctl.pipeline.polling.wait_for_poll import taken_over

COMPARISONS_AT_MOST = 5
CLOCKS_APART = timedelta(days=1)
"""An upper bound for the difference between the clocks of a source and of MongoDB."""
GENERATIONS_AT_MOST = 2**16
"""More generations than a record can have between two rewinds, so that none repeats an `Idempotency-Key`."""
CHANGED = (
    "the row was changed after it had been logged, and append_only says that rows never change: a replay sends it as "
    "it is now; to have changes sent, leave append_only out"
)

SHARED_KEYS = Note(
    text="rows of one page have the same key, and only the last of them is sent",
    hint="name the columns of `key` that identify every row; append_only sends each row",
)


@dataclass(kw_only=True, slots=True)
class Progress:
    """The progress of a poll."""

    #: The position of the last row, which becomes part of its seq.
    position: int = 0
    read: int = 0
    logged: int = 0
    unchanged: int = 0
    failed: int = 0
    dispatched: int = 0
    #: A counter that grows with each page of rows or of delete detection, and each round of acknowledgements.
    steps: int = 0
    cursor: Cursor | None = None
    #: A short hash of the cursor's basis (database, table, key); None if that is not known.
    place: str | None = None
    #: Notes on the stream for the operator.
    notes: list[Note] = field(default_factory=list)
    #: Changes of the source's columns since the previous poll, one line each.
    schema_changes: list[str] = field(default_factory=list)
    #: Whether the poll read to the end.
    complete: bool = False
    #: The reader's warnings; None if it was not asked for them.
    warnings: tuple[str, ...] | None = None
    #: The warnings that follow from the settings alone.
    advice: tuple[str, ...] = ()


class PageLog:
    """Writes the pages of one poll into the ledger.

    Args:
        lease_seconds: How long the lease is renewed for, which after a conflict shows whether it is still held.
    """

    def __init__(self, ledger: Ledger, stream: Stream, lease: PollLease, *, lease_seconds: float) -> None:
        self.progress = Progress(cursor=lease.cursor)
        self._witnesses = lease.witnesses
        self._telling_columns: Collection[str] | None = None
        self._ledger = ledger
        self._stream = stream
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._reread = lease.reread
        #: How many of the logged records the stream's rate has counted.
        self._counted = 0
        #: Whether a page had several rows with the same key.
        self._has_shared_keys = False
        self._new_notes: list[Note] = []

    def take_notes(self) -> list[Note]:
        """Return the notes on the pages since the last call; each comes once in a poll."""
        notes, self._new_notes = self._new_notes, []
        return notes

    def keep_witnesses(self, witnesses: Witnesses, telling_columns: Collection[str]) -> None:
        """Keep the last rows of each page with the cursor, beginning with the rows before it as they are now."""
        self._telling_columns = telling_columns
        if witnesses != self._witnesses and self._lease.cursor is not None:
            self.move_cursor(self._lease.cursor, witnesses)
        self._witnesses = witnesses

    def log(self, page: Page, *, columns_fingerprint: str) -> None:
        """Log a page; safe to repeat.

        Raises:
            LeaseHeld: Another poll has taken over the lease.
            SourceRestored: Versions of the source came again.
        """
        self.log_rows(page.rows, columns_fingerprint=columns_fingerprint)
        before = self._witnesses
        if self._telling_columns is not None:
            self._witnesses = before.add(page.rows, self._telling_columns)
        witnesses = None if self._witnesses is before else self._witnesses
        self.move_cursor(page.cursor, witnesses, ends_round=page.ends_round)

    def log_rows(self, rows: Sequence[Row], *, columns_fingerprint: str) -> None:
        """Log rows as `log` does, without moving the cursor."""
        named_rows = self._name(rows)
        self.progress.steps += 1
        self.progress.read += len(named_rows)
        if self._stream.append_only:
            self._log_append_only(named_rows, columns_fingerprint)
        else:
            self._log_with_keys(named_rows, columns_fingerprint)

    def move_cursor(self, cursor: Cursor, witnesses: Witnesses | None = None, *, ends_round: bool = False) -> None:
        """Move the cursor, unless another poll has taken over the lease (invariants 1 and 8).

        Args:
            ends_round: Whether this round has read every row before the cursor that a later round can read again.
        """
        if self._stream.append_only:
            self._reread = self._update_reread(cursor, ends_round=ends_round)
        logged = self.progress.logged
        if not self._ledger.polls.move_cursor(
            self._lease, cursor, witnesses, reread=self._reread, logged=logged - self._counted
        ):
            raise self._taken_over()
        self._counted = logged
        self.progress.steps += 1
        self.progress.cursor = cursor

    def _update_reread(self, cursor: Cursor, *, ends_round: bool) -> RereadTimes:
        """Return the times of the rows that later polls may read again, once the cursor is at the given place."""
        began = self._lease.clock.at
        reread = self._reread or RereadTimes(logged_since=None, round_since=began)
        if (oldest := find_oldest(cursor)) is not None:
            # Gaps may be joined later, and the rows between them were logged when the gaps were found.
            return replace(reread, logged_since=min(oldest, began) - CLOCKS_APART)
        if "lookback" not in cursor:
            return replace(reread, logged_since=None)
        return RereadTimes(logged_since=reread.round_since, round_since=began) if ends_round else reread

    def _note_reread(self, duplicates: Sequence[Duplicate]) -> None:
        """Remember when the oldest of the records whose rows this round has read again was logged."""
        if duplicates:
            began = self._lease.clock.at
            reread = self._reread or RereadTimes(logged_since=None, round_since=began)
            oldest = min(duplicate.logged_at for duplicate in duplicates)
            self._reread = replace(reread, round_since=min(reread.round_since, oldest))

    def _taken_over(self) -> LeaseHeld:
        return taken_over(self._stream.name, then="goes on from the same place")

    def _name(self, rows: Sequence[Row]) -> list[NamedRow]:
        named_rows = []
        # Invariant 5: a row whose key was removed must not become a version that the partner has seen before.
        first_seq = make_seq(self._lease.forgotten_epoch, 0)
        for row in rows:
            self.progress.position += 1
            seq = make_seq(self._lease.epoch, self.progress.position)
            named_rows.append(name_row(row, seq=seq, first_seq=first_seq))
        return named_rows

    def _log_with_keys(self, named_rows: Sequence[NamedRow], columns_fingerprint: str) -> None:
        remaining = list({named.key_id: named for named in named_rows}.values())
        if len(remaining) < len(named_rows):
            self.progress.unchanged += len(named_rows) - len(remaining)
            if not self._has_shared_keys and _share_keys(named_rows):
                self._has_shared_keys = True
                self._new_notes.append(SHARED_KEYS)
        for _ in range(COMPARISONS_AT_MOST):
            if not remaining:
                return
            known = self._ledger.keys.load(self._stream.name, [named.key_id for named in remaining])
            # Invariant 8: only a later poll gives a higher seq. Its rows are treated as newer than this page, however
            # late this page was read.
            if any(named.key_id in known and known[named.key_id].seq > named.seq for named in remaining):
                raise self._taken_over()
            conflicts = set(self._log_changes(remaining, known, columns_fingerprint))
            # Another poll has written these keys since they were read: one of the two polls took over the other.
            remaining = [named for named in remaining if named.key_id in conflicts]
            if remaining and not self._ledger.polls.renew(self._lease, seconds=self._lease_seconds):
                raise self._taken_over()
        if remaining:
            what = f"{len(remaining)} keys of {self._stream.name} did not settle"
            raise InternalError(what, why="they changed each time they were compared")

    def _log_changes(
        self, named_rows: Sequence[NamedRow], known: Mapping[str, KnownKey], columns_fingerprint: str
    ) -> list[str]:
        """Log new and changed rows, then write their keys; return the keys that must be compared again."""
        changed: list[tuple[NamedRow, NewRecord]] = []
        observations: list[Observation] = []
        removed = self._resend_unchanged(named_rows, known)
        deleted_unseen = [
            named.key_id for named in named_rows if named.row.op == "delete" and named.key_id not in known
        ]
        recorded = self._ledger.records.find_recorded_keys(self._stream.name, deleted_unseen) if deleted_unseen else ()
        for named in named_rows:
            before = known.get(named.key_id)
            if before is None and named.row.op == "delete" and named.key_id not in recorded:
                # The partner never got this row, and no record left by an interrupted poll will send it. The key is
                # written as deleted, for a poll that still has a version of the row in hand.
                self.progress.unchanged += 1
                observations.append(
                    _observe(named, None, new_record(self._stream, named, None, columns_fingerprint).id)
                )
                continue
            is_same = before is not None and before.hash == named.hash and named.key_id not in removed
            if before is not None and is_same and not self._is_flagged_again(before):
                self.progress.unchanged += 1
                # A row that has a new version, or is seen for the first time since a poll was taken over, is observed
                # again, so that anything that poll may still write about it is older. So is a row that was sent again.
                if named.row.version is not None or epoch_of(before.seq) < self._observed_epoch:
                    observations.append(_observe(named, before, before.version))
                continue
            version = unused_version(named, before, named.row.version) if named.key_id in removed else None
            record = new_record(self._stream, named, before, columns_fingerprint, version)
            changed.append((named, record))
            observations.append(_observe(named, before, record.id))
        renamed = self._log_records(changed, known)
        observations = [
            replace(observation, version=renamed[observation.key_id].id)
            if observation.key_id in renamed
            else observation
            for observation in observations
        ]
        return self._ledger.keys.observe(self._stream.name, observations)

    @property
    def _observed_epoch(self) -> int:
        """An unchanged row is left alone only if it has been observed since this epoch."""
        return max(self._lease.contested_epoch, self._lease.resend_epoch)

    def _resend_unchanged(self, named_rows: Sequence[NamedRow], known: Mapping[str, KnownKey]) -> set[str]:
        """Send unchanged rows again after a rewind with `resend`; return the keys whose record was cleaned up."""
        if not self._lease.resend_epoch:
            return set()
        again = {
            named.key_id: before.version
            for named in named_rows
            if (before := known.get(named.key_id)) is not None
            and before.hash == named.hash
            and epoch_of(before.seq) < self._lease.resend_epoch
        }
        # This precedes the observation of the keys: a crash in between repeats it, and never skips it.
        present = self._resend(list(again.values()))
        return {key_id for key_id, record_id in again.items() if record_id not in present}

    def _resend(self, ids: Sequence[str]) -> set[str]:
        """Make delivered records due again under a new key; return the ids that are in the ledger. Safe to repeat.

        A record in flight is sent once more after it was accepted. Failed records wait for a replay.
        """
        if not ids:
            return set()
        self._ledger.delivery_states.resend(ids)
        # Read afterwards, because cleanup may remove a delivered record until it is due again.
        return {record.id for record in self._ledger.records.load_logged(ids)}

    def _is_flagged_again(self, before: KnownKey) -> bool:
        """Return whether a row was flagged again after its acknowledgement, because its users want it sent again."""
        return before.acknowledged_epoch is not None and before.acknowledged_epoch < self._lease.epoch

    def _log_records(
        self, changed: Sequence[tuple[NamedRow, NewRecord]], known: Mapping[str, KnownKey]
    ) -> dict[str, NewRecord]:
        """Insert records and judge duplicates; return, by key id, the records that got another name."""
        records = self._ledger.records
        sent, failed, duplicates = records.log([record for _, record in changed], self._lease.clock.now())
        adopted, renamed = settle_duplicates(self._stream, changed, known, duplicates, self._lease.rewound_epoch)
        superseded = records.raise_seq(adopted)
        for named, record in changed:
            if record.id in superseded:
                # The record was superseded before any key knew it, but the row now has this content, perhaps again.
                before = known.get(named.key_id)
                version = f"{record.version}/{before.seq if before else 0:x}"
                renamed[named.key_id] = new_record(self._stream, named, before, record.columns_fingerprint, version)
        self.progress.logged += len(adopted) - len(superseded)
        if renamed:
            more_sent, more_failed, again = records.log(list(renamed.values()), self._lease.clock.now())
            sent, failed = sent + more_sent, failed + more_failed
            seqs = {record.id: record.seq for record in renamed.values()}
            records.raise_seq({duplicate.id: seqs[duplicate.id] for duplicate in again})
            self.progress.logged += len(again)
        self.progress.logged += sent + failed
        self.progress.failed += failed
        return renamed

    def _log_append_only(self, named_rows: Sequence[NamedRow], columns_fingerprint: str) -> None:
        """Log rows of an append-only stream, which has no keys: key and cursor value identify a row."""
        records = self._ledger.records
        new = [
            self._append_only_record(named, columns_fingerprint, named.row.version or named.row.at)
            for named in named_rows
        ]
        sent, failed, duplicates = records.log(new, self._lease.clock.now())
        by_id = {record.id: (named, record) for named, record in zip(named_rows, new, strict=True)}
        renamed: list[NewRecord] = []
        for duplicate in duplicates:
            named, record = by_id[duplicate.id]
            if duplicate.hash != record.hash and duplicate.columns_fingerprint == record.columns_fingerprint:
                is_rewound = epoch_of(duplicate.seq) < self._lease.rewound_epoch
                # Children change without their row, also between an interrupted poll and the next one.
                if not is_rewound and not named.row.again and not self._stream.children:
                    raise source_restored(self._stream, named.row.key, record.version)
                other = self._append_only_record(named, columns_fingerprint, f"{record.version}/{record.hash}")
                renamed.append(other if is_rewound or other.error else replace(other, error=CHANGED))
        more_sent, more_failed, again = records.log(renamed, self._lease.clock.now())
        renamed_keys = {record.key_id for record in renamed}
        known = [duplicate for duplicate in duplicates if by_id[duplicate.id][0].key_id not in renamed_keys] + again
        old = [duplicate.id for duplicate in known if epoch_of(duplicate.seq) < self._lease.resend_epoch]
        self._resend(old)
        reread = [duplicate for duplicate in duplicates if not by_id[duplicate.id][0].row.ahead]
        self._note_reread(reread)
        records.let_go([duplicate.id for duplicate in reread if duplicate.kept])
        records.raise_seq(dict.fromkeys(old, make_seq(self._lease.epoch, self.progress.position)))
        self.progress.logged += sent + failed + more_sent + more_failed
        self.progress.failed += failed + more_failed
        self.progress.unchanged += len(known)

    def _append_only_record(self, named: NamedRow, columns_fingerprint: str, version: str) -> NewRecord:
        """Return the record of a row; after a rewind with `resend`, an earlier record may have been cleaned up."""
        record = new_record(self._stream, named, None, columns_fingerprint, version)
        if not self._lease.resend_epoch:
            return record
        return replace(record, generation=self._lease.resend_epoch * GENERATIONS_AT_MOST)


def _share_keys(named_rows: Sequence[NamedRow]) -> bool:
    """Tell whether rows of a page that were read for the first time have the same key, but other cursor values."""
    places: dict[str, str] = {}
    return any(
        places.setdefault(named.key_id, named.row.at) != named.row.at
        for named in named_rows
        if not named.row.again and named.row.op != "delete"
    )


def _observe(named: NamedRow, before: KnownKey | None, version: str) -> Observation:
    return Observation(
        key_id=named.key_id,
        key=named.row.key,
        previous_seq=None if before is None else before.seq,
        seq=named.seq,
        version=version,
        hash=named.hash,
        op=named.row.op,
        version_seq=before.version_seq if before is not None and version == before.version else None,
        nameless=named.row.nameless,
    )
