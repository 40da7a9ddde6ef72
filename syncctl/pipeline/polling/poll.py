"""poll: read pages after the cursor into the ledger, under a lease, until a page is short."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from syncctl.core.clock import boot_time
from syncctl.core.cursors import read_basis
from syncctl.core.gaps import without_awaited
from syncctl.core.rows import Cursor, Note
from syncctl.core.stream import SCANS, Stream
from syncctl.errors import InternalError, LeaseHeld, ServiceUnavailable, SyncctlError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from syncctl.logs import get_logger
from syncctl.pipeline.pause import describe_pause
from syncctl.pipeline.polling.acknowledge import acknowledge_finished
from syncctl.pipeline.polling.cursor_check import UNCHECKED, check_basis, check_witnesses
from syncctl.pipeline.polling.delete_detection import begin_round, detect_deletes
from syncctl.pipeline.polling.page import PageLog, Progress
from syncctl.pipeline.polling.schema_drift import note_schema_changes
from syncctl.pipeline.polling.write_back import SLICE_SECONDS, WriteBacks

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

log = get_logger(__name__)

LEASE_SECONDS = 10.0
STUCK_AFTER_SECONDS = 300.0
"""How long a poll may make no progress: longer than any query, with its repeats, may take by default."""
NOTES_AT_MOST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One poll of one stream."""

    stream: str
    read: int = 0
    logged: int = 0
    unchanged: int = 0
    failed: int = 0
    #: How many records were queued because of this poll.
    dispatched: int = 0
    cursor_before: str | None = None
    cursor_after: str | None = None
    duration_ms: float = 0.0
    #: The error in one line; None if there was none.
    error: str | None = None
    #: A hint on how to fix the error.
    hint: str | None = None
    #: Notes on the stream for the operator, one line each.
    notes: tuple[str, ...] = ()


def poll_stream(
    *,
    ledger: Ledger,
    stream: Stream,
    open_reader: "Callable[[Stream], StreamReader]",
    wake: Callable[[], bool],
    worker: str,
    tick: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    lease_seconds: float = LEASE_SECONDS,
) -> Run:
    """Poll one stream until a page is short; safe to repeat at any point.

    Args:
        wake: Called after each page; returns whether a worker was woken. It must not raise if Redis is unreachable.
        tick: Whether Beat asks for this poll; then do nothing if the last one has only just ended.
        should_stop: Called between pages.

    Returns:
        The run. A source that cannot be read is the run's `error`; rows that were logged stay logged.

    Raises:
        LeaseHeld: Another process polls this stream, or an operator has paused its polls.
        ServiceUnavailable: MongoDB cannot be reached.
    """
    started = time.monotonic()
    ledger.streams.ensure(stream.name)
    rest = stream.poll_every_seconds / 2 if tick else 0.0
    lease = ledger.polls.acquire(
        stream.name, seconds=lease_seconds, worker=worker, not_within_seconds=rest, unless_paused=True
    )
    if lease is None:
        raise_if_paused(ledger, stream.name)
        raise LeaseHeld(
            f"stream {stream.name} is being polled already",
            why="another poll holds its lease",
            hint="try again in a moment, or look at: syncctl status",
        )
    pages = PageLog(ledger, stream, lease, lease_seconds=lease_seconds)
    error: SyncctlError | None = None
    try:
        with renew_in_background(ledger, lease, pages.progress, seconds=lease_seconds):
            reader = open_reader(stream)
            write_backs = None
            if stream.write_back:
                write_backs = WriteBacks(
                    ledger=ledger,
                    stream=stream,
                    lease=lease,
                    reader=reader,
                    progress=pages.progress,
                    should_stop=should_stop,
                    lease_seconds=lease_seconds,
                )
            read_pages(ledger, stream, pages, lease, reader, write_backs, wake, should_stop)
    except BaseException as caught:
        error = name_failure(caught)
        if error is not caught or (isinstance(caught, ServiceUnavailable) and caught.service == "mongodb"):
            raise
    finally:
        run = end_run(ledger, pages, lease, error=error, started=started)
    return run


