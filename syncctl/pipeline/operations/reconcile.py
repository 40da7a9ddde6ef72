"""reconcile: compare the rows of a source with the ledger's knowledge of them, and log rows that the ledger lacks."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from syncctl.core.ids import record_id
from syncctl.core.rows import Cursor, Scanned
from syncctl.core.stream import SCANS, Stream
from syncctl.errors import SyncctlError, UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.maintenance.cleanup import find_cleaned_before
from syncctl.pipeline.operations.rewind import find_place
from syncctl.pipeline.operations.scratch_database import ScratchDatabase
from syncctl.pipeline.polling.identity import NamedRow, name_row
from syncctl.pipeline.polling.page import PageLog
from syncctl.pipeline.polling.poll import LEASE_SECONDS, end_run, name_failure, renew_in_background
from syncctl.pipeline.polling.recheck import Key, SourceRow, Verdict, find_gone, find_readable, recheck
from syncctl.pipeline.polling.wait_for_poll import PATIENCE_SECONDS, wait_for_poll_lease

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

KEYS_AT_ONCE = 5000
RECHECKED_AT_ONCE = 500
SAMPLES_AT_MOST = 10
RETENTION_MARGIN_SECONDS = 3600.0
"""A margin before the retention ends, because records that old may be removed while the rows are read."""


@dataclass(kw_only=True, slots=True)
class Differences:
    """How many rows of a source agree with the ledger, and how many differ, by kind. None means not counted."""

    stream: str
    source_rows: int = 0
    accounted: int = 0
    #: Rows that the next poll finds anyway.
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
        """Count one row of the source; return whether it has to be repaired."""
        if verdict == "gone":
            self.source_rows -= 1
        elif verdict == "accounted":
            self.accounted += 1
        elif verdict == "ahead":
            self.ahead += 1
        elif verdict == "stale":
            self.stale += 1
            self._keep_sample("stale", key)
            return True
        elif self.missing is not None:
            self.missing += 1
            self._keep_sample("missing", key)
            return True
        return False

    def count_extra(self, key: Key) -> None:
        """Count one row that the ledger knows and the source does not have."""
        self.extra = (self.extra or 0) + 1
        self._keep_sample("extra", key)

    def _keep_sample(self, kind: str, key: Key) -> None:
        if len(self.samples[kind]) < SAMPLES_AT_MOST:
            self.samples[kind].append(key)


@dataclass(frozen=True, slots=True)
class KnownRow:
    """The ledger's knowledge of a row."""

    key_id: str
    hash: str
    is_live: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """The result of a repair, as numbers of rows."""

    logged: int
    #: Logged rows that cannot be sent.
    failed: int
    #: Rows that the database cannot read.
    unreadable: int


