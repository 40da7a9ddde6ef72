"""repair: log the rows that a reconciliation found to be missing or stale, as a poll does, and leave the cursor."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from syncctl.core.stream import Stream
from syncctl.errors import InternalError, LeaseHeld, SyncctlError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.streams import PollLease
from syncctl.pipeline.differences import read_key
from syncctl.pipeline.page import PageLog
from syncctl.pipeline.poll import LEASE_SECONDS, end_run, kept_alive
from syncctl.pipeline.recheck import Key, Lookup, find_readable

ROWS_AT_ONCE = 500
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.2


class Shaped(Lookup, Protocol):
    """What a repair needs of a source."""

    @property
    def columns_fingerprint(self) -> str:
        """A short hash of the column names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What a repair did. `failed`: logged, but cannot be sent; `unreadable`: rows that the database cannot read."""

    logged: int
    failed: int
    unreadable: int


def repair_rows(
    *,
    ledger: Ledger,
    stream: Stream,
    reader: Shaped,
    keys: Path,
    dispatch: Callable[[], int],
    worker: str,
    who: str,
    lease_seconds: float = LEASE_SECONDS,
    patience_seconds: float,
) -> Repair:
    """Log the rows of these keys as they are now, under the poll lease; safe to repeat and to interrupt.

    Args:
        keys: A file of them, one JSON object a line.
        patience_seconds: How long the end of a poll is waited for.

    Raises:
        LeaseHeld: A poll is under way, or has taken this over.
    """
    started = time.monotonic()
    lease = _acquire(ledger, stream, worker, lease_seconds=lease_seconds, patience_seconds=patience_seconds)
    # An operator asks for what the source holds now: its versions may bear names that the ledger knows.
    log = PageLog(ledger, stream, replace(lease, rewound_epoch=lease.epoch), lease_seconds=lease_seconds)
    unreadable = 0
    error: SyncctlError | None = SyncctlError("interrupted")
    try:
        with kept_alive(ledger, lease, seconds=lease_seconds):
            for some in _read_keys(keys):
                rows, failed = find_readable(reader, some)
                unreadable += len(failed)
                log.log_rows(rows, columns_fingerprint=reader.columns_fingerprint)
                log.progress.dispatched += dispatch()
        error = None
    except SyncctlError as caught:
        error = caught
        raise
    except Exception as bug:
        error = InternalError(f"a bug in syncctl: {type(bug).__name__}")
        raise
    finally:
        end_run(ledger, log, lease, error=error, started=started)
        detail = {"stream": stream.name, "unreadable": unreadable, "complete": error is None}
        ledger.audit.add(action="repair", who=who, count=log.progress.logged, detail=detail)
    return Repair(logged=log.progress.logged, failed=log.progress.failed, unreadable=unreadable)


def _acquire(
    ledger: Ledger, stream: Stream, worker: str, *, lease_seconds: float, patience_seconds: float
) -> PollLease:
    ledger.streams.ensure(stream.name)
    until = time.monotonic() + patience_seconds
    while (lease := ledger.streams.acquire_poll(stream.name, seconds=lease_seconds, worker=worker)) is None:
        if time.monotonic() >= until:
            raise LeaseHeld(
                f"stream {stream.name} is being polled",
                why="a poll holds its lease, and has not ended",
                hint="try again in a moment, or look at: syncctl status",
            )
        time.sleep(PAUSE_SECONDS)
    return lease


def _read_keys(path: Path) -> Iterator[list[Key]]:
    with path.open(encoding="utf-8") as lines:
        while some := list(islice(lines, ROWS_AT_ONCE)):
            yield [read_key(json.loads(line)) for line in some]
