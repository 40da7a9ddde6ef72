"""The requests of commands that need more than one pipeline function, or more than the ledger."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncctl.errors import ServiceUnavailable
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections
from syncctl.wiring.wake_ups import wake_while_possible

if TYPE_CHECKING:
    from syncctl.core.rows import Row, Value
    from syncctl.core.stream import Stream
    from syncctl.pipeline.inspection.preview import Preview, RequestPreviewer
    from syncctl.pipeline.inspection.row_comparison import Comparison
    from syncctl.pipeline.monitoring.health import Health
    from syncctl.pipeline.monitoring.obstacles import StreamPlan
    from syncctl.pipeline.monitoring.status import Status
    from syncctl.pipeline.monitoring.watch import Activity
    from syncctl.pipeline.operations.reconcile import Reconciliation
    from syncctl.pipeline.operations.replay import Replayed
    from syncctl.pipeline.operations.rewind import Plan
    from syncctl.pipeline.operations.send import Sent
    from syncctl.pipeline.pause import PauseScope, Resumed
    from syncctl.pipeline.selection import Selection
    from syncctl.settings import Settings

log = get_logger(__name__)

SOON_SECONDS = 5.0
"""How long `show` waits for a source."""
PROOF_SECONDS = 1.0
"""How long a service has for a sign of life, while a person looks at old figures."""


def open_connections(settings: "Settings") -> Connections:
    """Return the connections of one command; use them as a context manager."""
    return Connections(settings, for_person=True)


def read_status(connections: Connections) -> "Status":
    """Return the current state of everything; `queue.error` says why Redis cannot be used."""
    from syncctl.pipeline.monitoring import status
    from syncctl.settings.describe import fingerprint_settings
    from syncctl.wiring.alerts import list_channel_names

    messages: int | None = None
    redis_error = None
    try:
        messages = connections.broker.count_waiting()
        connections.broker.prove_usable()
    except ServiceUnavailable as error:
        redis_error = str(error)
    settings = connections.settings
    return status.read_status(
        ledger=connections.prepared_ledger,
        configured={name: plan_stream(settings, name) for name in settings.stream_names},
        messages=messages,
        redis_error=redis_error,
        maintained_every=list_maintenance(settings),
        # Older settings than those of the files say nothing about a worker or Beat.
        settings=None if settings.layers.list_changed_files() else fingerprint_settings(settings),
        alert_channels=list_channel_names(settings),
    )


def prove_answering(connections: Connections, *, redis: bool = False) -> None:
    """Ask MongoDB, and Redis too if wanted, for a sign of life within a second each.

    Raises:
        ServiceUnavailable: One of them gives none.
    """
    from syncctl.broker.queue import Broker

    connections.ledger.check_reachable(timeout_seconds=PROOF_SECONDS)
    if redis:
        settings = connections.settings
        with Broker(settings.redis_url, prefix=settings.redis_namespace, timeout_seconds=PROOF_SECONDS) as broker:
            broker.count_waiting()


def read_health(connections: Connections, *, roles: tuple[str, ...], max_age_seconds: float) -> "Health":
    """Return whether a process of one of these roles runs on this machine.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached; or there is none, and Redis cannot be used: a worker that starts
            waits for Redis before its first heartbeat.
    """
    from syncctl.pipeline.monitoring import health

    result = health.read_health(
        ledger=connections.ledger, host=socket.gethostname(), roles=roles, max_age_seconds=max_age_seconds
    )
    if not result.ok:
        connections.broker.prove_usable()
    return result


def read_watched(connections: Connections) -> "tuple[Status, Activity]":
    """Return the current state of everything, and the current activity."""
    from syncctl.pipeline.monitoring.watch import read_activity

    status = read_status(connections)
    counts = {stream["stream"]: stream["counts"] for stream in status.streams}
    troubled = [name for name, count in counts.items() if count["failed"] or count["retrying"]]
    return status, read_activity(ledger=connections.ledger, names=list(counts), troubled=troubled)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutdatedWorker:
    """A live worker that does not send as a worker that starts now would."""

    name: str
    #: The difference, as the end of a sentence.
    difference: str


def find_outdated_workers(connections: Connections) -> list[OutdatedWorker]:
    """Return the live workers whose settings, schema or version of syncctl differ from this process's."""
    from syncctl import __version__
    from syncctl.ledger.migrations import VERSION
    from syncctl.pipeline.monitoring.status import differs_from
    from syncctl.settings.describe import fingerprint_settings

    settings = fingerprint_settings(connections.settings)
    outdated = []
    for worker in connections.ledger.heartbeats.load_workers():
        version = worker.get("version", __version__)
        if differs_from(settings, worker):
            difference = "runs with settings or a schema that differ from the present ones"
        elif version != __version__:
            difference = f"runs syncctl {version}, and this is {__version__}"
        elif worker.get("ledger", 0) != VERSION:
            difference = f"knows version {worker.get('ledger', 0)} of the ledger, and this is {VERSION}"
        else:
            continue
        outdated.append(OutdatedWorker(name=str(worker["_id"]), difference=difference))
    return outdated


