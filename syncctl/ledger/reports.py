"""The `reports` collection: one document per stream and hour, rolled up from the records' events.

Events count in the hour of their timestamp from MongoDB. Open hours are recomputed as a whole; a frozen hour is never
rewritten, and cleanup removes only records that finished in frozen hours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pymongo
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.metric_table import name_outcome
from syncctl.core.states import State
from syncctl.core.time_zone import LONG_AGO
from syncctl.ledger.attempt_history import EVENTS, FIRST_DELIVERY, truncate_hour
from syncctl.ledger.expressions import or_zero
from syncctl.ledger.mongo_client import edge, find_streams, translated, write_but_duplicates
from syncctl.ledger.totals import is_complete

Doc = dict[str, Any]
FREEZE_AFTER = timedelta(minutes=10)
_ROLL_UP_SECONDS = 600
_ERRORS_AT_MOST = 50
_FROZEN_UNTIL = "frozen_until"
SLICED = ("delivered", "failed", "retried")
"""The outcomes that are also counted by slice of the hour."""


@dataclass(kw_only=True, slots=True)
class HourCounts:
    """The events of one hour of one stream."""

    stream: str
    window_start: datetime
    logged: int = 0
    delivered: int = 0
    failed: int = 0
    superseded: int = 0
    discarded: int = 0
    attempts: int = 0
    retries: int = 0
    #: Finished records that were sent again, by the state that they had.
    reopened: dict[str, int] = field(default_factory=dict)
    #: Those of the reopened records whose end is counted in a frozen hour.
    reopened_frozen: dict[str, int] = field(default_factory=dict)
    #: The latencies of calls, by the bucket of `core/histogram.py`.
    latency: dict[str, int] = field(default_factory=dict)
    #: The attempts by outcome: `core/metric_table.py:ATTEMPT_OUTCOMES`. Hours that froze before it was kept lack it.
    outcomes: dict[str, int] = field(default_factory=dict)
    #: The times from logged to delivered, in the hour of the delivery; hours that froze before they were kept lack it.
    delivery: dict[str, int] = field(default_factory=dict)
    #: Outcomes of calls by slice of the hour: `delivered`, `failed`, and `retried` for calls that are to be repeated.
    slices: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: dict[str, Doc] = field(default_factory=dict)

    def to_document(self) -> Doc:
        """Return the document to store, with the most frequent errors."""
        errors = sorted(self.errors.values(), key=lambda error: -int(error["count"]))[:_ERRORS_AT_MOST]
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "errors"}
        return counts | {"errors": errors}


@dataclass(frozen=True, kw_only=True, slots=True)
class RollUp:
    """One computation of the open hours."""

    #: All events before this time are in the stored hours.
    at: datetime
    took_seconds: float


def _between(name: str, start: datetime, end: datetime) -> Doc:
    return {name: {"$gte": start, "$lt": end}}


class Reports:
    """Roll-ups of the records' events by hour."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self._reports: Collection[Doc] = database["reports"]
        self._totals: Collection[Doc] = database["totals"]
        self.hosts = hosts

    @edge
    def frozen_until(self) -> datetime | None:
        """Return the start of the oldest open hour; None before the first roll-up."""
        document = self._reports.find_one({"_id": _FROZEN_UNTIL})
        at: datetime | None = document["at"] if document else None
        return at

    @edge
    def first_hour(self) -> datetime | None:
        """Return the start of the oldest stored hour."""
        hour = self._reports.find_one({"window_start": {"$exists": True}}, sort=[("window_start", 1)], hint="by_hour")
        at: datetime | None = hour["window_start"] if hour else None
        return at

    @edge
    def last_roll_up(self) -> RollUp | None:
        """Return the newest roll-up; None before the first."""
        document = self._reports.find_one({"_id": _FROZEN_UNTIL})
        if document is None or "rolled_up_at" not in document:
            return None
        return RollUp(at=document["rolled_up_at"], took_seconds=float(document.get("took_seconds", 0.0)))

    @edge
    def has_more_changes(self, count: int) -> bool:
        """Tell whether a roll-up would read more than `count` records; reads no more entries of the index than that."""
        since = {"$gte": self.frozen_until() or LONG_AGO}
        return any(
            self._records.count_documents({name: since}, limit=count + 1, hint=index) > count
            for name, index in (("updated_at", "updated"), ("logged_at", "logged"))
        )

    @edge
    def first_logged_at(self) -> datetime | None:
        """Return when the oldest record that still exists was logged."""
        record = self._records.find_one({}, {"logged_at": True}, sort=[("logged_at", 1)], hint="logged")
        at: datetime | None = record["logged_at"] if record else None
        return at

    @edge
    def roll_up(self, start: datetime, end: datetime, *, frozen_until: datetime) -> list[HourCounts]:
        """Compute the hours from `start` up to `end` (full hours) from the records; stores nothing.

        Args:
            frozen_until: The start of the oldest hour that stays open.
        """
        hours: dict[tuple[str, datetime], HourCounts] = {}

        def of(group: Doc) -> HourCounts:
            stream, at = group["_id"]["stream"], group["_id"]["hour"]
            return hours.setdefault((stream, at), HourCounts(stream=stream, window_start=at))

        with pymongo.timeout(_ROLL_UP_SECONDS):
            for group in self._count("logged_at", _between("logged_at", start, end)):
                of(group).logged = group["count"]
            for group in self._superseded(start, end):
                of(group).superseded += group["count"]
            for group in self._events(start, end, frozen_until):
                _add_event(of(group), group)
        return list(hours.values())

    def _count(self, at: str, query: Doc) -> Iterator[Doc]:
        group = {"_id": {"stream": "$stream", "hour": truncate_hour(f"${at}")}, "count": {"$sum": 1}}
        yield from self._records.aggregate([{"$match": query}, {"$group": group}])

    def _events(self, start: datetime, end: datetime, frozen_until: datetime) -> Iterator[Doc]:
        identity = {
            "stream": "$stream",
            **{name: f"$events.event.{name}" for name in ("hour", "action", "state", "from", "again", "bucket")},
            "frozen": {"$lt": [{"$ifNull": ["$events.event.finished_hour", frozen_until]}, frozen_until]},
            "fingerprint": "$events.event.fingerprint",
        }
        samples = {"message": "error", "status": "status"}
        group = {
            "_id": {**identity, "slice": "$events.slice"},
            "count": {"$sum": "$events.count"},
            **{name: {"$first": f"$events.{stored}"} for name, stored in samples.items()},
            "sample_id": {"$first": "$_id"},
        }
        # The slices of equal events are in one group, or there would be up to twelve times as many groups to read.
        whole = {
            "_id": {name: f"$_id.{name}" for name in identity},
            "count": {"$sum": "$count"},
            **{name: {"$first": f"${name}"} for name in (*samples, "sample_id")},
            "slices": {"$push": {"slice": "$_id.slice", "count": "$count"}},
        }
        yield from self._records.aggregate(
            [
                {"$match": {"updated_at": {"$gte": start}}},
                {"$project": {"stream": True, "events": EVENTS}},
                {"$unwind": "$events"},
                {"$match": {"events.event.hour": {"$gte": start, "$lt": end}}},
                {"$group": group},
                {"$group": whole},
            ],
            allowDiskUse=True,
        )

    def _superseded(self, start: datetime, end: datetime) -> Iterator[Doc]:
        """Count superseded records by the hour in which that happened, also those that an operator sent again since."""
        yield from self._count(
            "superseded_at", {"updated_at": {"$gte": start}, **_between("superseded_at", start, end)}
        )
        reopened = {"$or": [{f"{name}.from": State.SUPERSEDED.value} for name in ("history", "earlier.event")]}
        yield from self._records.aggregate(
            [
                {"$match": {"updated_at": {"$gte": start}, **reopened}},
                {"$project": {"stream": True, "events": EVENTS}},
                {"$unwind": "$events"},
                {"$match": {
                    "events.event.from": State.SUPERSEDED.value, **_between("events.event.finished_hour", start, end),
                }},
                {"$group": {
                    "_id": {"stream": "$stream", "hour": "$events.event.finished_hour"},
                    "count": {"$sum": "$events.count"},
                }},
            ]
        )  # fmt: skip

    @edge
    def forget_counted(self, since: datetime, frozen_until: datetime) -> None:
        """Remove the counts of frozen hours from records that changed since a time: no roll-up reads them again."""
        counted = {"updated_at": {"$gte": since}, "earlier.event.hour": {"$lt": frozen_until}}
        self._records.update_many(counted, {"$pull": {"earlier": {"event.hour": {"$lt": frozen_until}}}})

    @edge
    def store(self, hours: Sequence[HourCounts], *, frozen_until: datetime, done: RollUp | None = None) -> None:
        """Replace open hours, and freeze those before `frozen_until`; a frozen hour stays as it is. Safe to repeat.

        Args:
            done: The roll-up that ends with these hours; None if later hours are missing.
        """
        writes = []
        for hour in hours:
            identity = f"{hour.stream}:{hour.window_start:%Y-%m-%dT%H}"
            document = hour.to_document() | {"frozen": hour.window_start < frozen_until}
            writes.append(UpdateOne({"_id": identity, "frozen": {"$ne": True}}, {"$set": document}, upsert=True))
        if writes:
            write_but_duplicates(self._reports, writes)
        newest = {"at": frozen_until} | ({} if done is None else {"rolled_up_at": done.at})
        took = {} if done is None else {"$set": {"took_seconds": done.took_seconds}}
        self._reports.update_one({"_id": _FROZEN_UNTIL}, {"$max": newest, **took}, upsert=True)

    def load(self, since: datetime, until: datetime, streams: Sequence[str] = ()) -> Iterator[Doc]:
        """Yield the stored hours that begin in a span, oldest first; a year of them should not be in memory at once."""
        query: Doc = {"window_start": {"$gte": since, "$lt": until}}
        if streams:
            query["stream"] = {"$in": list(streams)}
        order = [("window_start", 1)]
        with translated(self.hosts), self._reports.find(query, {"_id": False}, sort=order, batch_size=1000) as hours:
            yield from hours

    @edge
    def load_finished(self, streams: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return, by stream, how many records are delivered and superseded, also those that were cleaned up.

        The totals are read for hours that froze long ago, hours that froze since are added up, and records that
        finished after them are counted by their index: no query counts millions, or reads the hours of years. The
        number of records that were sent again since is that of the last roll-up.
        """
        # Read before the end of the frozen hours: totals updated in between would have hours that are counted below.
        known = [total for total in self._totals.find({}, {"shown": False}) if is_complete(total)]
        frozen = self.frozen_until()
        names = ("delivered", "superseded")
        totals = {stream: dict.fromkeys(names, 0) for stream in streams}
        if frozen is not None:
            for total in known:
                if total["_id"] in totals:
                    _add_finished(totals[total["_id"]], total["frozen"])
            ends = {total["_id"]: total["until"] for total in known}
            for group in self._reports.aggregate([{"$match": _behind(ends)}, {"$group": _net(names, frozen)}]):
                if group["_id"] in totals:
                    for name in names:
                        totals[group["_id"]][name] += int(group[name])
        since = {"$gte": frozen or LONG_AGO}
        for name in names:
            query = {"state": name, "finished_at": since}
            for stream in find_streams(self._records, query, streams, hint="finished"):
                count = self._records.count_documents({"stream": stream, **query}, hint="finished")
                totals[stream][name] += count
        return totals


def _add_finished(finished: dict[str, int], frozen: Mapping[str, Any]) -> None:
    """Add the records that finished in the hours of a total, less those that were sent again."""
    for name in finished:
        finished[name] += int(frozen["counts"].get(name, 0)) - int(frozen["reopened"].get(name, 0))


def _behind(ends: Mapping[str, datetime]) -> Doc:
    """Return the filter for hours at or after the end of the totals of their stream; all of them without totals."""
    first = min(ends.values(), default=None)
    if first is None:
        return {"window_start": {"$exists": True}}
    later = [{"stream": stream, "window_start": {"$lt": end}} for stream, end in ends.items() if end > first]
    return {"window_start": {"$gte": first}} | ({"$nor": later} if later else {})


def _net(names: Sequence[str], frozen: datetime) -> Doc:
    """Return the group stage: by stream, records that finished in frozen hours, less those that were sent again."""
    group: Doc = {"_id": "$stream"}
    for name in names:
        then = {"$subtract": [f"${name}", or_zero(f"reopened.{name}")]}
        since = {"$subtract": [0, or_zero(f"reopened_frozen.{name}")]}
        group[name] = {"$sum": {"$cond": [{"$lt": ["$window_start", frozen]}, then, since]}}
    return group


def _add_to_bucket(buckets: dict[str, int], bucket: float, count: int) -> None:
    name = str(int(bucket))
    buckets[name] = buckets.get(name, 0) + count


def _add_to_slices(slices: dict[str, dict[str, int]], state: str, counts: Sequence[Doc]) -> None:
    name = {State.PENDING.value: "retried"}.get(state, state)
    if name not in SLICED:
        return
    for entry in counts:
        if entry.get("slice") is not None:
            _add_to_bucket(slices.setdefault(name, {}), entry["slice"], int(entry["count"]))


def _add_event(hour: HourCounts, group: Doc) -> None:
    """Add a group of equal events to its hour."""
    identity, count = group["_id"], int(group["count"])
    action, state = identity.get("action"), identity.get("state")
    if action == "attempt":
        hour.attempts += count
        if identity.get("again"):
            hour.retries += count
        _add_to_bucket(hour.latency, identity["bucket"], count)
        _add_to_slices(hour.slices, str(state), group["slices"])
        outcome = name_outcome(group.get("status"), has_error=bool(identity.get("fingerprint")))
        hour.outcomes[outcome] = hour.outcomes.get(outcome, 0) + count
    elif action == FIRST_DELIVERY:
        _add_to_bucket(hour.delivery, identity["bucket"], count)
    if action in ("replayed", "resent", "taken_back"):
        reopened = str(identity["from"])
        hour.reopened[reopened] = hour.reopened.get(reopened, 0) + count
        if identity.get("frozen"):
            hour.reopened_frozen[reopened] = hour.reopened_frozen.get(reopened, 0) + count
    elif action == "discarded":
        hour.discarded += count
    elif state == "delivered":
        hour.delivered += count
    elif state == "failed":
        hour.failed += count
    mark = identity.get("fingerprint")
    if mark and count:
        error = {
            "fingerprint": mark,
            "status": group.get("status"),
            "message": group.get("message"),
            "count": 0,
        }
        error = hour.errors.setdefault(mark, error | {"sample_id": group["sample_id"]})
        error["count"] += count
