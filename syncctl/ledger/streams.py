"""The `streams` collection: whether records of a stream may be sent, pauses, refusals, and the lease of dispatch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.quiet_hours import QuietHours
from syncctl.ledger.breakers import GATE_FIELDS, BreakerGate, read_breaker
from syncctl.ledger.expressions import in_future, not_held, or_zero
from syncctl.ledger.holds import HOLD_FIELDS, Hold, Holds, read_hold
from syncctl.ledger.mongo_client import edge, new_token

Doc = dict[str, Any]

ENDED_LATELY_SECONDS = 600.0
"""How long after a run of refusals has ended its records, and refusals of a row's content, begin no new run."""
_ACCEPTED_LATELY: Doc = {"$gt": ["$accepted_at", {"$subtract": ["$$NOW", round(ENDED_LATELY_SECONDS * 1000)]}]}
BODY_LIMIT_SECONDS = 24 * 3600
"""How long it is remembered that a body was too large; then a larger one is tried again."""
_IS_BODY_LIMITED: Doc = {"$gt": ["$too_large.at", {"$subtract": ["$$NOW", BODY_LIMIT_SECONDS * 1000]}]}
_BODY_AT_MOST: Doc = {"$cond": [_IS_BODY_LIMITED, "$too_large.at_most", None]}


@dataclass(frozen=True, kw_only=True, slots=True)
class DispatchLease:
    """The right to dispatch one stream."""

    stream: str
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Whether a stream's records may be sent."""

    #: An operator has paused it, or its endpoint is gone or refuses everything.
    hold: Hold = field(default_factory=Hold)
    #: Records were refused since one was last accepted.
    has_refusals: bool = False
    #: Deletes were done because their rows are gone, and no record was accepted since.
    has_gone: bool = False
    #: A run of refusals has ended within the last minutes, because a record was accepted.
    accepted_lately: bool = False
    #: How many bytes the body of a bulk call may have, because the partner refused a larger one; None: no known limit.
    body_at_most: int | None = None
    #: The newest epoch whose poll read to the end.
    complete_epoch: int = 0
    #: The polls of epochs before this one have ended, or lost their lease.
    running_epoch: int = 0
    breaker: BreakerGate = field(default_factory=BreakerGate)
    #: When it was last resumed, or its circuit last stopped being open.
    back_at: datetime | None = None
    #: MongoDB's time; None if the ledger does not know the stream yet.
    at: datetime | None = None

    @property
    def paused(self) -> bool:
        """Whether it is paused, by an operator or by syncctl."""
        return self.hold.paused

    def is_quiet(self, quiet_hours: QuietHours | None) -> bool:
        """Tell whether these quiet hours are now, by MongoDB's clock (invariant 8)."""
        return quiet_hours is not None and self.at is not None and quiet_hours.find_end(self.at) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusals:
    """A run of the same refusal, with no record accepted since it began."""

    kind: str
    count: int
    since: datetime


