"""Kombu's Redis transport, made to survive what Redis survives."""

from typing import Any

from kombu.transport import redis, virtual

from syncctl.logs import get_logger

log = get_logger(__name__)


class PatientQoS(redis.QoS):  # type: ignore[misc]
    """What a channel knows of the messages that a worker has taken.

    Kombu closes a lost connection more than once, the second time without what it would need to reach Redis; whoever
    then puts messages back, or acknowledges one, gets an error that ends the worker (kombu 5.7.0: `'NoneType' object
    has no attribute 'hostname'`, or `'client'`). The ledger knows what was in the messages: leases bring it back, and a
    message that comes again claims nothing.
    """

    def restore_unacked(self, client: Any = None) -> None:
        """Put the messages that were not begun back into the queue; where the connection is gone, let them go."""
        if self._is_cut_off():
            log.warning("broker.messages_let_go", messages=len(self._delivered))
            self._delivered.clear()
            return
        super().restore_unacked(client)

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message; where the connection is gone, let it go."""
        if self._is_cut_off():
            self._let_go(delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Give a message back; where the connection is gone, let it go."""
        if self._is_cut_off():
            self._let_go(delivery_tag)
        else:
            super().reject(delivery_tag, requeue=requeue)

    def _is_cut_off(self) -> bool:
        return getattr(self.channel.connection, "client", None) is None

    def _let_go(self, delivery_tag: Any) -> None:
        log.warning("broker.messages_let_go", messages=1)
        virtual.QoS.ack(self, delivery_tag)


def harden_transport() -> None:
    """Let every channel of this process use `PatientQoS`; Kombu takes its transport from the URL's scheme alone."""
    redis.Channel.QoS = PatientQoS
