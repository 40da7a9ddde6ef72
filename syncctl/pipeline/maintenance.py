"""Maintenance, which Beat has done at short intervals: bring back what dead workers held, dispatch due records."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from syncctl.core.states import State
from syncctl.core.stream import Stream
from syncctl.ledger.lease_rescue import ExpiredLease
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger

log = get_logger(__name__)

RECORDS_AT_ONCE = 500
HELD_AT_ONCE = 2000
FORGOTTEN_AFTER_SECONDS = 15.0
"""How long records may be queued while Redis holds no message, before they are queued anew.

If a worker has fetched the message and not begun it, the batch is queued once more, and the old message claims nothing.
Counting fetched messages too would count those of dead workers, for an hour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Maintained:
    """How many records of a stream one maintenance has moved."""

    stream: str
    #: Their lease had run out.
    returned: int = 0
    #: Their message was lost.
    forgotten: int = 0
    #: They waited for a record that holds them no longer.
    released: int = 0
    dispatched: int = 0


def maintain_stream(
    *,
    ledger: Ledger,
    stream: Stream,
    settle_seconds: float,
    messages_waiting: Callable[[], int],
    dispatch: Callable[[], int],
) -> Maintained:
    """Do one stream's maintenance: expired leases, lost messages, held records, dispatch. Safe to repeat.

    Raises:
        ServiceUnavailable: Redis is away (expired leases have been returned all the same), or MongoDB is.
    """
    returned = return_expired_leases(ledger=ledger, stream=stream, settle_seconds=settle_seconds)
    forgotten = requeue_forgotten(ledger=ledger, stream=stream, messages_waiting=messages_waiting)
    released = release_held(ledger=ledger, stream=stream)
    return Maintained(
        stream=stream.name, returned=returned, forgotten=forgotten, released=released, dispatched=dispatch()
    )


def return_expired_leases(*, ledger: Ledger, stream: Stream, settle_seconds: float) -> int:
    """Bring back the records of a stream whose lease ran out; return how many. Safe to repeat, also by several.

    Args:
        settle_seconds: How long a call that a dead worker had begun may still take effect at the partner.
    """
    returned = 0
    while expired := ledger.lease_rescue.find_expired(stream.name, limit=RECORDS_AT_ONCE):
        returned += _bring_back(ledger, stream, expired, settle_seconds=settle_seconds)
        if len(expired) < RECORDS_AT_ONCE:
            break
    if returned:
        log.warning("upkeep.leases_returned", stream=stream.name, records=returned)
    return returned


def _bring_back(ledger: Ledger, stream: Stream, expired: Sequence[ExpiredLease], *, settle_seconds: float) -> int:
    if stream.order != "none" and not stream.append_only:
        # Invariant 5: before the state changes, so that the sender of a newer version knows of these calls.
        calls = [(lease.key_id, lease.seq, lease.call) for lease in expired if lease.state is State.SENDING]
        ledger.keys.note_unsettled(stream.name, calls, seconds=settle_seconds)
    return ledger.lease_rescue.bring_back(expired, fail_first=stream.ambiguous == "fail")


def requeue_forgotten(*, ledger: Ledger, stream: Stream, messages_waiting: Callable[[], int]) -> int:
    """Queue records anew whose message is gone, because Redis was flushed or lost (invariant 2); return how many."""
    forgotten = ledger.lease_rescue.find_forgotten(
        stream.name,
        after_seconds=FORGOTTEN_AFTER_SECONDS,
        lease_seconds=stream.lease_seconds,
        limit=stream.window,
    )
    if not forgotten or messages_waiting() > 0:
        return 0
    returned = ledger.lease_rescue.bring_back(forgotten, even_unexpired=True)
    log.warning("upkeep.messages_lost", stream=stream.name, records=returned)
    return returned


def release_held(*, ledger: Ledger, stream: Stream) -> int:
    """Make records due that wait for another one without need; return how many. Safe to repeat, also by several.

    Normally a worker releases them when the older record is finished. This is for a worker that died in between, for a
    failed record that was cleaned up or has held others for long enough, and for a stream that is not strict any more.
    """
    if stream.order == "strict":
        return ledger.sequencing.release_unheld(
            stream.name, hold_seconds=stream.strict_hold_seconds, limit=HELD_AT_ONCE
        )
    return ledger.sequencing.release_all(stream.name, limit=HELD_AT_ONCE)


@contextmanager
def maintenance_lease(ledger: Ledger, name: str, *, seconds: float) -> Iterator[bool]:
    """Hold the lease of one of Beat's jobs; False when another worker holds it, or the job rests.

    A job rests nine times as long as it took, so that it takes at most a tenth of a worker's time.
    """
    is_held = ledger.maintenance.acquire(name, seconds=seconds)
    started = time.monotonic()
    try:
        yield is_held
    finally:
        if is_held:
            ledger.maintenance.release(name, rest_seconds=9 * (time.monotonic() - started))