class Streams(Holds):
    """One document per stream; every change is guarded by the token of the lease that allows it."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._streams: Collection[Doc] = database["streams"]
        super().__init__(self._streams, hosts, new={"created": True, "cleaned_before": None})

    @edge
    def note_cleaned(self, stream: str, before: datetime) -> None:
        """Note that records which finished before a time are about to be removed. Safe to repeat."""
        self._streams.update_one({"_id": stream}, {"$max": {"cleaned_before": before}})

    @edge
    def load_cleaned_before(self, stream: str) -> tuple[bool, datetime | None]:
        """Return whether removals of records are noted, and the time since which every finished record still exists.

        An earlier version did not note them; the time is None if no record was removed.
        """
        document = self._streams.find_one({"_id": stream}, {"cleaned_before": True}) or {}
        return "cleaned_before" in document, document.get("cleaned_before")

    @edge
    def note_poll_error(self, stream: str, error: str, *, hint: str) -> None:
        """Note that a stream cannot be polled at all with its present settings."""
        self.ensure(stream)
        noted = {
            "health.last_poll_at": "$$NOW",
            "health.error": {"$literal": error},
            "health.hint": {"$literal": hint},
        }
        self._streams.update_one({"_id": stream}, [{"$set": noted}])

    @edge
    def note_delivery_error(self, stream: str, error: str, *, worker: str) -> None:
        """Note that a process delivers nothing of a stream, and why."""
        self.ensure(stream)
        noted = {"error": {"$literal": error}, "worker": {"$literal": worker}, "at": "$$NOW"}
        self._streams.update_one({"_id": stream}, [{"$set": {"health.delivery": noted}}])

    @edge
    def acquire_dispatch(self, stream: str, *, seconds: float, worker: str) -> DispatchLease | None:
        """Take the dispatch lease; None when another process holds it."""
        token = new_token()
        query = {"_id": stream, **not_held("dispatch")}
        lease = [{"$set": {"dispatch": {"token": token, "worker": {"$literal": worker}, "until": in_future(seconds)}}}]
        taken = self._streams.update_one(query, lease).matched_count
        if not taken and self.ensure(stream):
            taken = self._streams.update_one(query, lease).matched_count
        return DispatchLease(stream=stream, token=token) if taken else None

    @edge
    def release_dispatch(self, lease: DispatchLease) -> None:
        """Let another process choose records of this stream; safe to repeat."""
        self._streams.update_one({"_id": lease.stream, "dispatch.token": lease.token}, {"$unset": {"dispatch": True}})

    @edge
    def load_gate(self, stream: str) -> Gate:
        """Return whether the records of a stream may be sent."""
        return self.load_gates([stream])[stream]

    @edge
    def load_gates(self, streams: Iterable[str]) -> dict[str, Gate]:
        """Return the same for many streams, with one query."""
        running = {"$cond": [{"$gt": ["$poll.until", "$$NOW"]}, "$poll.epoch", {"$add": [or_zero("poll.epoch"), 1]}]}
        fields = {"back_at": True, "poll.complete_epoch": True, **HOLD_FIELDS, **GATE_FIELDS, "running": running}
        fields |= {"refusals": True, "gone": True, "accepted_lately": _ACCEPTED_LATELY, "body_at_most": _BODY_AT_MOST}
        fields["now"] = "$$NOW"
        names = list(streams)
        documents = {document["_id"]: document for document in self._streams.find({"_id": {"$in": names}}, fields)}
        return {name: _read_gate(documents.get(name, {})) for name in names}

    @edge
    def limit_body(self, stream: str, *, refused_bytes: int, rows: int) -> int:
        """Remember for a day that a body was too large for the partner; return how many bytes the next may have."""
        at_most: Doc = {"$min": [refused_bytes // 2, {"$cond": [_IS_BODY_LIMITED, "$too_large.at_most", None]}]}
        limit = {"at": "$$NOW", "at_most": at_most, "bytes": refused_bytes, "rows": rows}
        document = self._streams.find_one_and_update(
            {"_id": stream}, [{"$set": {"too_large": limit}}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return int((document or {})["too_large"]["at_most"])

    @edge
    def end_refusals(self, stream: str) -> None:
        """End a run of refusals: a record was accepted."""
        self._streams.update_one({"_id": stream}, {"$unset": {"refusals": True}})

    @edge
    def note_refusals(self, stream: str, *, kind: str, count: int, anew: bool) -> Refusals:
        """Add refusals of one kind to the run; return the run.

        Args:
            anew: A record was accepted, or refused in another way, right before them.
        """
        goes_on: Any = False if anew else {"$eq": ["$refusals.kind", {"$literal": kind}]}
        run = {"$cond": [
            goes_on,
            {"$mergeObjects": ["$refusals", {"count": {"$add": ["$refusals.count", count]}}]},
            {"kind": {"$literal": kind}, "count": count, "since": "$$NOW"},
        ]}  # fmt: skip
        document = self._streams.find_one_and_update(
            {"_id": stream}, [{"$set": {"refusals": run}}], upsert=True, return_document=ReturnDocument.AFTER
        )
        noted = (document or {})["refusals"]
        return Refusals(kind=noted["kind"], count=int(noted["count"]), since=noted["since"])

    @edge
    def load_refusals(self, stream: str) -> Refusals | None:
        """Return the run of refusals; None where the last record was accepted."""
        noted = (self._streams.find_one({"_id": stream}, {"refusals": True}) or {}).get("refusals")
        if noted is None:
            return None
        return Refusals(kind=noted["kind"], count=int(noted["count"]), since=noted["since"])

    @edge
    def note_gone(self, stream: str) -> None:
        """Note that the outcome of a delete, done because its row is gone, is about to be written. Safe to repeat."""
        gone = {"since": {"$ifNull": ["$gone.since", "$$NOW"]}, "until": "$$NOW"}
        self._streams.update_one({"_id": stream}, [{"$set": {"gone": gone}}], upsert=True)

    @edge
    def end_gone(self, stream: str, *, accepted_at: datetime) -> None:
        """Forget deletes of rows that are gone: a record was accepted after them, so the address is right.

        Deletes that another worker has noted since then stay. Safe to repeat.
        """
        newer = {"since": {"$max": ["$gone.since", accepted_at]}, "until": "$gone.until"}
        gone = {"$cond": [{"$gt": ["$gone.until", accepted_at]}, newer, "$$REMOVE"]}
        self._streams.update_one({"_id": stream, "gone": {"$exists": True}}, [{"$set": {"gone": gone}}])

    @edge
    def load_gone_since(self, stream: str) -> datetime | None:
        """Return since when deletes have been done because their rows are gone, without an accepted record since.

        None if there were no such deletes. A wrong address makes every row look gone.
        """
        document = self._streams.find_one({"_id": stream}, {"gone": True}) or {}
        since: datetime | None = document.get("gone", {}).get("since")
        return since

    @edge
    def load_all(self, names: Sequence[str] | None = None) -> dict[str, Mapping[str, Any]]:
        """Return the documents of these streams by name; None: of all, also of streams that left the configuration."""
        query: Doc = {} if names is None else {"_id": {"$in": list(names)}}
        return {document["_id"]: document for document in self._streams.find(query)}

    @edge
    def load_names(self) -> list[str]:
        """Return every stream's name, also of streams that left the configuration."""
        return sorted(document["_id"] for document in self._streams.find({}, {"_id": True}))

    @edge
    def server_time(self) -> datetime:
        """Return MongoDB's clock."""
        document = next(self._streams.database.aggregate([{"$documents": [{"now": "$$NOW"}]}]))
        now: datetime = document["now"]
        return now


def _read_gate(document: Doc) -> Gate:
    return Gate(
        hold=read_hold(document),
        has_refusals="refusals" in document,
        has_gone="gone" in document,
        accepted_lately=bool(document.get("accepted_lately")),
        body_at_most=document.get("body_at_most"),
        complete_epoch=int(document.get("poll", {}).get("complete_epoch", 0)),
        running_epoch=int(document.get("running", 0)),
        breaker=read_breaker(document),
        back_at=document.get("back_at"),
        at=document.get("now"),
    )
