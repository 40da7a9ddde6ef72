"""The messages that tell a worker to look for due records; what they tell is in the ledger, so each may be lost."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from syncctl.errors import ServiceUnavailable, UsageError
from syncctl.wiring.connections import Connections

if TYPE_CHECKING:
    from syncctl.broker.queue import Broker


def wake_while_possible(connections: Connections, name: str, *, broker: "Broker | None" = None) -> Callable[[], bool]:
    """Return a function that wakes a worker for a stream, and that does nothing more once Redis is missing."""
    given_up = False

    def wake_unless_given_up() -> bool:
        nonlocal given_up
        if given_up:
            return False
        try:
            woken = wake(connections, name, broker=broker)
        except (ServiceUnavailable, UsageError) as error:
            if isinstance(error, ServiceUnavailable) and error.service != "redis":
                raise
            given_up = True
            connections.wake_outage.note(error, stream=name)
            return False
        connections.wake_outage.end()
        return woken

    return wake_unless_given_up


def wake_in_passing(connections: Connections, name: str) -> None:
    """Wake another worker for a stream from a delivery loop, unless Redis does not answer at once, or did not lately.

    The calls and leases of every stream in the loop wait for this. Maintenance sends a message that is not sent here.
    """
    if not connections.redis_rest.is_over:
        return
    started = time.monotonic()
    if not wake_while_possible(connections, name, broker=connections.broker_in_passing)():
        connections.redis_rest.begin(since=started)


def wake(connections: Connections, name: str, *, broker: "Broker | None" = None) -> bool:
    """Make a worker look for due records of a stream; return whether one was woken, or is about to be.

    No message is sent while as many wait as workers have delivery slots: a worker that takes one looks at every stream.

    Args:
        broker: The Redis to look at, with the deadline that suits the caller.

    Raises:
        ServiceUnavailable: Redis cannot be reached.
    """
    connections.stream(name)
    if (broker or connections.broker).count_waiting() < max(1, connections.count_delivery_slots()):
        connections.publish(name)
    return True


def wake_if_due(connections: Connections, name: str) -> int:
    """Wake a worker if records of a stream are due; return how many messages were sent."""
    return int(connections.ledger.records.has_due(name) and wake(connections, name))
