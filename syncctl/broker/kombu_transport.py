"""Kombu's Redis transport, hardened: a worker survives every outage of Redis, and every message in it.

- Any error of Redis is treated as a lost connection, whose return is waited for: Celery treats an error reply
  (READONLY, OOM, MISCONF, ...) as unrecoverable and ends the worker (celery 5.7.0).
- A message is checked before Kombu and Celery see it, and rebuilt from the checked parts (`broker.messages`).
- Messages that a worker has taken are kept only in its memory, not in Redis, where others could alter them: the
  ledger's leases and Beat's ticks bring their work back (invariants 2 and 3).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import redis as driver
from kombu import transport as kombu_transport
from kombu.transport import redis, virtual

from syncctl.broker.messages import QUEUES
from syncctl.logs import get_logger

log = get_logger(__name__)

Admit = Callable[[str, bytes], bytes | None]

PROBE = "probe"
PROBE_SECONDS = 60
SCHEMES = ("redis", "rediss")


class PatientQoS(virtual.QoS):  # type: ignore[misc]
    """A channel's record of the messages that a worker has taken and not acknowledged.

    Kombu closes a lost connection more than once, the second time without the client that would reach Redis; returning
    a message then raises an error that ends the worker (kombu 5.7.0: `'NoneType' object has no attribute 'hostname'`,
    or `'client'`). Dropping the message is safe.
    """

    def restore_unacked(self) -> list[Any]:
        """Put messages that were not started back into the queue; drop them if the connection is gone."""
        if self._is_disconnected():
            self._drop(len(self._delivered))
        else:
            self._drop(len(super().restore_unacked()))
        self._delivered.clear()
        return []

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a message; drop it if it cannot be returned to the queue."""
        if requeue and not self._is_disconnected():
            try:
                super().reject(delivery_tag, requeue=True)
            except (driver.RedisError, OSError, KeyError):
                self._drop(1)
            else:
                return
        elif requeue:
            self._drop(1)
        super().reject(delivery_tag, requeue=False)

    def _is_disconnected(self) -> bool:
        return getattr(self.channel.connection, "client", None) is None

    def _drop(self, messages: int) -> None:
        if messages:
            log.warning("broker.messages_let_go", messages=messages)


class CheckedClient(redis.PrefixedStrictRedis):  # type: ignore[misc]
    """A client of Redis whose queues hand out only messages that were checked."""

    def __init__(self, *args: Any, admit: Admit | None = None, **options: Any) -> None:
        self._admit = admit
        super().__init__(*args, **options)

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Return Redis's reply; for a message that was dropped, the reply of an empty queue."""
        reply = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not reply or self._admit is None:
            return reply
        key, raw = reply
        queue = key.decode(errors="replace").partition(redis.Channel.sep)[0]
        if queue not in QUEUES:
            # The reply queue of `celery inspect`, in the process that runs it.
            return reply
        message = self._admit(queue, raw)
        return None if message is None else (key, message)


class CheckedChannel(redis.Channel):  # type: ignore[misc]
    """A channel that reads through a `CheckedClient`, and keeps no messages in Redis after they were taken."""

    ack_emulation = False
    admit: Admit | None = None
    from_transport_options = (*redis.Channel.from_transport_options, "admit")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.QoS = PatientQoS

    def _get_client(self) -> Any:
        return partial(CheckedClient, admit=self.admit, global_keyprefix=self.global_keyprefix)

    def prove_usable(self) -> None:
        """Write to Redis, and look at every queue: a replica or a full Redis answers, but cannot be used."""
        with self.conn_or_acquire() as client:
            client.set(PROBE, "1", ex=PROBE_SECONDS)
            for queue in QUEUES:
                client.llen(queue)


class PatientTransport(redis.Transport):  # type: ignore[misc]
    """The transport for `redis://` and `rediss://`: a command that Redis refuses may succeed later."""

    Channel = CheckedChannel
    connection_errors = (*redis.Transport.connection_errors, driver.RedisError)
    channel_errors = ()


BROKER_ERRORS: tuple[type[BaseException], ...] = PatientTransport.connection_errors


def harden_transport() -> None:
    """Use `PatientTransport` in this process; Kombu chooses its transport by the URL's scheme alone."""
    for scheme in SCHEMES:
        kombu_transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:PatientTransport"
        kombu_transport._transport_cache.pop(scheme, None)
