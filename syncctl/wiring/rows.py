"""The way of a row, as workers and Beat have it done: poll, dispatch, deliver, maintenance."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from syncctl.core.stream import Stream
from syncctl.errors import ServiceUnavailable, UsageError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections

if TYPE_CHECKING:
    from syncctl.pipeline.deliver import Delivery
    from syncctl.pipeline.maintenance import Maintained
    from syncctl.pipeline.poll import Run

log = get_logger(__name__)


def poll(
    connections: Connections, name: str, *, tick: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> "Run":
    """Poll one stream, and dispatch it after each page; see `pipeline.poll.poll_stream`."""
    from syncctl.pipeline.poll import poll_stream
    from syncctl.sources import open_reader

    stream = connections.settings.stream(name)
    source = connections.settings.source(stream.source)
    return poll_stream(
        ledger=connections.ledger,
        stream=stream,
        open_reader=lambda stream: open_reader(source, stream),
        dispatch=dispatch_while_possible(connections, name),
        worker=connections.worker,
        tick=tick,
        should_stop=should_stop,
    )


def dispatch_while_possible(connections: Connections, name: str) -> Callable[[], int]:
    """Return a dispatch of a stream that does nothing any more once Redis, or a setting of the partner, is missing."""
    given_up = False

    def dispatch_unless_given_up() -> int:
        nonlocal given_up
        if given_up:
            return 0
        try:
            return dispatch(connections, name)
        except (ServiceUnavailable, UsageError) as error:
            if isinstance(error, ServiceUnavailable) and error.service != "redis":
                raise
            given_up = True
            log.warning("dispatch.failed", stream=name, error=str(error))
            return 0

    return dispatch_unless_given_up


def dispatch(connections: Connections, name: str) -> int:
    """Queue the due records of one stream; return how many. See `pipeline.dispatch.dispatch_stream`.

    Under a slow rate nothing is queued before the next permit is near, and then the partner's streams are asked in
    random order: otherwise the stream that always asks first would take all permits.
    """
    connections.ledger.ensure_prepared()
    settings = connections.settings
    stream = settings.stream(name)
    rate = connections.partner_rate(stream)
    if rate is None or not rate.is_slow:
        return _dispatch(connections, stream)
    if not rate.is_permit_near():
        return 0
    names = [other for other in settings.stream_names if settings.streams[other].partner == stream.partner]
    for other in random.sample(names, len(names)):
        if queued := _dispatch(connections, settings.stream(other)):
            return queued if other == name else 0
    return 0


def _dispatch(connections: Connections, stream: Stream) -> int:
    from syncctl.core.windows import shorten_batch
    from syncctl.pipeline.dispatch import dispatch_stream

    sizes = connections.sizes(stream)
    partner = connections.settings.partner(stream.partner)
    slots = min(connections.count_delivery_slots(), partner.max_in_flight)
    if slots:
        # More than the live workers can deliver at once would only wait in Redis while its leases run.
        window = min(sizes.window, slots * sizes.batch)
        sizes = replace(sizes, window=window, retries=max(1, window // 2))
    return dispatch_stream(
        ledger=connections.ledger,
        stream=stream,
        sizes=shorten_batch(sizes, stream, partner.rate),
        publish=connections.publish,
        messages_waiting=connections.broker.count_waiting,
        worker=connections.worker,
    )


def deliver(
    connections: Connections,
    name: str,
    token: str,
    ids: Sequence[str],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> "Delivery":
    """Deliver one batch under the partner's rate; see `pipeline.deliver.deliver_batch`."""
    from syncctl.partner.batch import send_batch
    from syncctl.pipeline.deliver import deliver_batch

    stream = connections.settings.stream(name)
    rate = connections.partner_rate(stream)
    permits = rate.permits() if rate is not None else None
    delivery = deliver_batch(
        ledger=connections.ledger,
        stream=stream,
        partner=connections.settings.partner(stream.partner),
        client=connections.partner_client(stream),
        send_batch=send_batch,
        sizes=connections.sizes(stream),
        wait_for_permit=permits.wait if permits is not None else lambda may_wait: may_wait(),
        token=token,
        ids=ids,
        worker=connections.worker,
        should_stop=should_stop,
    )
    # More records would only wait for a permit as well: maintenance asks for them, and so do other batches' ends.
    return replace(delivery, waits=delivery.waits or (permits is not None and permits.given_up))


def maintain_streams(connections: Connections) -> "list[Maintained]":
    """Do the maintenance of every stream; where Redis is away this is logged, and due records stay due.

    The streams are shuffled: in a fixed order the first would always use up a partner's limit.
    """
    from syncctl.pipeline.maintenance import maintain_stream

    settings = connections.settings
    connections.ledger.ensure_prepared()
    done: list[Maintained] = []
    for name in random.sample(settings.stream_names, len(settings.stream_names)):
        stream = settings.stream(name)
        try:
            done.append(
                maintain_stream(
                    ledger=connections.ledger,
                    stream=stream,
                    settle_seconds=settings.partner(stream.partner).timeout_seconds,
                    messages_waiting=connections.broker.count_waiting,
                    dispatch=lambda name=name: dispatch(connections, name),  # type: ignore[misc]
                )
            )
        except ServiceUnavailable as error:
            if error.service != "redis":
                raise
            log.warning("upkeep.without_redis", stream=name, error=str(error))
        except UsageError as error:
            log.warning("upkeep.misconfigured", stream=name, error=str(error))
    return done
