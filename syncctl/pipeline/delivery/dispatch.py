"""dispatch: choose due records by the stream's order, oldest first, and take them into flight as one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol

from syncctl.core.batch_sizes import Sizes
from syncctl.core.states import BreakerState
from syncctl.core.stream import Partner, Stream
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.batches import Claim, InFlight
from syncctl.ledger.breakers import BreakerGate
from syncctl.ledger.holds import Hold
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import new_token
from syncctl.ledger.records import DueRecord
from syncctl.ledger.streams import Gate
from syncctl.logs import get_logger
from syncctl.pipeline.delivery.version_order import OrderSplit, split_by_order, supersede_and_hold

log = get_logger(__name__)

LEASE_SECONDS = 5.0
"""How long a process that dies while it chooses records keeps the others from choosing."""
LOOKS_AT_MOST = 100
PROBES_LOOKED_AT = 20
PROBE_SECONDS = 60.0
"""How long a record that is about to probe a partner keeps other records from probing it."""


class Probed(Protocol):
    """A circuit breaker, or the pause of a stream or a partner, which lets one record probe."""

    def acquire_probe(self, name: str, /, *, token: str, record: str, seconds: float) -> bool:
        """Take the right to probe."""

    def release_probe(self, name: str, /, *, token: str) -> None:
        """Let another record probe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The result of one look at the due records."""

    #: The batch; None if there was nothing to take, or if nothing could be taken now.
    claim: Claim | None = None
    #: Another process is choosing records of this stream: look again in a moment.
    is_contended: bool = False
    #: Due records were left behind, because the batch or the window is full: other processes have work to do.
    has_more: bool = False
    #: The batch is one record that probes whether a partner that is down or paused is back.
    is_probe: bool = False
    #: Records may wait for those of other streams: look again once some of those are done.
    is_waiting: bool = False


def take_batch(
    *,
    ledger: Ledger,
    stream: Stream,
    partner: Partner,
    sizes: Sizes,
    mapping_hash: str,
    worker: str,
    with_suspects: bool = True,
) -> Taken:
    """Take the oldest due records of a stream into flight. Safe to repeat, also by several processes at once.

    Args:
        mapping_hash: A hash of everything that shapes the bytes of a call.
        with_suspects: Whether a record that must travel alone may be taken.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached; leases bring back any records that were taken.
    """
    lease = ledger.streams.acquire_dispatch(stream.name, seconds=LEASE_SECONDS, worker=worker)
    if lease is None:
        return Taken(is_contended=True)
    try:
        taken = _look(ledger, stream, partner, sizes, mapping_hash, worker, with_suspects)
    finally:
        try:
            ledger.streams.release_dispatch(lease)
        except ServiceUnavailable as error:
            log.warning("dispatch.unreleased", stream=stream.name, error=str(error))
    return taken


def _look(
    ledger: Ledger,
    stream: Stream,
    partner: Partner,
    sizes: Sizes,
    mapping_hash: str,
    worker: str,
    with_suspects: bool,
) -> Taken:
    gate = ledger.streams.load_gate(stream.name)
    partner_hold = ledger.partners.load_gate(stream.partner).hold
    if gate.hold.by_operator or partner_hold.by_operator or gate.is_quiet(stream.quiet_hours):
        return Taken()
    before = find_barrier(ledger, stream)

    def take(ids: Sequence[str], token: str, due_since: datetime) -> Claim | None:
        return ledger.batches.take(
            stream.name,
            ids,
            token=token,
            mapping_hash=mapping_hash,
            seconds=stream.lease_seconds,
            worker=worker,
            exclusive=stream.order != "none",
            due_since=due_since,
        )

    probed = _list_probed(ledger, stream, gate, partner_hold)
    if probed:
        only_fresh = not all(state.is_probe_due for _, _, state in probed)
        if only_fresh and not all(state.is_fresh_probe_due for _, _, state in probed):
            return Taken()
        seconds = max(PROBE_SECONDS, 2 * partner.timeout_seconds)
        claim = _take_probe(ledger, stream, gate, probed, take, before=before, seconds=seconds, only_fresh=only_fresh)
        return Taken(claim=claim, is_probe=claim is not None)
    gently = gate.breaker.state is BreakerState.HALF_OPEN
    if gently:
        sizes = sizes.at_most(gate.breaker.allowed)
    beyond = 0
    blocked: frozenset[str] = frozenset()
    for _ in range(LOOKS_AT_MOST):
        in_flight = ledger.batches.find_in_flight(stream.name)
        in_flight = replace(in_flight, key_ids=in_flight.key_ids | blocked)
        room = min(sizes.batch, sizes.window - in_flight.count)
        if room <= 0:
            return Taken()
        due = find_due(
            ledger,
            stream,
            sizes,
            room=room + beyond,
            in_flight=in_flight,
            gently=gently,
            before=before,
        )
        split = split_by_order(ledger, stream, due, gate)
        aside = supersede_and_hold(ledger, stream, split)
        others = [record for record in split.sendable if not record.alone]
        together = _cut_at_bytes(others, stream.batch_bytes)
        alone = [record.id for record in split.sendable if record.alone] if with_suspects else []
        # A record that was lost when its process died travels alone, because it may have killed the process; and first,
        # because otherwise it would wait for the end of a backlog.
        ids = alone[:1] or together[:room]
        if ids and (claim := take(ids, new_token(), min(record.due_at for record in due))) is not None:
            has_more = len(due) >= room or len(alone) > 1 or len(together) < len(others)
            return Taken(claim=claim, has_more=has_more)
        if stranded := _find_stranded_keys(ledger, stream, split, ids) - in_flight.key_ids:
            # Records in flight whose batch is gone hold up only their own keys until they are returned (invariant 12).
            blocked |= stranded
            continue
        # Records that were set aside have made room for others; otherwise a second look would find the same.
        if not aside:
            if beyond or len(due) < room:
                break
            # At the head of the queue is a page whose keys its poll has not written yet: look behind it.
            beyond = stream.page_size
    return Taken(is_waiting=before is not None)


def _list_probed(
    ledger: Ledger, stream: Stream, gate: Gate, partner_hold: Hold
) -> list[tuple[Probed, str, BreakerGate | Hold]]:
    """Return the open circuit breaker and the pauses that hold up a stream: all must let the same record probe."""
    probed: list[tuple[Probed, str, BreakerGate | Hold]] = []
    if gate.breaker.state is BreakerState.OPEN:
        probed.append((ledger.breakers, stream.name, gate.breaker))
    if gate.hold.paused:
        probed.append((ledger.streams, stream.name, gate.hold))
    if partner_hold.paused:
        probed.append((ledger.partners, stream.partner, partner_hold))
    return probed


def _find_stranded_keys(ledger: Ledger, stream: Stream, split: OrderSplit, ids: Sequence[str]) -> set[str]:
    """Return the keys that kept these records from being taken, although no batch names a version of them."""
    if not ids or stream.order == "none":
        return set()
    key_ids = {record.id: record.key_id for record in split.sendable}
    return ledger.batches.find_stranded_keys(stream.name, [key_ids[record] for record in ids])


def find_barrier(ledger: Ledger, stream: Stream) -> datetime | None:
    """Return the due time from which a stream's records wait for the streams named in its `after`; None if none wait.

    It is the due time of the oldest record of those streams that is due or in flight.
    """
    return min(filter(None, (find_oldest_unsent(ledger, name) for name in stream.after)), default=None)


def find_oldest_unsent(ledger: Ledger, stream: str) -> datetime | None:
    """Return the due time of the oldest record of a stream that is due or in flight; None if there is none.

    A record on its way from due to in flight is seen in one of the two places, or in both.
    """
    oldest = (ledger.records.find_oldest_due(stream), ledger.batches.find_oldest(stream))
    return min(filter(None, oldest), default=None)


def _cut_at_bytes(records: Sequence[DueRecord], at_most: int) -> list[str]:
    """Return the ids of the first records, at least one, whose rows have at most this total size (invariant 11)."""
    ids: list[str] = []
    size = 0
    for record in records:
        size += record.size
        if ids and size > at_most:
            break
        ids.append(record.id)
    return ids


def _take_probe(
    ledger: Ledger,
    stream: Stream,
    gate: Gate,
    probed: Sequence[tuple[Probed, str, BreakerGate | Hold]],
    take: Callable[[Sequence[str], str, datetime], Claim | None],
    *,
    before: datetime | None,
    seconds: float,
    only_fresh: bool,
) -> Claim | None:
    """Let one record probe whether a partner is back; if possible not the one that probed last.

    If the stream is paused, the newest records go first: the oldest may be a run of rows refused for their content.
    Deletes go last: a wrong address also answers that a row is gone.
    """
    ids: list[str] = []
    due: list[DueRecord] = []
    for _ in range(LOOKS_AT_MOST):
        due = _find_probes(ledger, stream, gate, before=before, only_fresh=only_fresh)
        split = split_by_order(ledger, stream, due, gate)
        aside = supersede_and_hold(ledger, stream, split)
        ids = [record.id for record in sorted(split.sendable, key=lambda record: record.op == "delete")]
        if ids or not aside:
            break
    last = {state.last_probe for _, _, state in probed}
    others = [record for record in ids if record not in last]
    record = next(iter(others or ids), None)
    if record is None:
        return None
    token = new_token()
    acquired = [probes.acquire_probe(name, token=token, record=record, seconds=seconds) for probes, name, _ in probed]
    due_since = min(other.due_at for other in due)
    claim = take([record], token, due_since) if all(acquired) else None
    if claim is None:
        for probes, name, _ in probed:
            probes.release_probe(name, token=token)
    return claim


def _find_probes(
    ledger: Ledger, stream: Stream, gate: Gate, *, before: datetime | None, only_fresh: bool
) -> list[DueRecord]:
    find = partial(ledger.records.find_due, stream.name, limit=PROBES_LOOKED_AT, before=before)
    newest = find(fresh=True, newest=True) if gate.hold.paused else []
    due = [*newest, *find(fresh=True), *([] if only_fresh else find(fresh=False))]
    return list({record.id: record for record in due}.values())


def find_due(
    ledger: Ledger,
    stream: Stream,
    sizes: Sizes,
    *,
    room: int,
    in_flight: InFlight,
    gently: bool,
    before: datetime | None = None,
) -> list[DueRecord]:
    """Return due records of which no version of the same key is in flight, the oldest first.

    Retries fill at most half of the window.

    Args:
        room: How many records may be taken.
        in_flight: The records in flight; each can hold up at most one due record of its key.
        gently: The partner is recovering: first attempts come first, as a record that always fails is among the others.
        before: Return only records that became due before this time.
    """
    for_retries = max(0, min(room, sizes.retries - in_flight.retries))
    again = _find_free(ledger, stream, fresh=False, limit=for_retries, in_flight=in_flight, before=before)
    fresh = _find_free(ledger, stream, fresh=True, limit=room, in_flight=in_flight, before=before)
    return [*fresh, *again] if gently else [*again, *fresh]


def _find_free(
    ledger: Ledger, stream: Stream, *, fresh: bool, limit: int, in_flight: InFlight, before: datetime | None
) -> list[DueRecord]:
    due = ledger.records.find_due(stream.name, fresh=fresh, limit=limit, before=before)
    if stream.order == "none" or not due or not in_flight.key_ids:
        return due
    free = [record for record in due if record.key_id not in in_flight.key_ids]
    if len(due) == limit and len(free) < (limit + 1) // 2:
        # A few busy keys stand at the head of the queue: look behind them.
        due = ledger.records.find_due(stream.name, fresh=fresh, limit=limit + len(in_flight.key_ids), before=before)
        free = [record for record in due if record.key_id not in in_flight.key_ids][:limit]
    return free
