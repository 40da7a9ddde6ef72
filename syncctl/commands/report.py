"""`syncctl report`: what was delivered and what failed."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import choose_states, read_fingerprint
from syncctl.commands.options import AsJson, Since, Streams, Until, parse_window, require_one_form
from syncctl.commands.session import choose_known, open_session
from syncctl.console import format_cell, out
from syncctl.core.states import State
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.report import Report

_COUNTS = ("logged", "delivered", "failed", "superseded", "attempts", "retries", "p50_ms", "p95_ms", "p99_ms")
_COLUMNS = ("stream", "window_start", *_COUNTS)
_STATES = ("delivered", "failed", "superseded")
_ERROR_COLUMNS = ("fingerprint", "status", "message", "count", "sample_id")


class By(StrEnum):
    """What one row of the report summarises."""

    HOUR = "hour"
    DAY = "day"
    STREAM = "stream"
    ERROR = "error"


def report(
    ctx: typer.Context,
    *,
    since: Since = "24h",
    until: Until = None,
    by: Annotated[By, typer.Option("--by", help="What one row summarises.")] = By.STREAM,
    stream: Streams = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only rows in which a record became delivered, failed or superseded; may be repeated.",
        ),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option("--error", metavar="FINGERPRINT", help="With --by error: only this one, or its first digits."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="At most N rows: the newest hours or days, the first others."),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header on stdout.")] = False,
) -> ExitCode:
    """Show what was delivered and what failed, by hour, day, stream or error.

    Events are counted in the hour (UTC) in which they happened. The percentiles are latencies of the partner's answers.

    Examples:
        syncctl report                           each stream over the last 24 hours
        syncctl report --since 7d --by day
        syncctl report --since 2026-01-01 --until 2026-02-01 --csv > january.csv
        syncctl report --by error --json
    """
    require_one_form(json=as_json, csv=as_csv)
    begin, end = parse_window(since, until)
    states = choose_states(state, allowed=_STATES, by_default=())
    if error is not None and by is not By.ERROR:
        raise UsageError("--error needs --by error", why="other rows are not counted by error", hint="add --by error")
    mark = None if error is None else read_fingerprint(error, (State.FAILED.value,))
    failed_now = 0
    from syncctl.pipeline.report import build_report
    from syncctl.pipeline.status import count_failed

    with open_session(ctx) as connections:
        streams = choose_known(connections, stream)
        result = build_report(
            ledger=connections.ledger,
            since=begin or datetime.now(UTC) - timedelta(days=1),
            until=end,
            by=by.value,
            streams=streams,
            states=states,
            error=mark,
            limit=limit,
        )
        if result.totals["failed"] and not as_json and not as_csv:
            failed_now = count_failed(
                ledger=connections.ledger, streams=streams, since=result.since, until=result.until
            )
    if as_json:
        out.print_json(result)
    elif as_csv:
        _print_csv(result, by)
    else:
        _show(result, by, failed_now=failed_now)
    return ExitCode.DONE


def _print_csv(result: "Report", by: By) -> None:
    columns = _ERROR_COLUMNS if by is By.ERROR else _COLUMNS
    out.print_csv(columns, [[row.get(name) for name in columns] for row in result.rows])


def _show(result: "Report", by: By, *, failed_now: int) -> None:
    """Write the tables, and below them a note on failures that no longer exist.

    Args:
        failed_now: How many of the records that failed in this period are still failed.
    """
    out.say(f"{format_cell(result.since)} to {format_cell(result.until)}, by {by}")
    if by is not By.ERROR:
        _show_rows(result, by)
    errors = result.rows if by is By.ERROR else result.top_errors
    if errors:
        if by is not By.ERROR:
            out.show("")
        # 80 columns have no room for the samples; `syncctl failures` shows them.
        columns = [name for name in _ERROR_COLUMNS if name != "sample_id" or not out.is_watched()]
        cells = [[error.get(name) for name in columns] for error in errors]
        out.table([name.replace("_", " ") for name in columns], cells, count="red")
    elif by is By.ERROR:
        out.show("no errors in this period")
    if result.totals["failed"] > failed_now:
        out.say(f"failures are counted in the hour in which they happened; still failed: {failed_now:,}")
    if failed_now:
        out.say("next: syncctl failures")


def _show_rows(result: "Report", by: By) -> None:
    hidden = {"window_start"} if by is By.STREAM else set[str]()
    if out.is_watched():
        # 80 columns have no room for these.
        hidden |= set() if by is By.STREAM else {"attempts", "p99_ms"}
        hidden |= set() if result.totals.get("superseded") else {"superseded"}
    columns = [name for name in _COLUMNS if name not in hidden]
    rows = [[row.get(name) for name in columns] for row in result.rows]
    if len(rows) > 1:
        totals = {"stream": "total", **result.totals}
        rows.append([totals.get(name) for name in columns])
    if rows:
        out.table([name.replace("_", " ") for name in columns], rows, delivered="green", failed="red")
    else:
        out.show("nothing happened in this period")
