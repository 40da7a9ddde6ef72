"""Records as operators select them: pages in the order of an index, and failures grouped by their error.

Each page is a separate query, so that a change between two pages loses none of the rest, and no query runs for long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.states import RETRYING, SELECTABLE, State
from syncctl.core.time_zone import LONG_AGO
from syncctl.ledger.codec import decode_values
from syncctl.ledger.indexes import FAILED_BY_ERROR, ONE_IN_FLIGHT
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

IN_FLIGHT_AT_MOST = 100_000
"""Far more records than the window of a stream allows to be in flight."""
_CHANGED_FIELDS: Doc = {
    "stream": True,
    "key_id": True,
    "seq": True,
    "state": True,
    "op": True,
    "finished_at": True,
    "due_at": True,
    "no_payload": {"$eq": ["$payload", None]},
}
"""The fields of a record that a replay or a discard needs."""
_LISTED_FIELDS: Doc = dict.fromkeys(
    (
        "stream", "key", "version", "seq", "op", "state", "fresh", "error", "reason", "attempts", "replays",
        "generation", "logged_at", "due_at", "sent_at", "finished_at", "lease.at",
    ),
    True,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Criteria:
    """The conditions that selected records meet, besides their stream and state."""

    #: The earliest time of a record: when it finished, is due next, or was taken into flight. Has a time zone.
    since: datetime | None = None
    #: The end of these times, which is excluded.
    until: datetime | None = None
    #: The fingerprint of their error.
    error: str | None = None
    #: The ids of the keys that the operator may mean; None: any key.
    key_ids: tuple[str, ...] | None = None
    #: Only records that were logged up to this time.
    logged_before: datetime | None = None

    def before(self, now: datetime, *, is_finished: bool) -> "Criteria":
        """Return these criteria without records that finish from now on, or, if unfinished, are logged from now on."""
        if is_finished:
            return replace(self, until=now if self.until is None else min(now, self.until))
        return replace(self, logged_before=now)

    def describe(self, time_field: str) -> Doc:
        """Return the filter, with the field that holds the time of the records."""
        criteria: Doc = {}
        if span := {name: at for name, at in (("$gte", self.since), ("$lt", self.until)) if at is not None}:
            criteria[time_field] = span
        if self.error is not None:
            criteria["error.fingerprint"] = self.error
        if self.key_ids is not None:
            criteria["key_id"] = {"$in": list(self.key_ids)}
        if self.logged_before is not None:
            criteria["logged_at"] = {**criteria.get("logged_at", {}), "$lte": self.logged_before}
        return criteria


ANY = Criteria()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """A part of a stream's records that one index keeps in order, by `time_field` and `tie_field`."""

    stream: str
    #: One of `SELECTABLE`.
    state: str
    index: str
    time_field: str
    tie_field: str
    query: Mapping[str, Any]


def list_scans(stream: str, state: str) -> list[Scan]:
    """Return the scans that find all records of a stream in one of the states of `SELECTABLE`."""
    if state not in SELECTABLE:
        raise ValueError(f"{state} is not a state of SELECTABLE")
    of_stream: Doc = {"stream": stream}
    if state == State.SENDING:
        query = {**of_stream, "in_flight_key": {"$gt": ""}, "state": State.SENDING.value}
        return [
            Scan(stream=stream, state=state, index=ONE_IN_FLIGHT, time_field="lease.at", tie_field="_id", query=query)
        ]
    if state in (State.PENDING, RETRYING):
        waiting = {**of_stream, "state": State.PENDING.value, "fresh": state == State.PENDING}
        due = {**waiting, "due_at": {"$type": "date"}}
        # Records that wait for another version or for a poll have no due time.
        held = {**waiting, "due_at": None}
        return [
            Scan(stream=stream, state=state, index="due", time_field="due_at", tie_field="seq", query=due),
            Scan(stream=stream, state=state, index="due", time_field="logged_at", tie_field="seq", query=held),
        ]
    query = {**of_stream, "state": state, "finished_at": {"$exists": True}}
    return [Scan(stream=stream, state=state, index="finished", time_field="finished_at", tie_field="_id", query=query)]


def read_time(scan: Scan, record: Mapping[str, Any]) -> datetime:
    """Return the time of a record of a scan: when it finished, is due, was taken into flight, or was logged."""
    at: datetime = record["lease"]["at"] if scan.time_field == "lease.at" else record[scan.time_field]
    return at


