"""dispatch: mark due records as queued and send one message per batch. Redis only carries the wake-up."""

from collections.abc import Callable, Sequence

from syncctl.core.breaker import BreakerState
from syncctl.core.ids import epoch_of
from syncctl.core.stream import Stream
from syncctl.core.windows import Sizes
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.client import new_token
from syncctl.ledger.keys import KnownKey, Observation
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import DueRecord
from syncctl.ledger.streams import DispatchLease, Gate
from syncctl.logs import get_logger
from syncctl.pipeline.strict_order import OrderSplit, split_by_sequence

log = get_logger(__name__)

LEASE_SECONDS = 20.0
ROUNDS_AT_MOST = 100
PROBE_CANDIDATES = 20
PROBE_SECONDS = 60.0
"""How long one record has the right to be the probe: its message may be lost, or find no free worker."""

Publish = Callable[[str, str, Sequence[str]], None]
"""Send the message for (stream, batch token, record ids); raises ServiceUnavailable when Redis is away."""


def dispatch_stream(
    *,
    ledger: Ledger,
    stream: Stream,
    sizes: Sizes,
    publish: Publish,
    messages_waiting: Callable[[], int],
    worker: str,
) -> int:
    """Queue due records, up to the window; return how many. Safe to repeat, also by several at once (invariant 8).

    Raises:
        ServiceUnavailable: Redis is away, and unpublished records were put back; or MongoDB is.
    """
    lease = ledger.streams.acquire_dispatch(stream.name, seconds=LEASE_SECONDS, worker=worker)
    if lease is None:
        return 0
    queued = 0
    try:
        for _ in range(ROUNDS_AT_MOST):
            queued += dispatch_once(ledger, stream, sizes, publish, messages_waiting)
            # False where another dispatch was wanted meanwhile.
            if ledger.streams.release_dispatch(lease):
                return queued
    except BaseException:
        _abandon(ledger, lease)
        raise
    ledger.streams.abandon_dispatch(lease)
    return queued


def _abandon(ledger: Ledger, lease: DispatchLease) -> None:
    try:
        ledger.streams.abandon_dispatch(lease)
    except ServiceUnavailable as error:
        log.warning("dispatch.unreleased", error=str(error))


def dispatch_once(
    ledger: Ledger, stream: Stream, sizes: Sizes, publish: Publish, messages_waiting: Callable[[], int]
) -> int:
    """Fill the window once; return how many records were queued."""
    gate = ledger.streams.load_gate(stream.name)
    if gate.paused or ledger.partners.load_gate(stream.partner).paused:
        return 0
    if gate.breaker.state is BreakerState.OPEN:
        return dispatch_probe(ledger, stream, publish, gate) if gate.breaker.is_probe_due else 0
    # Invariant 11: neither messages nor records in flight grow with the backlog.
    if messages_waiting() >= sizes.messages:
        return 0
    is_half_open = gate.breaker.state is BreakerState.HALF_OPEN
    if is_half_open:
        sizes = sizes.at_most(gate.breaker.allowed)
    first, retries = ledger.records.count_in_flight(stream.name)
    queued = 0
    while (room := sizes.window - first - retries - queued) > 0:
        due = find_due(
            ledger, stream, sizes, room=room, in_flight=first + retries, retries=retries, fresh_first=is_half_open
        )
        split = split_by_order(ledger, stream, due, complete_epoch=gate.complete_epoch)
        set_aside = supersede_and_hold(ledger, stream, split)
        queued += queue_batches(ledger, stream, sizes, split.sendable, room, publish)
        # Only records that were set aside make way for others; otherwise another round would find the same ones.
        if not set_aside:
            break
    if queued:
        log.info("dispatch", stream=stream.name, queued=queued)
    return queued


def dispatch_probe(ledger: Ledger, stream: Stream, publish: Publish, gate: Gate) -> int:
    """Queue one record as the probe of an open circuit; another one than last time, if there is another."""
    due = [
        *ledger.records.find_due(stream.name, fresh=True, limit=PROBE_CANDIDATES),
        *ledger.records.find_due(stream.name, fresh=False, limit=PROBE_CANDIDATES),
    ]
    split = split_by_order(ledger, stream, due, complete_epoch=gate.complete_epoch)
    supersede_and_hold(ledger, stream, split)
    ids = [record.id for record in split.sendable]
    others = [record_id for record_id in ids if record_id != gate.breaker.last_probe]
    for record_id in (others or ids)[:1]:
        token = new_token()
        if ledger.breakers.acquire_probe(stream.name, token=token, record=record_id, seconds=PROBE_SECONDS):
            queued = queue_batch(ledger, stream, [record_id], publish, token=token)
            if not queued:
                ledger.breakers.release_probe(stream.name, token=token)
            return queued
    return 0


