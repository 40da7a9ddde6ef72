"""The `streams` collection: cursors, and the leases of poll and dispatch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.breaker import BreakerRules
from syncctl.core.cursors import Witness, Witnesses
from syncctl.core.quiet_hours import QuietHours
from syncctl.core.rows import Cursor, Note
from syncctl.core.schema_changes import DeclaredRelation
from syncctl.ledger import holds
from syncctl.ledger.breakers import GATE_FIELDS, BreakerGate, read_breaker
from syncctl.ledger.client import edge, new_token
from syncctl.ledger.codec import decode_values, encode_values
from syncctl.ledger.expressions import (
    LOGGED_BY_MINUTE,
    ClockReading,
    counted_by_minute,
    in_future,
    is_past,
    or_zero,
    paused_by,
)
from syncctl.ledger.holds import HOLD_FIELDS, Hold, read_hold
from syncctl.ledger.poll_pauses import POLLS_PAUSED

Doc = dict[str, Any]

ENDED_LATELY_SECONDS = 600.0
"""How long after the end of a run of refusals its records, and refusals of a row's content, begin no other run."""
WARNINGS_KEPT_SECONDS = 3600.0
"""How often a reader is asked for its warnings: that may scan a column without an index."""
UNCHECKED_SECONDS = 600.0
"""How long after a look-up of the last rows that failed or took too long the next one is made."""
_ACCEPTED_LATELY: Doc = {"$gt": ["$accepted_at", {"$subtract": ["$$NOW", round(ENDED_LATELY_SECONDS * 1000)]}]}


BODY_LIMIT_SECONDS = 24 * 3600
"""How long a body that was too large is remembered; then a larger one is tried again."""
_IS_BODY_LIMITED: Doc = {"$gt": ["$too_large.at", {"$subtract": ["$$NOW", BODY_LIMIT_SECONDS * 1000]}]}
_BODY_AT_MOST: Doc = {"$cond": [_IS_BODY_LIMITED, "$too_large.at_most", None]}


@dataclass(frozen=True, kw_only=True, slots=True)
class RereadTimes:
    """Which rows later polls may read again, by when they were logged.

    An append-only stream has no keys, so that clean-up keeps the records of these rows.
    """

    #: Rows that were logged before are never read again; None if none is, or before the first round.
    logged_since: datetime | None
    #: When the oldest of the rows was logged that the round under way has read.
    round_since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class PollLease:
    """The right to poll one stream, until another poll takes it over."""

    stream: str
    token: str
    #: One more with each lease: it makes every `seq` of this poll newer than earlier ones.
    epoch: int
    #: The newest epoch that took over from a poll which had not released its lease. Rows that were observed in an older
    #: epoch must be observed anew, because that poll may still be writing (invariant 8).
    contested_epoch: int
    #: The newest epoch whose poll read to the end.
    complete_epoch: int
    #: Where the stream stands; None if it was never read.
    cursor: Cursor | None
    #: What the cursor is a place in; None if that is not known.
    basis: Mapping[str, Any] | None
    clock: ClockReading
    #: The last rows that were read.
    witnesses: Witnesses = field(default_factory=Witnesses)
    #: What the source declared at the last poll; empty before the first.
    declared: tuple[DeclaredRelation, ...] = ()
    #: What the last poll noted.
    notes: tuple[Note, ...] = ()
    #: The epoch of the last rewind: versions that were logged before it may come again.
    rewound_epoch: int = 0
    #: The epoch of a rewind with `resend`, while the rows behind it are read again; else 0.
    resend_epoch: int = 0
    #: The epoch of the last clean-up that removed keys of deleted rows; 0 before the first.
    forgotten_epoch: int = 0
    #: Only of an append-only stream; None before its first poll.
    reread: RereadTimes | None = None
    #: Within the last minutes, the last rows could not be looked up.
    is_unchecked: bool = False
    #: The reader's warnings were noted long ago, or never.
    are_warnings_old: bool = True
    #: What the settings alone made it warn of then; None if that is not known.
    advice: tuple[str, ...] | None = None


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
    #: How many bytes the body of a bulk call may have, since the partner refused a larger one; None: no limit is known.
    body_at_most: int | None = None
    #: The newest epoch whose poll read to the end.
    complete_epoch: int = 0
    #: The polls of earlier epochs have ended, or lost their lease.
    running_epoch: int = 0
    breaker: BreakerGate = field(default_factory=BreakerGate)
    #: When it was last resumed, or its circuit was last left open.
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