def plan_stream(settings: "Settings", name: str) -> "StreamPlan":
    """Return the plan of a stream that the settings describe; reads no secret."""
    from syncctl.core.durations import parse_rate
    from syncctl.pipeline.monitoring.obstacles import StreamPlan

    stream = settings.streams[name]
    partner = settings.partners[stream.partner]
    return StreamPlan(
        partner=stream.partner,
        poll_every_seconds=stream.poll_every,
        rate=parse_rate(partner.rate) if partner.rate else None,
        max_in_flight=partner.max_in_flight,
        acknowledges_failed=stream.acknowledge_failed is not None,
        table=stream.table,
        source=stream.source,
        written_columns=tuple(stream.write_back),
        after={other: plan_stream(settings, other) for other in stream.after},
        quiet_hours=settings.stream(name).quiet_hours,
    )


def list_maintenance(settings: "Settings") -> dict[str, float]:
    """Return how often each of Beat's jobs is due, in seconds."""
    beat = settings.beat
    return {"upkeep": beat.upkeep_every, "roll_up": beat.roll_up_every, "cleanup": beat.cleanup_every}


def list_partners_of_streams(settings: "Settings") -> dict[str, str]:
    """Return the partner of each configured stream."""
    return {name: settings.streams[name].partner for name in settings.stream_names}


def retention_seconds(settings: "Settings") -> dict[str, float]:
    """Return how long finished records are kept, by state."""
    kept = settings.retention
    return {
        "delivered": kept.delivered,
        "failed": kept.failed,
        "superseded": kept.superseded,
        "discarded": kept.discarded,
    }


def replay(
    connections: Connections,
    selection: "Selection",
    *,
    who: str,
    dry_run: bool = False,
    new_key: bool = False,
    replayed_ids: list[str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[int], None] = lambda _: None,
) -> "Replayed":
    """Make finished records due again, and dispatch them; see `pipeline.operations.replay.replay_records`."""
    from syncctl.pipeline.operations.replay import replay_records

    settings = connections.settings
    streams = {name: connections.stream(name) for name in settings.stream_names}
    done = replay_records(
        ledger=connections.prepared_ledger,
        selection=selection,
        streams=streams,
        who=who,
        dry_run=dry_run,
        new_key=new_key,
        replayed_ids=replayed_ids,
        should_stop=should_stop,
        show=show,
    )
    if done.replayed and not dry_run:
        for name in selection.streams or settings.stream_names:
            if name in streams:
                wake_while_possible(connections, name)()
    return done


def send_row(
    connections: Connections,
    name: str,
    key: str,
    *,
    who: str,
    show: Callable[[str], object],
    should_stop: Callable[[], bool],
    again: bool = False,
    force: bool = False,
    timeout_seconds: float,
) -> "Sent":
    """Read one row now, log it and send it; see `pipeline.operations.send.RowSending`."""
    from syncctl.pipeline.operations.send import RowSending
    from syncctl.sources.reader import StreamReader

    stream = connections.stream(name)
    sending = RowSending(
        ledger=connections.prepared_ledger,
        stream=stream,
        partner=connections.partner(stream.partner),
        worker=connections.worker,
        who=who,
        make_setup=lambda: connections.stream_setup(name),
        count_slots=connections.count_delivery_slots,
        show=show,
        should_stop=should_stop,
        again=again,
        force=force,
        timeout_seconds=timeout_seconds,
    )
    with StreamReader(connections.source(stream.source), stream) as reader:
        return sending.run(reader, key)


def resume(
    connections: Connections,
    streams: Sequence[str],
    *,
    partners: Sequence[str] = (),
    scope: "PauseScope | None" = None,
    who: str,
) -> "Resumed":
    """Resume streams and partners, and dispatch their due records; see `pipeline.pause.resume_streams`.

    Args:
        scope: The part that is resumed; None: everything.
    """
    from syncctl.pipeline.pause import EVERYTHING, resume_streams

    return resume_streams(
        ledger=connections.ledger,
        streams=streams,
        partners=partners,
        scope=scope or EVERYTHING,
        configured=list_partners_of_streams(connections.settings),
        wake=lambda name: wake_while_possible(connections, name)(),
        who=who,
    )


