"""deliver: claim a batch, call the partner, write the outcomes. Only the holder of the lease does any of it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.core.stream import Partner, Stream
from syncctl.core.windows import Sizes, decide_margin_seconds
from syncctl.ledger.delivery_state import Claim, Transition
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger
from syncctl.partner.call import Call, Unsendable
from syncctl.pipeline.delivery_gate import DeliveryGate
from syncctl.pipeline.outcome_writer import Batch, decide_transition, write
from syncctl.pipeline.strict_order import make_way

log = get_logger(__name__)

WRITE_EVERY_RECORDS = 25
WRITE_EVERY_SECONDS = 0.5


class Client(Protocol):
    """What deliver needs of a partner (partner/client.py)."""

    @property
    def mapping_hash(self) -> str:
        """Names everything that shapes the bytes of a call."""

    def prepare(self, record: Record) -> Call:
        """Turn a record into a call; raises Unsendable."""


SendBatch = Callable[..., Iterator[tuple[Record, Outcome | None]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What became of one batch. `waits`: the partner is not to be called now; asking for more at once is no use."""

    stream: str
    claimed: int = 0
    delivered: int = 0
    retrying: int = 0
    failed: int = 0
    superseded: int = 0
    returned: int = 0
    late: int = 0
    waits: bool = False


def deliver_batch(
    *,
    ledger: Ledger,
    stream: Stream,
    partner: Partner,
    client: Client,
    send_batch: SendBatch,
    sizes: Sizes,
    token: str,
    ids: Sequence[str],
    worker: str,
    should_stop: Callable[[], bool] = lambda: False,
    wait_for_permit: Callable[[Callable[[], bool]], bool] = lambda may_wait: may_wait(),
) -> Delivery:
    """Deliver one queued batch; a stale or doubled message claims nothing and does nothing (invariant 3).

    Args:
        token: The batch's token, as dispatch wrote it.
        should_stop: Asked before each call; once true, what was not sent goes back.
        wait_for_permit: Waits for the partner's rate before each call, as long as what it is given says yes.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached; leases bring back what was claimed.
    """
    claim = ledger.delivery_states.claim(
        stream.name,
        ids,
        batch=token,
        mapping_hash=client.mapping_hash,
        seconds=stream.lease_seconds,
        worker=worker,
    )
    claimed = len(claim.records)
    if not claimed:
        return Delivery(stream=stream.name)
    alone = claim.records[0].id if claimed == 1 else None
    halt = DeliveryGate(ledger, stream, partner, token=token, alone=alone)
    margin = decide_margin_seconds(stream.lease_seconds)

    def may_wait() -> bool:
        left = claim.ends_at - time.monotonic()
        return not should_stop() and not halt.is_set() and left > partner.timeout_seconds + margin

    def may_start() -> bool:
        # Asked again after the wait: the lease went on while it lasted.
        return wait_for_permit(may_wait) and may_wait()

    try:
        threads = halt.take_permits(sizes.count_threads(claimed)) if halt.begin() else 0
        counts: dict[str, int] = {}
        returned = 0
        if threads:
            claim, returned = give_back_beyond(ledger, claim, halt.allowed)
            batch, calls, transitions = begin_batch(ledger, stream, partner, claim, halt, client)
            counts = write(batch, transitions, {})
            sending = send_batch(client, calls, threads=threads, may_start=may_start)
            counts, unsent = write_as_they_come(batch, sending, counts)
            returned += unsent
        else:
            claim, returned = give_back_beyond(ledger, claim, 0)
        waits = not threads or halt.is_set()
    finally:
        halt.close()
    delivery = Delivery(stream=stream.name, claimed=claimed, returned=returned, waits=waits, **counts)
    log.info("deliver", **{name: getattr(delivery, name) for name in delivery.__slots__})
    return delivery


def put_back_batch(*, ledger: Ledger, stream: str, token: str, ids: Sequence[str]) -> int:
    """Put a queued batch back that this worker has no free slot for; return how many records."""
    ledger.breakers.release_probe(stream, token=token)
    return ledger.delivery_states.unqueue(ids, batch=token)


