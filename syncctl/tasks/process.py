"""How a use case becomes a Celery task, and what a worker's processes share: the wish to stop, and delivery slots."""

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from celery import shared_task, signals

from syncctl.celery_app import find_app
from syncctl.core.windows import count_delivery_slots
from syncctl.errors import SyncctlError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections

log = get_logger(__name__)

P = ParamSpec("P")

_connections: dict[int, Connections] = {}
_shared: dict[str, Any] = {"stopping": None, "slots": None, "count": 0}


def task(name: str, **options: Any) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, dict[str, Any]]]:
    """Return a decorator that makes a task whose known errors are one line in the log.

    The error does not cross the broker, and nothing is lost by it: leases and due times bring the work back.
    """

    def decorate(function: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
            try:
                return function(*args, **kwargs)
            except SyncctlError as error:
                log.warning("task.failed", task=name, args=list(args[:1]), error=str(error), hint=error.hint)
                return {"error": str(error)}

        made: Callable[P, dict[str, Any]] = shared_task(name=name, **options)(run)
        return made

    return decorate


def connections() -> Connections:
    """Return this process's connections; none of them crosses a fork."""
    own = _connections.get(os.getpid())
    if own is None:
        _connections.clear()
        app = find_app()
        own = _connections[os.getpid()] = Connections(app.settings, celery_app=app)
    return own


def stopping() -> bool:
    """Return whether this worker was asked to stop: batches then give back what they have not sent."""
    flag = _shared["stopping"]
    return flag is not None and bool(flag.value)


def count_processes() -> int:
    """Return how many processes or threads this worker has; 1 where it is not known."""
    return int(_shared["count"]) or 1


@contextmanager
def delivery_slot() -> Iterator[bool]:
    """Hold one of this worker's slots for a delivery loop; False when there is none.

    A worker with several processes keeps one free for polls and maintenance. A slot is a file lock: it ends with its
    process.
    """
    directory: Path | None = _shared["slots"]
    if directory is None:
        yield True
        return
    # What cleans /tmp may have taken it away: a stream may rest for weeks.
    directory.mkdir(exist_ok=True)
    with _locked(directory, "slot", count_delivery_slots(count_processes())) as is_free:
        yield is_free


@contextmanager
def _locked(directory: Path, name: str, count: int) -> Iterator[bool]:
    """Lock one of `count` files, if any is free."""
    for number in range(count):
        with (directory / f"{name}.{number}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield True
            return
    yield False


@signals.worker_init.connect(weak=False)
def _share(sender: Any = None, **_: object) -> None:
    """Lay out, before the pool forks, what its processes share."""
    # A plain byte without a lock: a process killed while it holds a lock would stop all the others.
    _shared["stopping"] = multiprocessing.RawValue("b", 0)
    _shared["slots"] = Path(tempfile.mkdtemp(prefix="syncctl-worker-"))
    _shared["count"] = int(getattr(sender, "concurrency", None) or 1)


@signals.worker_shutting_down.connect(weak=False)
def _stop(**_: object) -> None:
    if _shared["stopping"] is not None:
        _shared["stopping"].value = 1


@signals.worker_shutdown.connect(weak=False)
def _clear(**_: object) -> None:
    if _shared["slots"] is not None:
        shutil.rmtree(_shared["slots"], ignore_errors=True)
