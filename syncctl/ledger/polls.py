"""Polls: the lease of each stream's poll, the fields that only its holder writes, such as the cursor, and pauses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.cursors import Witness, Witnesses
from syncctl.core.rows import Cursor, Note
from syncctl.core.schema_changes import DeclaredRelation
from syncctl.ledger.codec import decode_values, encode_values
from syncctl.ledger.expressions import (
    LOGGED_BY_MINUTE,
    ClockReading,
    counted_by_minute,
    in_future,
    is_pause_over,
    not_held,
    paused_by,
)
from syncctl.ledger.mongo_client import edge, new_token

Doc = dict[str, Any]

POLLS_PAUSED_FIELD = "polls_paused"
POLLS_PAUSED: Doc = {
    POLLS_PAUSED_FIELD: {"$exists": True},
    "$expr": {"$not": [is_pause_over(POLLS_PAUSED_FIELD)]},
}
"""Filter: the polls of a stream are paused."""

WARNINGS_KEPT_SECONDS = 3600.0
"""How long a reader's warnings are kept before it is asked again: that may scan a column without an index."""
UNCHECKED_SECONDS = 600.0
"""How long no look-up of the last rows is made after one that failed or took too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RereadTimes:
    """The times when the rows were logged that later polls may read again.

    An append-only stream has no keys, so cleanup keeps the records of these rows.
    """

    #: Rows that were logged before this time are never read again; None if no row is, or before the first round.
    logged_since: datetime | None
    #: When the oldest row that the current round has read was logged.
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
    #: How far the stream has been read; None if it was never read.
    cursor: Cursor | None
    #: The basis of the cursor (`core/cursors.py`); None if it is not known.
    basis: Mapping[str, Any] | None
    clock: ClockReading
    #: The last rows that were read.
    witnesses: Witnesses = field(default_factory=Witnesses)
    #: The relations that the source declared at the last poll; empty before the first.
    declared: tuple[DeclaredRelation, ...] = ()
    #: The notes of the last poll.
    notes: tuple[Note, ...] = ()
    #: The epoch of the last rewind: versions that were logged before it may come again.
    rewound_epoch: int = 0
    #: The epoch of a rewind with `resend`, while the rows after its place are read again; otherwise 0.
    resend_epoch: int = 0
    #: The epoch of the last cleanup that removed keys of deleted rows; 0 before the first.
    forgotten_epoch: int = 0
    #: Only for an append-only stream; None before its first poll.
    reread: RereadTimes | None = None
    #: The last rows could not be looked up within the last minutes.
    is_unchecked: bool = False
    #: The reader's warnings were noted long ago, or never.
    are_warnings_old: bool = True
    #: Those of the reader's warnings that followed from the settings alone; None if they are not known.
    advice: tuple[str, ...] | None = None


def _write_witnesses(witnesses: Witnesses) -> Doc:
    rows = [
        {"at": row.at, "key": encode_values(row.key), "columns": [[name, row.columns[name]] for name in row.columns]}
        for row in witnesses.rows
    ]
    return {"rows": rows, "columns_fingerprint": witnesses.columns_fingerprint}


def _read_witnesses(document: Mapping[str, Any] | None) -> Witnesses:
    if document is None:
        return Witnesses()
    rows = tuple(
        Witness(at=row["at"], key=decode_values(row["key"]), columns=dict(row["columns"])) for row in document["rows"]
    )
    return Witnesses(rows=rows, columns_fingerprint=document["columns_fingerprint"])


def _read_declared(stream: Mapping[str, Any]) -> tuple[DeclaredRelation, ...]:
    return tuple(
        DeclaredRelation(
            path=relation["path"],
            identity=relation["identity"],
            columns=tuple((name, declared) for name, declared in relation["columns"]),
        )
        for relation in stream.get("declared", ())
    )


def read_notes(stream: Mapping[str, Any]) -> tuple[Note, ...]:
    """Return the notes of a stream's last poll."""
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


