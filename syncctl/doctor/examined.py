"""What is examined: the services of these settings, each with a deadline that fits the doctor's."""

import threading
from dataclasses import replace
from functools import cached_property

from syncctl.broker.queue import Broker
from syncctl.broker.token_cache import RedisTokenCache
from syncctl.core.stream import Partner, Source
from syncctl.ledger.ledger import Ledger
from syncctl.settings import Settings


class Examined:
    """Services as the checks use them, safe from many threads; each is connected to when it is first used.

    They are the doctor's own, because a command's would wait longer than the doctor has.

    Args:
        timeout_seconds: The deadline of one check.
    """

    def __init__(self, settings: Settings, *, timeout_seconds: float) -> None:
        self.settings = settings
        self.timeout_seconds = timeout_seconds
        self._lock = threading.Lock()

    @property
    def ledger(self) -> Ledger:
        """The ledger.

        Raises:
            ConfigurationError: MONGO_URL is not a URL.
        """
        with self._lock:
            return self._ledger

    @property
    def broker(self) -> Broker:
        """Redis beside Celery."""
        with self._lock:
            return self._broker

    @property
    def token_cache(self) -> RedisTokenCache:
        """Where the workers keep a partner's token."""
        with self._lock:
            return self._shelf

    @cached_property
    def _ledger(self) -> Ledger:
        settings = self.settings
        return Ledger(settings.mongo_url, settings.mongo_database, timeout_seconds=self.timeout_seconds)

    @cached_property
    def _broker(self) -> Broker:
        return Broker(self.settings.redis_url, prefix=f"{self.settings.redis_prefix}:")

    @cached_property
    def _shelf(self) -> RedisTokenCache:
        return RedisTokenCache(self.settings.redis_url, prefix=f"{self.settings.redis_prefix}:")

    def source(self, name: str) -> Source:
        """Return a source whose deadlines are no longer than a check's.

        Raises:
            ConfigurationError: its URL is not set.
        """
        source = self.settings.source(name)
        return replace(
            source,
            login_timeout_seconds=min(source.login_timeout_seconds, self.timeout_seconds),
            query_timeout_seconds=min(source.query_timeout_seconds, self.timeout_seconds),
        )

    def partner(self, name: str) -> Partner:
        """Return a partner whose deadline is no longer than a check's.

        Raises:
            ConfigurationError: its URL or its token is not set.
        """
        partner = self.settings.partner(name)
        return replace(partner, timeout_seconds=min(partner.timeout_seconds, self.timeout_seconds))

    def close(self) -> None:
        """Close the connections; may wait for a service that hangs."""
        for name in ("_ledger", "_broker", "_shelf"):
            if name in self.__dict__:
                self.__dict__[name].close()
