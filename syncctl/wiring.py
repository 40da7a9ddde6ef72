"""From settings to use cases: what tasks and commands call. Everything is connected to when it is first used."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from syncctl.core.stream import Stream
from syncctl.errors import ServiceUnavailable, TroubleFound, UsageError
from syncctl.logs import get_logger

if TYPE_CHECKING:
    from syncctl.broker.queue import Broker
    from syncctl.broker.rate import SharedRate
    from syncctl.core.windows import Sizes
    from syncctl.ledger.ledger import Ledger
    from syncctl.partner.client import PartnerClient
    from syncctl.pipeline.cleanup import Cleaned
    from syncctl.pipeline.deliver import Delivery
    from syncctl.pipeline.poll import Run
    from syncctl.pipeline.replay import Discarded, Replayed
    from syncctl.pipeline.report import By, Report
    from syncctl.pipeline.selection import Selection
    from syncctl.pipeline.status import Failures, Status
    from syncctl.pipeline.upkeep import Upkeep
    from syncctl.settings import Settings

log = get_logger(__name__)

WORKERS_LOOKED_AT_EVERY_SECONDS = 5.0
ALIVE_SECONDS = 20.0
SIGN_OF_LIFE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip:
    """Two numbers that went through the queue and a worker and came back."""

    x: float
    y: float
    sum: float
    round_trip_ms: float
    worker: str


class Services:
    """Everything a use case needs, made from the settings. One per process: connections do not cross a fork.

    Args:
        for_person: Somebody waits at a terminal: ask MongoDB for a sign of life before anything that takes long.
        processes: How many processes or threads of this worker share a partner's `max_in_flight`; None means as many
            as the settings say.
    """

    def __init__(self, settings: "Settings", *, for_person: bool = False, processes: int | None = None) -> None:
        self.settings = settings
        self._processes = processes or settings.worker.concurrency
        self._for_person = for_person
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._clients: dict[str, PartnerClient] = {}
        self._rates: dict[str, SharedRate] = {}
        self._slots: tuple[float, int] = (float("-inf"), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection that was opened."""
        for name in ("ledger", "broker"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for client in self._clients.values():
            client.close()

    @cached_property
    def ledger(self) -> "Ledger":
        """The ledger in MongoDB."""
        from syncctl.ledger.ledger import Ledger

        ledger = Ledger(self.settings.mongo_url, self.settings.mongo_database)
        if self._for_person:
            try:
                ledger.check_reachable(timeout_seconds=SIGN_OF_LIFE_SECONDS)
            except BaseException:
                ledger.close()
                raise
        return ledger

    @cached_property
    def broker(self) -> "Broker":
        """Redis beside Celery."""
        from syncctl.broker.queue import Broker

        return Broker(self.settings.redis_url, prefix=f"{self.settings.redis_prefix}:")

    def partner_client(self, stream: Stream) -> "PartnerClient":
        """Return the client for a stream's calls, kept between batches."""
        from syncctl.partner.client import PartnerClient

        if stream.name not in self._clients:
            partner = self.settings.partner(stream.partner)
            threads = self.sizes(stream).threads
            self._clients[stream.name] = PartnerClient(partner, stream, max_connections=threads)
        return self._clients[stream.name]

    def sizes(self, stream: Stream) -> "Sizes":
        """Return how much of this stream may be on its way."""
        from syncctl.core.windows import decide_sizes, decide_slots

        partner = self.settings.partner(stream.partner)
        slots = decide_slots(concurrency=self._processes, partners=1, max_in_flight=partner.max_in_flight)
        return decide_sizes(stream, partner, processes=slots.all, streams=len(self.settings.stream_names))

    # The way of a row.

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
        """Queue what is due of one stream; see `pipeline.dispatch.dispatch_stream`."""
        from dataclasses import replace

        from syncctl.pipeline.dispatch import dispatch_stream

        self.ledger.ensure_prepared()
        stream = self.settings.stream(name)
        sizes = self.sizes(stream)
        slots = min(self._count_slots(), self.settings.partner(stream.partner).max_in_flight)
        if slots:
            # More than the live workers can take in hand would only wait in Redis while its leases run.
            window = min(sizes.window, slots * sizes.batch)
            sizes = replace(sizes, window=window, retries=max(1, window // 2))
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
            workers = self.ledger.journal.load_workers(alive_seconds=ALIVE_SECONDS)
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
        from syncctl.partner.batch import send_batch
        from syncctl.pipeline.deliver import deliver_batch

        stream = self.settings.stream(name)
        return deliver_batch(
            ledger=self.ledger,
            stream=stream,
            partner=self.settings.partner(stream.partner),
            client=self.partner_client(stream),
            send_batch=send_batch,
            sizes=self.sizes(stream),
            wait_for_turn=self._wait_for_turn(stream),
            token=token,
            ids=ids,
            worker=self.worker,
            should_stop=should_stop,
        )

    def _wait_for_turn(self, stream: Stream) -> Callable[[Callable[[], bool]], bool]:
        """Return what waits for the partner's rate; it says no when Redis, which keeps the rate, is away."""
        from syncctl.broker.rate import SharedRate

        partner = self.settings.partner(stream.partner)
        if partner.rate is None:
            return lambda may_wait: may_wait()
        if partner.name not in self._rates:
            calls, seconds = partner.rate
            url, prefix = self.settings.redis_url, f"{self.settings.redis_prefix}:"
            self._rates[partner.name] = SharedRate(url, prefix=prefix, name=partner.name, calls=calls, seconds=seconds)
        return self._rates[partner.name].wait

    def put_back(self, token: str, ids: Sequence[str]) -> int:
        """Put a queued batch back that this worker cannot take in hand."""
        return self.ledger.flights.unqueue(ids, batch=token)

    def keep_up(self) -> "list[Upkeep]":
        """Do every stream's upkeep. A Redis that is away is logged: what is due stays due."""
        from syncctl.pipeline.upkeep import keep_up

        self.ledger.ensure_prepared()
        done: list[Upkeep] = []
        for name in self.settings.stream_names:
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
    def chore(self, name: str, *, seconds: float) -> Iterator[bool]:
        """Hold one of Beat's chores; False when another worker is at it, or it rests.

        A chore rests nine times as long as it took, so that it never takes more than a tenth of anybody's time.
        """
        mine = self.ledger.journal.acquire_chore(name, seconds=seconds)
        started = time.monotonic()
        try:
            yield mine
        finally:
            if mine:
                self.ledger.journal.release_chore(name, rest_seconds=9 * (time.monotonic() - started))

    # What operators ask for.

    def prepare_ledger(self) -> list[str]:
        """Create the ledger's indexes; return the names of those that were missing."""
        return self.ledger.prepare()

    def add(self, x: float, y: float, *, timeout_seconds: float) -> RoundTrip:
        """Send two numbers through the queue and a worker and back; the error names the hop that broke.

        Raises:
            ServiceUnavailable: The broker, the worker or the result did not answer within `timeout_seconds`.
        """
        from syncctl.broker.round_trip import add_through_queue
        from syncctl.celery_app import app

        return RoundTrip(**add_through_queue(app, self.broker, x, y, timeout_seconds=timeout_seconds))

    def replay(
        self,
        selection: "Selection",
        *,
        dry_run: bool = False,
        who: str,
        replayed_ids: list[str] | None = None,
    ) -> "Replayed":
        """Send finished records again; see `pipeline.replay.replay_records`."""
        from syncctl.pipeline.replay import replay_records

        streams = {name: self.settings.stream(name) for name in self.settings.stream_names}
        done = replay_records(
            ledger=self.ledger,
            selection=selection,
            streams=streams,
            who=who,
            dry_run=dry_run,
            replayed_ids=replayed_ids,
        )
        if done.replayed and not dry_run:
            for name in selection.streams or self.settings.stream_names:
                if name in streams:
                    self._dispatch_while_polling(name)()
        return done

    def unfinished(self, ids: Sequence[str]) -> int:
        """Return how many of these records are still on their way."""
        return self.ledger.records.count_unfinished(ids)

    def discard(self, selection: "Selection", *, reason: str, dry_run: bool = False, who: str) -> "Discarded":
        """Give records up; see `pipeline.replay.discard_records`."""
        from syncctl.pipeline.replay import discard_records

        return discard_records(ledger=self.ledger, selection=selection, reason=reason, who=who, dry_run=dry_run)

    def cleanup(
        self,
        *,
        dry_run: bool = False,
        older_than_seconds: Mapping[str, float] | None = None,
        streams: Sequence[str] = (),
        who: str,
    ) -> "Cleaned":
        """Remove what the retention no longer keeps; see `pipeline.cleanup.clean_up`."""
        from syncctl.pipeline.cleanup import clean_up

        kept = self.settings.retention
        ages = older_than_seconds or {
            "delivered": kept.delivered,
            "failed": kept.failed,
            "superseded": kept.superseded,
            "discarded": kept.discarded,
        }
        return clean_up(ledger=self.ledger, retention_seconds=ages, streams=streams, who=who, dry_run=dry_run)

    def report(
        self, since: datetime, until: datetime | None = None, by: "By" = "hour", streams: Sequence[str] = ()
    ) -> "Report":
        """Tell what happened; see `pipeline.report.build_report`."""
        from syncctl.pipeline.report import build_report

        return build_report(ledger=self.ledger, since=since, until=until, by=by, streams=streams)

    def status(self) -> "Status":
        """Tell where everything stands; a Redis that is away leaves `queue.messages` null."""
        from syncctl.pipeline.status import read_status

        self.ledger.ensure_prepared()
        try:
            messages: int | None = self.broker.count_waiting()
        except ServiceUnavailable as error:
            log.warning("status.without_redis", error=str(error))
            messages = None
        return read_status(ledger=self.ledger, configured=self.settings.stream_names, messages=messages)

    def failures(
        self,
        streams: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
    ) -> "Failures":
        """Group failed records by their error."""
        from syncctl.pipeline.status import group_failures

        return group_failures(ledger=self.ledger, streams=streams, since=since, until=until, limit=limit)

    def show(self, id_or_stream: str, key: str | None = None) -> list[dict[str, Any]]:
        """Return a record by its id, or every version of a row by stream and key (`5`, or `a=1,b=2`).

        Raises:
            TroubleFound: There is none.
            UsageError: The key does not have the stream's columns.
        """
        from syncctl.pipeline.status import show_records

        if key is None:
            return show_records(ledger=self.ledger, record_id=id_or_stream)
        names = self.ledger.keys.column_names(id_or_stream)
        if not names:
            raise TroubleFound(
                f"the ledger knows no row of {id_or_stream}",
                why="it was never polled",
                hint=f"syncctl poll {id_or_stream} --once",
            )
        error: TroubleFound | None = None
        for each in read_key(key, names):
            try:
                return show_records(ledger=self.ledger, stream=id_or_stream, key=each)
            except TroubleFound as caught:
                error = error or caught
        assert error is not None  # noqa: S101 - read_key gives at least one reading
        raise error

    def pause(self, streams: Sequence[str], *, who: str, reason: str) -> int:
        """Stop sending these streams' records; return how many streams."""
        names = streams or self.settings.stream_names
        for name in names:
            self.ledger.streams.pause(name, who=who, reason=reason)
        self.ledger.journal.note_audit(
            action="pause", who=who, count=len(names), detail={"streams": list(names), "reason": reason}
        )
        return len(names)

    def resume(self, streams: Sequence[str], *, who: str) -> int:
        """Send these streams' records again; return how many were paused."""
        names = streams or self.settings.stream_names
        resumed = sum(self.ledger.streams.resume(name) for name in names)
        self.ledger.journal.note_audit(action="resume", who=who, count=resumed, detail={"streams": list(names)})
        for name in names:
            if name in self.settings.stream_names:
                self._dispatch_while_polling(name)()
        return resumed


def read_key(text: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the keys that a text may mean: its values as whole numbers, as text, as decimals.

    Raises:
        UsageError: It does not name the stream's key columns.
    """
    pairs = [part.partition("=") for part in text.split(",")] if "=" in text else []
    values = {name.strip(): value.strip() for name, _, value in pairs} or {names[0]: text}
    if sorted(values) != sorted(names):
        shown = ",".join(f"{name}=…" for name in names)
        raise UsageError(
            f"{text} is not a key of this stream",
            why=f"its key columns are {', '.join(names)}",
            hint=f"write {shown}",
        )
    for read in (_whole, str, _decimal):
        yield {name: read(value) for name, value in values.items()}


def _whole(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _decimal(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def open_services(settings: "Settings") -> Services:
    """Return the services of one command, for these settings; use it as a context manager."""
    return Services(settings, for_person=True)
