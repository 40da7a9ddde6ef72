"""The values of one scrape: of Redis and of the ledger, each within a bounded time."""

import time
from typing import TYPE_CHECKING

from syncctl.errors import ServiceUnavailable, SyncctlError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections
from syncctl.wiring.use_cases import plan_stream

if TYPE_CHECKING:
    from syncctl.core.metric_table import Samples

log = get_logger(__name__)

REDIS_SECONDS = 2.0
SIGN_OF_LIFE_SECONDS = 2.0
LEDGER_SECONDS = 5.0
"""The deadline of all statements of one scrape together; Prometheus waits for ten seconds by default."""


class MetricsReader:
    """Reads the metrics again and again over the same connections; used by one thread at a time."""

    def __init__(self, connections: Connections) -> None:
        from syncctl.broker.queue import Broker

        settings = connections.settings
        self._connections = connections
        self._broker = Broker(settings.redis_url, prefix=settings.redis_namespace, timeout_seconds=REDIS_SECONDS)
        self._plans = {name: plan_stream(settings, name) for name in settings.stream_names}
        #: Why MongoDB, or one of its indexes, could not be used at the last scrape; None if it could.
        self.error: SyncctlError | None = None

    def close(self) -> None:
        """Close the connection to Redis; the others belong to the connections."""
        self._broker.close()

    def read(self) -> "Samples":
        """Return the values; if MongoDB or Redis is away, theirs are missing. Takes some seconds at most."""
        from syncctl import __version__
        from syncctl.core.metric_table import Samples

        started = time.monotonic()
        samples = Samples()
        samples.add("syncctl_build_info", 1, __version__)
        self._add_redis(samples)
        known = len(samples.samples)
        try:
            self._add_ledger(samples)
            error = None
        except SyncctlError as caught:
            # Half of the values would look as if streams were gone.
            del samples.samples[known:]
            error = caught
            if self.error is None:
                log.warning("metrics.ledger_away", error=str(caught))
        self.error = error
        samples.add("syncctl_ledger_up", int(error is None))
        samples.add("syncctl_scrape_duration_seconds", round(time.monotonic() - started, 6))
        return samples

    def _add_redis(self, samples: "Samples") -> None:
        try:
            samples.add("syncctl_queue_messages", self._broker.count_waiting())
            samples.add("syncctl_redis_up", 1)
        except ServiceUnavailable:
            samples.add("syncctl_redis_up", 0)

    def _add_ledger(self, samples: "Samples") -> None:
        from syncctl.pipeline.monitoring.metrics import read_ledger_metrics

        ledger = self._connections.ledger
        ledger.check_reachable(timeout_seconds=SIGN_OF_LIFE_SECONDS)
        with ledger.limit_time(LEDGER_SECONDS):
            ledger.ensure_prepared()
            read_ledger_metrics(ledger, self._plans, samples)