class Polls:
    """The part of a stream's document that is about its polls.

    Every change by a poll is guarded by the token of its lease, judged by MongoDB's clock (invariant 8).
    """

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._streams: Collection[Doc] = database["streams"]
        self.hosts = hosts

    @edge
    def acquire(
        self,
        stream: str,
        *,
        seconds: float,
        worker: str,
        not_within_seconds: float = 0.0,
        unless_paused: bool = False,
    ) -> PollLease | None:
        """Take the poll lease; None when another poll holds it.

        Args:
            unless_paused: Also refuse if an operator has paused the stream's polls.
            not_within_seconds: Also refuse if the last poll ended less than this ago: old ticks pile up in the queue
                while no worker runs, and the source must not bear that load.
        """
        token = new_token()
        query: Doc = {"_id": stream, **not_held("poll")}
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
        document = self._streams.find_one_and_update(query, [{"$set": changes}], return_document=ReturnDocument.AFTER)
        if document is None:
            return None
        poll = document["poll"]
        # A poll that read to the end has read all rows after the place of the rewind again.
        resend_epoch = int(poll.get("resend_epoch", 0))
        complete_epoch = int(poll.get("complete_epoch", 0))
        is_over = complete_epoch > resend_epoch
        return PollLease(
            stream=stream,
            token=token,
            epoch=int(poll["epoch"]),
            contested_epoch=int(poll["contested_epoch"]),
            complete_epoch=complete_epoch,
            cursor=document.get("cursor"),
            basis=document.get("basis"),
            clock=ClockReading.taken_now(poll["started_at"]),
            witnesses=_read_witnesses(document.get("witnesses")),
            declared=_read_declared(document),
            notes=read_notes(document),
            rewound_epoch=int(poll.get("rewound_epoch", 0)),
            resend_epoch=0 if is_over else resend_epoch,
            forgotten_epoch=int(poll.get("forgotten_epoch", 0)),
            reread=_read_reread(poll.get("reread")),
            is_unchecked=_is_unchecked(poll),
            are_warnings_old=_are_warnings_old(document.get("health", {}), poll["started_at"]),
            advice=_read_advice(document.get("health", {})),
        )

    @edge
    def renew(self, lease: PollLease, *, seconds: float, has_moved: bool = False) -> bool:
        """Renew the lease; False when another poll took it over.

        Args:
            has_moved: The poll has made progress since the last renewal.
        """
        guard = {"_id": lease.stream, "poll.token": lease.token}
        changes: Doc = {"poll.until": in_future(seconds)}
        if has_moved:
            changes["poll.moved_at"] = "$$NOW"
        return self._streams.update_one(guard, [{"$set": changes}]).matched_count == 1

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
            witnesses: The last rows before it; None if they are unchanged.
            reread: Which rows before it may be read again; None if the stream has keys.
            logged: How many records were logged up to there, for the stream's rate.
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
    def load_logged_since(self, stream: str) -> datetime | None:
        """Return the time since which cleanup must keep logged records, however old; None if it need not."""
        document = self._streams.find_one({"_id": stream}, {"poll.reread": True}) or {}
        reread = _read_reread(document.get("poll", {}).get("reread"))
        return None if reread is None else reread.logged_since

    @edge
    def set_basis(self, lease: PollLease, basis: Mapping[str, Any]) -> None:
        """Set the basis of the cursor, if the lease is still held (invariant 8); safe to repeat."""
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
            basis: The basis of the cursor; None if the next poll is to find it.
        """
        guard = {"_id": lease.stream, "poll.token": lease.token}
        changes: Doc = {
            "cursor": dict(cursor),
            "basis": None if basis is None else dict(basis),
            # The last rows before the old place say nothing about the new one, which an operator has chosen.
            "witnesses": None,
            "poll.rewound_epoch": lease.epoch,
            "poll.resend_epoch": lease.epoch if resend else 0,
        }
        gone = {"poll.token": True, "poll.until": True, "poll.worker": True}
        return self._streams.update_one(guard, {"$set": changes, "$unset": gone}).matched_count == 1

    @edge
    def load_cursor(self, stream: str) -> Cursor | None:
        """Return how far a stream has been read; None if it was never read."""
        document = self._streams.find_one({"_id": stream}, {"cursor": True}) or {}
        cursor: Cursor | None = document.get("cursor")
        return cursor

    @edge
    def release(
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

        After an error the token stays, with a lease that is over. It tells the next poll that this one may have left
        records whose keys were not written, or writes that are not finished yet (invariant 8).

        Args:
            hint: What to do about the error.
            notes: Remarks for operators, until the next poll.
            complete: The poll read to the end, so it has seen every row after the cursor.
            warnings: The reader's warnings; None leaves the earlier ones.
            advice: Those of the warnings that follow from the settings alone.
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
    def give_back(self, lease: PollLease) -> None:
        """Release a lease under which nothing was polled; the note of how the last poll ended stays. Safe to repeat."""
        guard = {"_id": lease.stream, "poll.token": lease.token}
        self._streams.update_one(guard, {"$unset": {"poll.token": True, "poll.until": True, "poll.worker": True}})

    @edge
    def pause(self, stream: str, *, who: str, reason: str, ends_at: datetime | None = None) -> None:
        """Let no poll of a known stream begin; one that is running ends after its page.

        Args:
            ends_at: When the pause ends by itself; None: never.
        """
        paused = paused_by(who, reason, field=POLLS_PAUSED_FIELD, ends_at=ends_at)
        self._streams.update_one({"_id": stream}, [{"$set": {POLLS_PAUSED_FIELD: paused}}])

    @edge
    def resume(self, stream: str) -> bool:
        """Let a stream be polled again; False if its polls were not paused."""
        query: Doc = {"_id": stream, POLLS_PAUSED_FIELD: {"$exists": True}}
        return self._streams.update_one(query, {"$unset": {POLLS_PAUSED_FIELD: True}}).modified_count == 1

    @edge
    def end_over(self, stream: str) -> bool:
        """End a pause whose time is over; False if there is none. Safe to repeat: one of several processes ends it."""
        ends_at = f"{POLLS_PAUSED_FIELD}.ends_at"
        query: Doc = {"_id": stream, ends_at: {"$type": "date"}, "$expr": is_pause_over(POLLS_PAUSED_FIELD)}
        return self._streams.update_one(query, {"$unset": {POLLS_PAUSED_FIELD: True}}).modified_count == 1

    @edge
    def are_paused(self, stream: str) -> bool:
        """Tell whether an operator has paused the polls of this stream."""
        return self._streams.find_one({"_id": stream, **POLLS_PAUSED}, {"_id": True}) is not None

    @edge
    def load_pause(self, stream: str) -> Mapping[str, Any] | None:
        """Return who paused the polls of a stream, when, why and until when; None if they are not paused."""
        document = self._streams.find_one({"_id": stream, **POLLS_PAUSED}, {POLLS_PAUSED_FIELD: True}) or {}
        paused: Mapping[str, Any] | None = document.get(POLLS_PAUSED_FIELD)
        return paused
