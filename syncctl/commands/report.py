"""`syncctl report`: what was delivered and what failed."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.options import AsJson, Since, Streams, Until, parse_window, require_one_form
from syncctl.commands.session import choose_known, open_session
from syncctl.console import format_cell, out
from syncctl.errors import ExitCode

if TYPE_CHECKING:
    from syncctl.pipeline.report import Report

_COUNTS = ("logged", "delivered", "failed", "superseded", "attempts", "retries", "p50_ms", "p95_ms", "p99_ms")
_COLUMNS = ("stream", "window_start", *_COUNTS)
_EVERY_GROUP = 1_000_000
_ERROR_COLUMNS = ("fingerprint", "status", "message", "count", "sample_id")


class By(StrEnum):
    """What one row of the report stands for."""

    HOUR = "hour"
    DAY = "day"
    STREAM = "stream"
    ERROR = "error"


def report(
    ctx: typer.Context,
    *,
    since: Since = "24h",
    until: Until = None,
    by: Annotated[By, typer.Option("--by", help="What one row stands for.")] = By.STREAM,
    stream: Streams = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header on stdout.")] = False,
) -> ExitCode:
    """Show what was delivered and what failed, by hour, day, stream or error.

    Events count in the hour in which they happened, in UTC. The percentiles are of the partner's answers.

    Examples:
        syncctl report                           each stream over the last 24 hours
        syncctl report --since 7d --by day
        syncctl report --since 2026-01-01 --until 2026-02-01 --csv > january.csv
        syncctl report --by error --json
    """
    require_one_form(json=as_json, csv=as_csv)
    begin, end = parse_window(since, until)
    failed_now = 0
    from syncctl.pipeline.report import build_report
    from syncctl.pipeline.status import group_failures

    with open_session(ctx) as connections:
        streams = choose_known(connections, stream)
        found = build_report(
            ledger=connections.ledger,
            since=begin or datetime.now(UTC) - timedelta(days=1),
            until=end,
            by=by.value,
            streams=streams,
        )
        if found.totals["failed"] and not as_json and not as_csv:
            failures = group_failures(
                ledger=connections.ledger, streams=streams, since=found.since, until=found.until, limit=_EVERY_GROUP
            )
            failed_now = sum(int(group["count"]) for group in failures.groups)
    if as_json:
        out.print_json(found)
    elif as_csv:
        _print_csv(found, by)
    else:
        _show(found, by, failed_now=failed_now)
    return ExitCode.DONE


def _print_csv(found: "Report", by: By) -> None:
    columns = _ERROR_COLUMNS if by is By.ERROR else _COLUMNS
    out.print_csv(columns, [[row.get(name) for name in columns] for row in found.rows])


def _show(found: "Report", by: By, *, failed_now: int) -> None:
    """Write the tables, and below them what a reader would take amiss.

    Args:
        failed_now: How many of the records that failed in this time have not been replayed or given up since.
    """
    out.say(f"{format_cell(found.since)} to {format_cell(found.until)}, by {by}")
    if by is not By.ERROR:
        _show_rows(found, by)
    errors = found.rows if by is By.ERROR else found.top_errors
    if errors:
        if by is not By.ERROR:
            out.show("")
        # A person at a terminal of 80 columns finds the sample in `syncctl failures`.
        columns = [name for name in _ERROR_COLUMNS if name != "sample_id" or not out.is_watched()]
        cells = [[error.get(name) for name in columns] for error in errors]
        out.table([name.replace("_", " ") for name in columns], cells, count="red")
    elif by is By.ERROR:
        out.show("no errors in this time")
    if found.totals["failed"] > failed_now:
        out.say(f"failures count in the hour in which they happened; still failed: {failed_now:,}")
    if failed_now:
        out.say("next: syncctl failures")


def _show_rows(found: "Report", by: By) -> None:
    hidden = {"window_start"} if by is By.STREAM else set[str]()
    if out.is_watched():
        # What a terminal of 80 columns has room for.
        hidden |= set() if by is By.STREAM else {"attempts", "p99_ms"}
        hidden |= set() if found.totals.get("superseded") else {"superseded"}
    columns = [name for name in _COLUMNS if name not in hidden]
    rows = [[row.get(name) for name in columns] for row in found.rows]
    if len(rows) > 1:
        totals = {"stream": "total", **found.totals}
        rows.append([totals.get(name) for name in columns])
    if rows:
        out.table([name.replace("_", " ") for name in columns], rows, delivered="green", failed="red")
    else:
        out.show("nothing happened in this time")
