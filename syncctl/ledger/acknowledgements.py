"""Mode flag: the finished records that the source has not been told of."""

from collections.abc import Iterable, Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement, Begun
from syncctl.core.states import State
from syncctl.ledger.codec import decode_values
from syncctl.ledger.expressions import in_future
from syncctl.ledger.indexes import TO_ACKNOWLEDGE
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]
AGAIN_SECONDS = 60.0
"""How long after a failure the statement is run again."""
NEW_VERSION_SECONDS = 1.0
"""How long after a row was written to its statement is run again: not in the same loop, but by the next poll."""
_FIELDS = {"key_id": True, "key": True, "hash": True, "state": True, "acknowledge": True}


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
        rested = {"$lte": [{"$ifNull": ["$acknowledge.due_at", None]}, "$$NOW"]}
        query = {**_of(stream, failed_too=failed_too), "acknowledge": {"$exists": True}, "$expr": rested}
        found = self._records.find(query, _FIELDS, limit=limit)
        return [_read(record) for record in found.hint(TO_ACKNOWLEDGE)]

    @edge
    def begin(self, finished: Sequence[Acknowledgement], results: Sequence[Acknowledged]) -> None:
        """Note, before it happens, that these statements are committed; safe to repeat.

        A process may die right after the commit. Without the note, the next one would take a row that was flagged again
        in the meantime for one whose statement never ran, and acknowledge it unsent.
        """
        versions = {record.id: record.version for record in finished}
        writes = [
            UpdateOne(
                {"_id": result.id, "acknowledge.version": versions[result.id]},
                {"$set": {"acknowledge.begun": {"version_after": result.version_after}}},
            )
            for result in results
        ]
        if writes:
            self._records.bulk_write(writes, ordered=False)

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
                # Its statement was rolled back, unless an earlier one was found begun.
                gone = ["acknowledge.begun"] if record.begun is None else []
                writes.append(UpdateOne(guard, [{"$set": later}, *({"$unset": name} for name in gone)]))
                continue
            if result.new_version is not None:
                renewed = {"version": {"$literal": result.new_version}, "due_at": in_future(NEW_VERSION_SECONDS)}
                writes.append(UpdateOne(guard, [{"$unset": "acknowledge"}, {"$set": {"acknowledge": renewed}}]))
                continue
            note = {
                "ending": record.ending,
                "version": {"$literal": result.version_after or record.version},
                "rows": result.rows,
                "at": "$$NOW",
            }
            writes.append(UpdateOne(guard, [{"$set": {"acknowledged": note}}, {"$unset": ["acknowledge"]}]))
        if writes:
            self._records.bulk_write(writes, ordered=False)

    @edge
    def find_streams(self, streams: Iterable[str]) -> list[str]:
        """Return those of these streams of whose records the source has not been told yet."""
        query = {**_ended(failed_too=True), "acknowledge": {"$exists": True}}
        # One look for each stream that has some: the index does not hold `acknowledge`, and they may be millions.
        found: set[str] = set()
        last = ""
        while next_one := self._records.find_one(
            {"stream": {"$gt": last}, **query}, {"stream": True}, sort=[("stream", 1)], hint=TO_ACKNOWLEDGE
        ):
            last = next_one["stream"]
            found.add(last)
        return [name for name in streams if name in found]

    @edge
    def find_refused(self, stream: str, *, failed_too: bool) -> tuple[int, str] | None:
        """Return of how many records the source could not be told, and one reason; None if there are none.

        Args:
            failed_too: Whether the source is told of failed and discarded records too.
        """
        refused = {"acknowledge": {"$exists": True}, "acknowledge.error": {"$exists": True}}
        query = {**_of(stream, failed_too=failed_too), **refused}
        found = self._records.find_one(query, {"acknowledge": True}, hint=TO_ACKNOWLEDGE)
        if found is None:
            return None
        return self._records.count_documents(query, hint=TO_ACKNOWLEDGE), str(found["acknowledge"]["error"])


def _of(stream: str, *, failed_too: bool) -> Doc:
    return {"stream": stream, **_ended(failed_too=failed_too)}


def _ended(*, failed_too: bool) -> Doc:
    states = [State.DELIVERED, *([State.FAILED, State.DISCARDED] if failed_too else [])]
    return {"state": {"$in": [state.value for state in states]}}


def _read(record: Doc) -> Acknowledgement:
    begun = record["acknowledge"].get("begun")
    return Acknowledgement(
        id=record["_id"],
        key_id=record["key_id"],
        key=decode_values(record["key"]),
        hash=record["hash"],
        version=record["acknowledge"]["version"],
        ending="delivered" if record["state"] == State.DELIVERED.value else "failed",
        begun=None if begun is None else Begun(version_after=begun["version_after"]),
    )
