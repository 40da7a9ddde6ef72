"""Order `strict`: every version of a key is sent, one after another; each waits until the older ones are done."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from syncctl.core.records import Record
from syncctl.core.stream import Stream
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import DueRecord

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
    #: The ids of records that must wait for a poll: no key knows them, and their own poll is not running any more.
    unknown: Sequence[str] = ()


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

    These are versions older than a delivered one; and versions that only an interrupted poll has seen, where the row
    has since gone back to its earlier content.
    """
    overtaken: dict[str, str] = {}
    for record_id, key_id, seq in versions:
        key = known.get(key_id)
        if key is None or key.version == record_id or key.seq <= seq:
            continue
        if key.delivered_seq > seq or key.version_seq < seq:
            overtaken[record_id] = key.version
    return overtaken


def find_overtaken_claims(
    ledger: Ledger,
    stream: Stream,
    claimed: Sequence[Record],
    key_ids: Mapping[str, str],
    known: Mapping[str, KnownKey],
) -> dict[str, str]:
    """Return the claimed records (id → the newest version) that must not be sent any more.

    A newer version was delivered; or it may have reached the partner before a record came here for the first time.
    Where an operator sends an older version again, newer versions that were tried before take a new `Idempotency-Key`
    (invariant 5): otherwise the partner would take their next call for a repeat and keep the older version.

    Args:
        key_ids: The key id of each record, by record id. While it is claimed, no other version of its key is in flight.
    """
    overtaken: dict[str, str] = {}
    sent_again: list[tuple[str, str, int]] = []
    for record in claimed:
        key = known.get(key_ids[record.id])
        if key is None or key.version == record.id:
            continue
        is_late = record.attempt == 1 and not record.was_replayed
        if key.delivered_seq > record.seq or (key.reached_seq > record.seq and is_late):
            overtaken[record.id] = key.version
        elif key.reached_seq > record.seq:
            sent_again.append((stream.name, key_ids[record.id], record.seq))
    ledger.sequencing.renew_keys_of_newer(sent_again)
    return overtaken


def find_overwritten(ledger: Ledger, stream: Stream, late: Record, key: KnownKey) -> list[str]:
    """Return the versions that a late call may have overwritten: the newest delivered one and those being tried."""
    ledger.sequencing.renew_keys_of_newer([(stream.name, key.key_id, late.seq)])
    return ledger.sequencing.find_tried(stream.name, key.key_id, from_seq=max(late.seq + 1, key.delivered_seq))