def raise_if_paused(ledger: Ledger, name: str) -> None:
    """If the polls of a stream are paused, raise an error that says by whom and why."""
    if (paused := ledger.polls.load_pause(name)) is not None:
        now = ledger.streams.server_time()
        raise LeaseHeld(
            f"the polls of {name} are {describe_pause(paused, now)}",
            why="an operator has paused them, and no row is read meanwhile",
            hint=f"run: syncctl resume {name} --polls",
        )


def read_pages(
    ledger: Ledger,
    stream: Stream,
    pages: PageLog,
    lease: PollLease,
    reader: "StreamReader",
    write_backs: WriteBacks | None,
    wake: Callable[[], bool],
    should_stop: Callable[[], bool],
) -> None:
    """Read page after page into the ledger, and wake workers after each page."""
    try:
        pages.progress.place = None if lease.basis is None else read_basis(lease.basis).place
        tell(pages.progress, lease, check_basis(ledger, stream, lease, reader))
        pages.progress.place = reader.basis.place
        if reader.declared != lease.declared:
            note_schema_changes(ledger, stream, lease, reader, pages.progress)
        is_unchecked = False
        if reader.mode not in SCANS:
            witnesses = check_witnesses(lease, reader)
            is_unchecked = witnesses is None
            tell(pages.progress, lease, [UNCHECKED] if is_unchecked else [])
            pages.keep_witnesses(witnesses or lease.witnesses, reader.telling_columns)
        cursor = begin_stream(stream, pages, reader) if lease.cursor is None else lease.cursor
        tell_source(ledger, stream, lease, reader, pages.progress, write_backs, should_stop)
        if stream.mode == "snapshot":
            cursor = begin_round(ledger, stream, cursor)
        for page in reader.pages(cursor):
            pages.log(page, columns_fingerprint=reader.columns_fingerprint)
            tell(pages.progress, lease, [Note(text=text) for text in page.notes] + pages.take_notes())
            if wake():
                pages.progress.dispatched = pages.progress.logged - pages.progress.failed
            if should_stop() or ledger.polls.are_paused(stream.name):
                return
            if write_backs is not None:
                write_backs.write_between_pages()
        if is_unchecked and not lease.is_unchecked:
            # Only after the source was read: this shows that it was available, and not restored in the meantime.
            ledger.polls.note_unchecked(lease)
        if pages.progress.cursor is None:
            pages.move_cursor(cursor)
        if stream.mode == "snapshot" and not detect_deletes(
            ledger=ledger, stream=stream, pages=pages, reader=reader, should_stop=should_stop
        ):
            return
        keep_warnings(pages.progress, lease, reader)
        # Invariant 1: only now may dispatch treat the row of a record as gone if no poll has found it again.
        pages.progress.complete = True
        if write_backs is not None:
            write_backs.write()
    finally:
        reader.close()


def tell_source(
    ledger: Ledger,
    stream: Stream,
    lease: PollLease,
    reader: "StreamReader",
    progress: Progress,
    write_backs: WriteBacks | None,
    should_stop: Callable[[], bool],
) -> None:
    """Write the outcomes of rows to the source, before any row is read."""
    if stream.mode == "flag":
        acknowledge_finished(
            ledger=ledger, stream=stream, lease=lease, reader=reader, progress=progress, should_stop=should_stop
        )
    if write_backs is not None:
        # After the acknowledgement, which tests the version that was read: a write gives the row a new one.
        write_backs.write(seconds=SLICE_SECONDS)


def begin_stream(stream: Stream, pages: PageLog, reader: "StreamReader") -> Cursor:
    """Return the cursor at which a stream that was never read begins."""
    cursor = reader.start_cursor()
    for text in reader.first_warnings():
        log.warning("poll.first", stream=stream.name, warning=text)
    if stream.start == "now":
        # Stored at once, because a later poll would start at another moment. Any other start is stored only once it was
        # read from, because it may not be a valid place.
        pages.move_cursor(cursor)
    return cursor