class Selections:
    """Reads only. Every query names its index."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def select_ids(
        self, ids: Sequence[str], *, states: Sequence[str], streams: Sequence[str] = (), criteria: Criteria = ANY
    ) -> list[Doc]:
        """Return the given records that are in one of the states (of `SELECTABLE`) and meet the criteria."""
        either: list[Doc] = []
        for scan in (scan for state in states for scan in list_scans("", state)):
            query = {name: scan.query[name] for name in ("state", "fresh", "due_at") if name in scan.query}
            either.append({"$and": [query, criteria.describe(scan.time_field)]})
        query = {"_id": {"$in": list(ids)}, "$or": either}
        if streams:
            query["stream"] = {"$in": list(streams)}
        return list(self._records.find(query, _CHANGED_FIELDS, hint="_id_"))

    @edge
    def read_page(
        self, scan: Scan, *, criteria: Criteria = ANY, after: Mapping[str, Any] | None = None, limit: int
    ) -> list[Doc]:
        """Return records as a change needs them, the oldest first.

        Args:
            after: The last record of the previous page.
        """
        return self._read_page(scan, criteria, _CHANGED_FIELDS, after, limit, order=1)

    @edge
    def list_page(
        self,
        scan: Scan,
        *,
        criteria: Criteria = ANY,
        after: Mapping[str, Any] | None = None,
        limit: int,
        newest_first: bool = True,
    ) -> list[Doc]:
        """Return records as a list shows them, without their payload and history, their keys decoded.

        Args:
            after: The last record of the previous page.
        """
        page = self._read_page(scan, criteria, _LISTED_FIELDS, after, limit, order=-1 if newest_first else 1)
        return [{**record, "key": decode_values(record["key"])} for record in page]

    def _read_page(
        self, scan: Scan, criteria: Criteria, fields: Doc, after: Mapping[str, Any] | None, limit: int, *, order: int
    ) -> list[Doc]:
        query: Doc = {"$and": [dict(scan.query), criteria.describe(scan.time_field)]}
        if scan.time_field == "lease.at":
            # Few records are in flight, and the index has them in the order of their keys.
            if after is not None:
                return []
            records = list(self._records.find(query, fields, limit=IN_FLIGHT_AT_MOST, hint=scan.index))
            return sorted(records, key=lambda record: (record["lease"]["at"], record["_id"]), reverse=order < 0)
        sort = [("due_at" if scan.index == "due" else scan.time_field, order), (scan.tie_field, order)]
        if after is not None:
            query["$and"].append(_behind(scan, after, order))
        hint = scan.index
        if criteria.key_ids is not None:
            hint = "by_key"
        elif criteria.error is not None and scan.state == State.FAILED:
            hint = FAILED_BY_ERROR
        return list(self._records.find(query, fields, sort=sort, limit=limit, hint=hint))

    @edge
    def count_finished(self, scan: Scan, criteria: Criteria) -> int:
        """Return how many finished records have their time in a period, from the index alone."""
        query = {**scan.query, **criteria.describe(scan.time_field)}
        return self._records.count_documents(query, hint=scan.index)

    @edge
    def find_fingerprints(self, streams: Sequence[str], beginning: str, *, limit: int) -> list[str]:
        """Return the fingerprints of errors of failed records that begin with these hex digits, each once."""
        fingerprints: set[str] = set()
        for stream in streams:
            last: Doc = {"$gte": beginning}
            while len(fingerprints) <= limit:
                query: Doc = {"stream": stream, "state": State.FAILED.value}
                query["error.fingerprint"] = {**last, "$lt": f"{beginning}g"}
                order = [("error.fingerprint", 1)]
                record = self._records.find_one(query, {"error.fingerprint": True}, sort=order, hint=FAILED_BY_ERROR)
                if record is None:
                    break
                mark = str(record["error"]["fingerprint"])
                fingerprints.add(mark)
                last = {"$gt": mark}
        return sorted(fingerprints)[:limit]

    @edge
    def group_failures(
        self, streams: Mapping[str, Criteria], *, states: Sequence[str] = (State.FAILED.value,), limit: int
    ) -> list[Doc]:
        """Return records with an error grouped by its fingerprint, the most frequent first.

        The groups of failed records are read from an index alone, unless a key is given.

        Args:
            streams: The criteria for the records, by stream.
        """
        groups: dict[str, Doc] = {}
        for scan in (scan for stream in streams for state in states for scan in list_scans(stream, state)):
            for group in self._group(scan, streams[scan.stream]):
                mark = group.pop("_id")
                known = groups.setdefault(mark, {**group, "fingerprint": mark, "count": 0, "streams": set()})
                known["count"] += group["count"]
                known["streams"].add(scan.stream)
                known["first_at"] = min(known["first_at"], group["first_at"])
                known["last_at"] = max(known["last_at"], group["last_at"])
        most = sorted(groups.values(), key=lambda group: (-int(group["count"]), group["fingerprint"]))[:limit]
        errors = self._load_errors([group["sample_id"] for group in most])
        return [
            {
                "fingerprint": group["fingerprint"],
                "status": errors.get(group["sample_id"], {}).get("status"),
                "message": errors.get(group["sample_id"], {}).get("message"),
                **{name: group[name] for name in ("count", "first_at", "last_at", "sample_id")},
                "streams": sorted(group["streams"]),
            }
            for group in most
        ]

    def _group(self, scan: Scan, criteria: Criteria) -> list[Doc]:
        by_error: Doc = {"error.fingerprint": {"$gt": ""}}
        at = f"${'updated_at' if scan.time_field == 'lease.at' else scan.time_field}"
        group = {
            "_id": "$error.fingerprint",
            "count": {"$sum": 1},
            "first_at": {"$min": at},
            "last_at": {"$max": at},
            "sample_id": {"$first": "$_id"},
        }
        # Bounds instead of `$exists`, so that the index alone can answer.
        query = {name: {"$gt": LONG_AGO} if name == "finished_at" else value for name, value in scan.query.items()}
        hint = FAILED_BY_ERROR if scan.state == State.FAILED else scan.index
        if criteria.key_ids is not None:
            hint = "by_key"
        match = {"$and": [query, by_error, criteria.describe(scan.time_field)]}
        return list(self._records.aggregate([{"$match": match}, {"$group": group}], hint=hint))

    def _load_errors(self, ids: Sequence[str]) -> dict[str, Doc]:
        records = self._records.find({"_id": {"$in": list(ids)}}, {"error": True})
        return {record["_id"]: record.get("error") or {} for record in records}


def _behind(scan: Scan, after: Mapping[str, Any], order: int) -> Doc:
    """Return the condition for the records that come after one, in the order of a scan."""
    further, at_least = ("$gt", "$gte") if order > 0 else ("$lt", "$lte")
    tie = {scan.tie_field: {further: after[scan.tie_field]}}
    field = "due_at" if scan.index == "due" else scan.time_field
    at = after.get(field)
    if at is None:
        return tie
    return {"$and": [{field: {at_least: at}}, {"$or": [{field: {further: at}}, {field: at, **tie}]}]}
