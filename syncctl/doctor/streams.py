"""streams: whether each stream makes progress, and which ones are no longer configured."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncctl.console import format_count
from syncctl.core.durations import format_age
from syncctl.core.stream import Stream
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, warned
from syncctl.doctor.partner import describe_pause
from syncctl.ledger.streams import BODY_LIMIT_SECONDS, read_notes

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services
    from syncctl.ledger.ledger import Ledger

STUCK_SECONDS = 300.0
POLLS_MISSED = 10

_UNFINISHED = ("pending", "retrying", "queued", "sending")


def list_units(services: "Services") -> Sequence[Unit]:
    """Return a check for each stream, and one for those that are no longer configured."""
    units = [
        Unit(name=f"streams {name}", look=lambda name=name: check_stream(services, name), needs=("mongodb",))  # type: ignore[misc]
        for name in services.settings.stream_names
    ]
    return (*units, Unit(name="streams removed", look=lambda: check_removed(services), needs=("mongodb",)))


def check_stream(services: "Services", name: str) -> Finding:
    """Report when a stream was polled, whether it is paused, and whether its backlog shrinks."""
    ledger = services.ledger
    document = ledger.streams.load_all().get(name, {})
    counts = ledger.records.count_states([name])[name]
    now = ledger.streams.server_time()
    poll = _look_at_poll(name, document, now, services.settings.stream(name).poll_every_seconds)
    held, refused = _look_at_held(ledger, name), _look_at_acknowledgements(ledger, name)
    patterns, unknown = _look_at_schema(services.settings.stream(name)), _look_at_unknown(ledger, name)
    sizes = _look_at_sizes(services.settings.stream(name), document, now)
    backlog, notes = _look_at_backlog(name, document, counts, now), _look_at_notes(document)
    return join_findings([poll, *notes, *backlog, *held, *unknown, *refused, *patterns, *sizes])


def _look_at_poll(name: str, document: Mapping[str, Any], now: datetime, every_seconds: float) -> Finding:
    health = document.get("health", {})
    at = health.get("last_poll_at")
    if at is None:
        return warned("never polled", f"run: syncctl poll {name} --once, or let Beat do it: syncctl worker --beat")
    seconds = (now - at).total_seconds()
    age = format_age(seconds)
    if health.get("error"):
        return failed(
            f"its last poll, {age} ago, failed: {health['error']}",
            f"{health.get('hint') or 'run: syncctl doctor source'}; then: syncctl poll {name} --once",
        )
    if seconds > max(STUCK_SECONDS, POLLS_MISSED * every_seconds):
        return warned(f"last polled {age} ago", "make sure that Beat and a worker run: syncctl doctor beat workers")
    return passed(f"polled {age} ago")


def _look_at_notes(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Report what the last poll noted: rows that are passed over until an operator acts."""
    for note in read_notes(document):
        yield warned(note.text, note.hint or "correct the rows in the source; see docs/sources.md")


def _look_at_backlog(
    name: str, document: Mapping[str, Any], counts: Mapping[str, Any], now: datetime
) -> Iterator[Finding]:
    paused = document.get("paused")
    if paused:
        yield warned(describe_pause(paused, now), f"mend the cause; then run: syncctl resume {name}")
    unfinished = sum(counts[state] for state in _UNFINISHED)
    in_flight = counts["queued"] + counts["sending"]
    oldest = (now - counts["oldest_due_at"]).total_seconds() if counts["oldest_due_at"] else 0.0
    if oldest > STUCK_SECONDS and not in_flight and not paused:
        waiting = format_count(unfinished, "record")
        yield warned(
            f"{waiting} to deliver and none is in flight; the oldest has been due for {format_age(oldest)}",
            "make sure that Beat, a worker and Redis run: syncctl doctor beat workers queue",
        )
    elif unfinished:
        yield passed(f"{format_count(unfinished, 'record')} to deliver, {in_flight:,} of them in flight")
    if counts["failed"]:
        yield passed(f"{format_count(counts['failed'], 'failed record')}; see: syncctl failures --stream {name}")


def _look_at_held(ledger: "Ledger", name: str) -> Iterator[Finding]:
    """Report failed records that hold back newer versions of their rows, as order strict requires."""
    holders = ledger.sequencing.count_failed_holders(name)
    if holders:
        held_by = format_count(holders, "failed record")
        yield warned(
            f"newer versions of rows are held by {held_by}; {ledger.sequencing.count(name):,} wait",
            f"see: syncctl failures --stream {name}; then syncctl replay --stream {name} sends them, "
            "and syncctl discard ID --reason TEXT gives one up",
        )


def _look_at_unknown(ledger: "Ledger", name: str) -> Iterator[Finding]:
    """Report records of interrupted polls, which wait for one that finds their rows again, or reads to the end."""
    count = ledger.sequencing.count_for_poll(name)
    if count:
        yield warned(
            f"{format_count(count, 'record')} of an interrupted poll wait for one that reads to the end",
            f"run: syncctl poll {name} --once; if that fails, it says why",
        )


def _look_at_acknowledgements(ledger: "Ledger", name: str) -> Iterator[Finding]:
    """Report rows in mode flag that could not be acknowledged in the source, because their statement fails."""
    refused = ledger.acknowledgements.find_refused(name)
    if refused is not None:
        count, reason = refused
        yield warned(
            f"{format_count(count, 'record')} could not be acknowledged in the source: {reason}",
            "the statement must change the row that it is given, and the login must have the rights that "
            f"streams.{name}.acknowledge needs; it is tried again each minute",
        )


def _look_at_sizes(stream: Stream, document: Mapping[str, Any], now: datetime) -> Iterator[Finding]:
    limit = document.get("too_large")
    if limit is None or (now - limit["at"]).total_seconds() > BODY_LIMIT_SECONDS:
        return
    if stream.batching.size < limit["rows"]:
        return
    rows = max(1, limit["rows"] * limit["at_most"] // limit["bytes"])
    refused = f"{format_count(limit['rows'], 'row')} ({limit['bytes']:,} bytes)"
    yield warned(
        f"a call of {refused} was too large for the partner (413), "
        f"so calls have at most {limit['at_most']:,} bytes for a day",
        f"set streams.{stream.name}.rows_per_call = {rows}, then restart the workers",
    )


def _look_at_schema(stream: Stream) -> Iterator[Finding]:
    """Report patterns of body_schema that can take very long with some values: those rows would fail."""
    if stream.body_schema is None:
        return
    from syncctl.partner.request.row_time import ROW_SECONDS
    from syncctl.partner.request.schema import BodySchema

    schema = BodySchema(Path(stream.body_schema), key=f"streams.{stream.name}.body_schema")
    for pattern in schema.risky_patterns:
        yield warned(
            f"the pattern {pattern} of body_schema repeats a repeat: with some values it takes longer than the "
            f"{ROW_SECONDS:g} s that a row has, and those rows fail",
            f"rewrite it without a repeat in a repeat, as (a+)+$ is a+$, in {stream.body_schema}",
        )


def check_removed(services: "Services") -> Finding:
    """Report streams that are no longer configured while the ledger still has their records."""
    ledger = services.ledger
    names = sorted(set(ledger.streams.load_all()) - set(services.settings.stream_names))
    if not names:
        return passed("every stream in the ledger is configured")
    counts = ledger.records.count_states(names)
    lines = []
    for name in names:
        unfinished = sum(counts[name][state] for state in _UNFINISHED)
        lines.append(f"{name} is no longer configured; {format_count(unfinished, 'record')} not delivered")
    return warned(
        "\n".join(lines),
        f"restore [streams.{names[0]}] in syncctl.toml to deliver them",
    )
