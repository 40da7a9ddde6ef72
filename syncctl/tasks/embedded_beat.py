"""Keeps the Beat of a worker (`--beat`) running: Celery starts its process once, and never looks at it again."""

from typing import Any

from celery.beat import EmbeddedService
from celery.bootsteps import StartStopStep
from celery.worker import components
from celery.worker import state as worker_state

from syncctl.errors import ExitCode
from syncctl.logs import get_logger
from syncctl.tasks.process import stopping

log = get_logger(__name__)

LOOKS_EVERY_SECONDS = 5.0


class EmbeddedBeat(StartStopStep):  # type: ignore[misc]
    """A step of the worker that starts its Beat again if Beat's process has died (invariant 13).

    Without Beat nothing is polled or retried, while the worker looks alive to its service manager.
    """

    requires = (components.Beat,)

    def include_if(self, w: Any) -> bool:
        """Return whether this worker has a Beat at all; the step of Celery has been included by now."""
        return w.beat is not None

    def register_with_event_loop(self, w: Any, hub: Any) -> None:
        """Look at Beat's process at intervals, from the main thread, as long as the worker is connected to Redis."""
        hub.call_repeatedly(LOOKS_EVERY_SECONDS, self._look, w)

    def _look(self, w: Any) -> None:
        if w.beat.is_alive() or stopping() or worker_state.should_stop is not None:
            return
        if w.beat.exitcode == ExitCode.USAGE:
            return  # Its settings or its version no longer fit the ledger, which ends this worker too.
        log.warning("beat.started_again", ended_with=w.beat.exitcode)
        step = next(step for step in w.steps if isinstance(step, components.Beat))
        step.obj = w.beat = EmbeddedService(w.app, schedule_filename=w.schedule_filename, scheduler_cls=w.scheduler)
        w.beat.start()
