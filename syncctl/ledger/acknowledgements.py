"""Mode flag: the finished records whose ending has yet to be reported to the source."""

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
"""How long after a write to its row the statement for a record is run again: by the next poll, not in the same loop."""
_FIELDS = {"key_id": True, "key": True, "hash": True, "state": True, "acknowledge": True}


class Acknowledgements:
    """The reports to the source: a record of mode flag keeps `acknowledge` until its ending is reported."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def find(self, stream: str, *, failed_too: bool, limit: int) -> list[Acknowledgement]:
        """Return records that were delivered, or given up for good, and not yet reported to the source.

        Args:
            failed_too: Whether failed and discarded records are reported to the source too.
        """
        rested = {"$lte": [{"$ifNull": ["$acknowledge.due_at", None]}, "$$NOW"]}
        query = {**_of(stream, failed_too=failed_too), "acknowledge": {"$exists": True}, "$expr": rested}
        records = self._records.find(query, _FIELDS, limit=limit)
        return [_read(record) for record in records.hint(TO_ACKNOWLEDGE)]

    @edge
    def begin(self, finished: Sequence[Acknowledgement], results: Sequence[Acknowledged]) -> None:
        """Note that these statements are about to be committed; safe to repeat.

        A process may die right after the commit. Without the note, the next process would mistake a row that was
        flagged again since then for one whose statement never ran, and acknowledge it unsent.
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
                # This statement was rolled back; a note about an earlier one stays.
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
        """Return the given streams that have records which were not reported to the source yet."""
        query = {**_ended(failed_too=True), "acknowledge": {"$exists": True}}
        # One lookup per stream with such records: the index does not hold `acknowledge`, and they may be millions.
        waiting: set[str] = set()
        last = ""
        while next_one := self._records.find_one(
            {"stream": {"$gt": last}, **query}, {"stream": True}, sort=[("stream", 1)], hint=TO_ACKNOWLEDGE
        ):
            last = next_one["stream"]
            waiting.add(last)
        return [name for name in streams if name in waiting]

    @edge
    def find_refused(self, stream: str, *, failed_too: bool) -> tuple[int, str] | None:
        """Return how many records could not be reported to the source, and one reason; None if there are none.

        Args:
            failed_too: Whether failed and discarded records are reported to the source too.
        """
        refused = {"acknowledge": {"$exists": True}, "acknowledge.error": {"$exists": True}}
        query = {**_of(stream, failed_too=failed_too), **refused}
        record = self._records.find_one(query, {"acknowledge": True}, hint=TO_ACKNOWLEDGE)
        if record is None:
            return None
        return self._records.count_documents(query, hint=TO_ACKNOWLEDGE), str(record["acknowledge"]["error"])


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
