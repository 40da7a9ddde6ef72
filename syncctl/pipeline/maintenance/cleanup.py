"""cleanup: remove finished records older than their retention, from frozen hours only.

Their keys stay, or old rows would be logged again. Only the key of a deleted row is removed, once nothing refers to it
and the partner has no object for the row.
"""

import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from syncctl.archive.archive_files import ArchiveError
from syncctl.core.states import State
from syncctl.ledger.audit import AuditEntry
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.selections import list_scans
from syncctl.logs import get_logger
from syncctl.pipeline.maintenance.archive import archive_records
from syncctl.pipeline.reporting.roll_up import roll_up

log = get_logger(__name__)

RECORDS_AT_ONCE = 1000
ARCHIVED_AT_ONCE = 1000
ARCHIVED_BYTES_AT_ONCE = 8 * 1024 * 1024
"""Both are small, because a frame of the archive is read and written as a whole, and to let deliveries use MongoDB in
between."""
RUNS_KEPT = timedelta(days=30)
EMPTY_RUNS_KEPT = timedelta(days=1)
SILENT_WORKERS_KEPT_SECONDS = 86_400.0

DELETED_KEYS_KEPT_SECONDS = 7 * 86_400.0
"""Longer than any poll can stand still after it has read an older version of the row."""
DELETED_KEYS_AT_ONCE = 1000
DELETED_KEYS_AT_MOST = 20_000
"""How many keys of deleted rows one cleanup of a stream examines."""
KEYS_LEASE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """How many records a cleanup removed, or would remove, by state."""

    deleted: Mapping[str, int]
    #: How many of these records were archived first, or would be.
    archived: int
    dry_run: bool


def clean_up(
    *,
    ledger: Ledger,
    retention_seconds: Mapping[str, float],
    streams: Sequence[str] = (),
    who: str,
    dry_run: bool = False,
    archive: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[int], None] = lambda _: None,
) -> Cleaned:
    """Remove finished records older than their state's retention; safe to repeat and to interrupt.

    Args:
        archive: The directory to which records are written, and from which they are read back, before they are
            removed; None to keep no archive.
        retention_seconds: The retention by state; records in other states are kept.
        streams: The streams to clean up; if empty, all streams, also those that left the configuration.
        should_stop: Called between batches; if true, the rest is left to the next cleanup.
        show: Called with the number of records removed so far.

    Raises:
        ArchiveError: Records of a stream could not be archived, and were not removed. The other streams, and
            everything else, were cleaned up. The error names the first of several such streams.
    """
    ledger.ensure_prepared()
    roll_up(ledger=ledger, should_stop=should_stop)
    frozen = ledger.reports.frozen_until()
    now = ledger.streams.server_time()
    failures: list[ArchiveError] = []
    deleted = dict.fromkeys(retention_seconds, 0)
    detail: dict[str, Any] = {"deleted": deleted} | ({"streams": list(streams)} if streams else {})
    if archive is not None:
        detail["archive"] = str(archive)
    with ledger.audit.record(action="cleanup", who=who, detail=detail) as entry:
        # Shuffled: otherwise a cleanup that ends early would leave out the same streams each time.
        names = list(streams or ledger.streams.load_all())
        for stream in random.sample(names, len(names)):
            if should_stop():
                break
            # A stream without keys recognizes rows that it reads again by their records.
            logged_since = ledger.polls.load_logged_since(stream) or now
            ends = {
                State(state): min(now - timedelta(seconds=seconds), frozen, logged_since)
                for state, seconds in retention_seconds.items()
                if frozen is not None
            }
            if dry_run:
                for state, before in ends.items():
                    deleted[state] += ledger.operations.count_finished(stream, state, before)
                continue
            try:
                for state, removed in _remove(ledger, stream, ends, entry=entry, archive=archive):
                    deleted[state] += removed
                    entry.add(removed, deleted=deleted)
                    show(sum(deleted.values()))
                    if should_stop():
                        break
            except ArchiveError as error:
                if failures:
                    log.warning("cleanup.archive", stream=stream, error=str(error))
                failures.append(error)
            forget_deleted_rows(ledger, stream, should_stop=should_stop)
        if not dry_run:
            ledger.runs.remove(before=now - RUNS_KEPT, empty_before=now - EMPTY_RUNS_KEPT)
            ledger.heartbeats.forget_silent_workers(seconds=SILENT_WORKERS_KEPT_SECONDS)
            if any(deleted.values()):
                log.info("cleanup", **deleted)
        if failures:
            raise failures[0]
    archived = sum(deleted.values()) if archive is not None else 0
    return Cleaned(deleted=deleted, archived=archived, dry_run=dry_run)


