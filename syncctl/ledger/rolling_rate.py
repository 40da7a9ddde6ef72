"""A partner's rate limit of less than one call a second: the times of its latest calls, which all workers share.

They are kept in the ledger, because after a flush of Redis the calls of a whole day could be made too early.
"""

from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.expressions import in_future
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

NEAR_SECONDS = 1.0
"""No record is taken until its permit is this near."""
ARRIVES_WITHIN_SECONDS = 0.5
"""A call may take this much longer than a later one to arrive; the partner's own count must not exceed its limit."""
ENTRIES_PER_SPAN = 100
"""Calls within this part of a span are one entry, with the time of the last: a permit is at most that much later."""
LOST_SECONDS = 0.1
"""When to ask again after another process was faster."""


class RollingRate:
    """Allows all calls of a span at once, and never more than that in any span, wherever it begins.

    Judged by MongoDB's clock alone (invariant 8).

    Args:
        name: The partner's name.
        calls: How many calls.
        seconds: The span.
    """

    def __init__(self, database: Database[Doc], hosts: str, *, name: str, calls: int, seconds: float) -> None:
        self.name = name
        self.calls_per_second = calls / seconds
        self.hosts = hosts
        self._partners: Collection[Doc] = database["partners"]
        self._calls = calls
        self._span_seconds = seconds + ARRIVES_WITHIN_SECONDS

    @edge
    def try_take(self) -> tuple[bool, float]:
        """Take a permit that is valid now; return whether one was taken, and in how many seconds the next one is valid.

        Raises:
            ServiceUnavailable: MongoDB cannot be reached.
        """
        seconds = self._count_down()
        if seconds > 0:
            return False, seconds
        live = {"$filter": {"input": _CALLS, "cond": {"$gt": ["$$this.at", in_future(-self._span_seconds)]}}}
        count = {"$sum": {"$map": {"input": live, "in": "$$this.n"}}}
        others = {"$filter": {"input": "$rate.calls", "cond": {"$ne": ["$$this.from", "$$last.from"]}}}
        is_recent = {"$gt": ["$$last.from", in_future(-self._span_seconds / ENTRIES_PER_SPAN)]}
        grown = [{"from": "$$last.from", "at": "$$NOW", "n": {"$add": ["$$last.n", 1]}}]
        added = [{"from": "$$NOW", "at": "$$NOW", "n": 1}]
        entries = {"$cond": [
            is_recent, {"$concatArrays": [others, grown]}, {"$concatArrays": ["$rate.calls", added]},
        ]}  # fmt: skip
        changes: list[Doc] = [
            {"$set": {"rate.calls": live}},
            {"$set": {"rate.calls": {"$let": {"vars": {"last": {"$last": "$rate.calls"}}, "in": entries}}}},
        ]
        guard = {"_id": self.name, "$expr": {"$lt": [count, self._calls]}}
        if self._partners.update_one(guard, changes).matched_count == 1:
            return True, 0.0
        return False, LOST_SECONDS

    @edge
    def is_permit_near(self) -> bool:
        """Tell whether a permit is valid within about a second; takes none.

        Raises:
            ServiceUnavailable: MongoDB cannot be reached.
        """
        return self._count_down() <= NEAR_SECONDS

    def _count_down(self) -> float:
        """Return in how many seconds a permit is valid."""
        partner = self._partners.find_one({"_id": self.name}, {"rate": True, "now": "$$NOW"})
        if partner is None:
            self._partners.update_one({"_id": self.name}, {"$setOnInsert": {"rate": {"calls": []}}}, upsert=True)
            return 0.0
        now: datetime = partner["now"]
        entries = [(entry["at"], int(entry["n"])) for entry in partner.get("rate", {}).get("calls", ())]
        if any(at > now for at, _ in entries):
            # MongoDB's clock was set back, or another member is primary: treat these calls as if made just now.
            earlier = {"$mergeObjects": ["$$this", {"at": {"$min": ["$$this.at", "$$NOW"]}}]}
            clamped = {"$map": {"input": _CALLS, "in": earlier}}
            self._partners.update_one({"_id": self.name}, [{"$set": {"rate.calls": clamped}}])
        span = timedelta(seconds=self._span_seconds)
        ends = sorted((min(at, now) + span, count) for at, count in entries if min(at, now) + span > now)
        left, seconds = sum(count for _, count in ends), 0.0
        for end, count in ends:
            if left < self._calls:
                break
            left, seconds = left - count, (end - now).total_seconds()
        return seconds


_CALLS: Doc = {"$ifNull": ["$rate.calls", []]}