def _write_witnesses(witnesses: Witnesses) -> Doc:
    rows = [
        {"at": row.at, "key": encode_values(row.key), "columns": [[name, row.columns[name]] for name in row.columns]}
        for row in witnesses.rows
    ]
    return {"rows": rows, "columns_fingerprint": witnesses.columns_fingerprint}


def _read_witnesses(found: Mapping[str, Any] | None) -> Witnesses:
    if found is None:
        return Witnesses()
    rows = tuple(
        Witness(at=row["at"], key=decode_values(row["key"]), columns=dict(row["columns"])) for row in found["rows"]
    )
    return Witnesses(rows=rows, columns_fingerprint=found["columns_fingerprint"])


def _read_declared(stream: Mapping[str, Any]) -> tuple[DeclaredRelation, ...]:
    return tuple(
        DeclaredRelation(
            path=found["path"],
            identity=found["identity"],
            columns=tuple((name, declared) for name, declared in found["columns"]),
        )
        for found in stream.get("declared", ())
    )


def read_notes(stream: Mapping[str, Any]) -> tuple[Note, ...]:
    """Return what the last poll of a stream noted."""
    return tuple(Note(text=note["text"], hint=note["hint"]) for note in stream.get("health", {}).get("notes", ()))


def _read_reread(document: Doc | None) -> RereadTimes | None:
    if document is None:
        return None
    return RereadTimes(logged_since=document["logged_since"], round_since=document["round_since"])


def _are_warnings_old(health: Mapping[str, Any], now: datetime) -> bool:
    warned_at: datetime | None = health.get("warned_at")
    return warned_at is None or (now - warned_at).total_seconds() > WARNINGS_KEPT_SECONDS


def _read_advice(health: Mapping[str, Any]) -> tuple[str, ...] | None:
    return tuple(health["advice"]) if "advice" in health else None


def _is_unchecked(poll: Mapping[str, Any]) -> bool:
    failed_at: datetime | None = poll.get("unchecked_at")
    return failed_at is not None and (poll["started_at"] - failed_at).total_seconds() < UNCHECKED_SECONDS


def _free(kind: str) -> Doc:
    """Return the filter for a lease that is not held, by MongoDB's clock (invariant 8)."""
    return {"$or": [{f"{kind}.token": {"$exists": False}}, is_past(f"{kind}.until")]}


