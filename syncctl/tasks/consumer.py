"""The worker's consumer of the queues, which waits for the end of every outage of Redis."""

import logging
import time
from typing import TYPE_CHECKING, Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection

from syncctl.broker.kombu_transport import BROKER_ERRORS
from syncctl.broker.outage import Outage
from syncctl.broker.queue import Broker, is_wrong_type
from syncctl.errors import ServiceUnavailable
from syncctl.logs import get_logger

if TYPE_CHECKING:
    from syncctl.celery_app import SyncctlApp

log = get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 2.0
_STOP_LOOK_SECONDS = 0.25

logging.getLogger("celery.worker.consumer.consumer").addFilter(
    # `Outage` says the same, once.
    lambda record: "Connection to broker lost" not in record.getMessage()
)


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which takes Redis to be back only once it can be written to.

    A replica, or a Redis whose memory is full or whose disk cannot be written, accepts each connection, but answers
    each command of a worker with an error: Celery would reconnect without a pause.
    """

    def __init__(self, *args: Any, app: Any, **options: Any) -> None:
        if not app.settings.worker.remote_control:
            # None of these is needed here, and each reads messages that others publish.
            options |= {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        self._outage = Outage()
        super().__init__(*args, app=app, **options)

    def ensure_connected(self, conn: Connection) -> Connection:
        """Return the connection once Redis accepts commands, however long that takes."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            maybe_shutdown()
            try:
                conn.connect()
                conn.default_channel.prove_usable()
            except BROKER_ERRORS as error:
                self._outage.note(error, hint="run: syncctl doctor redis")
                remove_foreign_keys(self.app, error)
                conn.collect(socket_timeout=1)
                _wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._outage.end()
                self.first_connection_attempt = False
                return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Note the beginning of an outage."""
        self._outage.note(exc, hint="run: syncctl doctor redis")

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Note the beginning of an outage, and let the connection go."""
        self._outage.note(exc, hint="run: syncctl doctor redis")
        remove_foreign_keys(self.app, exc)
        super().on_connection_error_after_connected(exc)


def remove_foreign_keys(app: "SyncctlApp", error: BaseException) -> None:
    """Remove foreign keys in the place of this project's, if they are the reason why Redis refused a command.

    They would stop every worker until an operator intervenes. The work that waited there is not lost (invariant 2).
    """
    if not is_wrong_type(error):
        return
    try:
        with Broker(app.settings.redis_url, prefix=app.settings.redis_namespace) as broker:
            app.message_check.note_removed(broker.remove_foreign_keys())
    except ServiceUnavailable as unavailable:
        log.warning("broker.keys_not_removed", error=str(unavailable))


def _wait(seconds: float) -> None:
    """Wait, unless the worker is asked to stop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _STOP_LOOK_SECONDS))
        maybe_shutdown()
