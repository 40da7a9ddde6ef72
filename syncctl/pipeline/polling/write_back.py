"""Write-back: the poll that holds the lease writes the outcomes of finished records into their rows.

A record is marked with its outcome, and the mark is removed once the row has it: a crash in between repeats the write,
which changes nothing. Of two versions of a row, the outcome of the newer one stays, in whichever order they are found:
before a write is committed, the ledger notes its version, and no older one is written from then on.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from syncctl.core.stream import Stream
from syncctl.core.write_backs import Ended, WriteBack, Written, choose_values
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from syncctl.ledger.write_backs import KnownRow
from syncctl.logs import get_logger
from syncctl.pipeline.polling.page import Progress
from syncctl.pipeline.polling.wait_for_poll import taken_over

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

log = get_logger(__name__)

WRITTEN_AT_ONCE = 100
BETWEEN_PAGES_SECONDS = 3.0
"""How often outcomes are written while pages are read."""
SLICE_SECONDS = 1.0
"""How long each such write takes at most, so that new rows are not kept waiting."""
REST_SECONDS = 10.0
"""How long outcomes are written once all rows are read; the next poll writes the rest."""


class WriteBacks:
    """Writes the outcomes of one stream, as long as its poll has the lease.

    Args:
        lease_seconds: How long the lease is renewed for, which shows that it is still held.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        stream: Stream,
        lease: PollLease,
        reader: "StreamReader",
        progress: Progress,
        should_stop: Callable[[], bool],
        lease_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._stream = stream
        self._lease = lease
        self._reader = reader
        self._progress = progress
        self._should_stop = should_stop
        self._lease_seconds = lease_seconds
        self._is_over = False
        self._next_at = 0.0

    def write_between_pages(self) -> None:
        """Write outcomes for a moment, unless that was done a moment ago."""
        if time.monotonic() >= self._next_at:
            self.write(seconds=SLICE_SECONDS)

    def write(self, *, seconds: float = REST_SECONDS) -> int:
        """Write outcomes for at most this long; return how many are done. Safe to repeat.

        An error of the source does not stop the poll: it is stored with the records, and the write is tried again.

        Raises:
            LeaseHeld: Another poll has taken over the lease.
            ServiceUnavailable: MongoDB cannot be reached.
        """
        written = 0
        ends_at = time.monotonic() + seconds
        while not self._is_over and time.monotonic() < ends_at and not self._should_stop():
            now = self._lease.clock.now()
            ended = self._ledger.write_backs.find(self._stream.name, now=now, limit=WRITTEN_AT_ONCE)
            if not ended:
                break
            try:
                results = self._write(ended)
            except ServiceUnavailable as error:
                if error.service == "mongodb":
                    raise
                log.warning("poll.write_back_unavailable", stream=self._stream.name, error=str(error))
                self._is_over = True
                break
            self._ledger.write_backs.settle(ended, results)
            self._progress.steps += 1
            done = [result for result in results if result.error is None]
            written += len(done)
            for result in results:
                if result.error is not None:
                    log.warning("poll.not_written_back", stream=self._stream.name, record=result.id, error=result.error)
            # If nothing could be written, the next rows would most likely fail in the same way.
            self._is_over = not done
        self._next_at = time.monotonic() + BETWEEN_PAGES_SECONDS
        return written

    def _write(self, ended: Sequence[Ended]) -> list[Written]:
        """Write the newest outcome of each row; older ones are settled without a write."""
        known = self._ledger.write_backs.load_rows(self._stream.name, [record.key_id for record in ended])
        newest: dict[str, Ended] = {}
        for record in sorted(ended, key=lambda record: record.seq):
            newest[record.key_id] = record
        rows, passed_over = [], []
        wanted = tuple(self._stream.write_back.values())
        for record in ended:
            row = known.get(record.key_id, KnownRow())
            if record is not newest[record.key_id] or record.seq < row.seq:
                passed_over.append(Written(id=record.id, rows=0))
                continue
            values = choose_values(record, row.remote, wanted)
            rows.append(WriteBack(id=record.id, key_id=record.key_id, key=record.key, seq=record.seq, values=values))
        # In the order of their keys, in which other programs are likely to lock them too.
        rows.sort(key=lambda row: [str(value) for value in row.key.values()])
        return passed_over + (self._reader.write_back(rows, self._before_commit) if rows else [])

    def _before_commit(self, rows: Sequence[WriteBack]) -> None:
        self._ledger.write_backs.note_written(self._stream.name, {row.key_id: row.seq for row in rows})
        # The rows are locked by now: a poll that takes over from here on writes to them after this commit, and if this
        # poll was already taken over, nothing is committed (invariant 8).
        if not self._ledger.polls.renew(self._lease, seconds=self._lease_seconds):
            raise taken_over(self._stream.name, then="writes the outcomes")
