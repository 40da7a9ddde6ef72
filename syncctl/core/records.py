"""A record: one version of one source row, with the state of its delivery."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from syncctl.core.remote_values import LostObject
from syncctl.core.rows import Operation, Value
from syncctl.core.states import State

Step = Literal["send", "update", "look_up"]
"""Send: to the stream's endpoint, or to that of deletes. Look up: ask whether the partner has an object of the row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record as delivery needs it."""

    #: Deterministic from stream, key and version.
    id: str
    stream: str
    key: Mapping[str, Value]
    #: Decides which of two versions of a key is newer.
    seq: int
    op: Operation
    payload: Mapping[str, Value] | None
    state: State
    #: The number of the attempt that is about to be made, from 1; sent as a header.
    attempt: int = 1
    #: Attempts before it was last sent again from the beginning, by an operator or because an older call came late.
    attempts_before: int = 0
    #: Calls since it was logged or last replayed: the position in the retry schedule.
    tries: int = 0
    #: When the first of those calls was made; None before it.
    tried_since: datetime | None = None
    #: An operator has sent it again.
    was_replayed: bool = False
    #: Identifies everything that shapes the bytes of its calls.
    mapping_hash: str = ""
    #: Starts at 0, and grows by one each time the record must be sent under a new `Idempotency-Key`.
    generation: int = 0
    #: It was refused along with others, over credentials or in a run of refusals, and sent back without blame.
    was_refused: bool = False
    #: It was refused while others were accepted: a later refusal is about this record too.
    refused_alone: bool = False

    #: The most rows, its own included, in a call that sends it; None: as many as the stream allows.
    rows_at_most: int | None = None
    #: The known values of the partner's object for its row, by name.
    remote: Mapping[str, Value] = field(default_factory=dict)
    #: Identifies the remote values that shaped its calls; empty if none did.
    remote_hash: str = ""
    #: The next call for it.
    step: Step = "send"
    #: The partner was asked and has no object for its row, and no call since then may have created one.
    looked_up: bool = False
    #: The object that the partner no longer has; it is created anew, unless another one has become known since.
    recreates: LostObject | None = None

    @property
    def is_retry(self) -> bool:
        """Whether the attempt that is about to be made repeats an earlier one of its series."""
        return self.attempt - self.attempts_before > 1

    @property
    def idempotency_key(self) -> str:
        """The record's name for the partner; it changes only when the bytes do (IETF draft-07, invariant 7)."""
        return idempotency_key(self.id, self.generation)


def read_idempotency_key(document: Mapping[str, Any]) -> str:
    """Return the `Idempotency-Key` of a stored record's last call, or of its next one unless the mapping changes."""
    return idempotency_key(document["_id"], int(document.get("generation") or 0))


def idempotency_key(record_id: str, generation: int) -> str:
    """Return the `Idempotency-Key` of a record in one of its generations."""
    return record_id if generation == 0 else f"{record_id}-{generation + 1}"
