"""`syncctl report`: what was delivered and what failed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.filters import choose_states, read_fingerprint
from syncctl.commands.options import AsJson, Streams, require_one_form
from syncctl.commands.session import choose_known, open_session
from syncctl.commands.times import Since, Until, parse_window
from syncctl.console import format_cell, out
from syncctl.core.durations import format_change, format_ms
from syncctl.core.states import State
from syncctl.core.time_zone import format_in_zone, load_zone, shorten_time
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.reporting.report import DrawnReport, Report

_COUNTS = ("logged", "delivered", "failed", "superseded", "attempts", "retries")
_LATENCY = ("p50_ms", "p95_ms", "p99_ms")
_DELIVERY = ("delivery_p50_ms", "delivery_p95_ms", "delivery_p99_ms")
_COLUMNS = ("stream", "window_start", *_COUNTS, *_LATENCY, *_DELIVERY)
_COMPARED = {
    "logged": "logged",
    "delivered": "delivered",
    "failed": "failed",
    "retries": "retries",
    "p95_ms": "latency p95",
    "delivery_p95_ms": "logged to delivered p95",
}
_STATES = ("delivered", "failed", "superseded")
_ERROR_COLUMNS = ("fingerprint", "status", "message", "count", "sample_id")


class By(StrEnum):
    """The way in which the rows of the report are grouped."""

    HOUR = "hour"
    DAY = "day"
    STREAM = "stream"
    ERROR = "error"


def report(
    ctx: typer.Context,
    *,
    since: Since = "24h",
    until: Until = None,
    by: Annotated[By, typer.Option("--by", help="How rows are grouped.")] = By.STREAM,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the period before, of equal length.")
    ] = False,
    timezone: Annotated[
        str,
        typer.Option("--timezone", metavar="ZONE", help="Cut days and show times in this zone, such as Europe/Berlin."),
    ] = "UTC",
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
        typer.Option("--error", metavar="FINGERPRINT", help="With --by error: this fingerprint, or its first digits."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            metavar="N",
            help="At most N rows: the newest hours or days, the first streams, the most frequent errors.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one self-contained HTML page with charts."),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header on stdout.")] = False,
) -> ExitCode:
    """Show what was delivered and what failed, by hour, day, stream or error.

    Events are counted in the hour in which they happened. p50_ms, p95_ms and p99_ms are latencies of the partner's
    answers; delivery_p50_ms and the like are times from logged to delivered.

    Examples:
        syncctl report                           each stream over the last 24 hours
        syncctl report --since 7d --by day --timezone Europe/Berlin
        syncctl report --since 24h --compare
        syncctl report --since 1h --html report.html
        syncctl report --since 2026-01-01 --until 2026-02-01 --csv > january.csv
        syncctl report --by error --json
    """
    require_one_form(json=as_json, csv=as_csv)
    zone = parse_zone(timezone)
    begin, end = parse_window(since, until, zone=zone)
    states = choose_states(state, allowed=_STATES, by_default=())
    if error is not None and by is not By.ERROR:
        raise UsageError("--error needs --by error", why="other rows are not counted by error", hint="add --by error")
    mark = None if error is None else read_fingerprint(error, (State.FAILED.value,))
    if html is not None:
        check_directory(html)
    failed_now = 0
    from syncctl.pipeline.monitoring.status import count_failed
    from syncctl.pipeline.reporting.report import draw_report

    with open_session(ctx) as connections:
        streams = choose_known(connections, stream)
        with out.progress("adding up the report"):
            drawn = draw_report(
                ledger=connections.ledger,
                since=begin or datetime.now(UTC) - timedelta(days=1),
                until=end,
                by=by.value,
                zone=zone,
                compare=compare,
                streams=streams,
                states=states,
                error=mark,
                limit=limit,
                draws=html is not None,
            )
        result = drawn.report
        if result.totals["failed"] and (html is not None or not (as_json or as_csv)):
            failed_now = count_failed(
                ledger=connections.ledger, streams=streams, since=result.since, until=result.until
            )
    if html is not None:
        write_page(html, make_page(drawn, zone=zone, streams=streams, failed_now=failed_now))
        out.say(f"the report of {_name_period(result, zone)} is in {html}")
    if as_json:
        out.print_json(result)
    elif as_csv:
        _print_csv(result, by, zone)
    elif html is None:
        _show(result, by, zone=zone, failed_now=failed_now)
    if drawn.is_behind and result.rolled_up_at is not None:
        out.say(f"as of {format_in_zone(result.rolled_up_at, zone)}: many records are changing; Beat rolls them up")
    return ExitCode.DONE


def parse_zone(name: str) -> tzinfo:
    """Return the time zone with an IANA name.

    Raises:
        UsageError: there is no such zone.
    """
    try:
        return load_zone(name)
    except ValueError as error:
        raise UsageError(
            f"--timezone {name} is not a time zone",
            why=str(error),
            hint="names are those of the IANA database: --timezone Europe/Berlin, America/New_York or UTC",
        ) from None


def check_directory(file: Path) -> None:
    """Check that a file can be written, before the report is made.

    Raises:
        UsageError: its directory does not exist, or it is a directory itself, a device or a pipe.
    """
    if not file.parent.is_dir():
        raise UsageError(
            f"cannot write {file}",
            why=f"there is no directory {file.parent}",
            hint=f"create it (mkdir -p {file.parent}), or name a file elsewhere",
        )
    if file.is_dir():
        raise UsageError(
            f"cannot write {file}", why="it is a directory", hint=f"name a file: --html {file}/report.html"
        )
    if file.exists() and not file.is_file():
        raise UsageError(
            f"cannot write {file}", why="it is a device or a pipe, which would be replaced", hint="name a regular file"
        )


def make_page(drawn: "DrawnReport", *, zone: tzinfo, streams: Sequence[str], failed_now: int) -> str:
    """Return a report as one HTML page.

    Args:
        failed_now: How many of the records that failed in this period are still failed.
    """
    from syncctl import __version__
    from syncctl.console.report_page import ReportPage

    result, figures = drawn.report, drawn.figures
    page = ReportPage(
        since=result.since,
        until=result.until,
        zone=zone,
        made_at=datetime.now(UTC),
        rolled_up_at=result.rolled_up_at,
        version=__version__,
        by=result.by,
        streams=streams,
        totals=result.totals,
        rows=result.rows,
        errors=result.rows if result.by == "error" else result.top_errors,
        before=(result.compare.since, result.compare.totals) if result.compare else None,
        failed_now=failed_now,
        unit=figures.unit,
        outcomes=figures.outcomes(),
        times=figures.times(),
        latency=drawn.latency,
        delivery=drawn.delivery,
    )
    return page.render()


def write_page(file: Path, html: str) -> None:
    """Write a page to a draft beside the file and then replace the file, so that no reader sees half a page.

    Raises:
        UsageError: it cannot be written.
    """
    from syncctl.core.files import write_draft

    target = file.resolve()
    try:
        write_draft(target, html, mode=0o644).replace(target)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}", why=error.strerror or "", hint="check the directory and its permissions"
        ) from error


def _name_period(result: "Report", zone: tzinfo) -> str:
    return f"{format_in_zone(result.since, zone)} to {format_in_zone(result.until, zone)}"


def _cells(row: Any, columns: Sequence[str], zone: tzinfo) -> list[Any]:
    """Return the cells of a row, with times in the zone."""
    values = [row.get(name) for name in columns]
    return [format_in_zone(value, zone) if isinstance(value, datetime) else value for value in values]


def _print_csv(result: "Report", by: By, zone: tzinfo) -> None:
    columns = _ERROR_COLUMNS if by is By.ERROR else _COLUMNS
    rows = ([row.get(name) for name in columns] if zone is UTC else _cells(row, columns, zone) for row in result.rows)
    out.print_csv(columns, rows)


def _show(result: "Report", by: By, *, zone: tzinfo = UTC, failed_now: int) -> None:
    """Write the tables, and below them a note if some of the failures have been resolved since.

    Args:
        failed_now: How many of the records that failed in this period are still failed.
    """
    out.say(f"{_name_period(result, zone)}, by {by}")
    if by is not By.ERROR:
        _show_rows(result, by, zone)
    if result.compare is not None:
        _show_comparison(result, by, zone)
    errors = result.rows if by is By.ERROR else result.top_errors
    if errors:
        if by is not By.ERROR:
            out.show("")
        # 80 columns have no room for the samples; `syncctl failures` shows them.
        columns = [name for name in _ERROR_COLUMNS if name != "sample_id" or not out.is_watched()]
        cells = [[error.get(name) for name in columns] for error in errors]
        out.table([name.replace("_", " ") for name in columns], cells, prose=("message",), count="red")
    elif by is By.ERROR:
        out.show("no errors in this period")
    if result.totals.get("delivery_count") is None and result.totals["delivered"]:
        out.say("the times from logged to delivered were not kept yet in this period")
    if result.totals["failed"] > failed_now:
        out.say(f"failures are counted in the hour in which they happened; still failed: {failed_now:,}")
    if failed_now:
        out.say("next: syncctl failures")


def _show_rows(result: "Report", by: By, zone: tzinfo) -> None:
    hidden = {"window_start"} if by is By.STREAM else set[str]()
    if out.is_watched():
        # 80 columns have no room for these.
        hidden |= {"delivery_p50_ms", "delivery_p99_ms"}
        hidden |= {"retries"} if by is By.STREAM else {"attempts", "p50_ms", "p99_ms"}
        hidden |= set() if result.totals.get("superseded") else {"superseded"}
    columns = [name for name in _COLUMNS if name not in hidden]
    shown = [dict(row) for row in result.rows]
    if len(shown) > 1:
        shown.append({"stream": "total", **result.totals})
    if not shown:
        out.show("nothing happened in this period")
        return
    if out.is_watched():
        for row in shown:
            row |= {name: format_ms(row[name]) for name in _DELIVERY}
            if row.get("window_start"):
                row["window_start"] = shorten_time(row["window_start"], zone, is_day=by is By.DAY)
    titles = [name.replace("_", " ") for name in columns]
    if out.is_watched():
        titles = [title.replace("delivery p95 ms", "delivery p95") for title in titles]
    out.table(titles, [_cells(row, columns, zone) for row in shown], delivered="green", failed="red")


def _show_comparison(result: "Report", by: By, zone: tzinfo) -> None:
    """Write the changes since the period before, also for each stream if the rows are streams."""
    before = result.compare
    assert before is not None  # noqa: S101 - the caller has checked
    pairs = [("total", result.totals, before.totals)]
    if by is By.STREAM and len(result.rows) > 1:
        earlier = {row["stream"]: row for row in before.rows}
        pairs = [(row["stream"], row, earlier.get(row["stream"], {})) for row in result.rows] + pairs
    rows = []
    for stream, now, then in pairs:
        for name, title in _COMPARED.items():
            show = format_ms if name.endswith("_ms") else format_cell
            value, earlier_value = now[name], then.get(name, 0 if name in _COUNTS else None)
            change = format_change(value, earlier_value)
            rows.append([stream, title, show(value), show(earlier_value), change])
    out.show("")
    out.say(f"compared with {format_in_zone(before.since, zone)} to {format_in_zone(before.until, zone)}")
    out.table(["stream", "measure", "now", "before", "change"], rows)
