"""Sending a batch: concurrent calls, and their outcomes as they come."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.partner.bulk import BulkCall, PlannedCall
from syncctl.partner.client import PartnerClient

THREADS_AT_MOST = 256

FIRST_THREADS = 2
SLOW_SECONDS = 0.001
"""A batch begins with few threads, and doubles them whenever a call takes longer than this. For faster calls more
threads only compete for the interpreter: 16 of them sent a third less than two, and used half as much CPU again."""

Result = tuple[Record, Outcome | None]


def send_batch(
    client: PartnerClient,
    calls: Sequence[PlannedCall],
    *,
    threads: int,
    may_start: Callable[[], bool],
) -> Iterator[Result]:
    """Send calls concurrently and yield each record with its outcome, in the order in which the calls end.

    Every record is yielded exactly once. When the generator is closed early, no further call starts; calls in
    progress end by themselves, and their outcomes are dropped.

    Args:
        threads: Calls at once.
        may_start: Called right before each call, from many threads at once. Once it returns False, the other records
            are yielded with None: not sent. Its errors are raised here, after all records were yielded.
    """
    batch = _Batch(client, calls, may_start)
    try:
        if threads <= 1 or len(batch.bulk_calls) <= 1:
            for bulk in batch.bulk_calls:
                yield from batch.send_one(bulk)
        else:
            yield from _send_in_threads(batch, min(threads, len(batch.bulk_calls)))
    finally:
        batch.stopped = True
    if batch.error is not None:
        raise batch.error


def _send_in_threads(batch: "_Batch", threads: int) -> Iterator[Result]:
    running = batch.start(min(FIRST_THREADS, threads))
    missing = batch.size
    while missing:
        result = batch.take(timeout=SLOW_SECONDS if running < threads else None)
        if running < threads and (result is None or _was_slow(result)):
            running += batch.start(min(running, threads - running))
        if result is not None:
            missing -= 1
            yield result


def _was_slow(result: Result) -> bool:
    return result[1] is not None and result[1].latency_ms > SLOW_SECONDS * 1000


class _Batch:
    """The calls of one batch, shared by its threads."""

    def __init__(self, client: PartnerClient, calls: Sequence[PlannedCall], may_start: Callable[[], bool]) -> None:
        self.size = len(calls)
        self.stopped = False
        self.error: Exception | None = None
        self._client = client
        self._may_start = may_start
        self.bulk_calls = client.combine(calls)
        self._waiting = iter(self.bulk_calls)
        self._lock = threading.Lock()
        self._results: SimpleQueue[Result] = SimpleQueue()

    def start(self, threads: int) -> int:
        """Start more threads for the batch, and return how many."""
        for _ in range(threads):
            _threads().submit(self.run)
        return threads

    def take(self, *, timeout: float | None) -> Result | None:
        """Return the next result; None when none comes in time."""
        try:
            return self._results.get(timeout=timeout)
        except Empty:
            return None

    def run(self) -> None:
        """Make one call after the other until none is left; runs in several threads at once."""
        while True:
            with self._lock:
                bulk = next(self._waiting, None)
            if bulk is None:
                return
            for result in self.send_one(bulk):
                self._results.put(result)

    def send_one(self, bulk: BulkCall) -> list[Result]:
        """Make one call, for one row or many, if it may still start.

        Even a bug in syncctl loses no record that may have been sent: its outcome is ambiguous.
        """
        try:
            # Checked twice, because `may_start` may wait for a permit.
            if self.stopped or not self._may_start() or self.stopped:
                self.stopped = True
                return [(record, None) for record in bulk.records]
        except Exception as error:  # noqa: BLE001 - raised by send_batch, once every record is accounted for
            self.error, self.stopped = error, True
            return [(record, None) for record in bulk.records]
        started = time.monotonic()
        try:
            outcomes = self._client.send_bulk(bulk)
        except Exception as error:  # noqa: BLE001
            latency_ms = (time.monotonic() - started) * 1000
            text = f"a bug in syncctl: {type(error).__name__}"
            outcomes = [Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=latency_ms, error=text)] * len(bulk.records)
        return list(zip(bulk.records, outcomes, strict=True))


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    """Return the process's thread pool, which is kept between batches and grows as needed."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=THREADS_AT_MOST, thread_name_prefix="partner")
        return _pool


def _forget_threads() -> None:
    """Start afresh in a forked child: threads do not survive a fork, and a lock may have been held."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_threads)