class Streams:
    """One document per stream; every change is guarded by the token of the lease that allows it."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def ensure(self, stream: str) -> bool:
        """Create the stream's document where there is none, and return whether there was none; safe to repeat."""
        new = {"created": True, "cleaned_before": None}
        return self._streams.update_one({"_id": stream}, {"$setOnInsert": new}, upsert=True).upserted_id is not None

    @edge
    def acquire_poll(
        self,
        stream: str,
        *,
        seconds: float,
        worker: str,
        not_within_seconds: float = 0.0,
        unless_paused: bool = False,
    ) -> PollLease | None:
        """Take the poll lease; None when another holds it.

        Args:
            unless_paused: Also refuse if an operator has paused the stream's polls.
            not_within_seconds: Also refuse if the last poll ended less than this ago: old ticks pile up in the queue
                while no worker runs, and the source must not pay for them.
        """
        token = new_token()
        query: Doc = {"_id": stream, **_free("poll")}
        if unless_paused:
            query["$nor"] = [POLLS_PAUSED]
        if not_within_seconds:
            rested = {
                "$lte": [
                    {"$ifNull": ["$poll.ended_at", None]},
                    {"$subtract": ["$$NOW", round(not_within_seconds * 1000)]},
                ]
            }
            query["$expr"] = rested
        epoch = {"$add": [{"$ifNull": ["$poll.epoch", 0]}, 1]}
        unclean = {"$ne": [{"$type": "$poll.token"}, "missing"]}
        changes = {
            "poll.epoch": epoch,
            "poll.contested_epoch": {"$cond": [unclean, epoch, {"$ifNull": ["$poll.contested_epoch", 0]}]},
            "poll.token": token,
            "poll.worker": {"$literal": worker},
            "poll.until": in_future(seconds),
            "poll.started_at": "$$NOW",
            "poll.moved_at": "$$NOW",
        }
        found = self._streams.find_one_and_update(query, [{"$set": changes}], return_document=ReturnDocument.AFTER)
        if found is None:
            return None
        poll = found["poll"]
        # A poll that read to the end has read all rows behind the rewind again.
        resend_epoch = int(poll.get("resend_epoch", 0))
        complete_epoch = int(poll.get("complete_epoch", 0))
        is_over = complete_epoch > resend_epoch
        return PollLease(
            stream=stream,
            token=token,
            epoch=int(poll["epoch"]),
            contested_epoch=int(poll["contested_epoch"]),
            complete_epoch=complete_epoch,
            cursor=found.get("cursor"),
            basis=found.get("basis"),
            clock=ClockReading.taken_now(poll["started_at"]),
            witnesses=_read_witnesses(found.get("witnesses")),
            declared=_read_declared(found),
            notes=read_notes(found),
            rewound_epoch=int(poll.get("rewound_epoch", 0)),
            resend_epoch=0 if is_over else resend_epoch,
            forgotten_epoch=int(poll.get("forgotten_epoch", 0)),
            reread=_read_reread(poll.get("reread")),
            is_unchecked=_is_unchecked(poll),
            are_warnings_old=_are_warnings_old(found.get("health", {}), poll["started_at"]),
            advice=_read_advice(found.get("health", {})),
        )

    @edge
    def renew_poll(self, lease: PollLease, *, seconds: float, has_moved: bool = False) -> bool:
        """Renew the lease; False when another poll took it over.

        Args:
            has_moved: The poll has come further since the last renewal.
        """
        guard = {"_id": lease.stream, "poll.token": lease.token}
        changes: Doc = {"poll.until": in_future(seconds)}
        if has_moved:
            changes["poll.moved_at"] = "$$NOW"
        return self._streams.update_one(guard, [{"$set": changes}]).matched_count == 1

    @edge
    def are_polls_paused(self, stream: str) -> bool:
        """Tell whether an operator wants no poll of this stream."""
        return self._streams.find_one({"_id": stream, **POLLS_PAUSED}, {"_id": True}) is not None

    @edge
    def move_cursor(
        self,
        lease: PollLease,
        cursor: Cursor,
        witnesses: Witnesses | None = None,
        *,
        reread: RereadTimes | None = None,
        logged: int = 0,
    ) -> bool:
        """Move the cursor, if the lease is still held (invariant 8); safe to repeat.

        Args:
            witnesses: The last rows before it; None if they are what they were.
            reread: Which rows before it may be read again; None if the stream has keys.
            logged: How many records were logged on the way there, for the stream's rate.
        """
        guard = {"_id": lease.stream, "poll.token": lease.token}
        changes: Doc = {"cursor": dict(cursor)}
        if witnesses is not None:
            changes["witnesses"] = _write_witnesses(witnesses)
        if reread is not None:
            changes["poll.reread"] = {"logged_since": reread.logged_since, "round_since": reread.round_since}
        changes = {name: {"$literal": value} for name, value in changes.items()}
        if logged:
            changes[LOGGED_BY_MINUTE] = counted_by_minute(LOGGED_BY_MINUTE, logged=logged)
        return self._streams.update_one(guard, [{"$set": changes}]).matched_count == 1

    @edge
    def note_cleaned(self, stream: str, before: datetime) -> None:
        """Remember, before it happens, that records that had finished before a time are removed. Safe to repeat."""
        self._streams.update_one({"_id": stream}, {"$max": {"cleaned_before": before}})

    @edge
    def load_cleaned_before(self, stream: str) -> tuple[bool, datetime | None]:
        """Return whether it is noted which records were removed, and since when every finished one is still there.

        An earlier version did not note it; the time is None if none was removed.
        """
        found = self._streams.find_one({"_id": stream}, {"cleaned_before": True}) or {}
        return "cleaned_before" in found, found.get("cleaned_before")

    @edge
    def load_logged_since(self, stream: str) -> datetime | None:
        """Return since when records were logged that clean-up must keep, however old; None where it need not."""
        found = self._streams.find_one({"_id": stream}, {"poll.reread": True}) or {}
        reread = _read_reread(found.get("poll", {}).get("reread"))
        return None if reread is None else reread.logged_since

    @edge
    def set_basis(self, lease: PollLease, basis: Mapping[str, Any]) -> None:
        """Set what the cursor is a place in, if the lease is still held (invariant 8); safe to repeat."""
        guard = {"_id": lease.stream, "poll.token": lease.token}
        self._streams.update_one(guard, {"$set": {"basis": dict(basis)}})

    @edge
    def note_unchecked(self, lease: PollLease) -> None:
        """Note that the last rows could not be looked up, if the lease is still held; safe to repeat."""
        guard = {"_id": lease.stream, "poll.token": lease.token}
        self._streams.update_one(guard, [{"$set": {"poll.unchecked_at": "$$NOW"}}])

    @edge
    def rewind(self, lease: PollLease, cursor: Cursor, *, basis: Mapping[str, Any] | None, resend: bool) -> bool:
        """Set the cursor to any place and release the lease; False when another poll took it over.

        Args:
            basis: What the cursor is a place in; None if the next poll is to find out.
        """
        guard = {"_id": lease.stream, "poll.token": lease.token}
        changes: Doc = {
            "cursor": dict(cursor),
            "basis": None if basis is None else dict(basis),
            # An operator knows of other rows before the old place.
            "witnesses": None,
            "poll.rewound_epoch": lease.epoch,
            "poll.resend_epoch": lease.epoch if resend else 0,
        }
        gone = {"poll.token": True, "poll.until": True, "poll.worker": True}
        return self._streams.update_one(guard, {"$set": changes, "$unset": gone}).matched_count == 1

    @edge
    def load_cursor(self, stream: str) -> Cursor | None:
        """Return where a stream stands, None when it was never read."""
        found = self._streams.find_one({"_id": stream}, {"cursor": True}) or {}
        cursor: Cursor | None = found.get("cursor")
        return cursor

    @edge
    def release_poll(
        self,
        lease: PollLease,
        *,
        error: str | None,
        hint: str | None = None,
        notes: Sequence[Note] = (),
        complete: bool = False,
        warnings: Sequence[str] | None = None,
        advice: Sequence[str] = (),
    ) -> bool:
        """Release the lease, and record how the poll ended.

        After an error the token stays, with a lease that is over: it tells the next poll that this one may have left
        records whose keys were not written, or writes that are still under way (invariant 8).

        Args:
            hint: What to do about the error.
            notes: What an operator should know of the stream until the next poll.
            complete: It read to the end: it has seen every row behind the cursor.
            warnings: The reader's warnings; None leaves what was noted before.
            advice: Those of them that follow from the settings alone.
        """
        guard = {"_id": lease.stream, "poll.token": lease.token}
        ended = {
            "poll.ended_at": "$$NOW",
            "health.last_poll_at": "$$NOW",
            "health.error": {"$literal": error},
            "health.hint": {"$literal": hint},
            "health.notes": {"$literal": [{"text": note.text, "hint": note.hint} for note in notes]},
        }
        if error is None:
            ended["health.polled_at"] = "$$NOW"
        if warnings is not None:
            ended |= {"health.warnings": {"$literal": list(warnings)}, "health.warned_at": "$$NOW"}
            ended["health.advice"] = {"$literal": list(advice)}
        if error is not None:
            changes: list[Doc] = [{"$set": {**ended, "poll.until": "$$NOW"}}]
        else:
            if complete:
                ended["poll.complete_epoch"] = {"$literal": lease.epoch}
            changes = [{"$set": ended}, {"$unset": ["poll.token", "poll.until", "poll.worker"]}]
        return self._streams.update_one(guard, changes).matched_count == 1

    @edge
    def note_forgotten(self, lease: PollLease) -> bool:
        """Note that keys are about to be removed; False when another poll took the lease over."""
        guard = {"_id": lease.stream, "poll.token": lease.token}
        return self._streams.update_one(guard, {"$set": {"poll.forgotten_epoch": lease.epoch}}).matched_count == 1

    @edge
    def give_back_poll(self, lease: PollLease) -> None:
        """Release a lease under which nothing was polled: how the last poll ended still stands. Safe to repeat."""
        guard = {"_id": lease.stream, "poll.token": lease.token}
        self._streams.update_one(guard, {"$unset": {"poll.token": True, "poll.until": True, "poll.worker": True}})

    @edge
    def note_poll_error(self, stream: str, error: str, *, hint: str) -> None:
        """Note that a stream cannot be polled at all, as its settings are."""
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
        query = {"_id": stream, **_free("dispatch")}
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
        """Return what must be known of a stream before anything of it is sent."""
        running = {"$cond": [{"$gt": ["$poll.until", "$$NOW"]}, "$poll.epoch", {"$add": [or_zero("poll.epoch"), 1]}]}
        fields = {"back_at": True, "poll.complete_epoch": True, **HOLD_FIELDS, **GATE_FIELDS, "running": running}
        fields |= {"refusals": True, "gone": True, "accepted_lately": _ACCEPTED_LATELY, "body_at_most": _BODY_AT_MOST}
        fields["now"] = "$$NOW"
        found = self._streams.find_one({"_id": stream}, fields) or {}
        return Gate(
            hold=read_hold(found),
            has_refusals="refusals" in found,
            has_gone="gone" in found,
            accepted_lately=bool(found.get("accepted_lately")),
            body_at_most=found.get("body_at_most"),
            complete_epoch=int(found.get("poll", {}).get("complete_epoch", 0)),
            running_epoch=int(found.get("running", 0)),
            breaker=read_breaker(found),
            back_at=found.get("back_at"),
            at=found.get("now"),
        )

    @edge
    def pause(
        self,
        stream: str,
        *,
        who: str,
        reason: str,
        ends_at: datetime | None = None,
        probe_after_seconds: float = 0.0,
    ) -> None:
        """Stop sending this stream's records; rows are still logged. What an operator has said, syncctl leaves.

        Args:
            ends_at: When an operator's pause ends by itself; None: never.
            probe_after_seconds: When a pause by syncctl is first probed.
        """
        self.ensure(stream)
        paused = paused_by(who, reason, ends_at=ends_at, probe_after_seconds=probe_after_seconds)
        self._streams.update_one({"_id": stream}, [{"$set": {"paused": paused}}])

    @edge
    def resume(self, stream: str) -> bool:
        """Send again; False when the stream was not paused."""
        return holds.end(self._streams, stream)

    @edge
    def end_over(self, stream: str) -> bool:
        """End a pause whose time is over; False if there is none. Safe to repeat."""
        return holds.end_over(self._streams, stream)

    @edge
    def limit_body(self, stream: str, *, refused_bytes: int, rows: int) -> int:
        """Remember for a day that a body was too large for the partner; return how many bytes the next may have."""
        at_most: Doc = {"$min": [refused_bytes // 2, {"$cond": [_IS_BODY_LIMITED, "$too_large.at_most", None]}]}
        limit = {"at": "$$NOW", "at_most": at_most, "bytes": refused_bytes, "rows": rows}
        found = self._streams.find_one_and_update(
            {"_id": stream}, [{"$set": {"too_large": limit}}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return int((found or {})["too_large"]["at_most"])

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
        found = self._streams.find_one_and_update(
            {"_id": stream}, [{"$set": {"refusals": run}}], upsert=True, return_document=ReturnDocument.AFTER
        )
        noted = (found or {})["refusals"]
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
        """Note, before it is written, that a delete is done because its row is gone. Safe to repeat."""
        gone = {"since": {"$ifNull": ["$gone.since", "$$NOW"]}, "until": "$$NOW"}
        self._streams.update_one({"_id": stream}, [{"$set": {"gone": gone}}], upsert=True)

    @edge
    def end_gone(self, stream: str, *, accepted_at: datetime) -> None:
        """Forget deletes of rows that are gone: the address is right, since a record was accepted after them.

        Those that another worker has noted since stay. Safe to repeat.
        """
        newer = {"since": {"$max": ["$gone.since", accepted_at]}, "until": "$gone.until"}
        gone = {"$cond": [{"$gt": ["$gone.until", accepted_at]}, newer, "$$REMOVE"]}
        self._streams.update_one({"_id": stream, "gone": {"$exists": True}}, [{"$set": {"gone": gone}}])

    @edge
    def load_gone_since(self, stream: str) -> datetime | None:
        """Return since when deletes were done because their rows are gone, with no record accepted; None if none was.

        A wrong address says of every row that it is gone.
        """
        found = self._streams.find_one({"_id": stream}, {"gone": True}) or {}
        since: datetime | None = found.get("gone", {}).get("since")
        return since

    @edge
    def acquire_probe(self, stream: str, *, token: str, record: str, seconds: float) -> bool:
        """Take the right to probe whether syncctl's own pause may end."""
        return holds.acquire_probe(self._streams, stream, token=token, record=record, seconds=seconds)

    @edge
    def release_probe(self, stream: str, *, token: str) -> None:
        """Let another record probe: this batch made no call."""
        holds.release_probe(self._streams, stream, token=token)

    @edge
    def end_by_probe(self, stream: str, *, token: str) -> bool:
        """End a pause, because its probe was accepted; an operator's pause stays."""
        return holds.end(self._streams, stream, token=token)

    @edge
    def extend_pause(
        self, stream: str, *, token: str, reason: str, rules: BreakerRules, rest_seconds: float | None
    ) -> None:
        """Keep a pause after a probe that did not end it; the next one comes later."""
        holds.extend(self._streams, stream, token=token, reason=reason, rules=rules, rest_seconds=rest_seconds)

    @edge
    def load_all(self, names: Sequence[str] | None = None) -> dict[str, Mapping[str, Any]]:
        """Return the documents of these streams by name; of every stream, also of those that left the configuration."""
        query: Doc = {} if names is None else {"_id": {"$in": list(names)}}
        return {found["_id"]: found for found in self._streams.find(query)}

    @edge
    def load_names(self) -> list[str]:
        """Return every stream's name, also of streams that left the configuration."""
        return sorted(found["_id"] for found in self._streams.find({}, {"_id": True}))

    @edge
    def server_time(self) -> datetime:
        """Return MongoDB's clock."""
        found = next(self._streams.database.aggregate([{"$documents": [{"now": "$$NOW"}]}]))
        now: datetime = found["now"]
        return now
