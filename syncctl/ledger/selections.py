"""Finding the records that an operator means, page by page along an index."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import State
from syncctl.ledger.client import edge

Doc = dict[str, Any]
_FIELDS: Doc = {
    "stream": True,
    "key_id": True,
    "seq": True,
    "state": True,
    "op": True,
    "finished_at": True,
    "no_payload": {"$eq": ["$payload", None]},
}


class Selections:
    """Each page is a query of its own, so that what is changed between two pages loses none of the rest."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def load_ids(self, ids: Sequence[str], criteria: Mapping[str, Any]) -> list[Doc]:
        """Return those of these records that meet the criteria."""
        return list(self._records.find({**criteria, "_id": {"$in": list(ids)}}, _FIELDS))

    @edge
    def load_finished(
        self,
        stream: str,
        state: State,
        criteria: Mapping[str, Any],
        *,
        after: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Doc]:
        """Return a stream's finished records in a state, in the order of their end and id.

        Args:
            after: The end and the id of the last one of the page before.
        """
        query: Doc = {**criteria, "stream": stream, "state": state.value}
        query.setdefault("finished_at", {"$exists": True})
        if after is not None:
            ended, last = after
            further = [{"finished_at": {"$gt": ended}}, {"finished_at": ended, "_id": {"$gt": last}}]
            query = {**query, "$and": [{"finished_at": {"$gte": ended}}, {"$or": further}]}
        order = [("finished_at", 1), ("_id", 1)]
        return list(self._records.find(query, _FIELDS, sort=order, limit=limit, hint="finished"))

    @edge
    def group_failures(self, streams: Sequence[str], ended: Mapping[str, Any], *, limit: int) -> list[Doc]:
        """Return failed records grouped by the fingerprint of their error, the most frequent first."""
        query = {"stream": {"$in": list(streams)}, "state": State.FAILED.value, "finished_at": dict(ended)}
        group = {
            "_id": "$error.fingerprint",
            "status": {"$first": "$error.status"},
            "message": {"$first": "$error.message"},
            "count": {"$sum": 1},
            "first_at": {"$min": "$failed_at"},
            "last_at": {"$max": "$failed_at"},
            "sample_id": {"$first": "$_id"},
            "streams": {"$addToSet": "$stream"},
        }
        pipeline: list[Doc] = [
            {"$match": query},
            {"$group": group},
            {"$sort": {"count": -1, "_id": 1}},
            {"$limit": limit},
        ]
        found = self._records.aggregate(pipeline, hint="finished")
        return [{"fingerprint": each.pop("_id"), **each, "streams": sorted(each["streams"])} for each in found]
