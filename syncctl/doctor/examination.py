"""The examination: the checks of these settings, run on their services, without secrets in the results."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from syncctl.broker.queue import Broker
from syncctl.broker.token_cache import RedisTokenCache
from syncctl.core.redaction import redact
from syncctl.core.stream import Partner, Source
from syncctl.doctor import alerts, configuration, mongodb, partner, redis, source, streams, workers
from syncctl.doctor.check import Check, Unit
from syncctl.doctor.groups import GROUPS, group_of, is_chosen, settle_names
from syncctl.doctor.runner import Runner
from syncctl.ledger.ledger import Ledger
from syncctl.settings import Settings


class Services:
    """The services of these settings, safe for use by many threads; each is connected to when it is first used.

    The doctor does not use the connections of other commands, which would wait longer than a check may take.

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
        """Redis, as syncctl uses it beside Celery."""
        with self._lock:
            return self._broker

    @property
    def token_cache(self) -> RedisTokenCache:
        """The workers' cache of partners' tokens."""
        with self._lock:
            return self._token_cache

    @cached_property
    def _ledger(self) -> Ledger:
        settings = self.settings
        return Ledger(settings.mongo_url, settings.mongo_database, timeout_seconds=self.timeout_seconds)

    @cached_property
    def _broker(self) -> Broker:
        return Broker(self.settings.redis_url, prefix=self.settings.redis_namespace)

    @cached_property
    def _token_cache(self) -> RedisTokenCache:
        return RedisTokenCache(self.settings.redis_url, prefix=self.settings.redis_namespace)

    def source(self, name: str) -> Source:
        """Return a source whose deadlines are no longer than a check's.

        Raises:
            ConfigurationError: The source's URL is not set.
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
            ConfigurationError: The partner's URL or token is not set.
        """
        partner = self.settings.partner(name)
        return replace(partner, timeout_seconds=min(partner.timeout_seconds, self.timeout_seconds))

    def close(self) -> None:
        """Close the connections; may wait for a service that hangs."""
        for name in ("_ledger", "_broker", "_token_cache"):
            if name in self.__dict__:
                self.__dict__[name].close()


class Examination:
    """The chosen checks; running them changes nothing anywhere.

    Args:
        directory: Where `.env` is.
        chosen: Groups, and names of single checks.
        timeout_seconds: The deadline of each check.

    Raises:
        UsageError: There is no check of such a name.
    """

    def __init__(
        self, settings: Settings, *, directory: Path, chosen: Sequence[str] = GROUPS, timeout_seconds: float
    ) -> None:
        self._services = Services(settings, timeout_seconds=timeout_seconds)
        self._timeout_seconds = timeout_seconds
        units = _list_units(self._services, directory)
        chosen = settle_names(chosen, [unit.name for unit in units])
        self.units = tuple(unit for unit in units if is_chosen(unit.name, chosen))

    def run(self, *, on_done: Callable[[int], None] = lambda _: None) -> list[Check]:
        """Run every check and return one result for each, in order, without a secret.

        Args:
            on_done: Called with the number of finished checks.
        """
        runner = Runner(self.units, timeout_seconds=self._timeout_seconds, on_done=on_done)
        checks = runner.run()
        if not runner.left_behind:
            self._services.close()
        secrets = self._services.settings.secrets()
        return [
            replace(check, detail=redact(check.detail, secrets), hint=redact(check.hint, secrets)) for check in checks
        ]


def _list_units(services: Services, directory: Path) -> list[Unit]:
    """Return every check of these settings, in the order in which they are shown."""
    units = (
        *configuration.list_units(services, directory),
        *redis.list_units(services),
        *mongodb.list_units(services),
        *source.list_units(services),
        *partner.list_units(services),
        *workers.list_units(services),
        *streams.list_units(services),
        *alerts.list_units(services),
    )
    return sorted(units, key=lambda unit: GROUPS.index(group_of(unit.name)))
