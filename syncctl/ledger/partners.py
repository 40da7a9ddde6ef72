"""The `partners` collection: what all workers know of a partner together: pause, calls under way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.client import edge
from syncctl.ledger.expressions import in_future, paused_by

Doc = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartnerGate:
    """Whether a partner may be called. `back_at` is when it was last resumed."""

    paused: bool = False
    back_at: datetime | None = None


class Partners:
    """One document per partner; every change is one write, judged by MongoDB's clock."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._partners: Collection[Doc] = database["partners"]
        self.hosts = hosts

    @edge
    def load_gate(self, partner: str) -> PartnerGate:
        """Return what must be known before a partner is called."""
        found = self._partners.find_one({"_id": partner}, {"paused": True, "back_at": True}) or {}
        return PartnerGate(paused="paused" in found, back_at=found.get("back_at"))

    @edge
    def acquire_permits(self, partner: str, *, token: str, wanted: int, at_most: int, seconds: float) -> int:
        """Take the right to make calls at once, exact over all workers; return for how many, at most `wanted`.

        Args:
            at_most: How many calls to this partner may be under way in all.
            seconds: The end of a permit that is not renewed; whatever call was begun under it must have ended by then.
        """
        live = {"$filter": {"input": {"$ifNull": ["$permits", []]}, "cond": {"$gt": ["$$this.until", "$$NOW"]}}}
        free = {"$subtract": [at_most, {"$sum": "$permits.calls"}]}
        granted = {"$max": [0, {"$min": [wanted, free]}]}
        mine = {"token": token, "calls": "$granted", "until": in_future(seconds)}
        changes: list[Doc] = [
            {"$set": {"permits": live}},
            {"$set": {"granted": granted}},
            {"$set": {"permits": {"$concatArrays": [
                "$permits", {"$cond": [{"$gt": ["$granted", 0]}, [mine], []]},
            ]}}},
            {"$unset": "granted"},
        ]  # fmt: skip
        # Where the driver repeats a write, MongoDB answers with what the first one did.
        found = self._partners.find_one_and_update(
            {"_id": partner}, changes, upsert=True, return_document=ReturnDocument.AFTER
        )
        permits: list[Doc] = (found or {}).get("permits", [])
        return sum(int(each["calls"]) for each in permits if each["token"] == token)

    @edge
    def renew_permits(self, partner: str, *, token: str, seconds: float) -> bool:
        """Prolong permits; False when they have ended, and another may have them."""
        mine = {"$map": {"input": "$permits", "in": {"$cond": [
            {"$eq": ["$$this.token", token]}, {"$mergeObjects": ["$$this", {"until": in_future(seconds)}]}, "$$this",
        ]}}}  # fmt: skip
        live = {"$anyElementTrue": [{"$map": {"input": {"$ifNull": ["$permits", []]}, "in": {"$and": [
            {"$eq": ["$$this.token", token]}, {"$gt": ["$$this.until", "$$NOW"]},
        ]}}}]}  # fmt: skip
        query = {"_id": partner, "$expr": live}
        return self._partners.update_one(query, [{"$set": {"permits": mine}}]).matched_count == 1

    @edge
    def release_permits(self, partner: str, *, token: str) -> None:
        """Give permits back; safe to repeat."""
        self._partners.update_one({"_id": partner}, {"$pull": {"permits": {"token": token}}})

    @edge
    def pause(self, partner: str, *, who: str, reason: str) -> None:
        """Stop calling a partner until somebody resumes it; what an operator has said before, syncctl leaves."""
        self._partners.update_one({"_id": partner}, [{"$set": {"paused": paused_by(who, reason)}}], upsert=True)

    @edge
    def resume(self, partner: str) -> bool:
        """Call a partner again; False when it was not paused."""
        changes: list[Doc] = [{"$set": {"back_at": "$$NOW"}}, {"$unset": "paused"}]
        return self._partners.update_one({"_id": partner, "paused": {"$exists": True}}, changes).modified_count == 1

    @edge
    def load_all(self) -> dict[str, Mapping[str, Any]]:
        """Return every partner's document by name."""
        return {found["_id"]: found for found in self._partners.find({})}
