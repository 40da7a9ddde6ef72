"""MongoDB's clock, and the expressions that several writes share.

No lease and no due time is ever judged by a worker's own clock (invariant 8).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from syncctl.core.clock import boot_time
from syncctl.core.stream import BreakerRules

Doc = dict[str, Any]

SYNCCTL = "syncctl"
"""The name under which syncctl itself pauses a partner that refuses the credentials, or an endpoint that is gone."""
MINUTES_KEPT = 35
"""For how many minutes a stream's counts are kept: half an hour, and a margin for differing clocks."""
LOGGED_BY_MINUTE = "minutes.logged"
SENT_BY_MINUTE = "minutes.sent"
"""The fields of a stream's document that count by minute: the records that polls logged, and the calls."""
DOUBLED_AT_MOST = 20
"""How often a pause doubles, so that the number stays one that MongoDB can add to a date."""
IN_FLIGHT_FIELDS = ["lease", "in_flight_key", "in_flight_retry"]
"""Fields that are set only while a record is in flight."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A reading of MongoDB's clock, continued by this machine's, which keeps running while the machine sleeps."""

    #: MongoDB's time.
    at: datetime
    #: This machine's `boot_time`, taken after the answer arrived: a time computed from the two is never ahead of
    #: MongoDB's clock, so that a record that is due at once is due when the next query runs.
    read_at: float

    @classmethod
    def taken_now(cls, at: datetime) -> "ClockReading":
        """Return the reading of an answer that has just arrived."""
        return cls(at, boot_time())

    def now(self) -> datetime:
        """Return MongoDB's present time, too early by at most the round trip of the reading."""
        return self.at_boot_time(boot_time())

    def at_boot_time(self, instant: float) -> datetime:
        """Return MongoDB's time at an instant of this machine's `boot_time`."""
        return self.at + timedelta(seconds=instant - self.read_at)


def doubled_pause_ms(rules: BreakerRules, times: Any) -> Doc:
    """Return the milliseconds of a pause that has doubled this many times; its limit is the caller's to apply."""
    return {"$multiply": [round(rules.open_seconds * 1000), {"$pow": [2, {"$min": [times, DOUBLED_AT_MOST]}]}]}


def in_future(seconds: float) -> dict[str, Any]:
    """Return the expression for MongoDB's now plus some seconds."""
    return {"$add": ["$$NOW", round(seconds * 1000)]}


def is_past(field: str) -> dict[str, Any]:
    """Return the filter for a date that has passed; `$expr` alone would also treat a missing date as past."""
    return {field: {"$type": "date"}, "$expr": {"$lte": [f"${field}", "$$NOW"]}}


def or_absent(field: str) -> Doc:
    """Return the expression that leaves a field as it is, even if it is missing."""
    return {"$ifNull": [f"${field}", "$$REMOVE"]}


def or_zero(field: str) -> Doc:
    """Return the expression for a field's number, 0 where it is missing."""
    return {"$ifNull": [f"${field}", 0]}


def counted_by_minute(field: str, **counts: int) -> Doc:
    """Return the expression for a list of counts by minute, with these added to the present minute.

    The list keeps the newest `MINUTES_KEPT` minutes in which anything was counted. It costs no extra write, because it
    is part of one that happens anyway.
    """
    minute = {"$dateTrunc": {"date": "$$NOW", "unit": "minute"}}
    kept = {"$ifNull": [f"${field}", []]}
    is_present = {"$eq": ["$$this.at", minute]}
    present = {"$filter": {"input": kept, "cond": is_present}}
    added = {
        name: {"$add": [count, {"$sum": {"$map": {"input": present, "in": f"$$this.{name}"}}}]}
        for name, count in counts.items()
    }
    others = {"$filter": {"input": kept, "cond": {"$not": is_present}}}
    return {"$slice": [{"$concatArrays": [others, [{"at": minute, **added}]]}, -MINUTES_KEPT]}


def is_pause_over(field: str = "paused") -> Doc:
    """Return the expression for whether a pause that an operator limited in time is over."""
    ends_at = f"${field}.ends_at"
    return {"$and": [{"$eq": [{"$type": ends_at}, "date"]}, {"$lte": [ends_at, "$$NOW"]}]}


def paused_by(
    who: str, reason: str, *, field: str = "paused", ends_at: datetime | None = None, probe_after_seconds: float = 0.0
) -> Doc:
    """Return the expression for a pause: syncctl keeps an older one, and an empty reason keeps the older reason.

    If operators pause something again while it is paused, the pause keeps the time when it first began.

    Args:
        ends_at: When it ends by itself; None: never.
        probe_after_seconds: After how long a record may first probe whether a pause by syncctl can end.
    """
    older: Doc = {"$cond": [is_pause_over(field), None, f"${field}"]}
    kept = {"$cond": [is_pause_over(field), "", {"$ifNull": [f"${field}.reason", ""]}]}
    pause: Doc = {"by": {"$literal": who}, "reason": {"$literal": reason} if reason else kept, "at": "$$NOW"}
    if who == SYNCCTL:
        return {"$ifNull": [older, {**pause, "until": in_future(probe_after_seconds), "times": 0}]}
    if ends_at is not None:
        pause["ends_at"] = {"$literal": ends_at}
    is_new = {"$or": [is_pause_over(field), {"$eq": [f"${field}.by", SYNCCTL]}]}
    pause["at"] = {"$cond": [is_new, "$$NOW", {"$ifNull": [f"${field}.at", "$$NOW"]}]}
    # Merged from one object, so that nothing of an older pause is left.
    return {"$mergeObjects": [pause]}


def not_held(kind: str) -> Doc:
    """Return the filter for a lease that is not held, by MongoDB's clock (invariant 8)."""
    return {"$or": [{f"{kind}.token": {"$exists": False}}, is_past(f"{kind}.until")]}
