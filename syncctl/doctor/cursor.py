"""source STREAM …: whether a stream's place in its source can be kept: rights, index, tracked changes, gaps."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from syncctl.core.durations import format_age
from syncctl.core.stream import Stream
from syncctl.doctor.check import Finding, failed, join_findings, passed, skipped, warned
from syncctl.doctor.examined import Examined
from syncctl.sources import open_reader
from syncctl.sources.diagnostics import Indexed, Rights, Tracking, Unseen, open_health, open_sql_server

ROWS_WITHOUT_INDEX = 10_000
RUNS_LOOKED_AT = 100


def check_rights(examined: Examined, stream: Stream) -> Finding:
    """Tell which rights the login lacks on the stream's table."""
    with open_sql_server(examined.source(stream.source)) as health:
        return judge_rights(health.read_rights(stream))


def judge_rights(found: Rights | Unseen) -> Finding:
    """Say which statement gives each right that is missing."""
    if isinstance(found, Unseen):
        return skipped(found.why, found.grant)
    if not found.grants:
        return passed(f"user {found.user} may read {found.table}")
    or_none = "" if found.is_visible else ", or there is no such table"
    findings = []
    for grant in found.grants:
        right = grant.removeprefix("GRANT ").partition(" ON ")[0]
        detail = f"user {found.user} has no {right} on {found.table}{or_none}"
        findings.append(failed(detail, f"let an administrator run: {grant}"))
    return join_findings(findings)


def check_index(examined: Examined, stream: Stream) -> Finding:
    """Tell whether an index serves the order in which the stream is read."""
    source = examined.source(stream.source)
    with open_reader(source, stream) as reader:
        if reader.mode in ("flag", "change_tracking"):
            return passed(f"mode {reader.mode} follows no column")
        first, *ties = reader.key_columns
        if reader.mode != "snapshot":
            ties = [name for name in reader.key_columns if name != reader.cursor_column]
            first = reader.cursor_column
    with open_health(source) as health:
        return judge_index(health.read_index(stream, first, tuple(ties)), first)


def judge_index(found: Indexed, column: str) -> Finding:
    """Say whether each poll reads the whole table."""
    if found.is_served is None:
        return skipped(f"whether an index begins with {column} cannot be told: {found.why}")
    if found.is_served:
        return passed(f"an index begins with {column}")
    rows = "" if found.rows is None else f" ({found.rows:,} rows or more)"
    if found.rows is not None and found.rows <= ROWS_WITHOUT_INDEX:
        return passed(f"no index begins with {column}; the table is small ({found.rows:,} rows)")
    return warned(
        f"no index begins with {column}: every page reads and sorts the whole table{rows}",
        f"let an administrator run: {found.create}",
    )


def check_tracking(examined: Examined, stream: Stream) -> Finding:
    """Tell whether the changes since the last poll are still known, and for how long they will be."""
    with open_sql_server(examined.source(stream.source)) as health:
        found = health.read_tracking(stream)
    ledger = examined.ledger
    document = ledger.streams.load_all().get(stream.name, {})
    polled_at = _find_last_poll(examined, stream.name, document)
    age = None if polled_at is None else (ledger.streams.server_time() - polled_at).total_seconds()
    return judge_tracking(found, stream.name, document.get("cursor"), age)


def judge_tracking(found: Tracking, stream: str, cursor: Mapping[str, Any] | None, age: float | None) -> Finding:
    """Say whether the stream can go on from where it stands.

    Args:
        age: Seconds since its last poll that read to the end; None where there was none.
    """
    if not found.is_on:
        database = found.database.replace("]", "]]")
        return failed(
            f"change tracking is off for {found.table}, or the login may not see it",
            f"let an administrator run: ALTER DATABASE [{database}] SET CHANGE_TRACKING = ON"
            f" (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON); ALTER TABLE {found.table} ENABLE CHANGE_TRACKING",
        )
    version = _read_version(cursor)
    rewind = f"run: syncctl rewind {stream} --to beginning"
    if version is not None and isinstance(found.oldest, int) and found.oldest > version:
        return failed(
            f"changes are known since version {found.oldest}, and it was read up to {version}: what is between is gone",
            rewind,
        )
    kept = found.retention_seconds
    if kept is None:
        return passed("changes are kept for ever")
    detail = f"changes are kept for {format_age(kept)}"
    longer = f"ALTER DATABASE [{found.database.replace(']', ']]')}] SET CHANGE_TRACKING (CHANGE_RETENTION = 14 DAYS)"
    if version is None or age is None:
        return passed(f"{detail}; it was never read to the end")
    detail += f", its last complete poll was {format_age(age)} ago"
    if age > kept:
        return failed(f"{detail}: changes may be gone", rewind)
    if age > kept / 2:
        return warned(detail, f"see why it is not polled: syncctl doctor streams; or keep changes longer: {longer}")
    if isinstance(found.oldest, Unseen):
        return skipped(
            f"{detail}; whether all changes since are known cannot be seen: {found.oldest.why}", found.oldest.grant
        )
    return passed(detail)


def _read_version(cursor: Mapping[str, Any] | None) -> int | None:
    """Return the version that a cursor of mode change_tracking stands at."""
    if not cursor or cursor.get("mode") != "change_tracking":
        return None
    # While the table is loaded for the first time, changes count from when that began.
    found = cursor.get("since") if cursor.get("phase") == "load" else cursor.get("at")
    text = str(found)
    return int(text) if text.isdigit() else None


def _find_last_poll(examined: Examined, stream: str, document: Mapping[str, Any]) -> datetime | None:
    """Return when the last poll without an error ended, or began where only its run tells."""
    health = document.get("health", {})
    if health.get("last_poll_at") and not health.get("error"):
        return health["last_poll_at"]  # type: ignore[no-any-return]
    runs = examined.ledger.runs.load(stream, limit=RUNS_LOOKED_AT)
    return next((run["started_at"] for run in runs if not run.get("error")), None)


def check_gaps(examined: Examined, stream: Stream) -> Finding:
    """Tell which numbers of an identity never came and are not waited for any more."""
    document = examined.ledger.streams.load_all().get(stream.name, {})
    return judge_gaps(document.get("cursor") or {}, stream.name)


def judge_gaps(cursor: Mapping[str, Any], stream: str) -> Finding:
    """Say which gaps were given up, and how many are still waited for."""
    waiting = [(each["from"], each["to"]) for each in cursor.get("gaps", ())]
    waits = f"waits for {_show_ranges(waiting)}" if waiting else "waits for no number that was left out"
    given_up = cursor.get("gaps_given_up") or {}
    if not given_up.get("count"):
        return passed(waits)
    last = [(first, last) for first, last in given_up.get("last", ())]
    return join_findings(
        [
            warned(
                f"gave up {given_up['count']:,} gaps, the last ones: {_show_ranges(last)}"
                " (rolled back or deleted, or committed too late to be read)",
                f"run: syncctl reconcile {stream} --repair",
            ),
            passed(waits),
        ]
    )


def _show_ranges(ranges: list[tuple[int, int]], at_most: int = 10) -> str:
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    rest = f" and {len(shown) - at_most:,} more" if len(shown) > at_most else ""
    return ", ".join(shown[:at_most]) + rest
