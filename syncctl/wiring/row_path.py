"""The steps of a row's path, as workers and Beat run them: poll, wake, deliver, maintenance."""

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from syncctl.errors import ConfigurationError, ServiceUnavailable, UsageError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections

if TYPE_CHECKING:
    from syncctl.broker.queue import Broker
    from syncctl.pipeline.maintenance.maintenance import Maintained
    from syncctl.pipeline.polling.poll import Run

log = get_logger(__name__)


def poll(
    connections: Connections, name: str, *, tick: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> "Run":
    """Poll one stream, and wake a worker after each page; see `pipeline.polling.poll.poll_stream`."""
    from syncctl.pipeline.polling.poll import poll_stream
    from syncctl.sources.reader import StreamReader

    try:
        stream = connections.stream(name)
        source = connections.source(stream.source)
    except ConfigurationError as error:
        connections.prepared_ledger.streams.note_poll_error(name, str(error), hint=error.hint)
        raise
    return poll_stream(
        ledger=connections.prepared_ledger,
        stream=stream,
        open_reader=lambda stream: StreamReader(source, stream),
        wake=wake_while_possible(connections, name),
        worker=connections.worker,
        tick=tick,
        should_stop=should_stop,
    )


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


def deliver(
    connections: Connections,
    name: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    seconds: float = float("inf"),
) -> dict[str, dict[str, int]]:
    """Deliver due records of every stream, beginning with one; see `pipeline.delivery.deliver.DeliveryLoop`."""
    from syncctl.pipeline.delivery.deliver import DeliveryLoop

    loop = DeliveryLoop(
        ledger=connections.prepared_ledger,
        streams={stream: connections.stream(stream) for stream in connections.settings.stream_names},
        partners=connections.callable_partners,
        make_setup=connections.stream_setup,
        worker=connections.worker,
        is_stopping=should_stop,
        count_slots=connections.count_delivery_slots,
        wake=lambda stream: wake_in_passing(connections, stream),
        seconds=seconds,
    )
    return loop.run(name)


def maintain_streams(
    connections: Connections, *, should_stop: Callable[[], bool] = lambda: False
) -> "list[Maintained]":
    """Do the maintenance of every stream; if Redis is away, this is logged, and due records stay due.

    The streams are shuffled: in a fixed order the first would always use up a partner's limit.

    Args:
        should_stop: Asked between streams.
    """
    from syncctl.pipeline.maintenance.maintenance import maintain_stream

    names = connections.settings.stream_names
    done: list[Maintained] = []
    for name in random.sample(names, len(names)):
        if should_stop():
            break
        stream = connections.stream(name)
        try:
            done.append(
                maintain_stream(
                    ledger=connections.prepared_ledger,
                    stream=stream,
                    partner=connections.partner(stream.partner),
                    wake=lambda name=name: wake_if_due(connections, name),  # type: ignore[misc]
                )
            )
        except ServiceUnavailable as error:
            if error.service != "redis":
                raise
            connections.wake_outage.note(error, stream=name)
        except UsageError as error:
            log.warning("upkeep.misconfigured", stream=name, error=str(error))
    return done
