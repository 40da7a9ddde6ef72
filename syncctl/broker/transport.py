"""Kombu's Redis transport, made to survive what Redis survives."""

from typing import Any

from kombu.transport import redis

from syncctl.logs import get_logger

log = get_logger(__name__)


class PatientQoS(redis.QoS):  # type: ignore[misc]
    """What a channel knows of the messages that a worker has taken and not yet begun."""

    def restore_unacked(self, client: Any = None) -> None:
        """Put those messages back into the queue; where the connection is gone, let them go.

        Kombu closes a lost connection more than once, the second time without what it would need to put anything back,
        and the error ends the worker (kombu 5.7.0: `'NoneType' object has no attribute 'hostname'`). The ledger knows
        what was in the messages: leases bring it back.
        """
        connection = self.channel.connection
        if getattr(connection, "client", None) is None:
            log.warning("broker.messages_let_go", messages=len(self._delivered))
            self._delivered.clear()
            return
        super().restore_unacked(client)


def harden_transport() -> None:
    """Let every channel of this process use `PatientQoS`; Kombu takes its transport from the URL's scheme alone."""
    redis.Channel.QoS = PatientQoS
