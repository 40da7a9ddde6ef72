"""Maintenance, which Beat has done at short intervals: bring back what dead workers held, dispatch due records."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from syncctl.core.states import State
from syncctl.core.stream import Stream
from syncctl.ledger.lease_rescue import Expired
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger

log = get_logger(__name__)

AT_ONCE = 500
WAITING_AT_ONCE = 2000
FORGOTTEN_AFTER_SECONDS = 15.0
"""How long records may be queued while no message waits in Redis, before they are queued anew.

A worker may have fetched the message and not begun it: then the batch is queued once more, and the old message claims
nothing. Counting fetched messages instead would count those of dead workers, for an hour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Maintained:
    """How many records of a stream one maintenance has moved."""

    stream: str
    returned: int = 0
    forgotten: int = 0
    released: int = 0
    dispatched: int = 0


def return_leases(*, ledger: Ledger, stream: Stream, settle_seconds: float) -> int:
    """Bring back the records of a stream whose lease ran out; return how many. Safe to repeat, also by several.

    Args:
        settle_seconds: How long a call that a dead worker had begun may still take to land at the partner.
    """
    returned = 0
    while expired := ledger.returns.find_expired(stream.name, limit=AT_ONCE):
        returned += _bring_back(ledger, stream, expired, settle_seconds=settle_seconds)
        if len(expired) < AT_ONCE:
            break
    if returned:
        log.warning("upkeep.leases_returned", stream=stream.name, records=returned)
    return returned


def _bring_back(ledger: Ledger, stream: Stream, expired: list[Expired], *, settle_seconds: float) -> int:
    if stream.order != "none" and not stream.append_only:
        # Before the state changes: whoever sends a newer version from then on must know of this call.
        sending = [(each.key_id, each.seq, each.call) for each in expired if each.state is State.SENDING]
        ledger.keys.note_unsettled(stream.name, sending, seconds=settle_seconds)
    return ledger.returns.return_expired(expired, hold=stream.ambiguous == "hold")


def return_forgotten(*, ledger: Ledger, stream: Stream, messages_waiting: Callable[[], int]) -> int:
    """Bring back queued records whose message is gone, for Redis was flushed or lost; return how many."""
    forgotten = ledger.returns.find_forgotten(
        stream.name,
        after_seconds=FORGOTTEN_AFTER_SECONDS,
        lease_seconds=stream.lease_seconds,
        limit=stream.window,
    )
    if not forgotten or messages_waiting() > 0:
        return 0
    returned = ledger.returns.return_expired(forgotten, even_unexpired=True)
    log.warning("upkeep.messages_lost", stream=stream.name, records=returned)
    return returned


def release_waiting(*, ledger: Ledger, stream: Stream) -> int:
    """Make due what waits for nothing any more; return how many. Safe to repeat, also by several.

    What a worker releases when a record lands is all that is usual; this is for one that died in between, for a failed
    record that was cleaned up or has held for long enough, and for a stream whose order is not strict any more.
    """
    if stream.order == "strict":
        return ledger.waiting.sweep(stream.name, hold_seconds=stream.strict_hold_seconds, limit=WAITING_AT_ONCE)
    return ledger.waiting.release_all(stream.name, limit=WAITING_AT_ONCE)


def maintain_stream(
    *,
    ledger: Ledger,
    stream: Stream,
    settle_seconds: float,
    messages_waiting: Callable[[], int],
    dispatch: Callable[[], int],
) -> Maintained:
    """Do one stream's maintenance: expired leases, lost messages, records that wait for nothing any more, dispatch.

    Raises:
        ServiceUnavailable: Redis is away (leases have been returned all the same), or MongoDB is.
    """
    returned = return_leases(ledger=ledger, stream=stream, settle_seconds=settle_seconds)
    forgotten = return_forgotten(ledger=ledger, stream=stream, messages_waiting=messages_waiting)
    released = release_waiting(ledger=ledger, stream=stream)
    return Maintained(
        stream=stream.name, returned=returned, forgotten=forgotten, released=released, dispatched=dispatch()
    )


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
