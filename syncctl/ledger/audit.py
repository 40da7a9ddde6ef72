"""The `audit` collection: the operations of operators and of the cleanup: who, when, what, how many, and how it ended.

An entry is written before the first change, so that an operation that is killed leaves one too. Its count grows while
the operation continues.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.errors import ServiceUnavailable, SyncctlError
from syncctl.ledger.mongo_client import edge, new_token

Doc = dict[str, Any]

ACTIONS = ("replay", "discard", "send", "rewind", "repair", "cleanup", "pause", "resume", "upgrade")
ENTRIES_AT_ONCE = 1000


class AuditEntry:
    """The entry of one operation. Nothing is written before `begin`: an operation that changes nothing has none."""

    def __init__(self, audit: Collection[Doc], hosts: str, entry: Mapping[str, Any]) -> None:
        self._audit = audit
        self._entry = dict(entry)
        self._id = new_token()
        self._has_begun = False
        self.hosts = hosts
        #: How many records were changed so far.
        self.count = 0

    @edge
    def begin(self) -> None:
        """Write the entry, with MongoDB's time. Call it before each change; safe to repeat."""
        if self._has_begun:
            return
        changes = {"$set": {**self._entry, "count": 0}, "$currentDate": {"at": True}}
        self._audit.update_one({"_id": self._id}, changes, upsert=True)
        self._has_begun = True

    @edge
    def add(self, count: int, **detail: Any) -> None:
        """Add to the count, after a change.

        Args:
            detail: The details of the operation that are known by now.
        """
        self.begin()
        self.count += count
        known = {f"detail.{name}": value for name, value in detail.items()}
        self._audit.update_one({"_id": self._id}, {"$set": {"count": self.count, **known}})

    @edge
    def end(self, error: BaseException | None = None) -> None:
        """Note the end of the operation, and the error that ended it early."""
        if self._has_begun:
            ended = {"$set": {"error": _describe(error)}, "$currentDate": {"ended_at": True}}
            self._audit.update_one({"_id": self._id}, ended)


def _describe(error: BaseException | None) -> str | None:
    if error is None or isinstance(error, SyncctlError):
        return None if error is None else str(error)
    return type(error).__name__ if isinstance(error, Exception) else "interrupted"


def _concerns(streams: Mapping[str, str | None]) -> list[Doc]:
    """Return the conditions, at least one of which an entry meets if it concerns one of these streams, or all."""
    names = list(streams)
    partners = sorted({partner for partner in streams.values() if partner is not None})
    # The id of a record begins with the name of its stream.
    ids = "|".join(re.escape(name) for name in names)
    nothing: Doc = {f"detail.{name}.0": {"$exists": False} for name in ("streams", "partners", "ids")}
    return [
        {"detail.stream": {"$in": names}},
        {"detail.streams": {"$in": names}},
        {"detail.partners": {"$in": partners}},
        {"detail.ids": {"$regex": f"^(?:{ids})-[0-9a-f]{{32}}$"}},
        {"detail.stream": {"$exists": False}, **nothing},
    ]


class Audit:
    """One entry per operation; none is ever removed."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._audit: Collection[Doc] = database["audit"]
        self.hosts = hosts

    @contextmanager
    def record(self, *, action: str, who: str, detail: Mapping[str, Any]) -> Iterator[AuditEntry]:
        """Keep the entry of the operation that runs inside; its end is noted, however it ends.

        An entry without an end belongs to an operation that is running or was killed, which may have changed up to one
        page more than its count.
        """
        entry = AuditEntry(self._audit, self.hosts, {"action": action, "who": who, "detail": dict(detail)})
        try:
            yield entry
        except BaseException as error:
            with suppress(ServiceUnavailable):
                entry.end(error)
            raise
        entry.end()

    @edge
    def find_newest(self, action: str) -> datetime | None:
        """Return when the newest operation of a kind began; None if there was none."""
        entry = self._audit.find_one({"action": action}, {"at": True}, sort=[("at", -1)])
        at: datetime | None = None if entry is None else entry["at"]
        return at

    def walk(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        actions: Sequence[str] = (),
        touching: Mapping[str, str | None] | None = None,
    ) -> Iterator[Doc]:
        """Yield entries, newest first; memory does not grow with their number.

        Args:
            until: Excluded.
            touching: Streams, each with its partner if known: only entries that concern one of them, or all streams.
        """
        query: Doc = {}
        if actions:
            query["action"] = {"$in": list(actions)}
        if touching is not None:
            query["$or"] = _concerns(touching)
        span: Doc = {name: at for name, at in (("$gte", since), ("$lt", until)) if at is not None}
        # MongoDB's times have milliseconds: several entries may have the same, and a page may end between them.
        seen: list[str] = []
        while page := self._load_page({**query, "_id": {"$nin": seen}, **({"at": span} if span else {})}):
            yield from page
            last = page[-1]["at"]
            seen = (seen if last == span.get("$lte") else []) + [entry["_id"] for entry in page if entry["at"] == last]
            span = {**{name: at for name, at in span.items() if name == "$gte"}, "$lte": last}

    @edge
    def _load_page(self, query: Doc) -> list[Doc]:
        return list(self._audit.find(query, sort=[("at", -1)], limit=ENTRIES_AT_ONCE, hint="at"))

    @edge
    def load(self, *, limit: int) -> list[Doc]:
        """Return the newest entries, newest first."""
        return list(self._audit.find({}, {"_id": False}, sort=[("at", -1)], limit=limit))
