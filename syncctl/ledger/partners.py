"""The `partners` collection: pauses, and the permits of calls in flight, which all workers share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.expressions import in_future, or_zero
from syncctl.ledger.holds import HOLD_FIELDS, Hold, Holds, read_hold
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

ACCEPTED_LATELY_SECONDS = 60.0
"""A partner that accepted another call within this time does not refuse the credentials."""
PACE_MINUTES = 10
"""For how many minutes after a limit was met the calls of each minute are counted, and the counts kept."""
WAITING_SECONDS = 5.0
"""How long other holders leave a permit to the one that has asked for it in vain."""
REFUSALS_IN_A_ROW = 5
"""How many refused calls, with no accepted one between them, are about the credentials after all."""
_ACCEPTED_LATELY: Doc = {
    "$gt": ["$accepted_at", {"$subtract": ["$$NOW", round(ACCEPTED_LATELY_SECONDS * 1000)]}],
}


def _minutes_ago(minutes: int) -> Doc:
    return {"$subtract": ["$$NOW", minutes * 60_000]}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartnerGate:
    """Whether a partner may be called."""

    hold: Hold = field(default_factory=Hold)
    #: When it was last resumed.
    back_at: datetime | None = None
    #: It has refused calls since it last accepted one.
    has_refusals: bool = False
    #: It accepted a call within the last minute.
    accepted_lately: bool = False
    #: It reported within the last minutes that it gets too many calls.
    is_limiting: bool = False

    @property
    def paused(self) -> bool:
        """Whether it is paused, by an operator or by syncctl."""
        return self.hold.paused


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Permits of a partner's concurrency limit, as one holder has them."""

    #: How many calls they allow.
    calls: int
    #: How many of these calls other holders should get, because they have less than their share.
    owed: int
    #: Whether another holder has more than its share, and will return some.
    may_grow: bool = False


def count_permits(partner: Mapping[str, Any], now: datetime) -> int:
    """Return how many calls have a permit of the concurrency limit in a partner's document."""
    return sum(int(permit["calls"]) for permit in partner.get("permits", ()) if permit["until"] > now)


