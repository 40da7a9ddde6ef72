"""The heartbeats of workers and of Beat, in the ledger, because `inspect ping` takes more than a second."""

import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from celery import signals
from celery.beat import Scheduler, SchedulingError
from celery.worker import state as worker_state

from syncctl import __version__
from syncctl.broker.kombu_transport import BROKER_ERRORS
from syncctl.broker.messages import CONTROL
from syncctl.broker.outage import Outage
from syncctl.core.batch_sizes import count_delivery_slots
from syncctl.errors import ConfigurationError, ExitCode, SyncctlError
from syncctl.ledger.migrations import VERSION
from syncctl.logs import get_logger
from syncctl.settings.describe import fingerprint_settings
from syncctl.tasks.consumer import remove_foreign_keys
from syncctl.wiring.connections import SIGN_OF_LIFE_SECONDS, Connections

if TYPE_CHECKING:
    from syncctl.celery_app import SyncctlApp

log = get_logger(__name__)

EVERY_SECONDS = 5.0
TICKS_PER_ENTRY = 2
"""How many ticks of each entry may wait in a queue before further ones are left out."""


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
        self._warn_of_missing_ledger()
        while True:
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
            if self._done.wait(EVERY_SECONDS):
                return


def record_dropped(app: "SyncctlApp", connections: Connections, *, who: str) -> None:
    """Add the messages that this process dropped, and the keys it removed, to the counts of `status` and `doctor`."""
    if dropped := app.message_check.take_dropped():
        connections.ledger.project.record_dropped(dropped, worker=who)


class HeartbeatScheduler(Scheduler):  # type: ignore[misc]
    """Celery's in-memory scheduler that also writes Beat's heartbeat, from Beat's own process.

    It keeps no file: every tick is safe to lose and to repeat, so there is nothing to remember. Its connections end
    with the process: Celery's handler of SIGTERM calls `close` in the middle of whatever a tick is writing, and that
    very tick may have locked the connections that `close` would release (celery 5.7.0).
    """

    _connections: Connections | None = None
    _fingerprint = ""
    _beaten_at = float("-inf")
    _is_closed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._outages: dict[str, Outage] = {}
        super().__init__(*args, **kwargs)

    def close(self) -> None:
        """Let no further tick begin, and close nothing."""
        self._is_closed = True

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send the ticks whose time has come, and record that Beat is alive.

        Raises:
            SystemExit: Beat was asked to stop, and the exception that should have ended it was swallowed on its way;
                or a newer syncctl has upgraded the ledger.
        """
        if self._is_closed:
            raise SystemExit
        wait = super().tick(*args, **kwargs)
        if time.monotonic() - self._beaten_at >= EVERY_SECONDS:
            self._beaten_at = time.monotonic()
            self._fingerprint = self._fingerprint or fingerprint_settings(self.app.settings)
            facts = {"pid": os.getpid(), "version": __version__, "ledger": VERSION, "settings": self._fingerprint}
            try:
                self._open().ledger.schema.check()
                self._open().ledger.heartbeats.record_beat(facts, name=f"{socket.gethostname()}:{os.getpid()}")
                record_dropped(self.app, self._open(), who=f"beat:{os.getpid()}")
            except ConfigurationError as error:
                log.error("project.refused", error=str(error), hint=error.hint)  # noqa: TRY400 - no traceback
                _end_beat()
            except SyncctlError as error:
                log.warning("heartbeat.failed", error=str(error))
        return wait

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a tick, unless the number of waiting ones shows that no worker takes them; an outage is logged once."""
        queue = entry.options.get("queue", CONTROL)
        # One outage per queue: Redis may refuse one queue, but not another.
        outage = self._outages.setdefault(queue, Outage("beat.tick_lost"))
        try:
            if self._open().broker.count_waiting(queue) >= TICKS_PER_ENTRY * len(self.schedule):
                log.warning("beat.tick_left_out", entry=entry.name, queue=queue)
                return
            self.apply_async(entry, producer=producer, advance=False)
        except (SyncctlError, SchedulingError, *BROKER_ERRORS) as error:
            outage.note(error, entry=entry.name, queue=queue)
            remove_foreign_keys(self.app, error)
        else:
            outage.end()

    def _open(self) -> Connections:
        if self._connections is None:
            self._connections = Connections(self.app.settings)
        return self._connections


def _end_beat() -> NoReturn:
    """End Beat's process with the code for a wrong configuration; within a worker, Beat alone.

    Celery treats a SystemExit as a request to stop, and would exit with 0.
    """
    if threading.current_thread() is threading.main_thread():
        sys.stderr.flush()
        os._exit(int(ExitCode.USAGE))
    raise SystemExit


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