def find_due(
    ledger: Ledger, stream: Stream, sizes: Sizes, *, room: int, in_flight: int, retries: int, fresh_first: bool
) -> list[DueRecord]:
    """Return due records, the oldest first; at least half of the window is kept for first attempts.

    As many more are read as are in flight, because each of those can block at most one newer version of its key.

    Args:
        fresh_first: Put first attempts before retries, for a half-open circuit: a record that always fails is among
            the retries.
    """
    for_retries = max(0, min(room, sizes.retries - retries))
    again = ledger.records.find_due(stream.name, fresh=False, limit=for_retries)
    fresh = ledger.records.find_due(stream.name, fresh=True, limit=room + in_flight)
    return [*fresh, *again[:for_retries]] if fresh_first else [*again[:for_retries], *fresh]


def split_by_order(ledger: Ledger, stream: Stream, due: Sequence[DueRecord], *, complete_epoch: int) -> OrderSplit:
    """Split due records by the stream's order rule (invariant 5).

    A record whose key does not know it yet is left alone: its poll is still running, or was interrupted and will be
    repeated (invariant 1). Where a later poll read to the end and did not find the row again, the row is gone; it did
    exist, so the record is sent.

    Args:
        complete_epoch: The newest epoch whose poll read to the end.
    """
    if stream.append_only or not due:
        return OrderSplit(sendable=tuple(due))
    known = ledger.keys.load(stream.name, [record.key_id for record in due])
    sendable: list[DueRecord] = []
    superseded: dict[str, str] = {}
    for record in due:
        key = known.get(record.key_id)
        if key is None or record.seq > key.seq:
            if epoch_of(record.seq) < complete_epoch and adopt_orphan(ledger, stream, record, key):
                sendable.append(record)
            continue
        if stream.order == "latest" and key.version != record.id:
            superseded[record.id] = key.version
        else:
            sendable.append(record)
    if stream.order == "strict":
        return split_by_sequence(ledger, stream, sendable, known)
    return OrderSplit(sendable=tuple(sendable), superseded=superseded)


def supersede_and_hold(ledger: Ledger, stream: Stream, split: OrderSplit) -> int:
    """Supersede overtaken records, and let records wait for older ones; return how many are not due any more."""
    set_aside = ledger.operations.supersede(split.superseded) if split.superseded else 0
    if stream.order == "strict":
        sequencing = ledger.sequencing
        sequencing.release(stream.name, list(split.superseded))
        set_aside += sequencing.hold(split.held)
        # The records they wait for may be finished since they were read, and then nothing else would release them.
        holders = sorted(set(split.held.values()))
        set_aside -= sequencing.release_if_free(stream.name, holders, hold_seconds=stream.strict_hold_seconds)
    return max(0, set_aside)


def adopt_orphan(ledger: Ledger, stream: Stream, record: DueRecord, key: KnownKey | None) -> bool:
    """Tell a key of a record that only an interrupted poll has seen; False when another poll wrote the key first."""
    observation = Observation(
        key_id=record.key_id,
        key=record.key,
        previous_seq=None if key is None else key.seq,
        seq=record.seq,
        version=record.id,
        hash=record.hash,
        op=record.op,
    )
    return not ledger.keys.observe(stream.name, [observation])


def queue_batches(
    ledger: Ledger, stream: Stream, sizes: Sizes, due: Sequence[DueRecord], room: int, publish: Publish
) -> int:
    """Queue records batch by batch, each with its message; return how many records were queued."""
    together = [record.id for record in due if not record.alone]
    alone = [record.id for record in due if record.alone]
    queued = 0
    # A record that another version of its key blocks takes no room: one behind it may go in its place.
    while (together or alone) and (left := room - queued) > 0:
        if alone:
            # Invariant 7: a record that was lost while it was sent travels alone, since it may have killed its worker;
            # and first, since it would otherwise wait for the end of a backlog.
            ids, alone = alone[:1], alone[1:]
        else:
            size = min(sizes.batch, left)
            ids, together = together[:size], together[size:]
        queued += queue_batch(ledger, stream, ids, publish)
    return queued


def queue_batch(
    ledger: Ledger, stream: Stream, ids: Sequence[str], publish: Publish, *, token: str | None = None
) -> int:
    """Queue one batch and send its message; return how many of its records could be queued.

    A batch whose message cannot be sent is put back at once (invariant 2).
    """
    token = token or new_token()
    exclusive = stream.order != "none"
    try:
        queued = ledger.delivery_states.queue(ids, batch=token, seconds=stream.lease_seconds, exclusive=exclusive)
        if not queued:
            return 0
        publish(stream.name, token, ids)
    except BaseException:
        ledger.delivery_states.unqueue(ids, batch=token)
        raise
    return queued
