"""The circuit breaker of each stream, which all workers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import BreakerState
from syncctl.core.stream import BreakerRules
from syncctl.ledger.expressions import SENT_BY_MINUTE, counted_by_minute, doubled_pause_ms, in_future, or_absent
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]
WINDOW_SECONDS = 60.0
REMEMBERED_CALLS = 50
"""Caps how many earlier calls count, so that on a busy partner past successes don't hide a fresh outage."""
HALF_OPEN_STARTS_AT = 2
"""How many records may be in flight when the breaker becomes half-open."""
HALF_OPEN_ENDS_AT = 64
"""How many records may be in flight when the breaker closes; the number doubles after each stage without trouble."""
_OPEN, _HALF, _CLOSED = (state.value for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED))
_NO_PROBE: Doc = {"$not": [{"$gt": ["$breaker.probe.until", "$$NOW"]}]}
_IS_DUE: Doc = {"$and": [{"$lte": ["$breaker.until", "$$NOW"]}, _NO_PROBE]}
_IS_DUE_FOR_FRESH: Doc = {"$or": [_IS_DUE, {"$and": [
    {"$eq": [{"$type": "$breaker.fresh_until"}, "date"]}, {"$lte": ["$breaker.fresh_until", "$$NOW"]}, _NO_PROBE,
]}]}  # fmt: skip
GATE_FIELDS: Doc = {"breaker": True, "is_probe_due": _IS_DUE, "is_fresh_probe_due": _IS_DUE_FOR_FRESH}
"""The fields of a stream's document that `read_breaker` needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerGate:
    """The state of a circuit breaker."""

    state: BreakerState = BreakerState.CLOSED
    #: Half-open: how many records may be in flight.
    allowed: int = 0
    #: Open: the token of the batch that is the probe; None if there is none.
    probe: str | None = None
    #: It has been open for long enough, and there is no probe.
    is_probe_due: bool = False
    #: It has been open for long enough for a record that was never sent, and there is no probe.
    is_fresh_probe_due: bool = False
    #: The record of the last probe; the next probe is another one.
    last_probe: str | None = None

    def admits(self, token: str) -> bool:
        """Return whether a batch may make its calls."""
        return self.state is not BreakerState.OPEN or self.probe == token


def read_breaker(found: Mapping[str, Any]) -> BreakerGate:
    """Return the state of the breaker in a stream's document."""
    breaker = found.get("breaker", {})
    state = BreakerState(breaker.get("state", _CLOSED))
    return BreakerGate(
        state=state,
        allowed=int(breaker.get("allowed", 0)),
        probe=breaker.get("probe", {}).get("token"),
        is_probe_due=state is BreakerState.OPEN and bool(found.get("is_probe_due")),
        is_fresh_probe_due=state is BreakerState.OPEN and bool(found.get("is_fresh_probe_due")),
        last_probe=breaker.get("last_probe"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """The outcomes of some calls, as the circuit breaker counts them."""

    calls: int = 0
    failures: int = 0
    #: The last failure, in one line.
    reason: str = ""
    #: The longest `Retry-After` of the failed calls; None if there was none.
    rest_seconds: float | None = None
    #: All calls, one for each record of a bulk call, for the stream's rate.
    attempts: int = 0
    #: How many of them delivered their record.
    accepted: int = 0
    #: Whether they are the calls of records that had failed before.
    is_retry: bool = False


class Breakers:
    """One circuit breaker per stream: a failing endpoint says nothing about other endpoints of its partner.

    Every change is one write, judged by MongoDB's clock (invariant 8).
    """

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def acquire_probe(self, stream: str, *, token: str, record: str, seconds: float) -> bool:
        """Take the right to be the probe of an open circuit; there is one at a time."""
        query = {
            "_id": stream,
            "breaker.state": _OPEN,
            "breaker.until": {"$type": "date"},
            "$expr": _IS_DUE_FOR_FRESH,
        }
        probe = {"breaker.probe": {"token": token, "until": in_future(seconds)}, "breaker.last_probe": record}
        return self._streams.update_one(query, [{"$set": probe}]).matched_count == 1

    @edge
    def release_probe(self, stream: str, *, token: str) -> None:
        """Let another batch be the probe: this one made no call."""
        self._streams.update_one({"_id": stream, "breaker.probe.token": token}, {"$unset": {"breaker.probe": True}})

    @edge
    def report(self, stream: str, tally: Tally, *, token: str, rules: BreakerRules) -> BreakerState:
        """Count the outcomes of calls, and open or close the circuit; return its state."""
        is_back = {"$and": [{"$eq": ["$breaker_was", _OPEN]}, {"$ne": ["$breaker.state", _OPEN]}]}
        changes: list[Doc] = [
            {"$set": {"breaker_was": "$breaker.state"}},
            {"$set": {"breaker": _judge(tally, token, rules)}},
            {"$set": {
                "back_at": {"$cond": [is_back, "$$NOW", or_absent("back_at")]},
                SENT_BY_MINUTE: counted_by_minute(SENT_BY_MINUTE, attempts=tally.attempts, accepted=tally.accepted),
            }},
            {"$unset": "breaker_was"},
        ]  # fmt: skip
        document = self._streams.find_one_and_update(
            {"_id": stream}, changes, {"breaker.state": True}, upsert=True, return_document=ReturnDocument.AFTER
        )
        return BreakerState((document or {}).get("breaker", {}).get("state", _CLOSED))

    @edge
    def reset(self, stream: str) -> bool:
        """Close the circuit at once; False when it was closed."""
        query = {"_id": stream, "breaker.state": {"$in": [_OPEN, _HALF]}}
        changes: list[Doc] = [{"$set": {"back_at": "$$NOW"}}, {"$unset": "breaker"}]
        return self._streams.update_one(query, changes).modified_count == 1


def _judge(tally: Tally, token: str, rules: BreakerRules) -> Doc:
    """Return the expression for the breaker after a batch."""
    state = {"$ifNull": ["$breaker.state", _CLOSED]}
    is_probe = {"$eq": [{"$ifNull": ["$breaker.probe.token", ""]}, token]}
    return {
        "$switch": {
            "branches": [
                {"case": {"$eq": [state, _CLOSED]}, "then": _judge_closed(tally, rules)},
                {"case": {"$eq": [state, _HALF]}, "then": _judge_half_open(tally, rules)},
                # Open: calls that began before prove nothing new; only the probe does.
                {"case": is_probe, "then": _half_opened() if tally.failures == 0 else _kept_open(tally, rules)},
            ],
            "default": "$breaker",
        }
    }


def _judge_closed(tally: Tally, rules: BreakerRules) -> Doc:
    """Count calls and failures of the last minute, with less weight for older ones; open if too many failed."""
    began = {"$ifNull": ["$breaker.window_start", None]}
    is_over = {"$lte": [began, {"$subtract": ["$$NOW", round(WINDOW_SECONDS * 1000)]}]}
    calls = {"$cond": [is_over, tally.calls, _counted("calls", tally.calls)]}
    failures = {"$cond": [is_over, tally.failures, _counted("failures", tally.failures)]}
    is_down = {
        "$and": [
            {"$gte": [calls, rules.minimum_calls]},
            {"$gte": [failures, {"$multiply": [calls, rules.failure_rate]}]},
        ]
    }
    weight = {"$min": [1, {"$divide": [max(REMEMBERED_CALLS, rules.minimum_calls), {"$max": [1, calls]}]}]}
    closed = {
        "state": _CLOSED,
        "window_start": {"$cond": [is_over, "$$NOW", began]},
        "calls": {"$multiply": [calls, weight]},
        "failures": {"$multiply": [failures, weight]},
    }
    return {"$cond": [is_down, _opened(tally, rules), closed]}


def _judge_half_open(tally: Tally, rules: BreakerRules) -> Doc:
    """Judge once as many calls ended as may be in flight: allow twice as many, as many again, or open again."""
    calls, failures = _counted("calls", tally.calls), _counted("failures", tally.failures)
    is_down = {"$gte": [failures, {"$multiply": [calls, rules.failure_rate]}]}
    is_well = {"$lt": [{"$multiply": [2, failures]}, calls]}
    allowed = {"$multiply": ["$breaker.allowed", 2]}
    next_stage = {"$mergeObjects": ["$breaker", _next_stage(allowed)]}
    grown = {"$cond": [{"$gte": [allowed, HALF_OPEN_ENDS_AT]}, {"state": _CLOSED}, next_stage]}
    return {
        "$switch": {
            "branches": [
                {
                    "case": {"$lt": [calls, "$breaker.allowed"]},
                    "then": {"$mergeObjects": ["$breaker", {"calls": calls, "failures": failures}]},
                },
                {"case": is_down, "then": _opened(tally, rules)},
                {"case": is_well, "then": grown},
            ],
            "default": {"$mergeObjects": ["$breaker", _next_stage("$breaker.allowed")]},
        }
    }


def _counted(field: str, more: int) -> Doc:
    return {"$add": [{"$ifNull": [f"$breaker.{field}", 0]}, more]}


def _next_stage(allowed: Any) -> Doc:
    return {"allowed": allowed, "calls": 0, "failures": 0}


def _opened(tally: Tally, rules: BreakerRules) -> Doc:
    times = {"$ifNull": ["$breaker.times", 0]}
    longest = round(rules.longest_open_seconds * 1000)
    pause: Any = doubled_pause_ms(rules, times) if tally.rest_seconds is None else round(tally.rest_seconds * 1000)
    is_open = {"$in": [{"$ifNull": ["$breaker.state", _CLOSED]}, [_OPEN, _HALF]]}
    return {
        "state": _OPEN,
        "since": {"$cond": [is_open, {"$ifNull": ["$breaker.since", "$$NOW"]}, "$$NOW"]},
        "until": {"$add": ["$$NOW", {"$min": [longest, pause]}]},
        "times": {"$add": [times, 1]},
        "reason": {"$literal": tally.reason},
        "last_probe": {"$ifNull": ["$breaker.last_probe", None]},
    }


def _kept_open(tally: Tally, rules: BreakerRules) -> Doc:
    """Return the breaker after a probe that failed: the next pause is longer.

    A record that had failed before says little of the others: after it, one that was never sent may probe sooner. Some
    rows that always hang would otherwise hold up new ones for the longest pause (invariant 12).
    """
    opened = _opened(tally, rules)
    if not tally.is_retry:
        return opened
    soonest = in_future(rules.open_seconds) if tally.rest_seconds is None else opened["until"]
    return {**opened, "fresh_until": {"$min": [opened["until"], soonest]}}


def _half_opened() -> Doc:
    """Return the breaker after the partner has answered: the pauses start again with the shortest."""
    return {"state": _HALF, "since": "$breaker.since", "reason": "$breaker.reason", **_next_stage(HALF_OPEN_STARTS_AT)}
