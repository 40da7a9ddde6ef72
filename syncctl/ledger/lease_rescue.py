"""What brings back the records of dead and stalled workers, and those whose message is gone."""

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
class Expired:
    """A record whose lease ran out."""

    id: str
    key_id: str
    seq: int
    token: str
    state: State
    call: str


class Returns:
    """Guarded by the token whose lease ran out, so that two who look at once return a record once."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def find_expired(self, stream: str, *, limit: int) -> list[Expired]:
        """Return records whose lease ran out by MongoDB's clock."""
        return self._find({"stream": stream, "fresh": {"$in": [True, False]}, **is_past("lease.until")}, limit=limit)

    @edge
    def find_forgotten(self, stream: str, *, after_seconds: float, lease_seconds: float, limit: int) -> list[Expired]:
        """Return records queued for some time; where Redis holds no message at all, theirs are gone."""
        gone = {"$lte": ["$lease.until", in_future(lease_seconds - after_seconds)]}
        query = {"stream": stream, "state": State.QUEUED.value, "fresh": {"$in": [True, False]}}
        query |= {"lease.until": {"$type": "date"}, "$expr": gone}
        return self._find(query, limit=limit)

    def _find(self, query: Doc, *, limit: int) -> list[Expired]:
        fields = {"key_id": True, "seq": True, "lease.token": True, "state": True, "generation": True}
        query = {"state": {"$in": [state.value for state in IN_FLIGHT]}, **query, "in_flight": True}
        found = self._records.find(query, fields, limit=limit, hint="in_flight")
        return [
            Expired(
                id=each["_id"],
                key_id=each["key_id"],
                seq=int(each["seq"]),
                token=each["lease"]["token"],
                state=State(each["state"]),
                call=idempotency_key(each["_id"], int(each.get("generation", 0))),
            )
            for each in found
        ]

    @edge
    def return_expired(self, expired: Sequence[Expired], *, even_unexpired: bool = False, hold: bool = False) -> int:
        """Bring back what a dead or stalled worker held; the third loss in sending makes a record failed (poison).

        The call of a record that was being sent may have been made: this is noted in its history as `lost`.

        Args:
            hold: The first loss in sending makes a record failed: its call may have been made, and is not repeated.
        """
        losses = 1 if hold else LOSSES_AT_MOST
        past: Doc = {} if even_unexpired else is_past("lease.until")
        writes = [
            UpdateOne(
                {"_id": each.id, "lease.token": each.token, "state": each.state.value, **past},
                self._lost(each, losses) if each.state is State.SENDING else [
                    {"$set": {"state": State.PENDING.value}}, {"$unset": IN_FLIGHT_FIELDS},
                ],
            )
            for each in expired
        ]  # fmt: skip
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @staticmethod
    def _lost(each: Expired, losses: int) -> list[Doc]:
        message = f"its worker died or stalled {losses} times while sending it"
        if losses == 1:
            message = "its worker died or stalled while sending it: held, because the partner may have it"
        error = {"fingerprint": fingerprint(None, message), "status": None, "message": message}
        poison = {"$gte": ["$losses", losses]}
        lost = {
            "n": "$claims",
            "worker": "$lease.worker",
            "state": "$state",
            # With a fingerprint, so that the report counts what failed among its errors.
            "error": {"$cond": [poison, message, "the worker's lease ran out"]},
            "fingerprint": {"$cond": [poison, error["fingerprint"], "$$REMOVE"]},
        }
        entry = {"action": "lost", "claim": each.token}
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
