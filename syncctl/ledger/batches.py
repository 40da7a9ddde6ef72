"""The `batches` collection: one document per batch in flight, with its lease, its records, and the calls that began.

A process renews the leases of all its batches with one write; a process that died stops renewing. `begun` separates the
records that may have reached the partner from those that cannot have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, DuplicateKeyError

from syncctl.core.clock import boot_time
from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.ledger.expressions import IN_FLIGHT_FIELDS, ClockReading, in_future, is_past, or_zero
from syncctl.ledger.indexes import ONE_IN_FLIGHT
from syncctl.ledger.mongo_client import edge, update_many_safely, write_but_duplicates
from syncctl.ledger.records import RECORD_FIELDS, record_of

Doc = dict[str, Any]

SEIZED_FOR_SECONDS = 15.0
"""How long only one process may bring back a batch whose lease ran out, before another may try."""
READ_AT_ONCE = 10_000


@dataclass(kw_only=True, slots=True)
class Claim:
    """A batch of records that this process alone may send, for as long as it renews the lease.

    Args:
        ends_at: When the lease ends by this machine's clock, which was read before MongoDB was asked: never too late.
        key_ids: The key id of each record, by record id.
        clock: A reading of MongoDB's clock.
    """

    stream: str
    token: str
    worker: str
    records: tuple[Record, ...]
    key_ids: Mapping[str, str]
    ends_at: float
    clock: ClockReading

    @property
    def is_held(self) -> bool:
        """Whether the lease has not run out by this machine's clock, which keeps running while the machine sleeps."""
        return boot_time() < self.ends_at


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpiredBatch:
    """A batch whose process stopped renewing its lease, and which this process has to bring back.

    Args:
        begun: The ids of the records whose calls may have begun.
        until: When the lease ended, by MongoDB's clock; no call began later.
    """

    token: str
    stream: str
    worker: str
    ids: tuple[str, ...]
    begun: frozenset[str]
    until: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class InFlight:
    """The records of one stream that are in flight."""

    count: int
    #: How many of them are sent once more.
    retries: int
    #: The keys that have a version among them.
    key_ids: frozenset[str]


