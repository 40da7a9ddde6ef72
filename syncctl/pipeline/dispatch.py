"""dispatch: mark due records as queued and send one message per batch. Redis is only the wake-up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from syncctl.core.breaker import BreakerState
from syncctl.core.ids import epoch_of
from syncctl.core.stream import Stream
from syncctl.core.windows import Sizes
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.client import new_token
from syncctl.ledger.keys import KnownKey, Observation
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import DueRecord
from syncctl.ledger.streams import Gate
from syncctl.logs import get_logger
from syncctl.pipeline.strict_order import sequence

log = get_logger(__name__)

LEASE_SECONDS = 20.0
LOOKS_AT_MOST = 100
PROBES_LOOKED_AT = 20
PROBE_SECONDS = 60.0
"""How long nobody else asks whether a partner is back: the message may be lost, or find no free worker."""

Publish = Callable[[str, str, Sequence[str]], None]
"""Send the wake-up for (stream, batch token, record ids); raises ServiceUnavailable when Redis is away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What a look at the due records has decided. `held`: under order strict, what waits (id → for)."""

    send: tuple[DueRecord, ...]
    superseded: Mapping[str, str]
    held: Mapping[str, str] = field(default_factory=dict)


def dispatch_stream(
    *,
    ledger: Ledger,
    stream: Stream,
    sizes: Sizes,
    publish: Publish,
    messages_waiting: Callable[[], int],
    worker: str,
) -> int:
    """Queue what is due, up to the window; return how many records. Safe to repeat, also by several at once.

    Raises:
        ServiceUnavailable: Redis is away: what could not be published was put back. Or MongoDB is.
    """
    lease = ledger.streams.acquire_dispatch(stream.name, seconds=LEASE_SECONDS, worker=worker)
    if lease is None:
        return 0
    queued = 0
    try:
        for _ in range(LOOKS_AT_MOST):
            queued += look(ledger, stream, sizes, publish, messages_waiting)
            if ledger.streams.release_dispatch(lease):
                return queued
    except BaseException:
        _abandon(ledger, lease)
        raise
    ledger.streams.abandon_dispatch(lease)
    return queued


def _abandon(ledger: Ledger, lease: object) -> None:
    try:
        ledger.streams.abandon_dispatch(lease)  # type: ignore[arg-type]
    except ServiceUnavailable as error:
        log.warning("dispatch.unreleased", error=str(error))


def look(ledger: Ledger, stream: Stream, sizes: Sizes, publish: Publish, messages_waiting: Callable[[], int]) -> int:
    """Fill the window once; return how many records were queued."""
    gate = ledger.streams.load_gate(stream.name)
    if gate.paused or ledger.partners.load_gate(stream.partner).paused:
        return 0
    if gate.breaker.state is BreakerState.OPEN:
        return probe(ledger, stream, publish, gate) if gate.breaker.is_probe_due else 0
    if messages_waiting() >= sizes.messages:
        return 0
    gently = gate.breaker.state is BreakerState.HALF_OPEN
    if gently:
        sizes = sizes.at_most(gate.breaker.allowed)
    first, retries = ledger.records.count_in_flight(stream.name)
    queued = 0
    while (room := sizes.window - first - retries - queued) > 0:
        due = find_due(ledger, stream, sizes, room=room, in_flight=first + retries, retries=retries, gently=gently)
        chosen = choose(ledger, stream, due, complete_epoch=gate.complete_epoch)
        aside = set_aside(ledger, stream, chosen)
        queued += send(ledger, stream, sizes, chosen.send, room, publish)
        # What was set aside has made way for others; nothing else would change on a second look.
        if not aside:
            break
    if queued:
        log.info("dispatch", stream=stream.name, queued=queued)
    return queued


def probe(ledger: Ledger, stream: Stream, publish: Publish, gate: Gate) -> int:
    """Let one record ask whether a partner that counts as down is back; another one than the last time, if there is."""
    due = [
        *ledger.records.find_due(stream.name, fresh=True, limit=PROBES_LOOKED_AT),
        *ledger.records.find_due(stream.name, fresh=False, limit=PROBES_LOOKED_AT),
    ]
    chosen = choose(ledger, stream, due, complete_epoch=gate.complete_epoch)
    set_aside(ledger, stream, chosen)
    ids = [each.id for each in chosen.send]
    others = [each for each in ids if each != gate.breaker.last_probe]
    for each in (others or ids)[:1]:
        token = new_token()
        if ledger.breakers.acquire_probe(stream.name, token=token, record=each, seconds=PROBE_SECONDS):
            queued = send_batch(ledger, stream, [each], publish, token=token)
            if not queued:
                ledger.breakers.release_probe(stream.name, token=token)
            return queued
    return 0


def find_due(
    ledger: Ledger, stream: Stream, sizes: Sizes, *, room: int, in_flight: int, retries: int, gently: bool
) -> list[DueRecord]:
    """Return due records, at least half of the window kept for first attempts, the oldest first.

    As many more as are in flight are read, because each of those can block at most one newer version of its key.

    Args:
        gently: The partner is coming back: first attempts go first, for a record that always fails is among the others.
    """
    for_retries = max(0, min(room, sizes.retries - retries))
    again = ledger.records.find_due(stream.name, fresh=False, limit=for_retries)
    fresh = ledger.records.find_due(stream.name, fresh=True, limit=room + in_flight)
    return [*fresh, *again[:for_retries]] if gently else [*again[:for_retries], *fresh]


def choose(ledger: Ledger, stream: Stream, due: Sequence[DueRecord], *, complete_epoch: int) -> Chosen:
    """Apply the stream's order rule.

    A record whose key does not know it yet is left: its poll is at work, or was interrupted and will be repeated.
    Where a later poll was complete and did not find the row again, the row is gone: it did exist, and it is sent.

    Args:
        complete_epoch: The newest epoch whose poll read to the end.
    """
    if stream.append_only or not due:
        return Chosen(send=tuple(due), superseded={})
    known = ledger.keys.load(stream.name, [each.key_id for each in due])
    send: list[DueRecord] = []
    superseded: dict[str, str] = {}
    for each in due:
        key = known.get(each.key_id)
        if key is None or each.seq > key.seq:
            if epoch_of(each.seq) < complete_epoch and adopt(ledger, stream, each, key):
                send.append(each)
            continue
        if stream.order == "latest" and key.version != each.id:
            superseded[each.id] = key.version
        else:
            send.append(each)
    if stream.order == "strict":
        found = sequence(ledger, stream, send, known)
        return Chosen(send=found.send, superseded=found.superseded, held=found.held)
    return Chosen(send=tuple(send), superseded=superseded)


def set_aside(ledger: Ledger, stream: Stream, chosen: Chosen) -> int:
    """Take what is not to be sent now out of what is due; return how many."""
    aside = ledger.operations.supersede(chosen.superseded)
    if stream.order == "strict":
        ledger.waiting.release(stream.name, list(chosen.superseded))
        aside += ledger.waiting.hold(chosen.held)
        # What they wait for may have landed since it was looked at, and then nobody else would wake them.
        holders = sorted(set(chosen.held.values()))
        aside -= ledger.waiting.release_if_free(stream.name, holders, hold_seconds=stream.strict_hold_seconds)
    return max(0, aside)


def adopt(ledger: Ledger, stream: Stream, each: DueRecord, before: KnownKey | None) -> bool:
    """Tell a key of a record that only an interrupted poll has seen; False when somebody else wrote the key."""
    observation = Observation(
        key_id=each.key_id,
        key=each.key,
        previous_seq=None if before is None else before.seq,
        seq=each.seq,
        version=each.id,
        hash=each.hash,
        op=each.op,
    )
    return not ledger.keys.observe(stream.name, [observation])


def send(ledger: Ledger, stream: Stream, sizes: Sizes, due: Sequence[DueRecord], room: int, publish: Publish) -> int:
    """Queue records batch by batch, each with its message; a batch whose message fails is put back at once."""
    together = [each.id for each in due if not each.alone]
    alone = [each.id for each in due if each.alone]
    queued = 0
    # A record that another version of its key blocks takes no room: what is behind it may go in its place.
    while (together or alone) and (left := room - queued) > 0:
        if alone:
            # One that was lost in sending travels alone, for it may be what killed its worker; and first, or it would
            # wait for the end of a backlog.
            ids, alone = alone[:1], alone[1:]
        else:
            size = min(sizes.batch, left)
            ids, together = together[:size], together[size:]
        queued += send_batch(ledger, stream, ids, publish)
    return queued


def send_batch(
    ledger: Ledger, stream: Stream, ids: Sequence[str], publish: Publish, *, token: str | None = None
) -> int:
    """Queue one batch and send its message; return how many records of it could be queued."""
    token = token or new_token()
    exclusive = stream.order != "none"
    try:
        marked = ledger.delivery_states.queue(ids, batch=token, seconds=stream.lease_seconds, exclusive=exclusive)
        if not marked:
            return 0
        publish(stream.name, token, ids)
    except BaseException:
        ledger.delivery_states.unqueue(ids, batch=token)
        raise
    return marked
