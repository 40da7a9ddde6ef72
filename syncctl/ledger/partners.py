"""The `partners` collection: what all workers know of a partner together: pause, breaker, calls under way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.breaker import CLOSED_AT, FIRST_ALLOWED, REMEMBERED_CALLS, WINDOW_SECONDS, BreakerRules, BreakerState
from syncctl.ledger.client import edge
from syncctl.ledger.clock import in_future

Doc = dict[str, Any]
_OPEN, _HALF, _CLOSED = (state.value for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED))


@dataclass(frozen=True, kw_only=True, slots=True)
class PartnerGate:
    """Whether a partner may be called.

    Args:
        allowed: How many records may be on their way while the breaker is half open.
        probe: The batch that asks whether an open partner is back; None while nobody asks.
        is_probe_due: Open for long enough, and nobody is asking.
        last_probe: The record that asked last; another one asks the next time.
    """

    paused: bool = False
    state: BreakerState = BreakerState.CLOSED
    allowed: int = 0
    probe: str | None = None
    is_probe_due: bool = False
    last_probe: str | None = None

    def admits(self, token: str) -> bool:
        """Say whether a batch may make its calls."""
        return not self.paused and (self.state is not BreakerState.OPEN or self.probe == token)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What the calls of a batch say of the partner. `reason` is the last failure, in one line."""

    calls: int = 0
    failures: int = 0
    reason: str = ""


class Partners:
    """One document per partner; every change is one write, judged by MongoDB's clock."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._partners: Collection[Doc] = database["partners"]
        self.hosts = hosts

    @edge
    def load_gate(self, partner: str) -> PartnerGate:
        """Return what must be known before a partner is called."""
        due = {"$lte": ["$breaker.until", "$$NOW"]}
        free = {"$not": [{"$gt": ["$breaker.probe.until", "$$NOW"]}]}
        fields: Doc = {"paused": True, "breaker": True, "is_probe_due": {"$and": [due, free]}}
        found = self._partners.find_one({"_id": partner}, fields) or {}
        breaker = found.get("breaker", {})
        state = BreakerState(breaker.get("state", _CLOSED))
        return PartnerGate(
            paused="paused" in found,
            state=state,
            allowed=int(breaker.get("allowed", 0)),
            probe=breaker.get("probe", {}).get("token"),
            is_probe_due=state is BreakerState.OPEN and bool(found.get("is_probe_due")),
            last_probe=breaker.get("last_probe"),
        )

    @edge
    def acquire_probe(self, partner: str, *, token: str, record: str, seconds: float) -> bool:
        """Take the right to ask whether an open partner is back; one asks at a time."""
        due: Doc = {"$expr": {"$and": [
            {"$lte": ["$breaker.until", "$$NOW"]},
            {"$not": [{"$gt": ["$breaker.probe.until", "$$NOW"]}]},
        ]}}  # fmt: skip
        query = {"_id": partner, "breaker.state": _OPEN, "breaker.until": {"$type": "date"}, **due}
        probe = {"breaker.probe": {"token": token, "until": in_future(seconds)}, "breaker.last_probe": record}
        return self._partners.update_one(query, [{"$set": probe}]).modified_count == 1

    @edge
    def release_probe(self, partner: str, *, token: str) -> None:
        """Let another ask: this batch made no call."""
        self._partners.update_one({"_id": partner, "breaker.probe.token": token}, {"$unset": {"breaker.probe": True}})

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
    def report(self, partner: str, tally: Tally, *, token: str, rules: BreakerRules) -> BreakerState:
        """Add what a batch has seen of a partner, and open or close the breaker; return its state."""
        changes = [{"$set": {"breaker": _judge(tally, token, rules)}}]
        found = self._partners.find_one_and_update(
            {"_id": partner}, changes, upsert=True, return_document=ReturnDocument.AFTER
        )
        return BreakerState((found or {}).get("breaker", {}).get("state", _CLOSED))

    @edge
    def pause(self, partner: str, *, who: str, reason: str) -> None:
        """Stop calling a partner until somebody resumes it."""
        paused = {"by": {"$literal": who}, "reason": {"$literal": reason}, "at": "$$NOW"}
        self._partners.update_one({"_id": partner}, [{"$set": {"paused": paused}}], upsert=True)

    @edge
    def resume(self, partner: str) -> bool:
        """Call a partner again, with its breaker closed; False when it was neither paused nor open."""
        query = {"_id": partner, "$or": [{"paused": {"$exists": True}}, {"breaker.state": {"$in": [_OPEN, _HALF]}}]}
        return self._partners.update_one(query, {"$unset": {"paused": True, "breaker": True}}).modified_count == 1

    @edge
    def load_all(self) -> dict[str, Mapping[str, Any]]:
        """Return every partner's document by name."""
        return {found["_id"]: found for found in self._partners.find({})}


