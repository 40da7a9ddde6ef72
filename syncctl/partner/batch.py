"""Sending a batch: calls side by side, outcomes as they come."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.partner.bulk import Bulk
from syncctl.partner.call import Call
from syncctl.partner.client import PartnerClient

THREADS_AT_MOST = 256

FIRST_THREADS = 2
SLOW_SECONDS = 0.001
"""A batch begins with few threads, and doubles them whenever a call takes longer than this. Where calls are
faster, more threads only fight for the interpreter: 16 did a third less than two, for half as much CPU again."""

Planned = tuple[Record, Call]
Result = tuple[Record, Outcome | None]


def send_batch(
    client: PartnerClient,
    calls: Sequence[Planned],
    *,
    threads: int,
    may_start: Callable[[], bool],
) -> Iterator[Result]:
    """Send calls side by side and yield each record with its outcome, in the order in which they end.

    Every record is yielded exactly once. When the generator is closed early, no further call starts; those
    that are under way end by themselves and their outcomes are dropped.

    Args:
        threads: Calls under way at once.
        may_start: Asked right before each call, from many threads at once. Once it says no, the rest is
            yielded with None: never sent. What it raises is raised here, after all records were yielded.
    """
    batch = _Batch(client, calls, may_start)
    try:
        if threads <= 1 or len(batch.groups) <= 1:
            for group in batch.groups:
                yield from batch.send_one(group)
        else:
            yield from _send_in_threads(batch, min(threads, len(batch.groups)))
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
    """The calls of one batch, and the threads' common view of how far they are."""

    def __init__(self, client: PartnerClient, calls: Sequence[Planned], may_start: Callable[[], bool]) -> None:
        self.size = len(calls)
        self.stopped = False
        self.error: Exception | None = None
        self._client = client
        self._may_start = may_start
        self.groups = client.group(calls)
        self._waiting = iter(self.groups)
        self._lock = threading.Lock()
        self._results: SimpleQueue[Result] = SimpleQueue()

    def start(self, threads: int) -> int:
        """Let more threads work on the batch, and return how many."""
        for _ in range(threads):
            _threads().submit(self.run)
        return threads

    def take(self, *, timeout: float | None) -> Result | None:
        """Return the next result, None when none comes in time."""
        try:
            return self._results.get(timeout=timeout)
        except Empty:
            return None

    def run(self) -> None:
        """Take one call after the other until none is left; runs in several threads at once."""
        while True:
            with self._lock:
                group = next(self._waiting, None)
            if group is None:
                return
            for each in self.send_one(group):
                self._results.put(each)

    def send_one(self, group: Bulk) -> list[Result]:
        """Make one call, for one row or many, if it may still start.

        Not even a bug of ours loses a record that may have been sent.
        """
        try:
            # Asked twice, because waiting for a permission may take its time.
            if self.stopped or not self._may_start() or self.stopped:
                self.stopped = True
                return [(record, None) for record in group.records]
        except Exception as error:  # noqa: BLE001 - raised by send_batch, once every record is accounted for
            self.error, self.stopped = error, True
            return [(record, None) for record in group.records]
        started = time.monotonic()
        try:
            outcomes = self._client.send_group(group)
        except Exception as error:  # noqa: BLE001
            latency_ms = (time.monotonic() - started) * 1000
            text = f"a bug in syncctl: {type(error).__name__}"
            outcomes = [Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=latency_ms, error=text)] * len(group.records)
        return list(zip(group.records, outcomes, strict=True))


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    """Return the process's threads, which are kept between batches and made as they are needed."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=THREADS_AT_MOST, thread_name_prefix="partner")
        return _pool


def _forget_threads() -> None:
    """Begin anew in a forked child: threads do not survive a fork, and a lock may have been held."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_threads)
