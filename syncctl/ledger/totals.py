"""The `totals` collection: the roll-ups of each stream added up since its first hour, for metrics.

Counters must never fall, because a monitoring system takes a lower value for a restart from zero. So the highest value
so far is shown, although a roll-up may take events back (of records that failed in a run of refusals). Frozen hours
are added once and never read again, so that a scrape reads one document for each stream, whatever its age.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pymongo
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

COUNTS = ("logged", "delivered", "failed", "superseded", "discarded", "attempts", "retries")
BY_NAME = ("outcomes", "latency", "delivery", "reopened")
"""The counts of an hour that are kept apart by outcome, by the bucket of `core/histogram.py`, or by state."""
_UPDATE_SECONDS = 300


@dataclass(kw_only=True, slots=True)
class StreamTotals:
    """All counts of one stream."""

    counts: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    latency: dict[str, int] = field(default_factory=dict)
    delivery: dict[str, int] = field(default_factory=dict)
    reopened: dict[str, int] = field(default_factory=dict)

    def add(self, hour: Mapping[str, Any]) -> None:
        """Add one stored hour."""
        for name in COUNTS:
            self.counts[name] = self.counts.get(name, 0) + int(hour.get(name, 0))
        for name in BY_NAME:
            own: dict[str, int] = getattr(self, name)
            for key, count in hour.get(name, {}).items():
                own[key] = own.get(key, 0) + int(count)

    def to_document(self) -> Doc:
        """Return the document to store."""
        return {"counts": dict(self.counts), **{name: dict(getattr(self, name)) for name in BY_NAME}}


def is_complete(document: Mapping[str, Any]) -> bool:
    """Tell whether the totals of a stream have every count of this version."""
    return document.get("until") is not None and BY_NAME[-1] in document.get("frozen", {})


def _read(document: Mapping[str, Any]) -> StreamTotals:
    names = ("counts", *BY_NAME)
    return StreamTotals(**{name: {key: int(n) for key, n in document.get(name, {}).items()} for name in names})


class Totals:
    """One document per stream, updated after each roll-up."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._totals: Collection[Doc] = database["totals"]
        self._reports: Collection[Doc] = database["reports"]
        self.hosts = hosts

    @edge
    def load(self) -> dict[str, StreamTotals]:
        """Return the totals to show for each stream, as of the last update."""
        return {
            document["_id"]: _read(document.get("shown", {})) for document in self._totals.find({}, {"shown": True})
        }

    @edge
    def update(self, *, frozen_until: datetime | None) -> None:
        """Add the hours that have frozen since, and show them with the open ones.

        Safe to repeat, also by several processes.

        Args:
            frozen_until: The start of the oldest open hour; None before the first roll-up.
        """
        if frozen_until is None:
            return
        known = {total["_id"]: total for total in self._totals.find({}, {"shown": False})}
        # Totals from an earlier version lack some counts, so they are added up once more.
        complete = {name: total for name, total in known.items() if is_complete(total)}
        # A stream without totals has all of its hours after this time, unless there are no totals of any stream.
        since = min((total["until"] for total in complete.values()), default=None) if complete == known else None
        frozen: dict[str, StreamTotals] = {name: _read(total["frozen"]) for name, total in complete.items()}
        opened: dict[str, StreamTotals] = {}
        query = {"window_start": {"$exists": True} if since is None else {"$gte": since}}
        fields = dict.fromkeys(("stream", "window_start", *COUNTS, *BY_NAME), True)
        with pymongo.timeout(_UPDATE_SECONDS):
            for hour in self._reports.find(query, fields):
                stream, at = hour["stream"], hour["window_start"]
                if stream in complete and at < complete[stream]["until"]:
                    continue
                part = frozen if at < frozen_until else opened
                part.setdefault(stream, StreamTotals()).add(hour)
        for stream in {*frozen, *opened}:
            base = frozen.get(stream, StreamTotals())
            self._store(stream, known.get(stream), base, opened.get(stream, StreamTotals()), frozen_until)

    def _store(
        self, stream: str, known: Doc | None, base: StreamTotals, opened: StreamTotals, frozen_until: datetime
    ) -> None:
        shown = _read(base.to_document())
        shown.add({**opened.counts, **{name: getattr(opened, name) for name in BY_NAME}})
        groups = shown.to_document().items()
        highest = {f"shown.{group}.{key}": count for group, counts in groups for key, count in counts.items()}
        changes: Doc = {"$set": {"until": frozen_until, "frozen": base.to_document()}, "$max": highest}
        if known is None:
            self._totals.update_one({"_id": stream}, {"$setOnInsert": {"until": None}}, upsert=True)
        guard = {"_id": stream, "until": None if known is None else known["until"]}
        self._totals.update_one(guard, changes)
