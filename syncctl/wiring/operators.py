"""What operators ask for, from a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from syncctl.errors import ServiceUnavailable, TroubleFound, UsageError
from syncctl.logs import get_logger
from syncctl.wiring.rows import RowServices

if TYPE_CHECKING:
    from syncctl.pipeline.cleanup import Cleaned
    from syncctl.pipeline.replay import Discarded, Replayed
    from syncctl.pipeline.report import By, Report
    from syncctl.pipeline.selection import Selection
    from syncctl.pipeline.status import Failures, Status
    from syncctl.sources.catalog import Survey

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip:
    """Two numbers that went through the queue and a worker and came back."""

    x: float
    y: float
    sum: float
    round_trip_ms: float
    worker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """The streams and partners that had been paused, or counted as down, until now."""

    streams: tuple[str, ...]
    partners: tuple[str, ...]


class OperatorServices(RowServices):
    """What a command does beyond the way of a row: it shows, changes and repairs."""

    def prepare_ledger(self) -> list[str]:
        """Create the ledger's indexes; return the names of those that were missing."""
        return self.ledger.prepare()

    def add(self, x: float, y: float, *, timeout_seconds: float) -> RoundTrip:
        """Send two numbers through the queue and a worker and back; the error names the hop that broke.

        Raises:
            ServiceUnavailable: The broker, the worker or the result did not answer within `timeout_seconds`.
        """
        from syncctl.broker.queue import add_through_queue
        from syncctl.celery_app import app

        return RoundTrip(**add_through_queue(app, self.broker, x, y, timeout_seconds=timeout_seconds))

    def inspect(self, source: str = "default", table: str | None = None, *, key: Sequence[str] = ()) -> "Survey":
        """Look at the tables of a source, or at one of them; see `sources.survey.survey_source`."""
        from syncctl.sources.catalog import survey_source

        return survey_source(self.settings.source(source), table, key)

    def replay(
        self,
        selection: "Selection",
        *,
        dry_run: bool = False,
        who: str,
        new_key: bool = False,
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
            new_key=new_key,
            replayed_ids=replayed_ids,
        )
        if done.replayed and not dry_run:
            for name in selection.streams or self.settings.stream_names:
                if name in streams:
                    self._dispatch_while_polling(name)()
        return done

    def count_by_state(self, ids: Sequence[str]) -> dict[str, int]:
        """Return how many of these records are in which state."""
        return self.ledger.records.count_by_state(ids)

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
        from syncctl.wiring.settings_fingerprint import fingerprint_settings

        self.ledger.ensure_prepared()
        try:
            messages: int | None = self.broker.count_waiting()
        except ServiceUnavailable as error:
            log.warning("status.without_redis", error=str(error))
            messages = None
        return read_status(
            ledger=self.ledger,
            configured=self._partners_of_streams(),
            messages=messages,
            settings=fingerprint_settings(self.settings),
        )

    def _partners_of_streams(self) -> dict[str, str]:
        return {name: self.settings.streams[name].partner for name in self.settings.stream_names}

    def failures(
        self,
        streams: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
    ) -> "Failures":
        """Bulk failed records by their error."""
        from syncctl.pipeline.status import group_failures

        return group_failures(ledger=self.ledger, streams=streams, since=since, until=until, limit=limit)

    def show(self, id_or_stream: str, key: str | None = None) -> list[dict[str, Any]]:
        """Return a record by its id, or every version of a row by stream and key (`5`, or `a=1,b=2`).

        Raises:
            TroubleFound: There is none.
            UsageError: The key does not have the stream's columns, or a stream stands without a key.
        """
        from syncctl.pipeline.status import show_records

        if key is None:
            if id_or_stream in self.settings.streams or id_or_stream in self.ledger.streams.load_all():
                raise UsageError(
                    f"{id_or_stream} is a stream, and a key is missing",
                    why="a record is shown by its id, or by its stream and the key of its row",
                    hint=f"write for example syncctl show {id_or_stream} 5",
                )
            return show_records(ledger=self.ledger, record_id=id_or_stream)
        names = self.ledger.keys.column_names(id_or_stream) or self.ledger.records.column_names(id_or_stream)
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

    def pause(self, streams: Sequence[str], *, partners: Sequence[str] = (), who: str, reason: str) -> None:
        """Stop sending these streams' records, and call these partners no more."""
        for name in streams:
            self.ledger.streams.pause(name, who=who, reason=reason)
        for name in partners:
            self.ledger.partners.pause(name, who=who, reason=reason)
        detail = {"streams": list(streams), "partners": list(partners), "reason": reason}
        self.ledger.journal.note_audit(action="pause", who=who, count=len(streams) + len(partners), detail=detail)

    def resume(self, streams: Sequence[str], *, partners: Sequence[str] = (), who: str) -> Resumed:
        """Send these streams' records again, and call these partners again, also those that count as down."""
        again = {
            name: partner
            for name, partner in self._partners_of_streams().items()
            if name in streams or partner in partners
        }
        down = {name for name in again if self.ledger.breakers.reset(name)}
        paused = {name for name in streams if self.ledger.streams.resume(name)}
        refused = {name for name in partners if self.ledger.partners.resume(name)}
        detail = {"streams": list(streams), "partners": list(partners)}
        count = len(down | paused) + len(refused)
        self.ledger.journal.note_audit(action="resume", who=who, count=count, detail=detail)
        for name in again:
            self._dispatch_while_polling(name)()
        back = refused | {again[name] for name in down}
        return Resumed(
            streams=tuple(name for name in streams if name in paused | down),
            partners=tuple(name for name in partners if name in back),
        )


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
