"""A record: one version of one source row, with the state of its delivery."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncctl.core.rows import Operation, Value
from syncctl.core.states import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What delivery needs to know of a record.

    Args:
        id: Deterministic from stream, key and version.
        seq: Decides newer or older among the versions of one key.
        tried_since: When the first of those calls was made; None before it.
        generation: 0, and one more each time the record must go under a new `Idempotency-Key`.
        attempt: The number of the attempt that is about to be made, from 1; sent as a header.
        tries: Calls since it was logged or last replayed: the position in the retry schedule.
    """

    id: str
    stream: str
    key: Mapping[str, Value]
    seq: int
    op: Operation
    payload: Mapping[str, Value] | None
    state: State
    attempt: int = 1
    tries: int = 0
    tried_since: datetime | None = None
    generation: int = 0

    @property
    def idempotency_key(self) -> str:
        """Name this record to the partner; it stays the same as long as the bytes do (IETF draft-07)."""
        return idempotency_key(self.id, self.generation)


def idempotency_key(record_id: str, generation: int) -> str:
    """Return the `Idempotency-Key` of a record in one of its generations."""
    return record_id if generation == 0 else f"{record_id}-{generation + 1}"


Document = Mapping[str, Any]
"""A ledger document as commands show it: JSON-safe, times as aware UTC datetimes."""
