"""The `reports` collection: one document per stream and hour, rolled up from the records' events.

Events count in the hour in which MongoDB stamped them. Open hours are recomputed whole; a frozen hour is never
rewritten, and clean-up removes only records that finished in frozen hours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pymongo
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from syncctl.core.histogram import LN_GROWTH
from syncctl.ledger.client import edge, is_only_duplicates
from syncctl.ledger.expressions import or_zero

Doc = dict[str, Any]
HOUR = timedelta(hours=1)
FREEZE_AFTER = timedelta(minutes=10)
_ROLL_UP_SECONDS = 600
_ERRORS_AT_MOST = 50
_FROZEN_UNTIL = "frozen_until"


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
    #: Those of them whose end is counted in a frozen hour.
    reopened_frozen: dict[str, int] = field(default_factory=dict)
    latency: dict[str, int] = field(default_factory=dict)
    errors: dict[str, Doc] = field(default_factory=dict)

    def to_document(self) -> Doc:
        """Return the document to store, with the most frequent errors."""
        errors = sorted(self.errors.values(), key=lambda error: -int(error["count"]))[:_ERRORS_AT_MOST]
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "errors"}
        return counts | {"errors": errors}


def floor_hour(at: datetime) -> datetime:
    """Return the full hour at or before a time."""
    return at.replace(minute=0, second=0, microsecond=0)


def _truncated(name: str) -> Doc:
    return {"$dateTrunc": {"date": f"${name}", "unit": "hour"}}


class Reports:
    """Roll-ups of the records' events by hour."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self._reports: Collection[Doc] = database["reports"]
        self.hosts = hosts

    @edge
    def frozen_until(self) -> datetime | None:
        """Return the start of the oldest open hour; None before the first roll-up."""
        found = self._reports.find_one({"_id": _FROZEN_UNTIL})
        at: datetime | None = found["at"] if found else None
        return at

    @edge
    def first_logged_at(self) -> datetime | None:
        """Return when the oldest record that is still there was logged."""
        found = self._records.find_one({}, {"logged_at": True}, sort=[("logged_at", 1)], hint="logged")
        at: datetime | None = found["logged_at"] if found else None
        return at

    @edge
    def roll_up(self, start: datetime, end: datetime, *, frozen_until: datetime) -> list[HourCounts]:
        """Compute the hours from `start` up to `end` (full hours) from the records; stores nothing.

        Args:
            frozen_until: The start of the oldest hour that stays open.
        """
        hours: dict[tuple[str, datetime], HourCounts] = {}

        def of(found: Doc) -> HourCounts:
            stream, at = found["_id"]["stream"], found["_id"]["hour"]
            return hours.setdefault((stream, at), HourCounts(stream=stream, window_start=at))

        with pymongo.timeout(_ROLL_UP_SECONDS):
            for found in self._count("logged_at", {"logged_at": {"$gte": start, "$lt": end}}):
                of(found).logged = found["count"]
            superseded = {"updated_at": {"$gte": start}, "superseded_at": {"$gte": start, "$lt": end}}
            for found in self._count("superseded_at", superseded):
                of(found).superseded = found["count"]
            for found in self._events(start, end, frozen_until):
                _add_event(of(found), found)
        return list(hours.values())

    def _count(self, at: str, query: Doc) -> Iterator[Doc]:
        group = {"_id": {"stream": "$stream", "hour": _truncated(at)}, "count": {"$sum": 1}}
        yield from self._records.aggregate([{"$match": query}, {"$group": group}])

    def _events(self, start: datetime, end: datetime, frozen_until: datetime) -> Iterator[Doc]:
        bucket = {"$floor": {"$divide": [{"$ln": {"$max": ["$history.latency_ms", 0.1]}}, LN_GROWTH]}}
        identity = {
            "stream": "$stream",
            "hour": _truncated("history.at"),
            "action": "$history.action",
            "state": "$history.state",
            "from": "$history.from",
            "frozen": {"$lt": [{"$ifNull": ["$history.finished_at", frozen_until]}, frozen_until]},
            "again": {"$gt": ["$history.n", 1]},
            "fingerprint": "$history.fingerprint",
            "bucket": {"$cond": [{"$eq": ["$history.action", "attempt"]}, bucket, None]},
        }
        group = {
            "_id": identity,
            "count": {"$sum": 1},
            "message": {"$first": "$history.error"},
            "status": {"$first": "$history.status"},
            "sample_id": {"$first": "$_id"},
        }
        yield from self._records.aggregate(
            [
                {"$match": {"updated_at": {"$gte": start}}},
                {"$project": {"stream": True, "history": True}},
                {"$unwind": "$history"},
                {"$match": {"history.at": {"$gte": start, "$lt": end}}},
                {"$group": group},
            ],
            allowDiskUse=True,
        )

    @edge
    def store(self, hours: Sequence[HourCounts], *, frozen_until: datetime) -> None:
        """Replace open hours, and freeze those before `frozen_until`; a frozen hour stays as it is. Safe to repeat."""
        writes = []
        for hour in hours:
            identity = f"{hour.stream}:{hour.window_start:%Y-%m-%dT%H}"
            document = hour.to_document() | {"frozen": hour.window_start < frozen_until}
            writes.append(UpdateOne({"_id": identity, "frozen": {"$ne": True}}, {"$set": document}, upsert=True))
        if writes:
            try:
                self._reports.bulk_write(writes, ordered=False)
            except BulkWriteError as error:
                if not is_only_duplicates(error):
                    raise
        self._reports.update_one({"_id": _FROZEN_UNTIL}, {"$max": {"at": frozen_until}}, upsert=True)

    @edge
    def load(self, since: datetime, until: datetime, streams: Sequence[str] = ()) -> list[Doc]:
        """Return the stored hours that begin in a span, oldest first."""
        query: Doc = {"window_start": {"$gte": since, "$lt": until}}
        if streams:
            query["stream"] = {"$in": list(streams)}
        return list(self._reports.find(query, {"_id": False}, sort=[("window_start", 1), ("stream", 1)]))

    @edge
    def load_finished(self, streams: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return, by stream, how many records are delivered and superseded, also those that were cleaned up.

        Frozen hours are added up, and records that finished since are counted by their index, so that no query counts
        millions. The number of records that were sent again since is that of the last roll-up.
        """
        frozen = self.frozen_until()
        names = ("delivered", "superseded")
        totals = {stream: dict.fromkeys(names, 0) for stream in streams}
        if frozen is not None:
            for found in self._reports.aggregate(
                [{"$match": {"window_start": {"$exists": True}}}, {"$group": _net(names, frozen)}]
            ):
                if found["_id"] in totals:
                    totals[found["_id"]] = {name: int(found[name]) for name in names}
        since = {"$gte": frozen} if frozen is not None else {"$exists": True}
        for stream, name in ((stream, name) for stream in streams for name in names):
            query = {"stream": stream, "state": name, "finished_at": since}
            totals[stream][name] += self._records.count_documents(query, hint="finished")
        return totals


def _net(names: Sequence[str], frozen: datetime) -> Doc:
    """Return the group stage: by stream, records that finished in frozen hours, less those that were sent again."""
    group: Doc = {"_id": "$stream"}
    for name in names:
        then = {"$subtract": [f"${name}", or_zero(f"reopened.{name}")]}
        since = {"$subtract": [0, or_zero(f"reopened_frozen.{name}")]}
        group[name] = {"$sum": {"$cond": [{"$lt": ["$window_start", frozen]}, then, since]}}
    return group


def _add_event(hour: HourCounts, found: Doc) -> None:
    """Add a group of equal events to its hour."""
    identity, count = found["_id"], int(found["count"])
    action, state = identity.get("action"), identity.get("state")
    if action == "attempt":
        hour.attempts += count
        if identity.get("again"):
            hour.retries += count
        bucket = str(int(identity["bucket"]))
        hour.latency[bucket] = hour.latency.get(bucket, 0) + count
    if action in ("replayed", "resent"):
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
            "status": found.get("status"),
            "message": found.get("message"),
            "count": 0,
        }
        error = hour.errors.setdefault(mark, error | {"sample_id": found["sample_id"]})
        error["count"] += count
