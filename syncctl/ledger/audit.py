"""The `audit` collection: what operators, and the clean-up, did: who, when, what, how many."""

from collections.abc import Mapping
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.ledger.client import edge, new_token

Doc = dict[str, Any]


class Audit:
    """Only ever appended to."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._audit: Collection[Doc] = database["audit"]
        self.hosts = hosts

    @edge
    def add(self, *, action: str, who: str, count: int, detail: Mapping[str, Any]) -> None:
        """Record what was done, by whom and to how many; MongoDB says when."""
        entry = {"action": action, "who": who, "count": count, "detail": dict(detail)}
        self._audit.update_one({"_id": new_token()}, {"$set": entry, "$currentDate": {"at": True}}, upsert=True)

    @edge
    def load(self, *, limit: int) -> list[Doc]:
        """Return the newest entries, newest first."""
        return list(self._audit.find({}, {"_id": False}, sort=[("at", -1)], limit=limit))
