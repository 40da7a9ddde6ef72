"""rewind: set the cursor of a stream back, so that the rows behind it are read again."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from syncctl.core.cursors import Basis
from syncctl.core.gaps import keep_awaited, without_awaited
from syncctl.core.rows import Cursor
from syncctl.core.stream import SCANS, Stream
from syncctl.errors import LeaseHeld, ServiceUnavailable, TroubleFound, UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from syncctl.logs import get_logger
from syncctl.pipeline.maintenance.cleanup import find_cleaned_before
from syncctl.pipeline.polling.cursor_check import is_beginning
from syncctl.pipeline.polling.poll import LEASE_SECONDS, show_cursor

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewound:
    """The result of a rewind, or of its dry run."""

    stream: str
    cursor_before: str | None
    cursor_after: str | None
    #: How many rows lie behind the new cursor; None if they cannot be counted.
    rows: int | None
    resend: bool
    dry_run: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The present cursor of a stream, and the one to which a rewind will set it."""

    stream: str
    before: Cursor | None
    after: Cursor
    #: The basis (database, table, key, settings) to which the new cursor applies; None if the next poll is to find out.
    basis: Basis | None = None
    #: How many rows lie behind the present cursor; None if they cannot be counted.
    rows_before: int | None
    #: How many rows lie behind the new cursor; None if they cannot be counted.
    rows: int | None

    @property
    def skipped(self) -> int:
        """How many rows would never be read, because the cursor moves forward over them."""
        return 0 if self.rows is None or self.rows_before is None else max(0, self.rows_before - self.rows)


def plan_rewind(
    *, ledger: Ledger, stream: Stream, reader: "StreamReader", to: str | datetime, resend: bool = False
) -> Plan:
    """Find the place to go back to, and check that a poll can continue from there. Changes nothing.

    Args:
        to: A cursor value, `beginning` or `now`; or a time, for the place where the stream stood at that time.
        resend: Whether rows that are read again are sent once more, although they have not changed.

    Raises:
        UsageError: The stream has no such place, its history does not reach back so far, or rows would be sent again
            because the records that show that they were sent have been removed.
        SourceRestored: A poll could not continue from there.
    """
    ledger.ensure_prepared()
    before = ledger.polls.load_cursor(stream.name)
    after = reader.parse_cursor(to) if isinstance(to, str) else find_place(ledger, stream, reader, to)
    if before is not None and not is_beginning(after):
        # No change of a child that was not followed at that place may be lost; from the beginning, every row is read.
        after = reader.keep_children(before, after)
    next(iter(reader.pages(after)), None)
    rows = _count(reader, after)
    if stream.append_only and not resend:
        _refuse_forgotten(ledger, stream, reader, after, rows)
    if before is not None:
        after = _keep_floor(reader, before, after, rows)
    return Plan(
        stream=stream.name,
        before=before,
        after=after,
        basis=reader.basis,
        rows_before=None if before is None else _count(reader, before),
        rows=rows,
    )


def find_place(ledger: Ledger, stream: Stream, reader: "StreamReader", at: datetime) -> Cursor:
    """Return where a stream stood at a time.

    Raises:
        UsageError: A time names no place in this mode, the history does not reach back so far, or the stream read
            another table then.
    """
    mode = reader.mode
    if mode in SCANS and mode != "change_tracking":
        raise UsageError(
            f"stream {stream.name} cannot be rewound to a time",
            why=f"mode {mode} reads the same rows round after round",
            hint=f"run: syncctl rewind {stream.name} --to beginning",
        )
    cursor_and_place = ledger.runs.find_cursor(stream.name, at)
    if cursor_and_place is None:
        since = ledger.runs.find_history_start(stream.name)
        known = "no poll of it has ended yet" if since is None else f"it begins at {since:%Y-%m-%dT%H:%M:%SZ}"
        raise UsageError(
            f"the history of {stream.name} does not reach back to {at:%Y-%m-%dT%H:%M:%SZ}",
            why=known,
            hint="name a later time, a cursor value, or: beginning",
        )
    cursor, place = cursor_and_place
    if place not in (None, reader.basis.place):
        raise UsageError(
            f"stream {stream.name} cannot be rewound to {at:%Y-%m-%dT%H:%M:%SZ}",
            why="at that time it read another table, another database, or rows with another key",
            hint="name a later time, a cursor value, or: beginning",
        )
    return cursor