def _judge(tally: Tally, token: str, rules: BreakerRules) -> Doc:
    """Return the expression for the breaker after a batch."""
    state = {"$ifNull": ["$breaker.state", _CLOSED]}
    is_probe = {"$eq": [{"$ifNull": ["$breaker.probe.token", ""]}, token]}
    return {
        "$switch": {
            "branches": [
                {"case": {"$eq": [state, _CLOSED]}, "then": _judge_closed(tally, rules)},
                {"case": {"$eq": [state, _HALF]}, "then": _judge_half_open(tally, rules)},
                # Open: what was under way before says nothing new; the probe does.
                {"case": is_probe, "then": _half_opened() if tally.failures == 0 else _opened(tally, rules)},
            ],
            "default": "$breaker",
        }
    }


def _judge_closed(tally: Tally, rules: BreakerRules) -> Doc:
    """Count calls and failures of the last minute, the older ones for less; open where too many have failed."""
    began = {"$ifNull": ["$breaker.window_start", None]}
    is_over = {"$lte": [began, {"$subtract": ["$$NOW", round(WINDOW_SECONDS * 1000)]}]}

    def counted(field: str, more: int) -> Doc:
        return {"$cond": [is_over, more, {"$add": [{"$ifNull": [f"$breaker.{field}", 0]}, more]}]}

    calls, failures = counted("calls", tally.calls), counted("failures", tally.failures)
    is_down = {"$and": [{"$gte": [calls, rules.calls]}, {"$gte": [failures, {"$multiply": [calls, rules.failures]}]}]}
    start = {"$cond": [is_over, "$$NOW", began]}
    weight = {"$min": [1, {"$divide": [REMEMBERED_CALLS, {"$max": [1, calls]}]}]}
    closed = {
        "state": _CLOSED,
        "window_start": start,
        "calls": {"$multiply": [calls, weight]},
        "failures": {"$multiply": [failures, weight]},
    }
    return {"$cond": [is_down, _opened(tally, rules), closed]}


def _judge_half_open(tally: Tally, rules: BreakerRules) -> Doc:
    """Let twice as many go after a batch without trouble; open again where half of its calls have failed."""
    if tally.failures * 2 >= max(1, tally.calls):
        return _opened(tally, rules)
    if tally.failures:
        return {"$ifNull": ["$breaker", {}]}
    allowed = {"$multiply": ["$breaker.allowed", 2]}
    grown = {"$mergeObjects": ["$breaker", {"allowed": allowed}]}
    return {"$cond": [{"$gte": [allowed, CLOSED_AT]}, {"state": _CLOSED}, grown]}


def _opened(tally: Tally, rules: BreakerRules) -> Doc:
    times = {"$ifNull": ["$breaker.times", 0]}
    pause = {"$min": [
        round(rules.longest_pause_seconds * 1000),
        {"$multiply": [round(rules.pause_seconds * 1000), {"$pow": [2, {"$min": [times, 20]}]}]},
    ]}  # fmt: skip
    is_open = {"$in": [{"$ifNull": ["$breaker.state", _CLOSED]}, [_OPEN, _HALF]]}
    return {
        "state": _OPEN,
        "since": {"$cond": [is_open, {"$ifNull": ["$breaker.since", "$$NOW"]}, "$$NOW"]},
        "until": {"$add": ["$$NOW", pause]},
        "times": {"$add": [times, 1]},
        "reason": {"$literal": tally.reason},
        "last_probe": {"$ifNull": ["$breaker.last_probe", None]},
    }


def _half_opened() -> Doc:
    return {
        "state": _HALF,
        "since": "$breaker.since",
        "times": "$breaker.times",
        "reason": "$breaker.reason",
        "allowed": FIRST_ALLOWED,
    }
