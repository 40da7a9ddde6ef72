"""What everything else is made from: the ledger, Redis and the partners' clients of one process."""

import os
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Self

from syncctl.core.stream import Stream

if TYPE_CHECKING:
    from syncctl.broker.queue import Broker
    from syncctl.broker.rate import SharedRate
    from syncctl.broker.token_cache import RedisTokenCache
    from syncctl.core.windows import Sizes
    from syncctl.ledger.ledger import Ledger
    from syncctl.partner.client import PartnerClient
    from syncctl.settings import Settings

SIGN_OF_LIFE_SECONDS = 3.0


class Connections:
    """Everything a use case needs, made from the settings. One per process: connections do not cross a fork.

    Args:
        for_person: Somebody waits at a terminal: ask MongoDB for a sign of life before anything that takes long.
        processes: How many processes or threads of this worker share a partner's `max_in_flight`; None means as many
            as the settings say.
    """

    def __init__(self, settings: "Settings", *, for_person: bool = False, processes: int | None = None) -> None:
        self.settings = settings
        self._processes = processes or settings.worker.concurrency
        self._for_person = for_person
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._clients: dict[str, PartnerClient] = {}
        self._rates: dict[str, SharedRate] = {}
        self._slots: tuple[float, int] = (float("-inf"), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection that was opened."""
        for name in ("ledger", "broker", "token_cache"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for client in self._clients.values():
            client.close()
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
            except BaseException:
                ledger.close()
                raise
        return ledger

    @cached_property
    def broker(self) -> "Broker":
        """Redis beside Celery."""
        from syncctl.broker.queue import Broker

        return Broker(self.settings.redis_url, prefix=f"{self.settings.redis_prefix}:")

    @cached_property
    def token_cache(self) -> "RedisTokenCache":
        """Where all processes find a partner's token."""
        from syncctl.broker.token_cache import RedisTokenCache

        return RedisTokenCache(self.settings.redis_url, prefix=f"{self.settings.redis_prefix}:")

    def partner_client(self, stream: Stream) -> "PartnerClient":
        """Return the client for a stream's calls, kept between batches."""
        from syncctl.partner.client import PartnerClient

        if stream.name not in self._clients:
            partner = self.settings.partner(stream.partner)
            threads = self.sizes(stream).threads
            token_cache = self.token_cache if partner.auth.kind == "oauth2" else None
            self._clients[stream.name] = PartnerClient(
                partner, stream, max_connections=threads, token_cache=token_cache
            )
        return self._clients[stream.name]

    def sizes(self, stream: Stream) -> "Sizes":
        """Return how much of this stream may be on its way."""
        from syncctl.core.windows import decide_sizes, decide_slots

        partner = self.settings.partner(stream.partner)
        slots = decide_slots(concurrency=self._processes, partners=1, max_in_flight=partner.max_in_flight)
        return decide_sizes(stream, partner, processes=slots.all, streams=len(self.settings.stream_names))