class Batches:
    """Every write is guarded by the batch's token and by a lease that has not run out."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._batches: Collection[Doc] = database["batches"]
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def take(
        self,
        stream: str,
        ids: Sequence[str],
        *,
        token: str,
        mapping_hash: str,
        seconds: float,
        worker: str,
        exclusive: bool,
        due_since: datetime | None = None,
    ) -> Claim | None:
        """Take due records straight into flight, under a new lease; None when none of them could be taken.

        If the mapping has changed since a record's last claim, its bytes have changed too: it goes under a new key.

        Args:
            seconds: The length of the lease.
            exclusive: A record whose key has another version in flight stays where it is (invariant 5).
            due_since: Since when the oldest of the records has been due.
        """
        started = boot_time()
        document: Doc = {"stream": stream, "worker": {"$literal": worker}, "ids": list(ids), "begun": []}
        if due_since is not None:
            document["due_since"] = due_since
        self._batches.update_one({"_id": token}, [{"$set": {**document, "until": in_future(seconds)}}], upsert=True)
        self._claim(ids, token=token, mapping_hash=mapping_hash, worker=worker, exclusive=exclusive)
        fields = dict.fromkeys((*RECORD_FIELDS, "key_id", "lease.at"), True)
        query = {"_id": {"$in": list(ids)}, "lease.token": token}
        # With room for one more, MongoDB returns them all without another round trip.
        documents = list(self._records.find(query, fields, batch_size=len(ids) + 1))
        if not documents:
            self.end(token)
            return None
        documents.sort(key=lambda document: int(document["seq"]))
        return Claim(
            stream=stream,
            token=token,
            worker=worker,
            records=tuple(record_of(document) for document in documents),
            key_ids={document["_id"]: document["key_id"] for document in documents},
            ends_at=started + seconds,
            clock=ClockReading.taken_now(documents[0]["lease"]["at"]),
        )

    def _claim(self, ids: Sequence[str], *, token: str, mapping_hash: str, worker: str, exclusive: bool) -> None:
        remapped = {"$ne": [{"$ifNull": ["$mapping_hash", mapping_hash]}, mapping_hash]}
        changes: Doc = {
            "state": State.SENDING.value,
            "in_flight_key": "$key_id" if exclusive else "$_id",
            "in_flight_retry": {"$cond": [{"$eq": ["$fresh", False]}, True, "$$REMOVE"]},
            "lease": {"token": token, "worker": {"$literal": worker}, "at": "$$NOW"},
            "claims": {"$add": [or_zero("claims"), 1]},
            "generation": {"$add": [or_zero("generation"), {"$cond": [remapped, 1, 0]}]},
            "mapping_hash": mapping_hash,
        }
        due = {"state": State.PENDING.value, **is_past("due_at")}
        try:
            self._records.update_many({"_id": {"$in": list(ids)}, **due}, [{"$set": changes}])
        except (DuplicateKeyError, AutoReconnect):
            # One by one: the driver can repeat such updates, and a key in flight keeps only its own record back.
            writes = [UpdateOne({"_id": record, **due}, [{"$set": changes}]) for record in ids]
            write_but_duplicates(self._records, writes)

    @edge
    def note_remote_hashes(self, claim: Claim, records: Sequence[Record]) -> None:
        """Note, before their calls begin, which remote values shape the calls of claimed records, and the generations.

        Safe to repeat. A record whose lease was lost stays as it is, and is not sent: `begin` fails.
        """
        if not records:
            return
        ids = [record.id for record in records]
        place = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
        changes: Doc = {
            "remote_hash": {"$arrayElemAt": [{"$literal": [record.remote_hash for record in records]}, place]},
            "generation": {"$arrayElemAt": [{"$literal": [record.generation for record in records]}, place]},
        }
        guard = {"_id": {"$in": ids}, "lease.token": claim.token}
        update_many_safely(self._records, guard, [{"$set": changes}])

    @edge
    def begin(self, claim: Claim, ids: Sequence[str], *, seconds: float) -> bool:
        """Note that the calls of these records are about to begin, and renew the lease; False when it is lost."""
        started = boot_time()
        begun = {"$setUnion": ["$begun", {"$literal": list(ids)}]}
        changes = {"begun": begun, "until": in_future(seconds)}
        if self._batches.update_one({"_id": claim.token, **_HELD}, [{"$set": changes}]).matched_count == 0:
            return False
        claim.ends_at = started + seconds
        return True

    @edge
    def renew(self, claims: Sequence[Claim], *, seconds: float) -> list[Claim]:
        """Renew the leases of these batches with one write; return those that are lost."""
        if not claims:
            return []
        started = boot_time()
        tokens = [claim.token for claim in claims]
        renewed = [{"$set": {"until": in_future(seconds)}}]
        held = update_many_safely(self._batches, {"_id": {"$in": tokens}, **_HELD}, renewed, count="matched")
        lost: set[str] = set()
        if held < len(tokens):
            lives = self._batches.find({"_id": {"$in": tokens}, **_HELD}, {"_id": True})
            lost = set(tokens) - {document["_id"] for document in lives}
        for claim in claims:
            if claim.token not in lost:
                claim.ends_at = started + seconds
        return [claim for claim in claims if claim.token in lost]

    @edge
    def release(self, claim: Claim, ids: Sequence[str]) -> None:
        """Give back claimed records whose calls never began, as if they had not been claimed."""
        if ids:
            guard = {"_id": {"$in": list(ids)}, "lease.token": claim.token}
            update_many_safely(self._records, guard, GIVEN_BACK)

    @edge
    def narrow(self, claim: Claim, ids: Iterable[str]) -> None:
        """Let a batch name only these of its records, because the others' outcomes are written. Safe to repeat."""
        self._batches.update_one({"_id": claim.token, **_HELD}, {"$set": {"ids": sorted(ids)}})

    @edge
    def end(self, token: str) -> None:
        """Forget a batch that no longer has a record in flight; safe to repeat."""
        self._batches.delete_one({"_id": token})

    @edge
    def seize_expired(self, streams: Sequence[str], *, limit: int) -> list[ExpiredBatch]:
        """Take batches whose lease ran out: one process brings each back, and its owner can no longer renew it."""
        seized: list[ExpiredBatch] = []
        free = {"$or": [{"seized_until": {"$exists": False}}, is_past("seized_until")]}
        query: Doc = {"stream": {"$in": list(streams)}, "$and": [is_past("until"), free]}
        change = [{"$set": {"seized_until": in_future(SEIZED_FOR_SECONDS)}}]
        while len(seized) < limit:
            batch = self._batches.find_one_and_update(query, change, return_document=ReturnDocument.AFTER)
            if batch is None:
                break
            seized.append(
                ExpiredBatch(
                    token=batch["_id"],
                    stream=batch["stream"],
                    worker=batch["worker"],
                    ids=tuple(batch["ids"]),
                    begun=frozenset(batch["begun"]),
                    until=batch["until"],
                )
            )
        return seized

    @edge
    def end_if_done(self, batch: ExpiredBatch) -> bool:
        """Forget a batch that was brought back, unless one of its records is still in flight under its token."""
        # Not by its ids: a claim that was cut off may have taken a record that the batch no longer names.
        left = {"stream": batch.stream, "in_flight_key": {"$gt": ""}, "lease.token": batch.token}
        if self._records.find_one(left, {"_id": True}, hint=ONE_IN_FLIGHT) is not None:
            return False
        self._batches.delete_one({"_id": batch.token})
        return True

    @edge
    def find_in_flight(self, stream: str) -> InFlight:
        """Return the records of a stream that are in flight, among those that its batches name.

        Not by an index of records in flight: MongoDB keeps the entries that were removed from an index for as long as
        its history lasts (`minSnapshotHistoryWindowInSeconds`, five minutes unless it is changed), and each lookup
        would walk over the entries of all records that were in flight in that time.
        """
        batches = self._batches.find({"stream": stream}, {"ids": True})
        ids = list(dict.fromkeys(record for batch in batches for record in batch["ids"]))
        fields = {"_id": False, "key_id": True, "in_flight_retry": True}
        documents: list[Doc] = []
        for start in range(0, len(ids), READ_AT_ONCE):
            some = ids[start : start + READ_AT_ONCE]
            query = {"_id": {"$in": some}, "in_flight_key": {"$exists": True}}
            # With room for one more, MongoDB returns them all without another round trip.
            documents += self._records.find(query, fields, batch_size=len(some) + 1, hint=[("_id", 1)])
        return InFlight(
            count=len(documents),
            retries=sum("in_flight_retry" in document for document in documents),
            key_ids=frozenset(document["key_id"] for document in documents),
        )

    @edge
    def find_stranded_keys(self, stream: str, key_ids: Sequence[str]) -> set[str]:
        """Return the given keys that have a version in flight, even for a batch that is gone.

        Only called if none of them could be taken: see `find_in_flight`.
        """
        query = {"stream": stream, "in_flight_key": {"$in": list(key_ids)}}
        return {record["key_id"] for record in self._records.find(query, {"key_id": True}, hint=ONE_IN_FLIGHT)}

    @edge
    def find_oldest(self, stream: str) -> datetime | None:
        """Return since when the oldest record of the batches in flight has been due; None if none is in flight."""
        batches = self._batches.find({"stream": stream, "due_since": {"$type": "date"}}, {"due_since": True})
        return min((batch["due_since"] for batch in batches), default=None)

    @edge
    def count(self, streams: Sequence[str]) -> dict[str, int]:
        """Return how many batches of each stream are in flight."""
        stages: list[Doc] = [{"$match": {"stream": {"$in": list(streams)}}}, {"$sortByCount": "$stream"}]
        return {group["_id"]: int(group["count"]) for group in self._batches.aggregate(stages)}


_HELD: Doc = {"seized_until": {"$exists": False}, "until": {"$type": "date"}, "$expr": {"$gt": ["$until", "$$NOW"]}}
"""Filter: the lease of a batch has not run out, and no process has begun to bring its records back."""

GIVEN_BACK: list[Doc] = [
    {"$set": {"state": State.PENDING.value, "claims": {"$subtract": ["$claims", 1]}}},
    {"$unset": IN_FLIGHT_FIELDS},
]
"""The change that puts back a claimed record whose call never began."""
