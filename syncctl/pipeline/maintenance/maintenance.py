"""Maintenance, which Beat starts at short intervals: bring back the records of dead workers, release held records."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime

from syncctl.core.stream import Partner, Stream
from syncctl.errors import ServiceUnavailable, SyncctlError
from syncctl.ledger.batches import ExpiredBatch
from syncctl.ledger.lease_rescue import Lost
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger
from syncctl.pipeline.pause import end_pauses_over

log = get_logger(__name__)

BATCHES_AT_ONCE = 20
HELD_AT_ONCE = 2000
OVERDUE_SECONDS = 300.0
JOBS_MISSED = 10
"""One of Beat's jobs is overdue once it was missed this many times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Maintained:
    """How many records the maintenance of one stream returned and released, and how many messages it sent."""

    stream: str
    returned: int = 0
    released: int = 0
    dispatched: int = 0


def rescue_leases(*, ledger: Ledger, streams: Mapping[str, Stream], partners: Mapping[str, Partner]) -> dict[str, int]:
    """Bring back the records of batches whose lease ran out; return how many by stream. Safe to repeat, or run twice.

    Records whose calls cannot have begun are due at once. The others are due once the call of the lost process must
    have ended: the process may have begun it until its lease ran out (invariants 3, 5, 7, 13).
    """
    returned: dict[str, int] = {}
    while batches := ledger.batches.seize_expired(list(streams), limit=BATCHES_AT_ONCE):
        for batch in batches:
            stream = streams[batch.stream]
            timeout_seconds = partners[stream.partner].timeout_seconds
            count = _bring_back(ledger, stream, batch, timeout_seconds=timeout_seconds)
            if count:
                returned[stream.name] = returned.get(stream.name, 0) + count
                log.warning("upkeep.leases_returned", stream=stream.name, records=count, worker=batch.worker)
        if len(batches) < BATCHES_AT_ONCE:
            break
    return returned


def _bring_back(ledger: Ledger, stream: Stream, batch: ExpiredBatch, *, timeout_seconds: float) -> int:
    returned = ledger.lease_rescue.give_back_unsent(batch)
    lost = ledger.lease_rescue.find_lost(batch)
    if lost:
        new_keys: set[str] = set()
        if stream.order != "none" and not stream.append_only:
            new_keys = _find_overtaken(ledger, stream, lost)
            # Invariant 5: before the state changes, so that the sender of a newer version knows of these calls.
            # A call that began as the lease ended lasts for one deadline, and may take effect within another one.
            calls = [record.call for record in lost]
            ledger.keys.note_unsettled(stream.name, calls, seconds=2 * timeout_seconds)
            if stream.lookup is not None:
                ledger.keys.note_doubt(stream.name, [(call.key_id, call.seq, call.seq) for call in calls])
        fail_first = stream.ambiguous == "fail"
        returned += ledger.lease_rescue.return_lost(
            batch,
            lost,
            after_seconds=timeout_seconds,
            fail_first=fail_first,
            new_keys=new_keys,
            writes_back=bool(stream.write_back),
        )
    ledger.batches.end_if_done(batch)
    return returned


def _give_back_stranded(ledger: Ledger, stream: Stream) -> int:
    count = ledger.lease_rescue.give_back_stranded(stream.name)
    if count:
        log.warning("upkeep.stranded_returned", stream=stream.name, records=count)
    return count


def _find_overtaken(ledger: Ledger, stream: Stream, lost: Sequence[Lost]) -> set[str]:
    """Return the records after whose call an outdated call may have taken effect, or still may (invariant 5).

    If the partner has acted on a record's call, it would treat the next call under the same key as a repeat.
    """
    known = ledger.keys.load(stream.name, [record.call.key_id for record in lost])
    return {
        record.id
        for record in lost
        if (key := known.get(record.call.key_id)) is not None
        and any(
            call.is_outdated(seq=record.call.seq, mapping_hash=record.call.mapping_hash)
            and call.until > record.claimed_at
            for call in key.unsettled
        )
    }


