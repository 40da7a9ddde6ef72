"""Mode flag: the finished records that the source has not been told of."""

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
"""How long after a failure the statement is run again."""


class Acknowledgements:
    """A record of mode flag keeps `acknowledge` until the source has been told how it ended."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def find(self, stream: str, *, failed_too: bool, limit: int) -> list[Acknowledgement]:
        """Return records that were delivered, or given up for good, and of which the source has not been told.

        Args:
            failed_too: Whether the source is told of failed and discarded records too.
        """
        states = [State.DELIVERED.value]
        if failed_too:
            states += [State.FAILED.value, State.DISCARDED.value]
        rested = {"$lte": [{"$ifNull": ["$acknowledge.due_at", None]}, "$$NOW"]}
        query = {"stream": stream, "state": {"$in": states}, "acknowledge": {"$exists": True}, "$expr": rested}
        found = self._records.find(query, {"key": True, "state": True, "acknowledge": True}, limit=limit)
        return [
            Acknowledgement(
                id=record["_id"],
                key=decode_values(record["key"]),
                version=record["acknowledge"]["version"],
                ending="delivered" if record["state"] == State.DELIVERED.value else "failed",
            )
            for record in found.hint("to_acknowledge")
        ]

    @edge
    def settle(self, finished: Sequence[Acknowledgement], results: Sequence[Acknowledged]) -> None:
        """Record the results of the statements; failed ones are repeated after a while. Safe to repeat."""
        records = {record.id: record for record in finished}
        writes = []
        for result in results:
            record = records[result.id]
            guard = {"_id": result.id, "acknowledge.version": record.version}
            if result.error is not None:
                later = {
                    "acknowledge.error": {"$literal": result.error},
                    "acknowledge.due_at": in_future(AGAIN_SECONDS),
                }
                writes.append(UpdateOne(guard, [{"$set": later}]))
                continue
            note = {
                "ending": record.ending,
                "version": {"$literal": record.version},
                "rows": result.rows,
                "at": "$$NOW",
            }
            writes.append(UpdateOne(guard, [{"$set": {"acknowledged": note}}, {"$unset": ["acknowledge"]}]))
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def find_refused(self, stream: str) -> tuple[int, str] | None:
        """Return of how many records the source could not be told, and one reason; None if there are none."""
        query = {"stream": stream, "acknowledge": {"$exists": True}, "acknowledge.error": {"$exists": True}}
        found = self._records.find_one(query, {"acknowledge": True}, hint="to_acknowledge")
        if found is None:
            return None
        return self._records.count_documents(query, hint="to_acknowledge"), str(found["acknowledge"]["error"])
