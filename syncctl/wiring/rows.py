"""The way of a row: what workers and Beat have done."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from syncctl.core.stream import Stream
from syncctl.errors import ServiceUnavailable, UsageError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections

if TYPE_CHECKING:
    from syncctl.broker.rate import SharedRate
    from syncctl.pipeline.deliver import Delivery
    from syncctl.pipeline.maintenance import Upkeep
    from syncctl.pipeline.poll import Run

log = get_logger(__name__)

WORKERS_LOOKED_AT_EVERY_SECONDS = 5.0


class RowServices(Connections):
    """Poll, dispatch, deliver, upkeep and the chores of Beat."""

    def poll(self, name: str, *, tick: bool = False, should_stop: Callable[[], bool] = lambda: False) -> "Run":
        """Poll one stream; see `pipeline.poll.poll_stream`."""
        from syncctl.pipeline.poll import poll_stream
        from syncctl.sources import open_reader

        stream = self.settings.stream(name)
        source = self.settings.source(stream.source)
        return poll_stream(
            ledger=self.ledger,
            stream=stream,
            open_reader=lambda each: open_reader(source, each),
            dispatch=self._dispatch_while_polling(name),
            worker=self.worker,
            tick=tick,
            should_stop=should_stop,
        )

    def _dispatch_while_polling(self, name: str) -> Callable[[], int]:
        """Return a dispatch that gives up for the rest of a poll once Redis, or the partner's setting, is missing."""
        given_up: list[str] = []

        def dispatch() -> int:
            if given_up:
                return 0
            try:
                return self.dispatch(name)
            except (ServiceUnavailable, UsageError) as error:
                if isinstance(error, ServiceUnavailable) and error.service != "redis":
                    raise
                given_up.append(str(error))
                log.warning("dispatch.failed", stream=name, error=str(error))
                return 0

        return dispatch

    def dispatch(self, name: str) -> int:
        """Queue what is due of one stream; see `pipeline.dispatch.dispatch_stream`.

        Under a slow rate nothing is queued before its next permit is near, and then the partner's streams are asked in
        random order: otherwise the stream that always asks first would take all permits.
        """
        self.ledger.ensure_prepared()
        stream = self.settings.stream(name)
        rate = self._find_rate(stream)
        if rate is None or not rate.is_slow:
            return self._dispatch(stream)
        if not rate.is_permit_near():
            return 0
        streams = self.settings.streams
        names = [each for each in self.settings.stream_names if streams[each].partner == stream.partner]
        for each in random.sample(names, len(names)):
            if queued := self._dispatch(self.settings.stream(each)):
                return queued if each == name else 0
        return 0

    def _dispatch(self, stream: Stream) -> int:
        from dataclasses import replace

        from syncctl.core.windows import shorten_batch
        from syncctl.pipeline.dispatch import dispatch_stream

        sizes = self.sizes(stream)
        slots = min(self._count_slots(), self.settings.partner(stream.partner).max_in_flight)
        if slots:
            # More than the live workers can take in hand would only wait in Redis while its leases run.
            window = min(sizes.window, slots * sizes.batch)
            sizes = replace(sizes, window=window, retries=max(1, window // 2))
        sizes = shorten_batch(sizes, stream, self.settings.partner(stream.partner).rate)
        return dispatch_stream(
            ledger=self.ledger,
            stream=stream,
            sizes=sizes,
            publish=self.publish,
            messages_waiting=self.broker.count_waiting,
            worker=self.worker,
        )

    def _count_slots(self) -> int:
        """Return how many batches of a stream the live workers deliver at once; 0 when none is known."""
        looked_at, slots = self._slots
        if time.monotonic() - looked_at > WORKERS_LOOKED_AT_EVERY_SECONDS:
            workers = self.ledger.journal.load_workers()
            slots = sum(int(each.get("slots", 0)) for each in workers)
            self._slots = (time.monotonic(), slots)
        return slots

    def publish(self, stream: str, token: str, ids: Sequence[str]) -> None:
        """Send the wake-up for one batch; ids only, never a payload."""
        from kombu.exceptions import OperationalError

        from syncctl.broker.queue import DELIVER, unavailable
        from syncctl.celery_app import app

        try:
            app.send_task("syncctl.deliver", args=[stream, token, list(ids)], queue=DELIVER, ignore_result=True)
        except (OperationalError, OSError) as error:
            raise unavailable(self.settings.redis_url, error) from error

    def deliver(
        self, name: str, token: str, ids: Sequence[str], *, should_stop: Callable[[], bool] = lambda: False
    ) -> "Delivery":
        """Deliver one batch; see `pipeline.deliver.deliver_batch`."""
        from dataclasses import replace

        from syncctl.partner.batch import send_batch
        from syncctl.pipeline.deliver import deliver_batch

        stream = self.settings.stream(name)
        rate = self._find_rate(stream)
        permits = rate.permits() if rate is not None else None
        delivery = deliver_batch(
            ledger=self.ledger,
            stream=stream,
            partner=self.settings.partner(stream.partner),
            client=self.partner_client(stream),
            send_batch=send_batch,
            sizes=self.sizes(stream),
            wait_for_permit=permits.wait if permits is not None else lambda may_wait: may_wait(),
            token=token,
            ids=ids,
            worker=self.worker,
            should_stop=should_stop,
        )
        # More would be queued only to wait as well: upkeep asks again, and others' batches do at their end.
        return replace(delivery, waits=delivery.waits or (permits is not None and permits.given_up))

    def _find_rate(self, stream: Stream) -> "SharedRate | None":
        """Return the partner's rate, which Redis keeps; None where it has none."""
        from syncctl.broker.rate import SharedRate

        partner = self.settings.partner(stream.partner)
        if partner.rate is None:
            return None
        if partner.name not in self._rates:
            calls, seconds = partner.rate
            url, prefix = self.settings.redis_url, f"{self.settings.redis_prefix}:"
            self._rates[partner.name] = SharedRate(url, prefix=prefix, name=partner.name, calls=calls, seconds=seconds)
        return self._rates[partner.name]

    def put_back(self, stream: str, token: str, ids: Sequence[str]) -> int:
        """Put a queued batch back that this worker cannot take in hand."""
        self.ledger.breakers.release_probe(stream, token=token)
        return self.ledger.delivery_states.unqueue(ids, batch=token)

    def keep_up(self) -> "list[Upkeep]":
        """Do every stream's upkeep. A Redis that is away is logged: what is due stays due.

        In any order: what a partner's limits leave is else always taken by the first.
        """
        from syncctl.pipeline.maintenance import keep_up

        self.ledger.ensure_prepared()
        done: list[Upkeep] = []
        for name in random.sample(self.settings.stream_names, len(self.settings.stream_names)):
            stream = self.settings.stream(name)
            try:
                settle_seconds = self.settings.partner(stream.partner).timeout_seconds
                done.append(
                    keep_up(
                        ledger=self.ledger,
                        stream=stream,
                        settle_seconds=settle_seconds,
                        messages_waiting=self.broker.count_waiting,
                        dispatch=lambda name=name: self.dispatch(name),  # type: ignore[misc]
                    )
                )
            except ServiceUnavailable as error:
                if error.service != "redis":
                    raise
                log.warning("upkeep.without_redis", stream=name, error=str(error))
            except UsageError as error:
                log.warning("upkeep.misconfigured", stream=name, error=str(error))
        return done

    def roll_up(self) -> int:
        """Roll the open hours up."""
        from syncctl.pipeline.roll_up import roll_up

        return roll_up(ledger=self.ledger)

    @contextmanager
    def maintenance_lease(self, name: str, *, seconds: float) -> Iterator[bool]:
        """Hold one of Beat's chores; False when another worker is at it, or it rests.

        A maintenance job rests nine times as long as it took, so it takes at most a tenth of a worker's time.
        """
        mine = self.ledger.journal.acquire_maintenance(name, seconds=seconds)
        started = time.monotonic()
        try:
            yield mine
        finally:
            if mine:
                self.ledger.journal.release_maintenance(name, rest_seconds=9 * (time.monotonic() - started))
