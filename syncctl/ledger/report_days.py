"""The `report_days` collection: a stream's frozen hours of a day (UTC) added up, so that a year is read quickly."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.mongo_client import edge, translated

Doc = dict[str, Any]
_COMPLETE_UNTIL = "complete_until"


class ReportDays:
    """Days whose hours are all frozen. A day is written once and never changes."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._days: Collection[Doc] = database["report_days"]
        self.hosts = hosts

    @edge
    def complete_until(self) -> datetime | None:
        """Return the end of the newest day that is stored with all those before it; None before the first."""
        document = self._days.find_one({"_id": _COMPLETE_UNTIL})
        at: datetime | None = document["at"] if document else None
        return at

    @edge
    def store(self, day: datetime, streams: Mapping[str, Mapping[str, Any]], *, until: datetime) -> None:
        """Store a day by stream. Safe to repeat, also by two processes at once: frozen hours always give the same sums.

        Args:
            until: The end of the day, up to which all days are complete then.
        """
        writes = [
            UpdateOne(
                {"_id": f"{stream}:{day:%Y-%m-%d}"},
                {"$setOnInsert": {"stream": stream, "day": day, **sums}},
                upsert=True,
            )
            for stream, sums in streams.items()
        ]
        if writes:
            self._days.bulk_write(writes, ordered=False)
        self._days.update_one({"_id": _COMPLETE_UNTIL}, {"$max": {"at": until}}, upsert=True)

    def load(self, since: datetime, until: datetime, streams: Sequence[str] = ()) -> Iterator[Doc]:
        """Yield the days that begin in a span, oldest first, in the form of stored hours."""
        query: Doc = {"day": {"$gte": since, "$lt": until}}
        if streams:
            query["stream"] = {"$in": list(streams)}
        with translated(self.hosts), self._days.find(query, {"_id": False}, sort=[("day", 1)]) as days:
            for day in days:
                yield {**day, "window_start": day["day"]}
