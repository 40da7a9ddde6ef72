"""Mode flag: which finished records the source has not been told of."""

from collections.abc import Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.states import State
from syncctl.ledger.client import edge
from syncctl.ledger.codec import decode_values
from syncctl.ledger.expressions import in_future

Doc = dict[str, Any]
AGAIN_SECONDS = 60.0
"""After which a statement that failed is run again."""


class Acknowledgements:
    """A record of mode flag keeps `acknowledge` until the source was told what became of it."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def find(self, stream: str, *, failed_too: bool, limit: int) -> list[Acknowledgement]:
        """Return records that were delivered, or given up for good, and that the source has not been told of.

        Args:
            failed_too: Whether the source wants to know of those that failed or were discarded.
        """
        states = [State.DELIVERED.value]
        if failed_too:
            states += [State.FAILED.value, State.DISCARDED.value]
        rested = {"$lte": [{"$ifNull": ["$acknowledge.due_at", None]}, "$$NOW"]}
        query = {"stream": stream, "state": {"$in": states}, "acknowledge": {"$exists": True}, "$expr": rested}
        found = self._records.find(query, {"key": True, "state": True, "acknowledge": True}, limit=limit)
        return [
            Acknowledgement(
                id=each["_id"],
                key=decode_values(each["key"]),
                version=each["acknowledge"]["version"],
                ending="delivered" if each["state"] == State.DELIVERED.value else "failed",
            )
            for each in found.hint("to_acknowledge")
        ]

    @edge
    def settle(self, told: Sequence[Acknowledgement], done: Sequence[Acknowledged]) -> None:
        """Note what the statements did; what failed is tried again after a while. Safe to repeat."""
        endings = {each.id: each for each in told}
        writes = []
        for each in done:
            row = endings[each.id]
            guard = {"_id": each.id, "acknowledge.version": row.version}
            if each.error is not None:
                later = {"acknowledge.error": {"$literal": each.error}, "acknowledge.due_at": in_future(AGAIN_SECONDS)}
                writes.append(UpdateOne(guard, [{"$set": later}]))
                continue
            note = {"ending": row.ending, "version": {"$literal": row.version}, "rows": each.rows, "at": "$$NOW"}
            writes.append(UpdateOne(guard, [{"$set": {"acknowledged": note}}, {"$unset": ["acknowledge"]}]))
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def find_refused(self, stream: str) -> tuple[int, str] | None:
        """Return how many records the source could not be told of, and one of the reasons; None where there is none."""
        query = {"stream": stream, "acknowledge": {"$exists": True}, "acknowledge.error": {"$exists": True}}
        found = self._records.find_one(query, {"acknowledge": True}, hint="to_acknowledge")
        if found is None:
            return None
        return self._records.count_documents(query, hint="to_acknowledge"), str(found["acknowledge"]["error"])
