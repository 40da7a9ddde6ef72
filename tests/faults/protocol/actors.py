"""Actors: pieces of the pipeline in separate threads; one runs at a time, from one access of the ledger to the next."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pymongo.errors import AutoReconnect

WRITES = frozenset({
    "insert_one", "insert_many", "update_one", "update_many", "replace_one", "bulk_write", "find_one_and_update",
    "find_one_and_replace", "find_one_and_delete", "delete_one", "delete_many",
})  # fmt: skip
READS = frozenset({"find", "find_one", "aggregate", "count_documents", "distinct"})
"""The accesses that decisions are based on; other actors may write between one read and the next."""
STANDSTILL_SECONDS = 120.0
ROUNDS_AT_MOST = 5000

_current = threading.local()


class Stopped(BaseException):
    """The actor was killed where it stood."""


class Actor:
    """One thread of the pipeline, as far as the protocol can tell.

    It stands at a gate before and after each of its writes, and before each of its reads, until it is stepped, or
    killed there.
    """

    def __init__(self, kind: str, act: Callable[[], Any], *, process: "Process | None" = None) -> None:
        self.kind = kind
        self.process = process
        self.at = "start"
        self.done = False
        self.failure: BaseException | None = None
        #: Where its connection is cut: at its next read, or at its next write, before or after MongoDB has the write.
        self.cut: Literal["read", "before", "after"] | None = None
        self._kill = False
        self._go = threading.Semaphore(0)
        self._parked = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(act,), name=f"actor-{kind}", daemon=True)
        self._thread.start()
        self._wait()

    def _run(self, act: Callable[[], Any]) -> None:
        _current.actor = self
        try:
            self.gate("start")
            act()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - judged by the machine
            self.failure = error
        finally:
            self.done = True
            self._parked.release()

    def gate(self, at: str) -> None:
        """Stand here until stepped; raises Stopped when killed, and at each later gate: a dead actor writes nothing."""
        if self._kill:
            raise Stopped
        self.at = at
        self._parked.release()
        self._go.acquire()
        if self._kill:
            raise Stopped

    def _wait(self) -> None:
        if not self._parked.acquire(timeout=STANDSTILL_SECONDS):
            raise AssertionError(f"{self.kind} neither finished nor reached its next gate after {self.at}")

    def step(self) -> None:
        """Let it continue to its next gate or its end."""
        if not self.done:
            self._go.release()
            self._wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def step_until(self, at: str) -> "Actor":
        """Let it continue until it reaches a gate; fails if it ends before."""
        for _ in range(ROUNDS_AT_MOST):
            self.step()
            if self.done:
                break
            if self.at == at:
                return self
        raise AssertionError(f"{self.kind} never comes to {at}")

    def kill(self) -> None:
        """End it where it stands; its writes stay."""
        if not self.done:
            self._kill = True
            self._go.release()
            self._wait()
        self._thread.join(timeout=STANDSTILL_SECONDS)

    def finish(self) -> None:
        """Let it run to its end."""
        while not self.done:
            self.step()


class Process:
    """A process that delivers: its loop and its calls in progress, each an actor, with one clock.

    The clock moves a little with each turn of the loop, and where the simulation lets time pass.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.actors: list[Actor] = []
        self.clock = 1000.0
        #: Whether it was asked to stop; it then gives back the records that it has not sent.
        self.is_stopping = False
        #: Whether it writes each outcome as it comes, rather than all outcomes of a batch together.
        self.writes_at_once = False
        #: The calls that have begun and not reached the partner, each with a function that tells whether it still may.
        self.under_way: dict[Any, Callable[[], bool]] = {}
        #: Calls that reached the partner when the ledger no longer expected them: this process alone knows of them.
        self.late_calls: set[Any] = set()

    @property
    def done(self) -> bool:
        """Whether its loop and all its calls have ended."""
        return all(actor.done for actor in self.actors)

    @property
    def running(self) -> list[Actor]:
        """Its actors that have not ended, in the order in which they began."""
        return [actor for actor in self.actors if not actor.done]

    def step(self, until: Callable[[Actor], bool] = lambda _: False) -> Actor | None:
        """Let its actors make a step one by one, up to the first for which `until` is true; return that one."""
        for actor in self.running:
            actor.step()
            if not actor.done and until(actor):
                return actor
        return None

    def step_until(self, at: str) -> "Process":
        """Let it continue until one of its actors reaches a gate; fails if it ends before."""
        for _ in range(ROUNDS_AT_MOST):
            if self.done or self.step(lambda actor: actor.at == at) is not None:
                break
        if self.done:
            raise AssertionError(f"{self.name} ended without coming to {at}")
        return self

    def finish(self) -> None:
        """Let it run to its end."""
        for _ in range(ROUNDS_AT_MOST):
            if self.done:
                return
            self.step()
        standing = [(actor.kind, actor.at) for actor in self.running]
        raise AssertionError(f"{self.name} never comes to its end: {standing}")

    def kill(self) -> None:
        """End it where it stands."""
        for actor in self.actors:
            actor.kill()


def gate(at: str) -> None:
    """Stand at a gate, if the calling thread is an actor."""
    actor = current_actor()
    if actor is not None:
        actor.gate(at)


def current_actor() -> Actor | None:
    """Return the actor whose thread this is."""
    actor: Actor | None = getattr(_current, "actor", None)
    return actor


class GatedCollection:
    """A collection at which actors stand before and after each write, and before each read.

    Args:
        watch: Called at once for each write, with its arguments.
    """

    def __init__(self, collection: Any, watch: Callable[[str, Sequence[Any]], None]) -> None:
        self._collection = collection
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._collection, name)
        at = f"{self._collection.name}.{name}"
        if name in READS:

            def read(*args: Any, **kwargs: Any) -> Any:
                gate(f"before {at}")
                if _take_cut("read"):
                    raise AutoReconnect("cut off before the read")
                return attribute(*args, **kwargs)

            return read
        if name not in WRITES:
            return attribute

        def write(*args: Any, **kwargs: Any) -> Any:
            gate(f"before {at}")
            cut = _take_cut("before", "after")
            if cut == "before":
                raise AutoReconnect("cut off before the write")
            try:
                result = attribute(*args, **kwargs)
            finally:
                # Even a write that fails may have changed something, such as a bulk with duplicates.
                self._watch(at, args)
                gate(f"after {at}")
            if cut == "after":
                raise AutoReconnect("cut off after the write")
            return result

        return write


def _take_cut(*kinds: str) -> str | None:
    actor = current_actor()
    if actor is None or actor.cut not in kinds:
        return None
    cut, actor.cut = actor.cut, None
    return cut


class GatedDatabase:
    """A database whose collections are gated."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.name: str = database.name
        self.watch: Callable[[str, Sequence[Any]], None] = lambda _at, _arguments: None
        """Called at once for each write, with its arguments."""

    def __getitem__(self, name: str) -> GatedCollection:
        return GatedCollection(self._database[name], lambda *write: self.watch(*write))  # noqa: PLW0108 - it changes
