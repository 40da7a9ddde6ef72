"""Concurrent calls: the event loop runs as many calls as the limit allows; their outcomes come back through a queue."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Literal

from syncctl.core.outcome import Outcome, Verdict
from syncctl.partner.bulk import BulkCall
from syncctl.partner.client import PartnerClient
from syncctl.partner.event_loop import event_loop

MayStart = Literal["start", "wait", "return"]
"""Whether a call may begin: now, not yet (it and the calls behind it are asked again soon), or not at all."""

AGAIN_AFTER_SECONDS = 0.05


@dataclass(eq=False, kw_only=True, slots=True)
class WaitingCall:
    """One call that may be made, for one row or many."""

    client: PartnerClient
    bulk: BulkCall
    #: Called on the event loop right before the call; must not block.
    may_start: Callable[[], MayStart]
    #: An object by which the planner recognizes its call.
    owner: Any = None
    started_at: float | None = field(default=None, init=False)


CallResult = tuple[WaitingCall, list[Outcome] | None]
"""A call and the outcome of each of its rows; None if the call was not made."""


class CallRunner:
    """The running calls of one delivery loop to one partner.

    Every pushed call comes back exactly once. Unless `counts_slow` is set, only calls that have run for less than a
    second count towards the limit: a call that hangs until its deadline delays no other, up to a bound for sockets and
    memory.

    Args:
        results: Receives the results, in the order in which the calls end.
    """

    SLOW_SECONDS = 1.0
    HANGING_AT_MOST = 2000

    def __init__(self, results: "SimpleQueue[CallResult]", *, limit: int, counts_slow: bool) -> None:
        self.limit = limit
        self._counts_slow = counts_slow
        self._results = results
        self._loop = event_loop()
        self._waiting: deque[WaitingCall] = deque()
        self._running: dict[WaitingCall, asyncio.Task[None]] = {}
        self._young: deque[WaitingCall] = deque()
        self._slow: set[WaitingCall] = set()
        self._looks_again = False
        #: How often the limit was changed, and the last change that the event loop has acted on.
        self._changes = self._settled = 0

    @property
    def under_way(self) -> int:
        """How many calls are running."""
        return len(self._running)

    @property
    def most_under_way(self) -> int | None:
        """The most calls that run while the limit is not raised; None until its last change has taken effect."""
        return max(len(self._running), self.limit) if self._settled == self._changes else None

    @property
    def waiting(self) -> int:
        """How many calls wait for others to end."""
        return len(self._waiting)

    def push(self, calls: Sequence[WaitingCall]) -> None:
        """Make these calls as the limit allows, in this order."""
        if calls:
            self._loop.call_soon_threadsafe(self._push, calls)

    def set_limit(self, limit: int) -> None:
        """Allow this many calls at once from now on; running calls continue. With 0, waiting calls come back."""
        if limit != self.limit:
            self.limit = limit
            self._changes += 1
            self._loop.call_soon_threadsafe(self._settle, self._changes)

    def _settle(self, change: int) -> None:
        """Act on a change of the limit: from now on, a call begins only while fewer calls run."""
        self._fill()
        self._settled = change

    def _push(self, calls: Sequence[WaitingCall]) -> None:
        self._waiting.extend(calls)
        self._fill()

    def _fill(self) -> None:
        if self.limit == 0:
            # It is not known for how long they would wait.
            while self._waiting:
                self._results.put((self._waiting.popleft(), None))
        while self._waiting and self._has_room():
            call = self._waiting[0]
            try:
                answer = call.may_start()
            except Exception:  # noqa: BLE001 - not even a bug in syncctl loses a record
                answer = "return"
            if answer == "wait":
                self._look_again_after(AGAIN_AFTER_SECONDS)
                return
            self._waiting.popleft()
            if answer == "return":
                self._results.put((call, None))
                continue
            call.started_at = time.monotonic()
            self._running[call] = self._loop.create_task(self._make(call))
            self._young.append(call)

    def _has_room(self) -> bool:
        running = len(self._running)
        if running < self.limit:
            return True
        if self._counts_slow or running >= self.HANGING_AT_MOST:
            return False
        self._age()
        return running - len(self._slow) < self.limit

    def _age(self) -> None:
        """Mark the calls that have become slow; look again when the next one has, as no call may end until then."""
        before = time.monotonic() - self.SLOW_SECONDS
        while self._young:
            call = self._young[0]
            if call in self._running and (call.started_at or 0.0) > before:
                break
            self._young.popleft()
            if call in self._running:
                self._slow.add(call)
        if self._young:
            self._look_again_after((self._young[0].started_at or 0.0) - before)

    def _look_again_after(self, seconds: float) -> None:
        if not self._looks_again:
            self._looks_again = True
            self._loop.call_later(max(AGAIN_AFTER_SECONDS, seconds), self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        self._fill()

    async def _make(self, call: WaitingCall) -> None:
        started = time.monotonic()
        try:
            outcomes = await call.client.send_bulk(call.bulk)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a record that may be sent is accounted for
            latency_ms = (time.monotonic() - started) * 1000
            text = f"a bug in syncctl: {type(error).__name__}"
            outcomes = [Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=latency_ms, error=text)] * len(call.bulk.records)
        finally:
            del self._running[call]
            self._slow.discard(call)
        self._results.put((call, outcomes))
        if self._waiting:
            self._fill()


def take_results(results: "SimpleQueue[CallResult]", *, timeout_seconds: float) -> list[CallResult]:
    """Wait up to this long for a first result, and return all results that have arrived."""
    taken: list[CallResult] = []
    try:
        taken.append(results.get(timeout=timeout_seconds) if timeout_seconds > 0 else results.get_nowait())
        while True:
            taken.append(results.get_nowait())
    except Empty:
        return taken
