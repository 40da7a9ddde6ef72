"""streams: whether each stream moves, and what has left the configuration."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncctl.console import format_count
from syncctl.core.durations import format_age
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, warned
from syncctl.doctor.examined import Examined

if TYPE_CHECKING:
    from syncctl.ledger.ledger import Ledger

STUCK_SECONDS = 300.0
POLLS_MISSED = 10

_UNFINISHED = ("pending", "retrying", "queued", "sending")


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return a check for each stream, and one for those that are no longer configured."""
    units = [
        Unit(name=f"streams {name}", look=lambda name=name: check_stream(examined, name), needs=("mongodb",))  # type: ignore[misc]
        for name in examined.settings.stream_names
    ]
    return (*units, Unit(name="streams removed", look=lambda: check_removed(examined), needs=("mongodb",)))


def check_stream(examined: Examined, name: str) -> Finding:
    """Tell when it was polled, whether it is paused, and whether its backlog moves."""
    ledger = examined.ledger
    document = ledger.streams.load_all().get(name, {})
    counts = ledger.records.count_states([name])[name]
    now = ledger.streams.server_time()
    poll = _look_at_poll(name, document, now, examined.settings.stream(name).poll_every_seconds)
    held, refused = _look_at_held(ledger, name), _look_at_acknowledgements(ledger, name)
    return join_findings([poll, *_look_at_backlog(name, document, counts, now), *held, *refused])


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
            f"run: syncctl doctor source; once that is well: syncctl poll {name} --once",
        )
    if seconds > max(STUCK_SECONDS, POLLS_MISSED * every_seconds):
        return warned(f"last polled {age} ago", "see that Beat and a worker run: syncctl doctor beat workers")
    return passed(f"polled {age} ago")


def _look_at_backlog(
    name: str, document: Mapping[str, Any], counts: Mapping[str, Any], now: datetime
) -> Iterator[Finding]:
    paused = document.get("paused")
    if paused:
        reason = paused.get("reason") or "no reason given"
        yield warned(f"paused by {paused.get('by')}: {reason}", f"run: syncctl resume {name}")
    unfinished = sum(counts[state] for state in _UNFINISHED)
    on_their_way = counts["queued"] + counts["sending"]
    oldest = (now - counts["oldest_due_at"]).total_seconds() if counts["oldest_due_at"] else 0.0
    if oldest > STUCK_SECONDS and not on_their_way and not paused:
        waiting = format_count(unfinished, "record")
        yield warned(
            f"{waiting} to deliver and none is on its way; the oldest has been due for {format_age(oldest)}",
            "see that Beat, a worker and Redis run: syncctl doctor beat workers queue",
        )
    elif unfinished:
        yield passed(f"{format_count(unfinished, 'record')} to deliver, {on_their_way:,} of them on their way")
    if counts["failed"]:
        yield passed(f"{format_count(counts['failed'], 'failed record')}; see: syncctl failures --stream {name}")


def _look_at_held(ledger: "Ledger", name: str) -> Iterator[Finding]:
    """Tell of failed records that hold newer versions of their rows, which order strict asks for."""
    holders = ledger.sequencing.count_failed_holders(name)
    if holders:
        held_by = format_count(holders, "failed record")
        yield warned(
            f"newer versions of rows are held by {held_by}; {ledger.sequencing.count(name):,} wait",
            f"see: syncctl failures --stream {name}; then syncctl replay --stream {name} sends them, "
            "and syncctl discard ID --reason TEXT gives one up",
        )


def _look_at_acknowledgements(ledger: "Ledger", name: str) -> Iterator[Finding]:
    """Tell of rows that the source could not be told of, in mode flag: their statement fails."""
    refused = ledger.acknowledgements.find_refused(name)
    if refused is not None:
        count, reason = refused
        yield warned(
            f"the source could not be told of {format_count(count, 'record')}: {reason}",
            f"let the login do what streams.{name}.acknowledge does; it is tried again at each poll",
        )


def check_removed(examined: Examined) -> Finding:
    """Tell which streams left the configuration while the ledger still keeps their records."""
    ledger = examined.ledger
    names = sorted(set(ledger.streams.load_all()) - set(examined.settings.stream_names))
    if not names:
        return passed("every stream of the ledger is configured")
    counts = ledger.records.count_states(names)
    lines = []
    for name in names:
        unfinished = sum(counts[name][state] for state in _UNFINISHED)
        lines.append(f"{name} is no longer configured; {format_count(unfinished, 'record')} of it not delivered")
    return warned("\n".join(lines), f"put [streams.{names[0]}] back to go on; else its records stay as they are")
