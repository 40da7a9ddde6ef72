"""Beat's scheduler, which also writes Beat's heartbeat into the ledger."""

import os
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from billiard.process import current_process
from celery.beat import Scheduler, SchedulingError

from syncctl import __version__
from syncctl.broker.kombu_transport import BROKER_ERRORS
from syncctl.broker.messages import CONTROL
from syncctl.broker.outage import Outage
from syncctl.errors import ConfigurationError, ExitCode, SyncctlError
from syncctl.ledger.migrations import VERSION
from syncctl.logs import get_logger
from syncctl.settings.describe import fingerprint_settings
from syncctl.tasks.consumer import remove_foreign_keys
from syncctl.tasks.heartbeat import EVERY_SECONDS, record_dropped
from syncctl.wiring.connections import Connections

log = get_logger(__name__)

TICKS_PER_ENTRY = 2
"""How many ticks of each entry may wait in a queue before further ones are left out."""


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
                the worker that Beat belongs to has died; or a newer syncctl has upgraded the ledger.
        """
        if self._is_closed:
            raise SystemExit
        if is_orphan():
            log.warning("beat.worker_gone", hint="start a worker with --beat, or syncctl beat")
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


def is_orphan() -> bool:
    """Tell whether this process was started by a worker's main process that has ended without stopping it.

    A worker that is killed stops nothing. Its Beat would go on for ever, with old settings and beside the next one.
    """
    parent = getattr(current_process(), "_parent_pid", None)
    return parent is not None and os.getppid() != parent


def _end_beat() -> NoReturn:
    """End Beat's process with the code for a wrong configuration; within a worker, Beat alone.

    Celery treats a SystemExit as a request to stop, and would exit with 0.
    """
    if threading.current_thread() is threading.main_thread():
        sys.stderr.flush()
        os._exit(int(ExitCode.USAGE))
    raise SystemExit
