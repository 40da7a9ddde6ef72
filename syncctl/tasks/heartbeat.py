"""The heartbeats of workers, in the ledger, because `inspect ping` takes more than a second."""

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.worker import state as worker_state

from syncctl import __version__
from syncctl.broker.messages import CONTROL
from syncctl.errors import ConfigurationError, ExitCode, SyncctlError
from syncctl.ledger.migrations import VERSION
from syncctl.logs import get_logger
from syncctl.settings.describe import fingerprint_settings
from syncctl.tasks.delivery_slots import count_delivery_slots
from syncctl.tasks.fork_guard import forks
from syncctl.wiring.connections import SIGN_OF_LIFE_SECONDS, Connections

if TYPE_CHECKING:
    from syncctl.celery_app import SyncctlApp

log = get_logger(__name__)

EVERY_SECONDS = 5.0


class WorkerHeartbeat:
    """A thread of the worker's main process that writes its heartbeat."""

    def __init__(self, name: str, facts: dict[str, Any], app: "SyncctlApp") -> None:
        self._name = name
        self._facts = facts
        self._app = app
        self._done = threading.Event()
        self._connections = Connections(app.settings)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def stop(self) -> None:
        """Take the heartbeat back and end."""
        self._done.set()
        self._thread.join(timeout=EVERY_SECONDS)
        try:
            record_dropped(self._app, self._connections, who=self._name)
            self._connections.ledger.heartbeats.forget_worker(self._name)
        except SyncctlError as error:
            log.warning("heartbeat.not_removed", error=str(error))
        self._connections.close()

    def _warn_of_missing_ledger(self) -> None:
        """Log at once if the ledger cannot be reached: an ordinary operation would wait far longer for it."""
        try:
            self._connections.ledger.check_reachable(timeout_seconds=SIGN_OF_LIFE_SECONDS)
        except SyncctlError as error:
            log.warning("worker.ledger_away", error=str(error), hint=error.hint)

    def _run(self) -> None:
        with forks.held_off(is_short=True):
            self._warn_of_missing_ledger()
        while True:
            # A worker that waits for a fork is alive: its heartbeat must not become too old.
            with forks.held_off(is_short=True):
                self._beat()
            if self._done.wait(EVERY_SECONDS):
                return

    def _beat(self) -> None:
        try:
            self._app.seal.now_ms()
            self._connections.ledger.schema.check()
            self._connections.ledger.heartbeats.record_worker(self._name, self._facts)
            record_dropped(self._app, self._connections, who=self._name)
        except ConfigurationError as error:
            log.error("project.refused", error=str(error), hint=error.hint)  # noqa: TRY400 - no traceback
            worker_state.should_stop = int(ExitCode.USAGE)
        except SyncctlError as error:
            log.warning("heartbeat.failed", error=str(error))


def record_dropped(app: "SyncctlApp", connections: Connections, *, who: str) -> None:
    """Add the messages that this process dropped, and the keys it removed, to the counts of `status` and `doctor`."""
    if dropped := app.message_check.take_dropped():
        connections.ledger.project.record_dropped(dropped, worker=who)


def name_worker(hostname: str, pid: int) -> str:
    """Return a worker's name, which differs from that of every other worker on the machine."""
    return hostname if f"-{pid}@" in hostname else f"{hostname}:{pid}"


_heartbeats: list[WorkerHeartbeat] = []


@signals.worker_ready.connect(weak=False)
def _start(sender: Any = None, **_: object) -> None:
    app: SyncctlApp = sender.app
    controller = sender.controller if hasattr(sender, "controller") else sender
    concurrency = int(getattr(controller, "concurrency", None) or 1)
    queues = sorted(queue.name for queue in sender.task_consumer.queues) if sender.task_consumer else []
    facts = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "concurrency": concurrency,
        "queues": queues,
        "version": __version__,
        "ledger": VERSION,
        "settings": fingerprint_settings(app.settings),
        "slots": count_delivery_slots(concurrency) if "deliver" in queues else 0,
    }
    heartbeat = WorkerHeartbeat(name_worker(str(sender.hostname), os.getpid()), facts, app)
    _heartbeats.append(heartbeat)
    heartbeat.start()
    if "control" in queues:
        # Now, instead of at Beat's next tick: bring back the records that dead workers held.
        try:
            sender.app.send_task("syncctl.upkeep", queue=CONTROL, ignore_result=True)
        except Exception as error:  # noqa: BLE001 - Beat's ticks do the same
            log.warning("worker.not_woken", error=type(error).__name__)


@signals.worker_shutdown.connect(weak=False)
def _stop(**_: object) -> None:
    while _heartbeats:
        _heartbeats.pop().stop()