def rewind_stream(
    *, ledger: Ledger, plan: Plan, resend: bool, who: str, worker: str, lease_seconds: float = LEASE_SECONDS
) -> Rewound:
    """Set the cursor of a stream under its poll lease; safe to repeat.

    Args:
        resend: Whether rows that are read again are sent once more, although they have not changed.

    Raises:
        LeaseHeld: A poll is running.
    """
    ledger.streams.ensure(plan.stream)
    lease = ledger.polls.acquire(plan.stream, seconds=lease_seconds, worker=worker)
    if lease is None:
        raise _is_polled(plan.stream)
    try:
        return _rewind_under(ledger, lease, plan, resend=resend, who=who)
    except BaseException:
        ledger.polls.give_back(lease)
        raise


def _rewind_under(ledger: Ledger, lease: PollLease, plan: Plan, *, resend: bool, who: str) -> Rewound:
    after = keep_awaited(lease.cursor or {}, plan.after)
    basis = None if plan.basis is None else plan.basis.to_document()
    done = show_plan(plan, resend=resend, dry_run=False, before=lease.cursor)
    detail = {"stream": plan.stream, "from": done.cursor_before, "to": done.cursor_after, "resend": resend}
    with ledger.audit.record(action="rewind", who=who, detail=detail) as entry:
        entry.begin()
        if not ledger.polls.rewind(lease, after, basis=basis, resend=resend):
            raise _is_polled(plan.stream)
        entry.add(plan.rows or 0)
    counts = dict.fromkeys(("read", "logged", "unchanged", "failed", "dispatched"), 0)
    ledger.runs.add({
        "stream": plan.stream, "action": "rewind", "started_at": lease.clock.at, "duration_ms": 0.0, "error": None,
        "place": None if plan.basis is None else plan.basis.place,
        "epoch": lease.epoch, "cursor_before": done.cursor_before, "cursor_after": done.cursor_after,
        "cursors": {"before": lease.cursor and without_awaited(lease.cursor), "after": without_awaited(plan.after)},
        **counts,
    })  # fmt: skip
    return done


def _is_polled(stream: str) -> LeaseHeld:
    return LeaseHeld(
        f"stream {stream} is being polled",
        why="a poll holds its lease, and would move the cursor",
        hint="try again in a moment, or look at: syncctl status",
    )


def show_plan(plan: Plan, *, resend: bool, dry_run: bool, before: Cursor | None = None) -> Rewound:
    """Return a plan in the form that is shown to people."""
    return Rewound(
        stream=plan.stream,
        cursor_before=show_cursor(before or plan.before),
        cursor_after=show_cursor(plan.after),
        rows=plan.rows,
        resend=resend,
        dry_run=dry_run,
    )


def _refuse_forgotten(ledger: Ledger, stream: Stream, reader: "StreamReader", after: Cursor, rows: int | None) -> None:
    """Refuse a place if cleanup has removed records of rows after it: only they show which rows were sent."""
    cleaned_before = find_cleaned_before(ledger, stream.name)
    if cleaned_before is None:
        return
    kept = ledger.runs.find_cursor_since(stream.name, cleaned_before)
    known = None if kept is None else _count(reader, kept)
    if rows is not None and known is not None and rows <= known:
        return
    at = f"{cleaned_before:%Y-%m-%dT%H:%M:%SZ}"
    place = at if kept is None else show_cursor(kept)
    raise UsageError(
        f"a rewind of {stream.name} to {show_cursor(after)} would send rows again that were sent before",
        why=f"under append_only, only records show which rows were sent, and those finished before {at} are removed",
        hint=f"go back to a later place (--to {place}); or, to send every row that is read again: --resend",
    )


def _keep_floor(reader: "StreamReader", before: Cursor, after: Cursor, rows: int | None) -> Cursor:
    """Return the new cursor with the earlier of two floors, so that rows that were ever read stay in the stream."""
    floor = before.get("floor")
    free = {name: value for name, value in after.items() if name != "floor"}
    if floor is None or (before.get("mode"), before.get("column")) != (after.get("mode"), after.get("column")):
        return free
    covered = _count(reader, {**before, **floor})
    if rows is not None and covered is not None and rows > covered:
        return {**free, "floor": {name: after[name] for name in ("at", "kind", "key")}}
    return {**free, "floor": floor}


def _count(reader: "StreamReader", cursor: Cursor) -> int | None:
    try:
        return reader.count_behind(cursor)
    except (ServiceUnavailable, TroubleFound) as error:
        # The new place could be read: so the table is too large to count, or the old place no longer fits it.
        log.warning("rewind.not_counted", error=str(error))
        return None