def release_held(*, ledger: Ledger, stream: Stream) -> int:
    """Make records due that no longer need to wait for another one; return how many.

    Safe to repeat, also by several at once. Normally a worker releases records when the older record is finished, and a
    poll releases those whose rows it finds. This is for a worker that died in between, for a failed record that was
    cleaned up or has held others for long enough, for a stream that is no longer strict, and for a poll that has read
    to the end: dispatch judges the records again.
    """
    return ledger.sequencing.release_unheld(
        stream.name,
        has_sequence=stream.has_sequence,
        hold_seconds=stream.hold_seconds,
        limit=HELD_AT_ONCE,
    )


def maintain_stream(*, ledger: Ledger, stream: Stream, partner: Partner, wake: Callable[[], int]) -> Maintained:
    """Do one stream's maintenance: end pauses, return expired leases, release records that wait for nothing, wake.

    Args:
        wake: Wakes a worker if records of the stream are due; returns how many messages it sent.

    Raises:
        ServiceUnavailable: Redis cannot be reached (leases have been returned anyway), or MongoDB cannot.
    """
    end_pauses_over(ledger=ledger, stream=stream.name, partner=partner.name)
    rescued = rescue_leases(ledger=ledger, streams={stream.name: stream}, partners={partner.name: partner})
    returned = rescued.get(stream.name, 0) + _give_back_stranded(ledger, stream)
    released = release_held(ledger=ledger, stream=stream)
    return Maintained(stream=stream.name, returned=returned, released=released, dispatched=wake())


@dataclass(frozen=True, kw_only=True, slots=True)
class OverdueJob:
    """One of Beat's jobs that no worker has done for too long."""

    name: str
    done_at: datetime | None
    #: The error that ended its last run.
    error: str | None


def find_overdue(ledger: Ledger, every_seconds: Mapping[str, float]) -> list[OverdueJob]:
    """Return Beat's jobs that are overdue although Beat is alive."""
    beat = ledger.heartbeats.load_beat()
    if beat is None or beat["late"]:
        return []
    now, jobs = ledger.streams.server_time(), ledger.maintenance.load()
    overdue = []
    for name, seconds in every_seconds.items():
        job = jobs.get(name, {})
        is_taken = job.get("until") is not None and job["until"] > now
        # Heartbeats of earlier versions of syncctl do not say since when Beat has been alive.
        alive_since = beat.get("since", now)
        since = max(job.get("done_at") or alive_since, alive_since)
        if not is_taken and (now - since).total_seconds() > max(OVERDUE_SECONDS, JOBS_MISSED * seconds):
            overdue.append(OverdueJob(name=name, done_at=job.get("done_at"), error=job.get("error")))
    return overdue


def find_failing(ledger: Ledger) -> list[OverdueJob]:
    """Return Beat's jobs that failed when they were last tried, whether they are overdue or not yet."""
    return [
        OverdueJob(name=name, done_at=job.get("done_at"), error=job["error"])
        for name, job in sorted(ledger.maintenance.load().items())
        if job.get("error")
    ]


@contextmanager
def note_maintenance(ledger: Ledger, name: str) -> Iterator[None]:
    """Note that one of Beat's jobs was done, or the error that ended it."""
    try:
        yield
    except SyncctlError as error:
        with suppress(ServiceUnavailable):
            ledger.maintenance.note_failed(name, str(error))
        raise
    ledger.maintenance.note_done(name)


@contextmanager
def maintenance_lease(ledger: Ledger, name: str, *, seconds: float) -> Iterator[bool]:
    """Hold the lease of one of Beat's jobs; yield False if another worker holds it, or the job rests.

    A job rests nine times as long as it took, so that it takes at most a tenth of a worker's time.
    """
    is_held = ledger.maintenance.acquire(name, seconds=seconds)
    started = time.monotonic()
    try:
        with note_maintenance(ledger, name) if is_held else nullcontext():
            yield is_held
    finally:
        if is_held:
            ledger.maintenance.release(name, rest_seconds=9 * (time.monotonic() - started))
