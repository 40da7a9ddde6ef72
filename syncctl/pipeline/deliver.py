"""deliver: claim a batch, call the partner, write the outcomes. Only the holder of the lease does any of it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.core.stream import Partner, Stream
from syncctl.core.windows import Sizes, decide_margin_seconds
from syncctl.ledger.delivery_state import Claim, Transition
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger
from syncctl.partner.call import Call, Unsendable
from syncctl.pipeline import strict_order
from syncctl.pipeline.delivery_gate import DeliveryGate
from syncctl.pipeline.outcome_writer import Batch, decide_transition, write_transitions

if TYPE_CHECKING:
    from syncctl.partner.client import PartnerClient

log = get_logger(__name__)

WRITE_EVERY_RECORDS = 25
WRITE_EVERY_SECONDS = 0.5

SendBatch = Callable[..., Iterator[tuple[Record, Outcome | None]]]
"""See `partner.batch.send_batch`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How many records of one batch ended in which way."""

    stream: str
    claimed: int = 0
    delivered: int = 0
    retrying: int = 0
    failed: int = 0
    superseded: int = 0
    #: Given back without a call.
    returned: int = 0
    #: Their outcome came after their lease had been lost.
    late: int = 0
    #: The partner must not be called now, so that asking for more records at once is of no use.
    waits: bool = False


def deliver_batch(
    *,
    ledger: Ledger,
    stream: Stream,
    partner: Partner,
    client: "PartnerClient",
    send_batch: SendBatch,
    sizes: Sizes,
    token: str,
    ids: Sequence[str],
    worker: str,
    should_stop: Callable[[], bool] = lambda: False,
    wait_for_permit: Callable[[Callable[[], bool]], bool] = lambda may_wait: may_wait(),
) -> Delivery:
    """Deliver one queued batch; a stale or repeated message claims nothing and does nothing (invariant 3).

    Args:
        token: The batch's token, as dispatch wrote it.
        should_stop: Asked before each call; once it returns true, the remaining records go back unsent.
        wait_for_permit: Waits for a permit of the partner's rate before each call, while its argument returns true.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached; expired leases bring back the claimed records.
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
    only_record = claim.records[0].id if claimed == 1 else None
    gate = DeliveryGate(ledger, stream, partner, token=token, only_record=only_record)
    margin = decide_margin_seconds(stream.lease_seconds)

    def may_wait() -> bool:
        # Invariants 3 and 7: a call that might outlive its lease is not made.
        left = claim.ends_at - time.monotonic()
        return not should_stop() and not gate.is_shut() and left > partner.timeout_seconds + margin

    def may_start() -> bool:
        # Asked again after the wait, in which part of the lease has passed.
        return wait_for_permit(may_wait) and may_wait()

    try:
        threads = gate.take_permits(sizes.count_threads(claimed)) if gate.open() else 0
        counts: dict[str, int] = {}
        if threads:
            claim, returned = release_beyond(ledger, claim, gate.records_at_most)
            batch, calls, transitions = prepare_batch(ledger, stream, partner, claim, gate, client)
            counts = write_transitions(batch, transitions, {})
            sending = send_batch(client, calls, threads=threads, may_start=may_start)
            counts, unsent = write_as_they_come(batch, sending, counts)
            returned += unsent
        else:
            claim, returned = release_beyond(ledger, claim, 0)
        waits = not threads or gate.is_shut()
    finally:
        gate.release()
    delivery = Delivery(stream=stream.name, claimed=claimed, returned=returned, waits=waits, **counts)
    log.info("deliver", **{name: getattr(delivery, name) for name in delivery.__slots__})
    return delivery


def put_back_batch(*, ledger: Ledger, stream: str, token: str, ids: Sequence[str]) -> int:
    """Put back a queued batch that this worker has no free slot for; return how many records."""
    ledger.breakers.release_probe(stream, token=token)
    return ledger.delivery_states.unqueue(ids, batch=token)


def release_beyond(ledger: Ledger, claim: Claim, at_most: int | None) -> tuple[Claim, int]:
    """Return the claim cut to at most some records, and how many others were given back."""
    kept = claim.records if at_most is None else claim.records[:at_most]
    others = claim.records[len(kept) :]
    ledger.delivery_states.release(claim, [record.id for record in others])
    return replace(claim, records=kept), len(others)


def prepare_batch(
    ledger: Ledger, stream: Stream, partner: Partner, claim: Claim, gate: DeliveryGate, client: "PartnerClient"
) -> tuple[Batch, list[tuple[Record, Call]], list[Transition]]:
    """Return a claimed batch, its calls, and the transitions of records that need none; an error gives all back."""
    try:
        known = {} if stream.append_only else ledger.keys.load(stream.name, claim.key_ids.values())
        batch = Batch(ledger=ledger, stream=stream, partner=partner, claim=claim, known=known, gate=gate)
        return batch, *prepare_calls(batch, client)
    except BaseException:
        ledger.delivery_states.release(claim, [record.id for record in claim.records])
        raise


def write_as_they_come(
    batch: Batch, sending: Iterator[tuple[Record, Outcome | None]], counts: Mapping[str, int]
) -> tuple[dict[str, int], int]:
    """Write outcomes in bulks as they come, and give back unsent records; return the counts and how many were unsent.

    Every outcome is written, however this ends: a call whose outcome is lost would be made again (invariant 7).
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
                new = write_transitions(batch, waiting, new)
                waiting, written_at = [], time.monotonic()
    except BaseException:
        # MongoDB takes no outcomes: no further call may begin, and the outcomes of calls under way are still collected.
        batch.gate.shut()
        for record, outcome in sending:
            take(record, outcome)
        write_transitions(batch, waiting, new)
        batch.ledger.delivery_states.release(batch.claim, returned)
        raise
    new = write_transitions(batch, waiting, new)
    batch.ledger.delivery_states.release(batch.claim, returned)
    return new, len(returned)


def prepare_calls(batch: Batch, client: "PartnerClient") -> tuple[list[tuple[Record, Call]], list[Transition]]:
    """Turn records into calls; return with them the transitions of overtaken and unsendable records."""
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
            # Invariant 9: it keeps no other record from being sent.
            transitions.append(Transition(record=record, state=State.FAILED, reason=error.reason))
    return calls, transitions


def find_overtaken_claims(batch: Batch) -> Mapping[str, str]:
    """Return the claimed records (id → newer record) that must not be sent any more by the stream's order."""
    claim, known = batch.claim, batch.known
    if batch.stream.order == "strict":
        return strict_order.find_overtaken_claims(batch.ledger, batch.stream, claim.records, claim.key_ids, known)
    if batch.stream.order == "none":
        return {}
    # Invariant 5: under `latest`, only the newest version of a key is sent.
    keys = {record.id: known.get(claim.key_ids[record.id]) for record in claim.records}
    return {
        record.id: key.version
        for record in claim.records
        if (key := keys[record.id]) is not None and key.version != record.id and key.seq > record.seq
    }
