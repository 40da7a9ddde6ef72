"""Kombu's Redis transport, hardened: a worker survives a lost connection to Redis."""

from typing import Any

from kombu.transport import redis, virtual

from syncctl.logs import get_logger

log = get_logger(__name__)


class PatientQoS(redis.QoS):  # type: ignore[misc]
    """A channel's record of the messages that a worker has taken and not acknowledged.

    Kombu closes a lost connection more than once, the second time without the client that would reach Redis; restoring
    or acknowledging a message then raises an error that ends the worker (kombu 5.7.0: `'NoneType' object has no
    attribute 'hostname'`, or `'client'`). Dropping the message is safe: the ledger's leases bring its records back, and
    a message that is delivered again claims nothing (invariants 2 and 3).
    """

    def restore_unacked(self, client: Any = None) -> None:
        """Return messages that were not started to the queue; drop them where the connection is gone."""
        if self._is_disconnected():
            log.warning("broker.messages_let_go", messages=len(self._delivered))
            self._delivered.clear()
            return
        super().restore_unacked(client)

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message; drop it where the connection is gone."""
        if self._is_disconnected():
            self._drop(delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a message; drop it where the connection is gone."""
        if self._is_disconnected():
            self._drop(delivery_tag)
        else:
            super().reject(delivery_tag, requeue=requeue)

    def _is_disconnected(self) -> bool:
        return getattr(self.channel.connection, "client", None) is None

    def _drop(self, delivery_tag: Any) -> None:
        log.warning("broker.messages_let_go", messages=1)
        virtual.QoS.ack(self, delivery_tag)


def harden_transport() -> None:
    """Use `PatientQoS` in every channel of this process; Kombu chooses its transport by the URL's scheme alone."""
    redis.Channel.QoS = PatientQoS
