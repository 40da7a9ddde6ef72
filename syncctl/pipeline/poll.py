"""poll: read pages after the cursor into the ledger, under a lease, until a page is short."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Protocol

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.rows import Cursor, Page, Value
from syncctl.core.stream import Stream
from syncctl.errors import InternalError, LeaseHeld, ServiceUnavailable, SyncctlError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.streams import PollLease
from syncctl.logs import get_logger
from syncctl.pipeline.acknowledge import acknowledge_finished
from syncctl.pipeline.delete_detection import begin_round, sweep
from syncctl.pipeline.page import PageLog

log = get_logger(__name__)

LEASE_SECONDS = 20.0


class Reader(Protocol):
    """What poll needs of a source (sources/reader.py)."""

    @property
    def columns_fingerprint(self) -> str:
        """A short hash of the column names."""

    @property
    def advice(self) -> tuple[str, ...]:
        """What an operator should know when a stream is read for the first time, one line each."""

    def start_cursor(self) -> Cursor:
        """Return where a stream begins that was never read."""

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor, each read when it is asked for."""

    def find_missing(self, keys: Sequence[Mapping[str, Value]]) -> list[Mapping[str, Value]]:
        """Return the keys that no row has now."""

    def acknowledge(self, rows: Sequence[Acknowledgement]) -> list[Acknowledged]:
        """Tell the source what became of rows."""

    def close(self) -> None:
        """Let go of the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One poll of one stream.

    Args:
        dispatched: How many records were queued because of it.
        error: What went wrong, in one line; None where nothing did. `hint` is what to do then.
    """

    stream: str
    read: int = 0
    logged: int = 0
    unchanged: int = 0
    failed: int = 0
    dispatched: int = 0
    cursor_before: str | None = None
    cursor_after: str | None = None
    duration_ms: float = 0.0
    error: str | None = None
    hint: str | None = None


def poll_stream(
    *,
    ledger: Ledger,
    stream: Stream,
    open_reader: Callable[[Stream], Reader],
    dispatch: Callable[[], int],
    worker: str,
    tick: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    lease_seconds: float = LEASE_SECONDS,
) -> Run:
    """Poll one stream until a page is short; safe to repeat at any point.

    Args:
        dispatch: Called after each page; what it returns is counted. It must not raise for an absent Redis.
        tick: This is Beat's tick: do nothing when the last poll ended just now.
        should_stop: Asked between pages.

    Returns:
        The run. A source that cannot be read is the run's `error`; rows that were logged stay logged.

    Raises:
        LeaseHeld: Somebody else polls this stream.
        ServiceUnavailable: MongoDB cannot be reached.
    """
    started = time.monotonic()
    ledger.ensure_prepared()
    ledger.streams.ensure(stream.name)
    rest = stream.poll_every_seconds / 2 if tick else 0.0
    lease = ledger.streams.acquire_poll(stream.name, seconds=lease_seconds, worker=worker, not_within_seconds=rest)
    if lease is None:
        raise LeaseHeld(
            f"stream {stream.name} is being polled already",
            why="another poll holds its lease",
            hint="try again in a moment, or look at: syncctl status",
        )
    pages = PageLog(ledger, stream, lease, lease_seconds=lease_seconds)
    error: SyncctlError | None = SyncctlError("interrupted")
    try:
        with kept_alive(ledger, lease, seconds=lease_seconds):
            read_pages(ledger, stream, pages, lease, open_reader(stream), dispatch, should_stop)
        error = None
    except SyncctlError as caught:
        error = caught
        if isinstance(caught, ServiceUnavailable) and caught.service == "mongodb":
            raise
    except Exception as bug:
        error = InternalError(f"a bug in syncctl: {type(bug).__name__}")
        raise
    finally:
        run = end_run(ledger, pages, lease, error=error, started=started)
    return run


def read_pages(
    ledger: Ledger,
    stream: Stream,
    pages: PageLog,
    lease: PollLease,
    reader: Reader,
    dispatch: Callable[[], int],
    should_stop: Callable[[], bool],
) -> None:
    """Read page after page into the ledger, and let what is due be sent meanwhile."""
    try:
        cursor = lease.cursor
        if cursor is None:
            cursor = reader.start_cursor()
            for text in reader.advice:
                log.warning("poll.first", stream=lease.stream, warning=text)
            if stream.start == "now":
                # Later would be another moment. Any other place is kept once it was read from: it may be none.
                pages.move_cursor(cursor)
        if stream.mode == "flag":
            acknowledge_finished(ledger=ledger, stream=stream, lease=lease, reader=reader, should_stop=should_stop)
        if stream.mode == "snapshot":
            cursor = begin_round(ledger, stream, cursor)
        for page in reader.pages(cursor):
            pages.log(page, columns_fingerprint=reader.columns_fingerprint)
            for text in page.notes:
                log.warning("poll.note", stream=lease.stream, note=text)
            pages.progress.dispatched += dispatch()
            if should_stop():
                return
        if pages.progress.cursor is None:
            pages.move_cursor(cursor)
        if stream.mode == "snapshot" and not sweep(
            ledger=ledger, stream=stream, pages=pages, reader=reader, should_stop=should_stop
        ):
            return
        pages.progress.complete = True
    finally:
        reader.close()


@contextmanager
def kept_alive(ledger: Ledger, lease: PollLease, *, seconds: float) -> Iterator[None]:
    """Prolong the lease in the background while a slow page is read; a stopped process stops prolonging too."""
    done = threading.Event()

    def prolong() -> None:
        while not done.wait(seconds / 4):
            try:
                if not ledger.streams.renew_poll(lease, seconds=seconds):
                    return
            except SyncctlError as error:
                log.warning("poll.lease_not_renewed", stream=lease.stream, error=str(error))

    thread = threading.Thread(target=prolong, name=f"poll-lease-{lease.stream}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def end_run(ledger: Ledger, pages: PageLog, lease: PollLease, *, error: SyncctlError | None, started: float) -> Run:
    """Let go of the lease and write the run down, as far as MongoDB can be reached."""
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
    )
    note = {field.name: getattr(run, field.name) for field in fields(run)}
    note |= {"started_at": lease.clock.at, "epoch": lease.epoch}
    note |= {"cursors": {"before": forget_gaps(lease.cursor), "after": forget_gaps(progress.cursor)}}
    try:
        ledger.streams.release_poll(lease, error=run.error, complete=progress.complete)
        ledger.runs.add(note)
    except SyncctlError as lost:
        log.warning("poll.unreleased", stream=lease.stream, error=str(lost))
    return run


def forget_gaps(cursor: Cursor | None) -> Cursor | None:
    """Return a cursor as the history keeps it: without the list of what was waited for at the time."""
    return None if cursor is None else {name: value for name, value in cursor.items() if name != "gaps"}


def show_cursor(cursor: Cursor | None) -> str | None:
    """Return the text of a cursor for people; None for a stream that was never read."""
    return None if cursor is None else str(cursor.get("at"))
