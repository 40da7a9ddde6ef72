"""Order `strict`: every version of a key is sent, one after another; each waits until those before it are done."""

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
class Sequenced:
    """Which of the due records go, which are overtaken (id → by), and which wait (id → for)."""

    send: tuple[DueRecord, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)


def sequence(ledger: Ledger, stream: Stream, due: Sequence[DueRecord], known: Mapping[str, KnownKey]) -> Sequenced:
    """Let the oldest version of each key go, unless an older one is on its way or has failed; the others wait."""
    overtaken = find_overtaken(ledger, [(each.id, each.key_id, each.seq) for each in due], known)
    left = [each for each in due if each.id not in overtaken]
    if not left:
        return Sequenced(superseded=overtaken)
    holders = ledger.waiting.find_holders(
        stream.name, [each.key_id for each in left], hold_seconds=stream.strict_hold_seconds
    )
    held: dict[str, str] = {}
    ahead: dict[str, str] = {key: holder.id for key, holder in holders.items()}
    oldest_first = {key: holder.seq for key, holder in holders.items()}
    for each in sorted(left, key=lambda each: each.seq):
        before = ahead.get(each.key_id)
        if before is not None and before != each.id and oldest_first[each.key_id] < each.seq:
            held[each.id] = before
        ahead[each.key_id], oldest_first[each.key_id] = each.id, each.seq
    return Sequenced(send=tuple(each for each in left if each.id not in held), superseded=overtaken, held=held)


def find_overtaken(ledger: Ledger, versions: Iterable[Version], known: Mapping[str, KnownKey]) -> dict[str, str]:
    """Return the versions (id → the newest of the key) that must not be sent any more.

    Those older than one that was delivered; and those that only an interrupted poll has seen, where the row went back
    to what it was before.
    """
    passed: dict[str, str] = {}
    others: list[Version] = []
    for each in versions:
        record, key_id, seq = each
        key = known.get(key_id)
        if key is None or key.version == record or key.seq <= seq:
            continue
        if key.delivered_seq > seq:
            passed[record] = key.version
        else:
            others.append(each)
    newest = {each.id: each.seq for each in ledger.records.load_logged([known[key].version for _, key, _ in others])}
    passed |= {record: known[key].version for record, key, seq in others if newest.get(known[key].version, 0) < seq}
    return passed


def make_way(
    ledger: Ledger, stream: Stream, claimed: Sequence[Record], keys: Mapping[str, str], known: Mapping[str, KnownKey]
) -> dict[str, str]:
    """Look, before claimed records are called, where a newer version may have reached the partner already.

    A record that comes too late for its first call is overtaken. Where an operator sends an older version again, what
    was tried of the newer ones goes under a new key, or the partner would take it for a repeat and keep the older.

    Args:
        keys: The key id of each record, by record id. While it is claimed, no other version of its key is in flight.

    Returns:
        The overtaken ones: id → the newest version.
    """
    overtaken: dict[str, str] = {}
    renewed: list[tuple[str, str, int]] = []
    for each in claimed:
        key = known.get(keys[each.id])
        if key is None or key.version == each.id:
            continue
        if key.delivered_seq > each.seq or (key.reached_seq > each.seq and each.attempt == 1):
            overtaken[each.id] = key.version
        elif key.reached_seq > each.seq:
            renewed.append((stream.name, keys[each.id], each.seq))
    ledger.waiting.renew(renewed)
    return overtaken


def find_reached(ledger: Ledger, stream: Stream, late: Record, key: KnownKey) -> list[str]:
    """Return what a call that landed late may have overwritten: the newest delivered version, and those being tried."""
    ledger.waiting.renew([(stream.name, key.key_id, late.seq)])
    return ledger.waiting.find_tried(stream.name, key.key_id, from_seq=max(late.seq + 1, key.delivered_seq))
