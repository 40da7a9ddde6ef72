"""The watch of alerts: a thread of each worker's main process, and of Beat's.

Each of the two notices when the other is missing. No task does this: a webhook that hangs would hold up a process that
polls and delivers, and without Beat no task would begin.
"""

import threading
from typing import Any

from celery import signals

from syncctl.errors import SyncctlError
from syncctl.logs import get_logger
from syncctl.settings import Settings
from syncctl.settings.missing import list_missing_of_alerts
from syncctl.tasks.fork_guard import forks
from syncctl.wiring.alerts import watch_alerts
from syncctl.wiring.connections import Connections

log = get_logger(__name__)

LOOKS_EVERY_SECONDS = 5.0
STOPS_WITHIN_SECONDS = 2.0


class AlertWatch:
    """Measures the rules and sends messages, as long as its process runs."""

    def __init__(self, settings: Settings) -> None:
        self._connections = Connections(settings)
        self._done = threading.Event()
        self._is_failing = False
        self._do_settings_hold = True
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more; another process sends a message again whose sending is interrupted before it is noted."""
        self._done.set()
        self._thread.join(timeout=STOPS_WITHIN_SECONDS)
        if not self._thread.is_alive():
            self._connections.close()

    def _run(self) -> None:
        # The wait comes first: until then the heartbeats are written that show other processes that this one lives.
        while not self._done.wait(LOOKS_EVERY_SECONDS):
            with forks.held_off():
                self._look()

    def _look(self) -> None:
        try:
            holds = watch_alerts(self._connections)
            if not holds and self._do_settings_hold:
                log.warning("alerts.settings_differ", hint="see: syncctl doctor alerts")
            self._is_failing, self._do_settings_hold = False, holds
        except SyncctlError as error:
            if not self._is_failing:
                log.warning("alerts.not_watched", error=str(error))
            self._is_failing = True
        except Exception:
            log.exception("alerts.failed")


_watches: list[AlertWatch] = []


@signals.worker_ready.connect(weak=False)
@signals.beat_init.connect(weak=False)
def _start(sender: Any = None, **_: object) -> None:
    settings = sender.app.settings
    for problem in list_missing_of_alerts(settings):
        log.warning("alerts.channel_missing", error=str(problem))
    watch = AlertWatch(settings)
    _watches.append(watch)
    watch.start()


@signals.worker_shutdown.connect(weak=False)
def _stop(**_: object) -> None:
    while _watches:
        _watches.pop().stop()