def give_back_beyond(ledger: Ledger, claim: Claim, at_most: int | None) -> tuple[Claim, int]:
    """Return a claim of no more than so many records, and how many were given back."""
    kept = claim.records if at_most is None else claim.records[:at_most]
    beyond = claim.records[len(kept) :]
    ledger.delivery_states.release(claim, [each.id for each in beyond])
    return replace(claim, records=kept), len(beyond)


def begin_batch(
    ledger: Ledger, stream: Stream, partner: Partner, claim: Claim, halt: DeliveryGate, client: Client
) -> tuple[Batch, list[tuple[Record, Call]], list[Transition]]:
    """Return a claimed batch, its calls, and what lands without one. What stops it here gives all of it back."""
    try:
        known = {} if stream.append_only else ledger.keys.load(stream.name, claim.key_ids.values())
        batch = Batch(ledger=ledger, stream=stream, partner=partner, claim=claim, known=known, halt=halt)
        return batch, *prepare_calls(batch, client)
    except BaseException:
        ledger.delivery_states.release(claim, [each.id for each in claim.records])
        raise


def write_as_they_come(
    batch: Batch, sending: Iterator[tuple[Record, Outcome | None]], counts: Mapping[str, int]
) -> tuple[dict[str, int], int]:
    """Write outcomes in bulks as they come, and give back what was not sent; return the counts and how many those are.

    Whatever ends it, what was answered is written: a call whose outcome is not on record would be made again.
    """
    new = dict(counts)
    returned: list[str] = []
    waiting: list[Transition] = []
    written_at = time.monotonic()

    def take(record: Record, outcome: Outcome | None) -> None:
        if outcome is None:
            returned.append(record.id)
        else:
            waiting.append(decide_transition(batch, record, outcome))

    try:
        for record, outcome in sending:
            take(record, outcome)
            if len(waiting) >= WRITE_EVERY_RECORDS or time.monotonic() - written_at > WRITE_EVERY_SECONDS:
                new = write(batch, waiting, new)
                waiting, written_at = [], time.monotonic()
    except BaseException:
        # MongoDB does not take outcomes: no further call begins, and those under way are still heard out.
        batch.halt.set()
        for record, outcome in sending:
            take(record, outcome)
        write(batch, waiting, new)
        batch.ledger.delivery_states.release(batch.claim, returned)
        raise
    new = write(batch, waiting, new)
    batch.ledger.delivery_states.release(batch.claim, returned)
    return new, len(returned)


def prepare_calls(batch: Batch, client: Client) -> tuple[list[tuple[Record, Call]], list[Transition]]:
    """Turn the records into calls; those that cannot be sent, or need not be any more, land at once."""
    calls: list[tuple[Record, Call]] = []
    transitions: list[Transition] = []
    overtaken = find_overtaken_claims(batch)
    for record in batch.claim.records:
        if record.id in overtaken:
            transitions.append(Transition(record=record, state=State.SUPERSEDED, superseded_by=overtaken[record.id]))
            continue
        try:
            calls.append((record, client.prepare(record)))
        except Unsendable as error:
            transitions.append(Transition(record=record, state=State.FAILED, reason=error.reason))
    return calls, transitions


def find_overtaken_claims(batch: Batch) -> Mapping[str, str]:
    """Return which of the claimed records (id → by) a newer version has made pointless, by the stream's order."""
    claim, known = batch.claim, batch.known
    if batch.stream.order == "strict":
        return make_way(batch.ledger, batch.stream, claim.records, claim.key_ids, known)
    if batch.stream.order == "none":
        return {}
    keys = {each.id: known.get(claim.key_ids[each.id]) for each in claim.records}
    return {
        each.id: key.version
        for each in claim.records
        if (key := keys[each.id]) is not None and key.version != each.id and key.seq > each.seq
    }
