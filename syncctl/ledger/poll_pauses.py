"""Pauses of polls, which operators begin: `polls_paused` in the documents of streams, judged by MongoDB's clock."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.client import edge
from syncctl.ledger.expressions import is_pause_over, paused_by

Doc = dict[str, Any]

POLLS_PAUSED_FIELD = "polls_paused"
POLLS_PAUSED: Doc = {
    POLLS_PAUSED_FIELD: {"$exists": True},
    "$expr": {"$not": [is_pause_over(POLLS_PAUSED_FIELD)]},
}
"""Filter: the polls of a stream are paused."""


class PollPauses:
    """Every change is one write."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def pause(self, stream: str, *, who: str, reason: str, ends_at: datetime | None = None) -> None:
        """Let no poll of a stream that the ledger knows begin; one that is running ends after its page.

        Args:
            ends_at: When the pause ends by itself; None: never.
        """
        paused = paused_by(who, reason, field=POLLS_PAUSED_FIELD, ends_at=ends_at)
        self._streams.update_one({"_id": stream}, [{"$set": {POLLS_PAUSED_FIELD: paused}}])

    @edge
    def resume(self, stream: str) -> bool:
        """Let a stream be polled again; False if its polls were not paused."""
        query: Doc = {"_id": stream, POLLS_PAUSED_FIELD: {"$exists": True}}
        return self._streams.update_one(query, {"$unset": {POLLS_PAUSED_FIELD: True}}).modified_count == 1

    @edge
    def end_over(self, stream: str) -> bool:
        """End a pause whose time is over; False if there is none. Safe to repeat: one of several ends it."""
        ends_at = f"{POLLS_PAUSED_FIELD}.ends_at"
        query: Doc = {"_id": stream, ends_at: {"$type": "date"}, "$expr": is_pause_over(POLLS_PAUSED_FIELD)}
        return self._streams.update_one(query, {"$unset": {POLLS_PAUSED_FIELD: True}}).modified_count == 1

    @edge
    def are_paused(self, stream: str) -> bool:
        """Tell whether an operator wants no poll of this stream."""
        return self._streams.find_one({"_id": stream, **POLLS_PAUSED}, {"_id": True}) is not None

    @edge
    def load(self, stream: str) -> Mapping[str, Any] | None:
        """Return who paused the polls of a stream, when, why and until when; None if they are not paused."""
        found = self._streams.find_one({"_id": stream, **POLLS_PAUSED}, {POLLS_PAUSED_FIELD: True}) or {}
        paused: Mapping[str, Any] | None = found.get(POLLS_PAUSED_FIELD)
        return paused
