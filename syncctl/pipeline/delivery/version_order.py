"""The order of a row's versions: which may be sent, which wait for others, and which are overtaken (invariant 5)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from syncctl.core.ids import epoch_of
from syncctl.core.records import Record
from syncctl.core.stream import Stream
from syncctl.ledger.keys import KnownKey, Observation
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import DueRecord
from syncctl.ledger.sequencing import Holder
from syncctl.ledger.streams import Gate
from syncctl.pipeline.delivery.delivery_gate import Batch
from syncctl.pipeline.delivery.remote_steps import is_holder, is_in_doubt

Version = tuple[str, str, int]
"""A record's id, its key id and its seq."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderSplit:
    """Due records, split by what the stream's order allows."""

    #: Records that may be sent now.
    sendable: tuple[DueRecord, ...] = ()
    #: Overtaken records, each with the newer record's id.
    superseded: Sequence[tuple[DueRecord, str]] = ()
    #: Under order strict, records that must wait: id → the id of the record they wait for.
    held: Mapping[str, str] = field(default_factory=dict)
    #: The ids of records that must wait for a poll: no key knows them, and their own poll is no longer running.
    unknown: Sequence[str] = ()


def split_by_order(ledger: Ledger, stream: Stream, due: Sequence[DueRecord], gate: Gate) -> OrderSplit:
    """Split due records by the stream's order rule (invariant 5).

    A record whose key does not know it yet is left alone while its poll is running. If the poll was interrupted, the
    record waits for the next poll (invariant 1), without delaying others (invariant 12). If a later poll read to the
    end and did not find the row again, the row is gone; as it did exist, the record is sent.
    """
    if stream.append_only or not due:
        return OrderSplit(sendable=tuple(due))
    known = ledger.keys.load(stream.name, [record.key_id for record in due])
    unknown = [record for record in due if (key := known.get(record.key_id)) is None or record.seq > key.seq]
    orphans = [record for record in unknown if epoch_of(record.seq) < gate.complete_epoch]
    sendable = adopt_orphans(ledger, stream, orphans, known)
    waiting = [record.id for record in unknown if gate.complete_epoch <= epoch_of(record.seq) < gate.running_epoch]
    superseded: list[tuple[DueRecord, str]] = []
    held: dict[str, str] = {}
    holders = find_holders_in_doubt(ledger, stream, due, known) if stream.waits_in_doubt else {}
    for record in due:
        key = known.get(record.key_id)
        if key is None or record.seq > key.seq:
            continue
        holder = holders.get(record.key_id)
        if stream.order == "latest" and key.version != record.id and (holder is None or holder.id != record.id):
            superseded.append((record, key.version))
        elif holder is not None and holder.seq < record.seq:
            held[record.id] = holder.id
        else:
            sendable.append(record)
    if stream.order == "strict":
        return replace(split_by_sequence(ledger, stream, sendable, known), unknown=waiting)
    return OrderSplit(sendable=tuple(sendable), superseded=superseded, held=held, unknown=waiting)


def find_holders_in_doubt(
    ledger: Ledger, stream: Stream, due: Sequence[DueRecord], known: Mapping[str, KnownKey]
) -> dict[str, Holder]:
    """Return, by key id, the unfinished version whose call may have created the partner's object.

    Under order `latest`, this version is sent before the newest one, which would create a second object (invariant 5).
    """
    between = {
        record.key_id: (key.delivered_seq, key.reached_seq)
        for record in due
        if (key := known.get(record.key_id)) is not None and is_in_doubt(stream, key)
    }
    return ledger.sequencing.find_tried_unfinished(stream.name, between)


def supersede_and_hold(ledger: Ledger, stream: Stream, split: OrderSplit) -> int:
    """Supersede overtaken records, and make records wait for older ones; return how many are no longer due."""
    set_aside = 0
    if split.superseded:
        set_aside = ledger.operations.supersede((record.id, record.seq, newer) for record, newer in split.superseded)
    sequencing = ledger.sequencing
    if split.unknown:
        set_aside += sequencing.hold_for_poll(split.unknown)
    if stream.has_sequence:
        sequencing.release(stream.name, [record.id for record, _ in split.superseded])
        set_aside += sequencing.hold(split.held)
        # The records that they wait for may have finished since the read; then nothing else would release them.
        holders = sorted(set(split.held.values()))
        set_aside -= sequencing.release_if_free(stream.name, holders, hold_seconds=stream.hold_seconds)
    return max(0, set_aside)


