"""Remote values in delivery: what is known of the partner's object for a row, and what its answers add to that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from syncctl.core.records import Record
from syncctl.core.remote_values import RemoteChange
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import KnownKey
from syncctl.logs import get_logger

log = get_logger(__name__)


def add_remote(records: Sequence[Record], key_ids: Mapping[str, str], known: Mapping[str, KnownKey]) -> list[Record]:
    """Return records with what is known of the partner's objects for their rows.

    Args:
        key_ids: The key id of each record, by record id.
    """
    return [
        replace(record, remote=key.remote_values)
        if (key := known.get(key_ids[record.id])) is not None and key.remote is not None
        else record
        for record in records
    ]


def shape_by_remote(record: Record, remote_hash: str) -> Record:
    """Return a record whose call these remote values shape: the same one where they shaped the last call too.

    Otherwise its bytes are others than those of a call that may have been made, and it goes under a new
    `Idempotency-Key` (invariant 7).
    """
    if record.remote_hash == remote_hash:
        return record
    return replace(record, remote_hash=remote_hash, generation=record.generation + (record.attempt > 1))


def describe_remote(transition: Transition) -> RemoteChange:
    """Return what an accepted answer says of the partner's object."""
    outcome, record = transition.outcome, transition.record
    if record.op == "delete":
        return RemoteChange(is_gone=True)
    return RemoteChange(values=outcome.captured if outcome is not None else {})


def warn_not_captured(stream: str, transitions: Sequence[Transition]) -> None:
    """Log, once for all of them, that values of accepted answers could not be captured."""
    reasons = {
        transition.record.id: transition.outcome.not_captured
        for transition in transitions
        if transition.outcome is not None and transition.outcome.not_captured is not None
    }
    if reasons:
        record, reason = next(iter(reasons.items()))
        log.warning("deliver.not_captured", stream=stream, records=len(reasons), first=record, reason=reason)
