"""The steps of a row's path, as workers and Beat run them: poll, deliver, maintenance."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from syncctl.errors import ConfigurationError, ServiceUnavailable, UsageError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections
from syncctl.wiring.wake_ups import wake_if_due, wake_in_passing, wake_while_possible

if TYPE_CHECKING:
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