def adopt_orphans(
    ledger: Ledger, stream: Stream, orphans: Sequence[DueRecord], known: Mapping[str, KnownKey]
) -> list[DueRecord]:
    """Write records that only an interrupted poll has seen to their keys; return those that no other poll preceded.

    Of several versions of a key, the oldest comes first and the others at the next look.
    """
    oldest: dict[str, DueRecord] = {}
    for record in sorted(orphans, key=lambda record: record.seq):
        oldest.setdefault(record.key_id, record)
    observations = [
        Observation(
            key_id=record.key_id,
            key=record.key,
            previous_seq=known[record.key_id].seq if record.key_id in known else None,
            seq=record.seq,
            version=record.id,
            hash=record.hash,
            op=record.op,
        )
        for record in oldest.values()
    ]
    conflicts = set(ledger.keys.observe(stream.name, observations))
    return [record for record in orphans if record is oldest[record.key_id] and record.key_id not in conflicts]


def split_by_sequence(
    ledger: Ledger, stream: Stream, due: Sequence[DueRecord], known: Mapping[str, KnownKey]
) -> OrderSplit:
    """Let the oldest version of each key be sent, unless an older one is in flight or has failed; the others wait."""
    overtaken = find_overtaken([(record.id, record.key_id, record.seq) for record in due], known)
    superseded = [(record, overtaken[record.id]) for record in due if record.id in overtaken]
    remaining = [record for record in due if record.id not in overtaken]
    if not remaining:
        return OrderSplit(superseded=superseded)
    holders = ledger.sequencing.find_holders(
        stream.name, [record.key_id for record in remaining], hold_seconds=stream.strict_hold_seconds
    )
    held: dict[str, str] = {}
    newest_before: dict[str, str] = {key_id: holder.id for key_id, holder in holders.items()}
    newest_seq = {key_id: holder.seq for key_id, holder in holders.items()}
    for record in sorted(remaining, key=lambda record: record.seq):
        before = newest_before.get(record.key_id)
        if before is not None and before != record.id and newest_seq[record.key_id] < record.seq:
            held[record.id] = before
        newest_before[record.key_id], newest_seq[record.key_id] = record.id, record.seq
    sendable = tuple(record for record in remaining if record.id not in held)
    return OrderSplit(sendable=sendable, superseded=superseded, held=held)


def find_overtaken(versions: Iterable[Version], known: Mapping[str, KnownKey]) -> dict[str, str]:
    """Return the versions (id → the newest version of the key) that must not be sent any more.

    These are versions older than a delivered one, and versions that only an interrupted poll has seen if the row has
    since returned to its earlier content.
    """
    overtaken: dict[str, str] = {}
    for record_id, key_id, seq in versions:
        key = known.get(key_id)
        if key is None or key.version == record_id or key.seq <= seq:
            continue
        if key.delivered_seq > seq or key.version_seq < seq:
            overtaken[record_id] = key.version
    return overtaken


def find_overtaken_claims(batch: Batch) -> Mapping[str, str]:
    """Return the claimed records (id → newer record) that the stream's order no longer allows to be sent."""
    claim, known = batch.claim, batch.known
    if batch.stream.order == "strict":
        return _find_overtaken_by_sequence(batch)
    if batch.stream.order == "none":
        return {}
    # Invariant 5: under `latest`, only the newest version of a key is sent.
    keys = {record.id: known.get(claim.key_ids[record.id]) for record in claim.records}
    return {
        record.id: key.version
        for record in claim.records
        if (key := keys[record.id]) is not None
        and key.version != record.id
        and key.seq > record.seq
        and not is_holder(batch.stream, record, key)
    }


def _find_overtaken_by_sequence(batch: Batch) -> dict[str, str]:
    """Return the claimed records (id → the newest version) that must not be sent any more.

    These are records of which a newer version was delivered, or may have reached the partner before the record was
    first claimed. If an operator sends an older version again, newer versions that were already tried get a new
    `Idempotency-Key` (invariant 5): otherwise the partner would treat their next call as a repeat and keep the older
    version. While a record is claimed, no other version of its key is in flight.
    """
    claim = batch.claim
    overtaken: dict[str, str] = {}
    sent_again: list[tuple[str, str, int]] = []
    for record in claim.records:
        key = batch.known.get(claim.key_ids[record.id])
        if key is None or key.version == record.id:
            continue
        is_late = record.attempt == 1 and not record.was_replayed
        if key.delivered_seq > record.seq or (key.reached_seq > record.seq and is_late):
            overtaken[record.id] = key.version
        elif key.reached_seq > record.seq:
            sent_again.append((claim.stream, claim.key_ids[record.id], record.seq))
    batch.ledger.sequencing.renew_keys_of_newer(sent_again)
    return overtaken


def find_overwritten(ledger: Ledger, stream: Stream, late: Record, key: KnownKey) -> list[str]:
    """Return the versions that a late call may have overwritten: the newest delivered one and those being tried."""
    ledger.sequencing.renew_keys_of_newer([(stream.name, key.key_id, late.seq)])
    return ledger.sequencing.find_tried(stream.name, key.key_id, from_seq=max(late.seq + 1, key.delivered_seq))