def plan_rewind(connections: Connections, name: str, to: str | datetime, *, resend: bool = False) -> "Plan":
    """Find the place to which a stream is to go back; see `pipeline.operations.rewind.plan_rewind`."""
    from syncctl.pipeline.operations import rewind
    from syncctl.sources.reader import StreamReader

    stream = connections.stream(name)
    with StreamReader(connections.source(stream.source), stream) as reader:
        return rewind.plan_rewind(ledger=connections.ledger, stream=stream, reader=reader, to=to, resend=resend)


@contextmanager
def open_reconciliation(
    connections: Connections, name: str, *, since: datetime | None = None, show: Callable[[int], None] = lambda _: None
) -> "Iterator[Reconciliation]":
    """Yield the comparison of a stream's source with the ledger, which can also repair it."""
    from syncctl.pipeline.operations.reconcile import Reconciliation
    from syncctl.pipeline.operations.scratch_database import open_scratch
    from syncctl.sources.reader import StreamReader

    stream, kept = connections.stream(name), connections.settings.retention
    ledger = connections.prepared_ledger
    with open_scratch() as scratch, StreamReader(connections.source(stream.source), stream) as reader:
        yield Reconciliation(
            ledger=ledger,
            stream=stream,
            reader=reader,
            scratch=scratch,
            since=since,
            retention_seconds=min(kept.delivered, kept.failed, kept.discarded),
            wake=wake_while_possible(connections, name),
            worker=connections.worker,
            show=show,
        )


def preview_poll(connections: Connections, name: str, *, limit: int, known: bool = False) -> "list[Preview]":
    """Return the requests of the rows that the next poll of a stream would log; see `pipeline.inspection.preview`."""
    from syncctl.pipeline.inspection.preview import preview_rows
    from syncctl.sources.reader import StreamReader

    stream = connections.stream(name)
    source = connections.source(stream.source)
    with _open_previewer(connections, stream) as previewer:
        return preview_rows(
            ledger=connections.ledger,
            stream=stream,
            open_reader=lambda stream: StreamReader(source, stream),
            previewer=previewer,
            limit=limit,
            known=known,
        )


def preview_records(connections: Connections, id_or_stream: str, key: str | None = None) -> "list[Preview]":
    """Return the requests of records, chosen as by `pipeline.inspection.show.show_records`.

    Raises:
        TroubleFound: There is no such record.
        UsageError: Its stream is no longer configured.
    """
    from syncctl.pipeline.inspection.preview import preview_record
    from syncctl.pipeline.inspection.show import show_records

    previews = []
    settings = connections.settings
    for record in show_records(
        ledger=connections.ledger, id_or_stream=id_or_stream, key=key, configured=settings.streams
    ):
        stream = connections.stream(record["stream"])
        known = connections.ledger.keys.load(stream.name, [record["key_id"]])
        with _open_previewer(connections, stream) as previewer:
            known_key = known.get(record["key_id"])
            previews.append(preview_record(record, stream=stream, key=known_key, previewer=previewer))
    return previews


def compare_row(connections: Connections, record: "Mapping[str, Any]", *, ask_source: bool = True) -> "Comparison":
    """Return how the row of a record differs from its versions; see `pipeline.inspection.show.compare_row`.

    A source that does not answer soon is left out, because a person waits.
    """
    from syncctl.pipeline.inspection import show
    from syncctl.sources.reader import StreamReader

    name = record["stream"]
    stream = connections.stream(name) if name in connections.settings.streams else None
    read_row = None
    if ask_source and stream is not None:

        def read_row(key: "Mapping[str, Value]") -> "Row | None":
            source = connections.source(stream.source)
            source = replace(
                source,
                login_timeout_seconds=min(source.login_timeout_seconds, SOON_SECONDS),
                query_timeout_seconds=min(source.query_timeout_seconds, SOON_SECONDS),
            )
            with StreamReader(source, stream) as reader:
                return next(iter(reader.find_rows([key])), None)

    return show.compare_row(ledger=connections.ledger, stream=stream, record=record, read_row=read_row)


@contextmanager
def _open_previewer(connections: Connections, stream: "Stream") -> "Iterator[RequestPreviewer]":
    from syncctl.partner.client import PartnerClient
    from syncctl.pipeline.inspection.preview import RequestPreviewer

    settings = connections.settings
    client, variable = connections.partner_client(stream), settings.find_secret_name(stream.partner)
    if stream.body_schema is None:
        yield RequestPreviewer(client=client, variable=variable)
        return
    partner = connections.partner(stream.partner)
    unchecked = PartnerClient(partner, replace(stream, body_schema=None))
    try:
        yield RequestPreviewer(client=client, variable=variable, unchecked=unchecked)
    finally:
        unchecked.close()