def tell(progress: Progress, lease: PollLease, notes: Iterable[Note]) -> None:
    """Log notes for the operator, and keep them for `status` and `doctor` until the next poll (invariant 12).

    A note that the last poll also made is not logged again.
    """
    for note in notes:
        if note not in lease.notes:
            log.warning("poll.note", stream=lease.stream, note=note.line)
        if len(progress.notes) < NOTES_AT_MOST:
            progress.notes.append(note)


def keep_warnings(progress: Progress, lease: PollLease, reader: "StreamReader") -> None:
    """Ask the reader for its warnings from time to time; if they cannot be found, keep none, but do not fail the poll.

    If the settings changed, ask at once, so that a warning about the old settings ends.
    """
    if not lease.are_warnings_old and lease.advice == reader.advice:
        return
    progress.advice, progress.warnings = reader.advice, ()
    try:
        progress.warnings = reader.warnings()
    except SyncctlError as error:
        log.warning("poll.warnings_unknown", error=str(error))


@contextmanager
def renew_in_background(ledger: Ledger, lease: PollLease, progress: Progress, *, seconds: float) -> Iterator[None]:
    """Renew the lease in a thread while a slow page is read; a process that stands still also stops renewing.

    Renewal also stops if the poll has made no progress for `STUCK_AFTER_SECONDS`: a call to the source that never
    returns would otherwise hold the stream for ever (invariant 12).
    """
    done = threading.Event()

    def renew() -> None:
        seen, moved_at = progress.steps, boot_time()
        while not done.wait(seconds / 4):
            has_moved = progress.steps != seen
            if has_moved:
                seen, moved_at = progress.steps, boot_time()
            elif boot_time() - moved_at > STUCK_AFTER_SECONDS:
                log.error(
                    "poll.stuck", stream=lease.stream, hint="the source does not return; the next poll takes over"
                )
                return
            try:
                if not ledger.polls.renew(lease, seconds=seconds, has_moved=has_moved):
                    return
            except SyncctlError as error:
                log.warning("poll.lease_not_renewed", stream=lease.stream, error=str(error))

    thread = threading.Thread(target=renew, name=f"poll-lease-{lease.stream}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def name_failure(caught: BaseException) -> SyncctlError:
    """Return the error that a run reports when it was ended by an exception."""
    if isinstance(caught, SyncctlError):
        return caught
    if isinstance(caught, Exception):
        return InternalError(f"a bug in syncctl: {type(caught).__name__}")
    return SyncctlError("interrupted")


def end_run(ledger: Ledger, pages: PageLog, lease: PollLease, *, error: SyncctlError | None, started: float) -> Run:
    """Release the lease and record the run, as far as MongoDB can be reached."""
    progress = pages.progress
    run = Run(
        stream=lease.stream,
        read=progress.read,
        logged=progress.logged,
        unchanged=progress.unchanged,
        failed=progress.failed,
        dispatched=progress.dispatched,
        cursor_before=show_cursor(lease.cursor),
        cursor_after=show_cursor(progress.cursor),
        duration_ms=round((time.monotonic() - started) * 1000, 1),
        error=str(error) if error is not None else None,
        hint=error.hint or None if error is not None else None,
        notes=(*progress.schema_changes, *(note.line for note in progress.notes)),
    )
    document = {field.name: getattr(run, field.name) for field in fields(run)}
    document |= {"started_at": lease.clock.at, "epoch": lease.epoch}
    document |= {
        "cursors": {
            "before": lease.cursor and without_awaited(lease.cursor),
            "after": progress.cursor and without_awaited(progress.cursor),
        },
        "place": progress.place,
    }
    try:
        ledger.polls.release(
            lease,
            error=run.error,
            hint=run.hint,
            notes=progress.notes,
            warnings=progress.warnings,
            advice=progress.advice,
            complete=progress.complete,
        )
        ledger.runs.add(document)
    except SyncctlError as lost:
        log.warning("poll.unreleased", stream=lease.stream, error=str(lost))
    return run


def show_cursor(cursor: Cursor | None) -> str | None:
    """Return the text of a cursor for people; None for a stream that was never read."""
    return None if cursor is None else str(cursor.get("at"))
