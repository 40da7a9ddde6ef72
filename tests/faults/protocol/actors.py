"""Actors: parts of the pipeline, each in its own thread; only one runs at a time, from one write to the next."""

import threading
from collections.abc import Callable
from typing import Any

WRITES = frozenset({"insert_one", "insert_many", "update_one", "update_many", "bulk_write", "find_one_and_update"})
# A poll, a dispatch or a delivery bases its decision on these reads; others may write before them.
READS = frozenset({"keys.find"})
STANDSTILL_SECONDS = 120.0

_current = threading.local()


class Stopped(BaseException):
    """The actor was killed where it stood."""


class Actor:
    """One process of the pipeline, as far as the protocol can tell.

    It stops at a gate before and after each of its writes, and before each read of keys, until it is stepped or killed.
    """

    def __init__(self, kind: str, act: Callable[[], Any]) -> None:
        self.kind = kind
        self.at = "start"
        self.done = False
        self.failure: BaseException | None = None
        self.claim_tokens: set[str] = set()
        self.settles = 0
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
        """Stop here until stepped; raises Stopped once killed, so that a dead actor writes nothing more."""
        if self._kill:
            raise Stopped
        self.at = at
        self._parked.release()
        self._go.acquire()
        if self._kill:
            raise Stopped

    def _wait(self) -> None:
        if not self._parked.acquire(timeout=STANDSTILL_SECONDS):
            raise AssertionError(f"{self.kind} neither finished nor reached its next write after {self.at}")

    def step(self) -> None:
        """Let it run to its next gate or its end."""
        if not self.done:
            self._go.release()
            self._wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def step_until(self, at: str) -> "Actor":
        """Let it run until it stops at this gate; fails if it ends before."""
        while self.at != at or self.at == "start":
            self.step()
            if self.done:
                raise AssertionError(f"{self.kind} ended without coming to {at}")
            if self.at == at:
                break
        return self

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


def gate(at: str) -> None:
    """Stand at a gate, where the calling thread is an actor."""
    actor: Actor | None = getattr(_current, "actor", None)
    if actor is not None:
        actor.gate(at)


def current_actor() -> Actor | None:
    """Return the actor whose thread this is."""
    return getattr(_current, "actor", None)


class GatedCollection:
    """A collection at which actors stand before and after each write, and before the reads that decide."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        at = f"{self._collection.name}.{name}"
        if at in READS:

            def read(*args: Any, **kwargs: Any) -> Any:
                gate(f"before {at}")
                return found(*args, **kwargs)

            return read
        if name not in WRITES:
            return found

        def write(*args: Any, **kwargs: Any) -> Any:
            gate(f"before {at}")
            result = found(*args, **kwargs)
            gate(f"after {at}")
            return result

        return write


class GatedDatabase:
    """A database whose collections are gated."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def __getitem__(self, name: str) -> GatedCollection:
        return GatedCollection(self._database[name])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)
