"""The connections of one process, made from its settings: the ledger, Redis, Celery, the partners' clients."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self

from syncctl.broker.outage import Outage, Rest
from syncctl.core.stream import Partner, Source, Stream

if TYPE_CHECKING:
    from syncctl.broker.queue import Broker
    from syncctl.broker.rate import SharedRate
    from syncctl.broker.token_cache import RedisTokenCache
    from syncctl.ledger.ledger import Ledger
    from syncctl.ledger.rolling_rate import RollingRate
    from syncctl.partner.client import PartnerClient
    from syncctl.pipeline.delivery.stream_setup import StreamSetup
    from syncctl.pipeline.monitoring.alert_sending import Channel
    from syncctl.pipeline.monitoring.alerts import AlertPlan
    from syncctl.settings import Settings

SIGN_OF_LIFE_SECONDS = 3.0
WORKERS_COUNTED_EVERY_SECONDS = 5.0


class Connections:
    """Everything that a use case talks to; each connection is opened at its first use and kept.

    One per process: connections do not cross a fork.

    Args:
        for_person: A person waits at a terminal: check that MongoDB answers before anything that takes long.
        celery_app: The app that sends this process's messages; None makes one for these settings.
    """

    def __init__(
        self,
        settings: "Settings",
        *,
        for_person: bool = False,
        celery_app: Any = None,
    ) -> None:
        self.settings = settings
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        #: A stream, a partner and a source by name, made from the settings once.
        self.stream: Callable[[str], Stream] = cache(settings.stream)
        self.partner: Callable[[str], Partner] = cache(settings.partner)
        self.source: Callable[[str], Source] = cache(settings.source)
        self._for_person = for_person
        self._celery_app = celery_app
        self._clients: dict[str, PartnerClient] = {}
        self._rates: dict[str, SharedRate] = {}
        self._slots: tuple[float, int] = (float("-inf"), 0)
        self.wake_outage = Outage("dispatch.failed")
        self.redis_rest = Rest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection that was opened."""
        for name in ("ledger", "broker", "broker_in_passing", "token_cache"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for client in self._clients.values():
            client.close()
        for channel in self.__dict__.get("alert_channels", ()):
            channel.close()
        for rate in self._rates.values():
            rate.close()

    @cached_property
    def ledger(self) -> "Ledger":
        """The ledger in MongoDB."""
        from syncctl.ledger.ledger import Ledger

        ledger = Ledger(self.settings.mongo_url, self.settings.mongo_database)
        if self._for_person:
            try:
                ledger.check_reachable(timeout_seconds=SIGN_OF_LIFE_SECONDS)
                ledger.schema.check()
            except BaseException:
                ledger.close()
                raise
        return ledger

    def check_project(self) -> None:
        """Check that the ledger belongs to this project; one without a project belongs to this one from then on.

        Raises:
            ConfigurationError: It belongs to another project.
        """
        self.ledger.project.claim(self.settings.project_name)

    @cached_property
    def prepared_ledger(self) -> "Ledger":
        """The ledger, with its missing indexes created, and upgraded to the version of this syncctl."""
        self.ledger.ensure_prepared()
        return self.ledger

    @cached_property
    def callable_partners(self) -> dict[str, Partner]:
        """The partners that streams name and whose settings are complete, by name."""
        return {partner.name: partner for partner in self.settings.partners_in_use()}

    @cached_property
    def broker(self) -> "Broker":
        """The Redis that Celery uses, for direct commands."""
        from syncctl.broker.queue import Broker

        return Broker(self.settings.redis_url, prefix=self.settings.redis_namespace)

    @cached_property
    def broker_in_passing(self) -> "Broker":
        """The same for a delivery loop, which must not wait for Redis."""
        from syncctl.broker.queue import IN_PASSING_SECONDS, Broker

        url, prefix = self.settings.redis_url, self.settings.redis_namespace
        return Broker(url, prefix=prefix, timeout_seconds=IN_PASSING_SECONDS)

    @cached_property
    def token_cache(self) -> "RedisTokenCache":
        """Redis, where all processes find a partner's token."""
        from syncctl.broker.token_cache import RedisTokenCache

        return RedisTokenCache(self.settings.redis_url, prefix=self.settings.redis_namespace)

    @cached_property
    def celery_app(self) -> Any:
        """The Celery app that messages are sent with."""
        if self._celery_app is not None:
            return self._celery_app
        from syncctl.celery_app import make_app

        return make_app(self.settings)

    @cached_property
    def opened_at(self) -> datetime:
        """When these connections were first used, by MongoDB's clock."""
        return self.ledger.streams.server_time()

    @cached_property
    def alert_plan(self) -> "AlertPlan":
        """The plan of alerts that the settings describe."""
        from syncctl.wiring.alerts import plan_alerts

        return plan_alerts(self.settings)

    @cached_property
    def alert_channels(self) -> "Sequence[Channel]":
        """The channels of alerts."""
        from syncctl.wiring.alerts import open_channels

        return open_channels(self.settings)

    def publish(self, stream: str) -> None:
        """Send the message that makes a worker look for due records, first for this stream's. It carries nothing else.

        Raises:
            ServiceUnavailable: Redis cannot be reached.
        """
        from kombu.exceptions import OperationalError

        from syncctl.broker.messages import DELIVER
        from syncctl.broker.queue import translated, unavailable

        try:
            with translated(self.settings.redis_url):
                self.celery_app.send_task("syncctl.deliver", args=[stream], queue=DELIVER, ignore_result=True)
        except OperationalError as error:
            raise unavailable(self.settings.redis_url, error) from error

    def partner_client(self, stream: Stream) -> "PartnerClient":
        """Return the client for a stream's calls, which is kept between batches."""
        from syncctl.partner.client import PartnerClient

        if stream.name not in self._clients:
            partner = self.partner(stream.partner)
            self._clients[stream.name] = PartnerClient(
                partner,
                stream,
                token_cache=self.token_cache if partner.auth.kind == "oauth2" else None,
            )
        return self._clients[stream.name]

    def partner_rate(self, stream: Stream) -> "SharedRate | RollingRate | None":
        """Return the rate limit of a stream's partner, which all workers share; None if it has none."""
        from syncctl.broker.rate import SharedRate

        partner = self.partner(stream.partner)
        if partner.rate is None:
            return None
        calls, seconds = partner.rate
        if calls < seconds:
            return self.ledger.open_rate(partner.name, calls=calls, seconds=seconds)
        if partner.name not in self._rates:
            url, prefix = self.settings.redis_url, self.settings.redis_namespace
            self._rates[partner.name] = SharedRate(
                url, prefix=prefix, name=partner.name, calls=calls, seconds=seconds, rest=self.redis_rest
            )
        return self._rates[partner.name]

    def stream_setup(self, name: str) -> "StreamSetup":
        """Return the parts that the delivery of a stream needs."""
        from syncctl.core.batch_sizes import decide_sizes
        from syncctl.pipeline.delivery.stream_setup import StreamSetup

        stream = self.stream(name)
        partner = self.partner(stream.partner)
        return StreamSetup(
            stream=stream,
            partner=partner,
            client=self.partner_client(stream),
            sizes=decide_sizes(stream, partner),
            rate=self.partner_rate(stream),
        )

    def count_delivery_slots(self) -> int:
        """Return how many processes of the live workers deliver at once; 0 when none is known."""
        counted_at, slots = self._slots
        if time.monotonic() - counted_at > WORKERS_COUNTED_EVERY_SECONDS:
            slots = sum(int(worker.get("slots", 0)) for worker in self.ledger.heartbeats.load_workers())
            self._slots = (time.monotonic(), slots)
        return slots
