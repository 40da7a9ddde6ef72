"""The rescue of records in a batch whose process died or stands still."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.fingerprint import fingerprint
from syncctl.core.records import read_idempotency_key
from syncctl.core.states import State
from syncctl.ledger.attempt_history import grown
from syncctl.ledger.batches import GIVEN_BACK, ExpiredBatch
from syncctl.ledger.expressions import IN_FLIGHT_FIELDS, in_future, or_absent, or_zero
from syncctl.ledger.indexes import ONE_IN_FLIGHT
from syncctl.ledger.keys import SentCall
from syncctl.ledger.mongo_client import edge, update_many_safely
from syncctl.ledger.write_backs import WRITE_BACK, marked_if

Doc = dict[str, Any]
LOSSES_AT_MOST = 3
POISON = f"its worker died or stalled {LOSSES_AT_MOST} times while sending it"
"""The error of a record that may have killed its processes."""
FAILED_COUNTED_AT_MOST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A record whose call may have begun before its process was lost."""

    id: str
    call: SentCall
    #: When it was claimed, by MongoDB's clock; the call began later.
    claimed_at: datetime


class LeaseRescue:
    """Brings records back, guarded by the batch's token: two processes at once bring a record back only once."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self._batches: Collection[Doc] = database["batches"]
        self.hosts = hosts

    @edge
    def give_back_unsent(self, batch: ExpiredBatch) -> int:
        """Make the records due whose calls cannot have begun, as if they had not been claimed; return how many."""
        ids = [record for record in batch.ids if record not in batch.begun]
        guard = {"_id": {"$in": ids}, "lease.token": batch.token}
        return update_many_safely(self._records, guard, GIVEN_BACK) if ids else 0

    @edge
    def give_back_stranded(self, stream: str) -> int:
        """Make the records due that are in flight for a batch that is gone; return how many. Safe to repeat.

        A process that stood still between the two writes of `Batches.take` takes records for a batch that another
        process has brought back since then, without records, and removed. It makes no calls: `Batches.begin` fails.
        """
        in_flight = {"stream": stream, "in_flight_key": {"$gt": ""}}
        stages: list[Doc] = [{"$match": in_flight}, {"$group": {"_id": "$lease.token"}}]
        tokens = [group["_id"] for group in self._records.aggregate(stages, hint=ONE_IN_FLIGHT)]
        # Read after the records: a batch is written before its records are taken. A batch that has ended since has no
        # records left that the guard would match.
        known = {batch["_id"] for batch in self._batches.find({"_id": {"$in": tokens}}, {"_id": True})}
        gone = [token for token in tokens if token not in known]
        guard = {**in_flight, "lease.token": {"$in": gone}}
        return update_many_safely(self._records, guard, GIVEN_BACK, hint=ONE_IN_FLIGHT) if gone else 0

    @edge
    def find_lost(self, batch: ExpiredBatch) -> list[Lost]:
        """Return the records whose calls may have begun and whose outcome was not written."""
        query = {"_id": {"$in": sorted(batch.begun)}, "lease.token": batch.token}
        fields = dict.fromkeys(("key_id", "seq", "generation", "mapping_hash", "lease"), True)
        documents = self._records.find(query, fields)
        return [
            Lost(
                id=document["_id"],
                call=SentCall(
                    key_id=document["key_id"],
                    seq=int(document["seq"]),
                    call=read_idempotency_key(document),
                    mapping_hash=document["mapping_hash"],
                ),
                claimed_at=document["lease"]["at"],
            )
            for document in documents
        ]

    @edge
    def return_lost(
        self,
        batch: ExpiredBatch,
        lost: Sequence[Lost],
        *,
        after_seconds: float,
        fail_first: bool = False,
        new_keys: Container[str] = (),
        writes_back: bool = False,
    ) -> int:
        """Bring back records whose call may have been made, and note it in their history as `lost`; return how many.

        A record that was lost alone three times is assumed to kill its process, and becomes failed (poison). In a batch
        with others, any of them may have done so, so all such losses together count only once.

        Args:
            after_seconds: How long from now they are due again: once no earlier call can still reach the partner.
            fail_first: The first loss makes a record failed: its call may have been made, and is not repeated.
            new_keys: The ids of records that are sent under a new `Idempotency-Key` from now on.
            writes_back: A failure is written back into the source later.
        """
        changes = self._lose(batch, after_seconds, losses=1 if fail_first else LOSSES_AT_MOST)
        if writes_back:
            changes.append({"$set": {WRITE_BACK: marked_if({"$eq": ["$state", State.FAILED.value]})}})
        renewed: list[Doc] = [{"$set": {"generation": {"$add": [or_zero("generation"), 1]}}}]
        writes = [
            UpdateOne(
                {"_id": record.id, "lease.token": batch.token}, changes + (renewed if record.id in new_keys else [])
            )
            for record in lost
        ]
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @edge
    def count_poison(self, stream: str) -> int:
        """Return how many of the latest failed records failed because they were lost three times."""
        failed = {"stream": stream, "state": State.FAILED.value, "finished_at": {"$type": "date"}}
        stages: list[Doc] = [
            {"$match": failed},
            {"$sort": {"finished_at": -1}},
            {"$limit": FAILED_COUNTED_AT_MOST},
            {"$match": {"error.fingerprint": fingerprint(None, POISON)}},
            {"$count": "records"},
        ]
        counts = next(self._records.aggregate(stages, hint="finished"), None)
        return int(counts["records"]) if counts else 0

    @staticmethod
    def _lose(batch: ExpiredBatch, after_seconds: float, *, losses: int) -> list[Doc]:
        message = POISON
        if losses == 1:
            message = "its worker died or stalled while sending it: not sent again, because the partner may have it"
        error = {"fingerprint": fingerprint(None, message), "status": None, "message": message}
        poison = {"$gte": ["$losses", losses]}
        # Also for a batch of many that names only one of them by now: the record has no losses yet, and gets its first.
        is_alone = len(batch.ids) == 1
        counted = {"$add": [or_zero("losses"), 1]} if is_alone else {"$max": [or_zero("losses"), 1]}
        lost = {
            "n": "$claims",
            "worker": "$lease.worker",
            "state": "$state",
            # With a fingerprint, so that the report counts the failure among its errors.
            "error": {"$cond": [poison, message, "the worker's lease ran out"]},
            "fingerprint": {"$cond": [poison, error["fingerprint"], "$$REMOVE"]},
        }
        entry = {"action": "lost", "claim": batch.token}
        return [
            {"$set": {"losses": counted, "updated_at": "$$NOW"}},
            {"$set": {
                "state": {"$cond": [poison, State.FAILED.value, State.PENDING.value]},
                "fresh": False,
                "error": {"$cond": [poison, {"$literal": error}, or_absent("error")]},
                "failed_at": {"$cond": [poison, "$$NOW", "$$REMOVE"]},
                "finished_at": {"$cond": [poison, "$$NOW", "$$REMOVE"]},
                "due_at": {"$cond": [poison, "$$REMOVE", in_future(after_seconds)]},
            }},
            {"$set": grown(entry, **lost)},
            # The call may have created the object that the partner did not have when it was asked.
            {"$unset": [*IN_FLIGHT_FIELDS, "looked_up"]},
        ]  # fmt: skip
