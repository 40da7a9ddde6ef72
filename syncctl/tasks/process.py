"""Makes Celery tasks of use cases, and holds the state that a worker's processes share: the stop flag and the slots."""

import importlib
import multiprocessing
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

from celery import shared_task, signals

from syncctl.celery_app import find_app
from syncctl.errors import ConfigurationError, ExitCode, SyncctlError
from syncctl.logs import get_logger
from syncctl.tasks.delivery_slots import Slots, count_delivery_slots
from syncctl.wiring.connections import Connections

log = get_logger(__name__)

P = ParamSpec("P")

RESULTS_READ_WITHIN_SECONDS = 3.0
"""How long a pool process that ends waits until the main process has read its results."""

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
                log.trace("task.traceback", task=name)
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
    """Return how many processes or threads this worker has; 1 if that is not known."""
    return int(_shared["count"]) or 1


@contextmanager
def delivery_slot() -> Iterator[bool]:
    """Hold one of this worker's slots for a delivery loop; False when there is none.

    A worker with several processes keeps one free for polls and maintenance.
    """
    slots: Slots | None = _shared["slots"]
    if slots is None:
        yield True
        return
    number = slots.take()
    try:
        yield number is not None
    finally:
        if number is not None:
            slots.free(number)


LOADED_BEFORE_FORKS = ("core", "ledger", "broker", "sources", "partner", "pipeline", "channels", "archive", "wiring")


@signals.worker_init.connect(weak=False)
def load_modules(**_: object) -> None:
    """Load, before the pool forks, every module that a task or a thread of the worker imports when it needs it.

    A process that is forked while a thread imports a module would wait for that module forever: the lock that the
    thread holds is copied, but the thread is not.
    """
    for name in LOADED_BEFORE_FORKS:
        package = importlib.import_module(f"syncctl.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


@signals.worker_init.connect(weak=False)
def _share(sender: Any = None, **_: object) -> None:
    """Create, before the pool forks, the objects that its processes share."""
    # A plain byte without a lock: a process killed while it holds a lock would stop all the others.
    _shared["stopping"] = multiprocessing.RawValue("b", 0)
    count = int(getattr(sender, "concurrency", None) or 1)
    _shared["slots"] = Slots(count_delivery_slots(count))
    _shared["count"] = count
    _check_project(sender.app)


@signals.worker_init.connect(weak=False)
def limit_wait_for_results(**_: object) -> None:
    """Let no pool process that ends wait for long until the main process has read its results.

    billiard lets it wait for half a minute, also if the main process is stopping and reads none any more. A result that
    is not read does no harm: the ledger has the outcomes.
    """
    from billiard import pool

    interval = pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = round(RESULTS_READ_WITHIN_SECONDS / interval)


@signals.beat_init.connect(weak=False)
def _check_beat(sender: Any = None, **_: object) -> None:
    _check_project(sender.app)


def _check_project(app: Any) -> None:
    """Read the key of the messages and upgrade an older ledger; a process of another project, or of none, ends.

    If MongoDB is away, a worker's heartbeat does the same later.

    Raises:
        SystemExit: The ledger belongs to another project or to a newer syncctl, or nothing is configured.
    """
    try:
        if not app.settings.is_configured:
            raise ConfigurationError("nothing is configured here", hint="start it in the project's directory")
        app.seal.refresh()
        with Connections(app.settings) as own:
            own.ledger.prepare()
    except ConfigurationError as error:
        log.error("project.refused", error=str(error), hint=error.hint)  # noqa: TRY400 - no traceback
        raise SystemExit(int(ExitCode.USAGE)) from None
    except SyncctlError:
        pass


@signals.worker_shutting_down.connect(weak=False)
def _stop(**_: object) -> None:
    if _shared["stopping"] is not None:
        _shared["stopping"].value = 1


@signals.worker_shutdown.connect(weak=False)
def _clear(sender: Any = None, **_: object) -> None:
    if _shared["slots"] is not None:
        _shared["slots"].close()
        _shared["slots"] = None
    if not stopping() and not sender.exitcode:
        # The worker was not asked to end, so its exit code must show that it failed.
        sender.exitcode = int(ExitCode.BUG)
