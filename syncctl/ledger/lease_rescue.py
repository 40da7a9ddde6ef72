"""Bringing back records of dead and stalled workers, and queued records whose message is gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.fingerprint import fingerprint
from syncctl.core.records import idempotency_key
from syncctl.core.states import IN_FLIGHT, State
from syncctl.ledger.client import edge
from syncctl.ledger.expressions import IN_FLIGHT_FIELDS, grown, in_future, is_past, or_zero

Doc = dict[str, Any]
LOSSES_AT_MOST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpiredLease:
    """The lease of a record that ran out."""

    id: str
    key_id: str
    seq: int
    token: str
    state: State
    #: The `Idempotency-Key` of the call that may have been made.
    call: str


class LeaseRescue:
    """Every write is guarded by the token whose lease ran out, so that two workers bring a record back once."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def find_expired(self, stream: str, *, limit: int) -> list[ExpiredLease]:
        """Return the leases that ran out by MongoDB's clock (invariant 8), at most `limit` (invariant 11)."""
        return self._find({"stream": stream, "fresh": {"$in": [True, False]}, **is_past("lease.until")}, limit=limit)

    @edge
    def find_forgotten(
        self, stream: str, *, after_seconds: float, lease_seconds: float, limit: int
    ) -> list[ExpiredLease]:
        """Return the leases of records queued for some time; if Redis holds no message at all, theirs are lost."""
        gone = {"$lte": ["$lease.until", in_future(lease_seconds - after_seconds)]}
        query = {"stream": stream, "state": State.QUEUED.value, "fresh": {"$in": [True, False]}}
        query |= {"lease.until": {"$type": "date"}, "$expr": gone}
        return self._find(query, limit=limit)

    def _find(self, query: Doc, *, limit: int) -> list[ExpiredLease]:
        fields = {"key_id": True, "seq": True, "lease.token": True, "state": True, "generation": True}
        query = {"state": {"$in": [state.value for state in IN_FLIGHT]}, **query, "in_flight": True}
        found = self._records.find(query, fields, limit=limit, hint="in_flight")
        return [
            ExpiredLease(
                id=record["_id"],
                key_id=record["key_id"],
                seq=int(record["seq"]),
                token=record["lease"]["token"],
                state=State(record["state"]),
                call=idempotency_key(record["_id"], int(record.get("generation", 0))),
            )
            for record in found
        ]

    @edge
    def bring_back(
        self, expired: Sequence[ExpiredLease], *, even_unexpired: bool = False, fail_first: bool = False
    ) -> int:
        """Bring back records that a dead or stalled worker held; return how many.

        The call of a record in `sending` may have been made: its history notes it as `lost` (invariant 4). The third
        loss makes the record failed, because it may be what kills its worker (invariant 7).

        Args:
            fail_first: The first loss makes a record failed: its call may have been made, and must not be repeated.
        """
        losses = 1 if fail_first else LOSSES_AT_MOST
        past: Doc = {} if even_unexpired else is_past("lease.until")
        writes = [
            UpdateOne(
                # Invariant 3: another holder's record, or one in another state by now, is left alone.
                {"_id": lease.id, "lease.token": lease.token, "state": lease.state.value, **past},
                self._lost(lease, losses) if lease.state is State.SENDING else [
                    {"$set": {"state": State.PENDING.value}}, {"$unset": IN_FLIGHT_FIELDS},
                ],
            )
            for lease in expired
        ]  # fmt: skip
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @staticmethod
    def _lost(lease: ExpiredLease, losses: int) -> list[Doc]:
        message = f"its worker died or stalled {losses} times while sending it"
        if losses == 1:
            message = "its worker died or stalled while sending it: held, because the partner may have it"
        error = {"fingerprint": fingerprint(None, message), "status": None, "message": message}
        poison = {"$gte": ["$losses", losses]}
        lost = {
            "n": "$claims",
            "worker": "$lease.worker",
            "state": "$state",
            # With a fingerprint, so that the report counts a failed record among its errors.
            "error": {"$cond": [poison, message, "the worker's lease ran out"]},
            "fingerprint": {"$cond": [poison, error["fingerprint"], "$$REMOVE"]},
        }
        entry = {"action": "lost", "claim": lease.token}
        return [
            {"$set": {"losses": {"$add": [or_zero("losses"), 1]}, "updated_at": "$$NOW"}},
            {"$set": {
                "state": {"$cond": [poison, State.FAILED.value, State.PENDING.value]},
                "fresh": False,
                "error": {"$cond": [poison, {"$literal": error}, {"$ifNull": ["$error", "$$REMOVE"]}]},
                "failed_at": {"$cond": [poison, "$$NOW", "$$REMOVE"]},
                "finished_at": {"$cond": [poison, "$$NOW", "$$REMOVE"]},
                "due_at": {"$cond": [poison, "$$REMOVE", "$$NOW"]},
            }},
            {"$set": {"history": grown(entry, **lost)}},
            {"$unset": IN_FLIGHT_FIELDS},
        ]  # fmt: skip