@dataclass(kw_only=True)
class Reconciliation:
    """One comparison of a stream, and its repair."""

    ledger: Ledger
    stream: Stream
    reader: "StreamReader"
    scratch: ScratchDatabase
    #: Compare only rows that were read after this time.
    since: datetime | None
    #: The shortest time for which records are kept.
    retention_seconds: float
    wake: Callable[[], bool]
    worker: str
    #: Called with the number of rows read so far.
    show: Callable[[int], None]
    differences: Differences = field(init=False)
    _suspects: list[SourceRow] = field(init=False, default_factory=list)

    def compare(self) -> Differences:
        """Compare, and change nothing. As rows may change during the comparison, those that seem to differ are reread.

        Raises:
            UsageError: A time names no place in this stream, or its history does not reach back that far.
        """
        cursor = self.ledger.polls.load_cursor(self.stream.name)
        self.differences = Differences(stream=self.stream.name)
        self.scratch.clear()
        since = self._find_since()
        if cursor is not None and self.reader.mode == "change_tracking" and self.stream.start != "beginning":
            # Rows that existed before the start are not sent, and cannot be distinguished from lost ones.
            self.differences.missing = None
        if since is not None or self.stream.append_only or self.reader.mode == "flag":
            self.differences.extra = None
        if since is None and cursor is not None and "floor" in cursor:
            since = {**cursor, **cursor["floor"]}
        pages = self._name_pages(self.reader.scan(cursor, since=since))
        if self.stream.append_only:
            self._compare_records(pages)
        elif self.differences.extra is None:
            self._compare_pages(pages)
        else:
            self._compare_all(pages)
        self._recheck_suspects()
        return self.differences

    def _find_since(self) -> Cursor | None:
        """Return the cursor behind which rows are compared; None for all rows."""
        at, name = self.since, self.stream.name
        if at is not None and self.reader.mode in SCANS:
            raise UsageError(
                f"stream {name} cannot be reconciled since a time",
                why=f"mode {self.reader.mode} has no cursor column that tells when a row was read",
                hint=f"run: syncctl reconcile {name}",
            )
        if self.stream.append_only:
            kept = max(0.0, self.retention_seconds - RETENTION_MARGIN_SECONDS)
            kept_since = self.ledger.streams.server_time() - timedelta(seconds=kept)
            # The retention may have been shorter before, or an operator may have run a cleanup.
            if (cleaned_before := find_cleaned_before(self.ledger, name)) is not None:
                kept_since = max(kept_since, cleaned_before)
            if at is None or at < kept_since:
                return self.ledger.runs.find_cursor_since(name, kept_since)
            cursor = find_place(self.ledger, self.stream, self.reader, at)
            known = self.ledger.runs.find_cursor(name, kept_since)
            if known is not None and known[0] == cursor:
                # A run that was in progress at both times may have read any of its rows before the earlier one.
                return self.ledger.runs.find_cursor_since(name, kept_since)
            return cursor
        return None if at is None else find_place(self.ledger, self.stream, self.reader, at)

    def _name_pages(self, pages: Iterator[list[Scanned]]) -> Iterator[list[tuple[NamedRow, SourceRow]]]:
        """Yield pages of rows, named as by a poll, and show how many were read."""
        read = 0
        for page in pages:
            rows = []
            for scanned in page:
                named = name_row(scanned.row, seq=0)
                row = named.row
                rows.append(
                    (
                        named,
                        SourceRow(
                            key_id=named.key_id, hash=named.hash, is_ahead=scanned.is_ahead, at=row.at, key=row.key
                        ),
                    )
                )
            read += len(page)
            self.show(read)
            yield rows

    def _compare_all(self, pages: Iterator[list[tuple[NamedRow, SourceRow]]]) -> None:
        """Compare all rows with all keys, both in the order of the keys' ids."""
        for page in pages:
            self.scratch.add_rows(row for _, row in page)
        extra: list[str] = []
        for key_id, rows, known in join(self.scratch.sorted_rows(), self._walk_keys()):
            if rows:
                self._judge(rows, None if known is None else known.hash)
            elif known is not None and known.is_live:
                extra.append(key_id)
                if len(extra) >= RECHECKED_AT_ONCE:
                    self._recheck_extra(extra)
                    extra = []
        self._recheck_extra(extra)

    def _walk_keys(self) -> Iterator[KnownRow]:
        after = ""
        while page := self.ledger.keys.load_contents(self.stream.name, after=after, limit=KEYS_AT_ONCE):
            for key_id, content, op in page:
                yield KnownRow(key_id, content, op == "upsert")
            after = page[-1][0]

    def _compare_pages(self, pages: Iterator[list[tuple[NamedRow, SourceRow]]]) -> None:
        """Compare rows with their keys page by page; extra rows are not looked for."""
        for page in pages:
            known = self.ledger.keys.load(self.stream.name, [row.key_id for _, row in page])
            for _, row in page:
                key = known.get(row.key_id)
                self._judge([row], None if key is None else key.hash)

    def _compare_records(self, pages: Iterator[list[tuple[NamedRow, SourceRow]]]) -> None:
        """Compare rows with their records by name: an append-only stream has no keys."""
        for page in pages:
            names = [self._name_records(named) for named, _ in page]
            logged = {
                record.id: record
                for record in self.ledger.records.load_logged([name for pair in names for name in pair])
            }
            for (_, row), (first, renamed) in zip(page, names, strict=True):
                record = logged.get(first)
                is_same = record is not None and (
                    record.hash == row.hash or record.columns_fingerprint != self.reader.columns_fingerprint
                )
                self.differences.source_rows += 1
                verdict: Verdict = "missing" if record is None else "stale"
                if is_same or renamed in logged:
                    verdict = "accounted"
                elif row.is_ahead:
                    verdict = "ahead"
                self._count(verdict, row.key)

    def _name_records(self, named: NamedRow) -> tuple[str, str]:
        """Return the two ids under which a poll may have logged a row."""
        version, stream = named.row.version or named.row.at, self.stream.name
        return (
            record_id(stream, named.key_id, version),
            record_id(stream, named.key_id, f"{version}/{named.hash}"),
        )

    def _judge(self, rows: Sequence[SourceRow], known_hash: str | None) -> None:
        """Judge one row, which may have been read twice if it moved during the read."""
        self.differences.source_rows += 1
        if any(row.hash == known_hash for row in rows):
            self.differences.count("accounted", rows[0].key)
        elif any(row.is_ahead for row in rows):
            self.differences.count("ahead", rows[0].key)
        else:
            self._suspects.append(rows[-1])
            if len(self._suspects) >= RECHECKED_AT_ONCE:
                self._recheck_suspects()

    def _recheck_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        if suspects:
            verdicts = recheck(self.ledger, self.stream.name, self.reader, suspects)
            for suspect, verdict in zip(suspects, verdicts, strict=True):
                self._count(verdict, suspect.key)

    def _recheck_extra(self, key_ids: Sequence[str]) -> None:
        keys = self.ledger.keys.load_keys(self.stream.name, key_ids)
        for key in find_gone(self.ledger, self.stream.name, self.reader, keys):
            self.differences.count_extra(key)

    def _count(self, verdict: Verdict, key: Key) -> None:
        if self.differences.count(verdict, key):
            self.scratch.add_to_repair(key)

    def repair(
        self, *, who: str, lease_seconds: float = LEASE_SECONDS, patience_seconds: float = PATIENCE_SECONDS
    ) -> Repair:
        """Log missing and stale rows as they are now, as a poll does, without moving the cursor.

        Safe to repeat and to interrupt.

        Args:
            patience_seconds: How long to wait for the end of a running poll.

        Raises:
            LeaseHeld: A poll is running, or has taken over the lease.
        """
        started = time.monotonic()
        ledger, stream = self.ledger, self.stream
        lease = wait_for_poll_lease(
            ledger, stream.name, worker=self.worker, lease_seconds=lease_seconds, patience_seconds=patience_seconds
        )
        # An operator asks for the rows as they are now, so their versions may have names that the ledger already knows.
        pages = PageLog(ledger, stream, replace(lease, rewound_epoch=lease.epoch), lease_seconds=lease_seconds)
        unreadable = 0
        error: SyncctlError | None = None
        detail = {"stream": stream.name, "complete": False}
        try:
            with (
                ledger.audit.record(action="repair", who=who, detail=detail) as entry,
                renew_in_background(ledger, lease, pages.progress, seconds=lease_seconds),
            ):
                entry.begin()
                for keys in self.scratch.keys_to_repair():
                    rows, failed = find_readable(self.reader, keys)
                    unreadable += len(failed)
                    pages.log_rows(rows, columns_fingerprint=self.reader.columns_fingerprint)
                    entry.add(pages.progress.logged - entry.count, unreadable=unreadable)
                    if self.wake():
                        pages.progress.dispatched = pages.progress.logged - pages.progress.failed
                entry.add(0, complete=True)
        except BaseException as caught:
            error = name_failure(caught)
            raise
        finally:
            end_run(ledger, pages, lease, error=error, started=started)
        self.differences.repaired = pages.progress.logged
        return Repair(logged=pages.progress.logged, failed=pages.progress.failed, unreadable=unreadable)


def join(
    rows: Iterator[SourceRow], known_rows: Iterator[KnownRow]
) -> Iterator[tuple[str, list[SourceRow], KnownRow | None]]:
    """Yield, in the order of key ids, each key with the source's rows of it and the ledger's knowledge of it."""
    known = next(known_rows, None)
    for key_id, group in groupby(rows, key=lambda row: row.key_id):
        while known is not None and known.key_id < key_id:
            yield known.key_id, [], known
            known = next(known_rows, None)
        is_known = known is not None and known.key_id == key_id
        yield key_id, list(group), known if is_known else None
        if is_known:
            known = next(known_rows, None)
    while known is not None:
        yield known.key_id, [], known
        known = next(known_rows, None)
