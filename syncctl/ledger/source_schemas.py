"""The columns that the source of each stream declares, and their latest changes; kept in `streams`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.schema_changes import DeclaredRelation, SchemaChange
from syncctl.ledger.mongo_client import edge
from syncctl.ledger.polls import PollLease

Doc = dict[str, Any]

CHANGES_KEPT = 100
CHANGES_SHOWN = timedelta(days=7)
"""How long `status` and `doctor` show a change: a weekend and some days."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotedChange:
    """A change of a source's columns, and when a poll noticed it."""

    at: datetime
    change: SchemaChange


class SourceSchemas:
    """Declared columns and their changes, noted by the poll that sees them, under its lease (invariant 8)."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def note(self, lease: PollLease, declared: Sequence[DeclaredRelation], changes: Sequence[SchemaChange]) -> bool:
        """Store what the source declares now, and the changes; False when another poll took the lease over."""
        guard = {"_id": lease.stream, "poll.token": lease.token}
        kept = [
            {"path": relation.path, "identity": relation.identity, "columns": [list(pair) for pair in relation.columns]}
            for relation in declared
        ]
        new = [{"at": "$$NOW", "change": {"$literal": asdict(change)}} for change in changes]
        known = {"$ifNull": ["$schema_changes", []]}
        stages = {
            "declared": {"$literal": kept},
            "schema_changes": {"$slice": [{"$concatArrays": [known, new]}, -CHANGES_KEPT]},
        }
        return self._streams.update_one(guard, [{"$set": stages}]).matched_count == 1


def read_schema_changes(stream: Mapping[str, Any], now: datetime) -> list[NotedChange]:
    """Return the changes of the last days that a stream's document holds, the newest first."""
    return [
        NotedChange(at=noted["at"], change=SchemaChange(**noted["change"]))
        for noted in reversed(stream.get("schema_changes", ()))
        if noted["at"] > now - CHANGES_SHOWN
    ]