def _remove(
    ledger: Ledger, stream: str, ends: Mapping[State, datetime], *, entry: AuditEntry, archive: Path | None
) -> Iterator[tuple[State, int]]:
    """Remove a stream's records that finished before the end of their state, batch by batch.

    After each batch, when nothing is half-done, it yields the state and how many records were removed.
    """
    for state, before in ends.items():
        if not ledger.operations.has_finished(stream, state, before):
            continue
        ledger.streams.note_cleaned(stream, before)
        entry.begin()
        remove = partial(ledger.operations.remove_finished, stream, state, before, limit=RECORDS_AT_ONCE)
        while True:
            if archive is None:
                removed = remove()
            else:
                page = ledger.operations.load_finished(
                    stream, state, before, limit=ARCHIVED_AT_ONCE, bytes_at_most=ARCHIVED_BYTES_AT_ONCE
                )
                if page:
                    archive_records(archive, stream, page)
                removed = remove(ids=[record["_id"] for record in page])
            if not removed:
                break
            yield state, removed


def find_cleaned_before(ledger: Ledger, stream: str) -> datetime | None:
    """Return a time since which all finished records of a stream still exist; None if none was ever removed."""
    is_noted, before = ledger.streams.load_cleaned_before(stream)
    if is_noted:
        return before
    # An earlier version of syncctl may have removed some: delivered records first, in the order in which they finished.
    cleaned_at = ledger.audit.find_newest("cleanup")
    (delivered,) = list_scans(stream, State.DELIVERED)
    oldest = ledger.selections.read_page(delivered, limit=1)
    return min(cleaned_at, oldest[0]["finished_at"]) if cleaned_at is not None and oldest else cleaned_at


def forget_deleted_rows(ledger: Ledger, stream: str, *, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Remove the keys of rows that were deleted long ago and have no records any more; return how many.

    No replay, no outcome and no older version can then refer to the key, and a row that comes back is a new row. Safe
    to repeat and to interrupt. While a poll of the stream is running, which could bring a row back, this is left to the
    next cleanup. It is also postponed after an interrupted poll, until a later one has read to the end: the interrupted
    poll may have logged a row without its key, and that row would otherwise get another name and be sent twice.
    """
    forgotten = 0
    for key_ids in _walk_deleted(ledger, stream):
        if should_stop():
            break
        ledger.keys.note_deleted(stream, key_ids)
        recorded = ledger.records.find_recorded_keys(stream, key_ids)
        unrecorded = [key_id for key_id in key_ids if key_id not in recorded]
        if not unrecorded:
            continue
        lease = ledger.polls.acquire(stream, seconds=KEYS_LEASE_SECONDS, worker="cleanup")
        if lease is None:
            break
        try:
            if lease.complete_epoch < lease.contested_epoch:
                break
            # Read again, because a poll may have brought a row back since.
            recorded = ledger.records.find_recorded_keys(stream, unrecorded)
            gone = [key_id for key_id in unrecorded if key_id not in recorded]
            gone = ledger.keys.find_long_deleted(stream, gone, seconds=DELETED_KEYS_KEPT_SECONDS)
            # Noted first, so that a row that comes back is sent under an `Idempotency-Key` that the partner never saw.
            if gone and ledger.polls.note_forgotten(lease):
                forgotten += ledger.keys.forget_deleted(stream, gone, seconds=DELETED_KEYS_KEPT_SECONDS)
        finally:
            ledger.polls.give_back(lease)
    if forgotten:
        log.info("cleanup.keys", stream=stream, removed=forgotten)
    return forgotten


def _walk_deleted(ledger: Ledger, stream: str) -> Iterator[list[str]]:
    """Yield ids of deleted rows' keys from a random start: if they are too many for one run, all have equal chances."""
    start, left = secrets.token_hex(16), DELETED_KEYS_AT_MOST
    place, is_second_half = start, False
    while left > 0:
        page = ledger.keys.load_deleted(stream, after=place, limit=min(left, DELETED_KEYS_AT_ONCE))
        key_ids = [key_id for key_id in page if not (is_second_half and key_id > start)]
        if key_ids:
            yield key_ids
            place, left = key_ids[-1], left - len(key_ids)
        elif is_second_half:
            return
        else:
            place, is_second_half = "", True
