"""streams: whether each stream makes progress, and which ones are no longer configured."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncctl.console import format_count
from syncctl.core.durations import format_age
from syncctl.core.states import UNFINISHED_COUNTS
from syncctl.core.stream import Stream
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, warned
from syncctl.ledger.streams import BODY_LIMIT_SECONDS
from syncctl.pipeline.monitoring.obstacles import Obstacle, StreamFacts, find_obstacles, gather_facts
from syncctl.wiring.use_cases import plan_stream

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services


def list_units(services: "Services") -> Sequence[Unit]:
    """Return a check for each stream, and one for those that are no longer configured."""
    units = [
        Unit(name=f"streams {name}", look=lambda name=name: check_stream(services, name), needs=("mongodb",))  # type: ignore[misc]
        for name in services.settings.stream_names
    ]
    return (*units, Unit(name="streams removed", look=lambda: check_removed(services), needs=("mongodb",)))


def check_stream(services: "Services", name: str) -> Finding:
    """Report when a stream was polled, how many records it has to deliver, and each obstacle that holds it."""
    ledger = services.ledger
    facts = gather_facts(
        ledger,
        {name: plan_stream(services.settings, name)},
        documents=ledger.streams.load_all([name]),
        partners=ledger.partners.load_all(),
        now=ledger.streams.server_time(),
    )[name]
    obstacles = [_judge(obstacle) for obstacle in find_obstacles(ledger, facts)]
    stream = services.settings.stream(name)
    others = [*_look_at_schema(stream), *_look_at_sizes(stream, facts.document, facts.now)]
    return join_findings([*obstacles, *_describe(facts), *others] or [passed("nothing holds it")])


def _judge(obstacle: Obstacle) -> Finding:
    if obstacle.is_planned:
        return passed(obstacle.detail)
    return (failed if obstacle.is_failure else warned)(obstacle.detail, obstacle.hint)


def _describe(facts: StreamFacts) -> Iterator[Finding]:
    counts, at = facts.counts, facts.document.get("health", {}).get("last_poll_at")
    if at is not None:
        yield passed(f"polled {format_age((facts.now - at).total_seconds())} ago")
    if unfinished := sum(counts[state] for state in UNFINISHED_COUNTS):
        yield passed(f"{format_count(unfinished, 'record')} to deliver, {counts['sending']:,} of them in flight")
    if counts["failed"]:
        yield passed(f"{format_count(counts['failed'], 'failed record')}; see: syncctl failures --stream {facts.name}")


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
    from syncctl.partner.request.body_schema import BodySchema
    from syncctl.partner.request.row_time import ROW_SECONDS

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
        unfinished = sum(counts[name][state] for state in UNFINISHED_COUNTS)
        lines.append(f"{name} is no longer configured; {format_count(unfinished, 'record')} not delivered")
    return warned(
        "\n".join(lines),
        f"restore [streams.{names[0]}] in syncctl.toml to deliver them",
    )