class Partners(Holds):
    """One document per partner; every change is one write, judged by MongoDB's clock (invariant 8)."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._partners: Collection[Doc] = database["partners"]
        super().__init__(self._partners, hosts)

    @edge
    def load_gate(self, partner: str) -> PartnerGate:
        """Return whether a partner may be called."""
        return self.load_gates([partner])[partner]

    @edge
    def load_gates(self, partners: Iterable[str]) -> dict[str, PartnerGate]:
        """Return the same for many partners, with one query."""
        fields = {"back_at": True, "refusals": True, "accepted_lately": _ACCEPTED_LATELY, **HOLD_FIELDS}
        fields["is_limiting"] = {"$gt": ["$limited_at", _minutes_ago(PACE_MINUTES)]}
        names = list(partners)
        documents = {document["_id"]: document for document in self._partners.find({"_id": {"$in": names}}, fields)}
        return {name: _read_gate(documents.get(name, {})) for name in names}

    @edge
    def note_pace(self, partner: str, *, passed: int, limited: int) -> None:
        """Add to the counts of this minute: calls that the partner let through, and calls that met its limit.

        The counts of the last minutes are kept. Nothing is counted until a limit is met.
        """
        minute = {"$dateTrunc": {"date": "$$NOW", "unit": "minute"}}
        pace = {"$ifNull": ["$pace", []]}
        recent = {"$and": [{"$ne": ["$$this.minute", minute]}, {"$gt": ["$$this.minute", _minutes_ago(PACE_MINUTES)]}]}
        mine = {"$filter": {"input": pace, "cond": {"$eq": ["$$this.minute", minute]}}}

        def add(name: str, count: int) -> Doc:
            return {"$add": [count, {"$sum": {"$map": {"input": mine, "in": f"$$this.{name}"}}}]}

        entry = {"minute": minute, "passed": add("passed", passed), "limited": add("limited", limited)}
        changes: Doc = {"pace": {"$concatArrays": [{"$filter": {"input": pace, "cond": recent}}, [entry]]}}
        if limited:
            changes["limited_at"] = "$$NOW"
        self._partners.update_one({"_id": partner}, [{"$set": changes}], upsert=True)

    @edge
    def note_accepted(self, partner: str) -> None:
        """Note that the partner has just accepted a call: it does not refuse the credentials."""
        changes: list[Doc] = [{"$set": {"accepted_at": "$$NOW"}}, {"$unset": "refusals"}]
        self._partners.update_one({"_id": partner}, changes, upsert=True)

    @edge
    def judge_refusals(self, partner: str, *, accepted: bool, calls: int) -> bool:
        """Add refused calls (401, 403); return whether they are about their own records only.

        They are if the partner accepted another call within the last minute and has not refused many in a row since.

        Args:
            accepted: The batch also has an accepted call, after which only `calls` of its calls were refused.
        """
        earlier: Any = 0 if accepted else or_zero("refusals")
        changes: Doc = {"refusals": {"$add": [earlier, calls]}}
        if accepted:
            changes["accepted_at"] = "$$NOW"
        document = self._partners.find_one_and_update(
            {"_id": partner},
            [{"$set": changes}],
            {"refusals": True, "accepted_lately": _ACCEPTED_LATELY},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return bool(document and document["accepted_lately"]) and int((document or {})["refusals"]) < REFUSALS_IN_A_ROW

    @edge
    def acquire_permits(
        self,
        partner: str,
        *,
        token: str,
        wanted: int,
        at_most: int,
        seconds: float,
        share: int | None = None,
        kept: int | None = None,
    ) -> Grant:
        """Take the right to make concurrent calls, exact over all workers, and renew it. Safe to repeat.

        A holder gets more than its share only from the permits that others do not lack.

        Args:
            wanted: How many permits this holder asks for, including those that it has.
            at_most: How many calls to this partner may run at the same time altogether.
            seconds: When a permit that is not renewed ends; every call that was begun under it must have ended by then.
            share: How many permits this holder gets however many others want; None: all that it wants.
            kept: How many of its permits may still be in use by calls; None: all of them.
        """
        share = wanted if share is None else share
        live = {"$filter": {"input": {"$ifNull": ["$permits", []]}, "cond": {"$gt": ["$$this.until", "$$NOW"]}}}
        others = {"$filter": {"input": "$permits", "cond": {"$ne": ["$$this.token", {"$literal": token}]}}}
        had = {"$filter": {"input": "$permits", "cond": {"$eq": ["$$this.token", {"$literal": token}]}}}
        free = {"$subtract": [at_most, {"$sum": "$others.calls"}]}
        to_spare = {"$max": [share, {"$subtract": [free, {"$sum": "$others.lacking"}]}]}
        still_used = {"$sum": "$had.calls"} if kept is None else {"$min": [{"$sum": "$had.calls"}, kept]}
        granted = {"$max": [still_used, {"$min": [wanted, free, to_spare]}]}
        lacking = {"$max": [0, {"$subtract": [min(wanted, share), "$granted"]}]}
        # A holder that has none and waits for some is soon forgotten when it stops asking.
        until = {"$cond": [{"$gt": ["$granted", 0]}, in_future(seconds), in_future(min(seconds, WAITING_SECONDS))]}
        mine = {"token": {"$literal": token}, "calls": "$granted", "lacking": lacking, "until": until}
        changes: list[Doc] = [
            {"$set": {"permits": live}},
            {"$set": {"others": others, "had": had}},
            {"$set": {"granted": granted}},
            {"$set": {"permits": {"$concatArrays": ["$others", [mine]]}}},
            {"$unset": ["others", "had", "granted"]},
        ]
        # If the driver repeats the write, MongoDB answers with the result of the first one.
        document = self._partners.find_one_and_update(
            {"_id": partner}, changes, upsert=True, return_document=ReturnDocument.AFTER
        )
        permits: list[Doc] = (document or {}).get("permits", [])
        calls = sum(int(permit["calls"]) for permit in permits if permit["token"] == token)
        lacked = sum(int(permit.get("lacking", 0)) for permit in permits if permit["token"] != token)
        left = at_most - sum(int(permit["calls"]) for permit in permits)
        may_grow = any(int(permit["calls"]) > share for permit in permits if permit["token"] != token)
        return Grant(calls=calls, owed=max(0, min(lacked - left, calls - share)), may_grow=may_grow)

    @edge
    def renew_permits(self, partner: str, *, token: str, seconds: float) -> bool:
        """Renew permits; False when they have ended, so that another batch may have them."""
        is_mine = {"$eq": ["$$this.token", {"$literal": token}]}
        renewed = {"$mergeObjects": ["$$this", {"until": in_future(seconds)}]}
        mine = {"$map": {"input": "$permits", "in": {"$cond": [is_mine, renewed, "$$this"]}}}
        is_live = {"$and": [is_mine, {"$gt": ["$$this.until", "$$NOW"]}]}
        live = {"$anyElementTrue": [{"$map": {"input": {"$ifNull": ["$permits", []]}, "in": is_live}}]}
        query = {"_id": partner, "$expr": live}
        return self._partners.update_one(query, [{"$set": {"permits": mine}}]).matched_count == 1

    @edge
    def release_permits(self, partner: str, *, token: str) -> None:
        """Give permits back; safe to repeat."""
        self._partners.update_one({"_id": partner}, {"$pull": {"permits": {"token": token}}})

    @edge
    def load_all(self) -> dict[str, Mapping[str, Any]]:
        """Return every partner's document by name."""
        return {document["_id"]: document for document in self._partners.find({})}


def _read_gate(document: Doc) -> PartnerGate:
    return PartnerGate(
        hold=read_hold(document),
        back_at=document.get("back_at"),
        has_refusals=bool(document.get("refusals")),
        accepted_lately=bool(document.get("accepted_lately")),
        is_limiting=bool(document.get("is_limiting")),
    )
