"""One page on its way into the ledger: its records, its keys, the cursor; in this order (invariant 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from syncctl.core.ids import content_hash, epoch_of, make_seq
from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import Stream
from syncctl.errors import InternalError, LeaseHeld
from syncctl.ledger.keys import KnownKey, Observation
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import NewRecord
from syncctl.ledger.streams import PollLease
from syncctl.pipeline.identity import Seen, identify, new_record, restored, settle_duplicates, unused_version
from syncctl.pipeline.resend import resend_records

COMPARISONS_AT_MOST = 5
CHANGED = (
    "the row was changed after it had been logged, and append_only says that rows never are: a replay sends it as it is"
    " now; to have changes sent, leave append_only out"
)


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

    def log(self, page: Page, *, columns_fingerprint: str) -> None:
        """Log a page; safe to repeat.

        Raises:
            LeaseHeld: Somebody has taken this poll over.
            SourceRestored: Versions of the source run again.
        """
        self.log_rows(page.rows, columns_fingerprint=columns_fingerprint)
        self.move_cursor(page.cursor)

    def log_rows(self, rows: Sequence[Row], *, columns_fingerprint: str) -> None:
        """Log rows and leave the cursor where it is; as `log` does."""
        seen = self._name(rows)
        self.progress.read += len(seen)
        if self._stream.append_only:
            self._log_append_only(seen, columns_fingerprint)
        else:
            self._log_with_keys(seen, columns_fingerprint)

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

    def _log_with_keys(self, seen: Sequence[Seen], columns_fingerprint: str) -> None:
        remaining = list({each.key_id: each for each in seen}.values())
        self.progress.unchanged += len(seen) - len(remaining)
        for _ in range(COMPARISONS_AT_MOST):
            if not remaining:
                return
            known = self._ledger.keys.load(self._stream.name, [each.key_id for each in remaining])
            # Only a later poll gives a higher seq. What it saw is newer than this page, however late that was read.
            if any(each.key_id in known and known[each.key_id].seq > each.seq for each in remaining):
                raise self._taken_over()
            conflicts = set(self._log_changes(remaining, known, columns_fingerprint))
            # Somebody else wrote these keys since they were read: either this poll was taken over, or they were.
            remaining = [each for each in remaining if each.key_id in conflicts]
            if remaining and not self._ledger.streams.renew_poll(self._lease, seconds=self._lease_seconds):
                raise self._taken_over()
        if remaining:
            what = f"{len(remaining)} keys of {self._stream.name} would not settle"
            raise InternalError(what, why="they changed on each look")

    def _log_changes(self, seen: Sequence[Seen], known: Mapping[str, KnownKey], columns_fingerprint: str) -> list[str]:
        """Log the rows that are new or changed, then tell their keys; return the keys to compare anew."""
        changed: list[tuple[Seen, NewRecord]] = []
        observations: list[Observation] = []
        removed = self._send_again(seen, known)
        for each in seen:
            before = known.get(each.key_id)
            if before is None and each.row.op == "delete":
                # Nobody was told of this row. Its key says that it is gone to whoever still holds a version of it.
                self.progress.unchanged += 1
                observations.append(_observe(each, None, new_record(self._stream, each, None, columns_fingerprint).id))
                continue
            is_same = before is not None and before.hash == each.hash and each.key_id not in removed
            if before is not None and is_same and not self._is_flagged_again(before):
                self.progress.unchanged += 1
                # A row seen under a new version, or for the first time since a poll was taken over, is observed
                # anew: what that poll may still write about it is then older. So is one that was sent again.
                if each.row.version is not None or epoch_of(before.seq) < self._observed_epoch:
                    observations.append(_observe(each, before, before.version))
                continue
            version = unused_version(each, before, each.row.version) if each.key_id in removed else None
            record = new_record(self._stream, each, before, columns_fingerprint, version)
            changed.append((each, record))
            observations.append(_observe(each, before, record.id))
        renamed = self._log_records(changed, known)
        observations = [
            replace(each, version=renamed[each.key_id].id) if each.key_id in renamed else each for each in observations
        ]
        return self._ledger.keys.observe(self._stream.name, observations)

    @property
    def _observed_epoch(self) -> int:
        """The epoch in which a row must have been observed to be left alone when it is unchanged."""
        return max(self._lease.contested_epoch, self._lease.resend_epoch)

    def _send_again(self, seen: Sequence[Seen], known: Mapping[str, KnownKey]) -> set[str]:
        """Send unchanged rows behind a rewind with `resend` once more; return the keys whose record was cleaned up."""
        if not self._lease.resend_epoch:
            return set()
        again = {
            each.key_id: before.version
            for each in seen
            if (before := known.get(each.key_id)) is not None
            and before.hash == each.hash
            and epoch_of(before.seq) < self._lease.resend_epoch
        }
        # Before the keys say that they were observed: a crash between the two repeats it, and never forgets it.
        there = resend_records(self._ledger, list(again.values()))
        return {key for key, record in again.items() if record not in there}

    def _is_flagged_again(self, before: KnownKey) -> bool:
        """Say whether a row that the source was told of stands there anew: somebody wants it sent once more."""
        return before.acknowledged_epoch is not None and before.acknowledged_epoch < self._lease.epoch

    def _log_records(
        self, changed: Sequence[tuple[Seen, NewRecord]], known: Mapping[str, KnownKey]
    ) -> dict[str, NewRecord]:
        """Insert records and judge those that were there already; return, by key id, those that got another name."""
        records = self._ledger.records
        sent, failed, duplicates = records.log([record for _, record in changed], self._lease.clock.now())
        adopted, renamed = settle_duplicates(self._stream, changed, known, duplicates, self._lease.rewound_epoch)
        records.raise_seq(adopted)
        self.progress.logged += len(adopted)
        if renamed:
            more_sent, more_failed, again = records.log(list(renamed.values()), self._lease.clock.now())
            sent, failed = sent + more_sent, failed + more_failed
            self.progress.logged += len(again)
        self.progress.logged += sent + failed
        self.progress.failed += failed
        return renamed

    def _log_append_only(self, seen: Sequence[Seen], columns_fingerprint: str) -> None:
        """Log rows of a table that is only ever appended to: no keys; a row is known by its key and cursor value."""
        new = [
            new_record(self._stream, each, None, columns_fingerprint, each.row.version or each.row.at) for each in seen
        ]
        sent, failed, duplicates = self._ledger.records.log(new, self._lease.clock.now())
        by_id = {record.id: (each, record) for each, record in zip(seen, new, strict=True)}
        renamed: list[NewRecord] = []
        for duplicate in duplicates:
            each, record = by_id[duplicate.id]
            if duplicate.hash != record.hash and duplicate.columns_fingerprint == record.columns_fingerprint:
                is_rewound = epoch_of(duplicate.seq) < self._lease.rewound_epoch
                if not is_rewound and not each.row.again:
                    raise restored(self._stream, each.row.key, record.version)
                other = new_record(self._stream, each, None, columns_fingerprint, f"{record.version}/{record.hash}")
                renamed.append(other if is_rewound or other.error else replace(other, error=CHANGED))
        more_sent, more_failed, again = self._ledger.records.log(renamed, self._lease.clock.now())
        others = {each.key_id for each in renamed}
        known = [each for each in duplicates if by_id[each.id][0].key_id not in others] + again
        old = [each.id for each in known if epoch_of(each.seq) < self._lease.resend_epoch]
        resend_records(self._ledger, old)
        self._ledger.records.raise_seq(dict.fromkeys(old, make_seq(self._lease.epoch, self.progress.position)))
        self.progress.logged += sent + failed + more_sent + more_failed
        self.progress.failed += failed + more_failed
        self.progress.unchanged += len(known)


def _observe(each: Seen, before: KnownKey | None, version: str) -> Observation:
    return Observation(
        key_id=each.key_id,
        key=each.row.key,
        previous_seq=None if before is None else before.seq,
        seq=each.seq,
        version=version,
        hash=each.hash,
        op=each.row.op,
        nameless=each.row.nameless,
    )
