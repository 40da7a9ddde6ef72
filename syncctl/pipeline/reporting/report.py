"""report: add up the rolled-up hours by hour, day, stream or error."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from syncctl.core.time_zone import (
    HOUR,
    ceil_day,
    ceil_hour,
    floor_day,
    floor_hour,
    is_cut_by_hours,
    name_zone,
    shift_back,
)
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.reporting.report_summary import By, Figures, Summary
from syncctl.pipeline.reporting.roll_up import bring_up_to_date

TOP_ERRORS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The previous period of the same length, added up in the same way."""

    since: datetime
    until: datetime
    rows: tuple[Mapping[str, Any], ...]
    totals: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The events between two full hours, `until` excluded."""

    since: datetime
    until: datetime
    timezone: str
    #: All events before this time are included.
    rolled_up_at: datetime | None
    by: By
    rows: tuple[Mapping[str, Any], ...]
    totals: Mapping[str, Any]
    top_errors: tuple[Mapping[str, Any], ...]
    compare: Comparison | None


def read_hours(
    ledger: Ledger, start: datetime, end: datetime, streams: Sequence[str], *, whole_days: bool
) -> Iterator[Mapping[str, Any]]:
    """Yield the stored hours of a period, the oldest first.

    Args:
        whole_days: Whether the hours of a UTC day may be merged: then yield the sums of days that are stored.
    """
    first, last = ceil_day(start), end
    complete_until = ledger.report_days.complete_until() if whole_days else None
    if complete_until is not None:
        last = floor_day(min(end, complete_until), UTC)
    if complete_until is None or first >= last:
        yield from ledger.reports.load(start, end, streams)
        return
    yield from ledger.reports.load(start, first, streams)
    yield from ledger.report_days.load(first, last, streams)
    yield from ledger.reports.load(last, end, streams)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnReport:
    """A report with the course of its period, and how often each latency and each time to delivery occurred."""

    report: Report
    #: Whether events after `report.rolled_up_at` are missing, because a roll-up would have taken long.
    is_behind: bool
    figures: Figures
    latency: Mapping[int, int]
    delivery: Mapping[int, int] | None


def build_report(
    *,
    ledger: Ledger,
    since: datetime,
    until: datetime | None = None,
    by: By = "hour",
    zone: tzinfo = UTC,
    compare: bool = False,
    streams: Sequence[str] = (),
    states: Sequence[str] = (),
    error: str | None = None,
    limit: int | None = None,
) -> Report:
    """Bring the roll-ups up to date and add them up.

    Args:
        since: The beginning of the period, rounded down to the full hour.
        until: The end, rounded up to the full hour; None means now, and with `compare` the last full hour.
        zone: The time zone whose days are added up.
        compare: Whether to add up the previous period too.
        states: Only rows in which a record ended in one of these states; if empty, all rows.
        error: With `by` error, only errors whose fingerprint begins like this.
        limit: The maximum number of rows: the newest hours or days, or the first streams or errors.
    """
    return draw_report(
        ledger=ledger,
        since=since,
        until=until,
        by=by,
        zone=zone,
        compare=compare,
        streams=streams,
        states=states,
        error=error,
        limit=limit,
        draws=False,
    ).report


def draw_report(
    *,
    ledger: Ledger,
    since: datetime,
    until: datetime | None,
    by: By,
    zone: tzinfo,
    compare: bool,
    streams: Sequence[str],
    states: Sequence[str],
    error: str | None,
    limit: int | None,
    draws: bool = True,
) -> DrawnReport:
    """Return a report as `build_report` does, with its figures: one read of the hours serves both.

    Args:
        draws: Whether to fill in the figures; if False, they stay empty.
    """
    ledger.ensure_prepared()
    is_behind = not bring_up_to_date(ledger=ledger)
    start, end = choose_period(since, until, zone=zone, now=ledger.streams.server_time(), compare=compare)

    def select(rows: list[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        if by == "error":
            rows = [row for row in rows if row["fingerprint"].startswith(error or "")]
        elif states:
            rows = [row for row in rows if any(row[state] for state in states)]
        if limit is not None:
            rows = rows[-limit:] if by in ("hour", "day") else rows[:limit]
        return tuple(rows)

    summary, figures = Summary(by, zone), Figures(start, end, zone)
    adds_days = by in ("stream", "error") or (by == "day" and zone is UTC)
    whole_days = adds_days and (not draws or (figures.adds_days and zone is UTC))
    for hour in read_hours(ledger, start, end, streams, whole_days=whole_days):
        summary.add(hour)
        if draws:
            figures.add(hour)
    rows, before = select(summary.rows()), None
    if compare:
        earlier = Summary(by, zone)
        start_before = shift_back(start, end, zone)
        for hour in read_hours(ledger, start_before, start, streams, whole_days=adds_days):
            earlier.add(hour)
        # Compare the streams that are shown, even if they had no records in these states before.
        names = {row["stream"] for row in rows} if by == "stream" else set()
        earlier_rows = earlier.rows()
        kept = tuple(row for row in earlier_rows if row["stream"] in names) if names else select(earlier_rows)
        before = Comparison(since=start_before, until=start, rows=kept, totals=earlier.totals())
    known = ledger.reports.last_roll_up()
    report = Report(
        since=start,
        until=end,
        timezone=name_zone(zone),
        rolled_up_at=None if known is None else known.at,
        by=by,
        rows=rows,
        totals=summary.totals(),
        top_errors=tuple(summary.errors()[:TOP_ERRORS]),
        compare=before,
    )
    latency, delivery = summary.histograms()
    return DrawnReport(report=report, is_behind=is_behind, figures=figures, latency=latency, delivery=delivery)


def choose_period(
    since: datetime, until: datetime | None, *, zone: tzinfo, now: datetime, compare: bool = False
) -> tuple[datetime, datetime]:
    """Return the full hours of UTC that a period covers.

    In a zone whose days begin within an hour of UTC, that hour belongs to the day in which it begins.

    Args:
        until: None means now; with `compare` it means the last full hour, because a part of an hour is not comparable.
    """
    start = floor_hour(since) if is_cut_by_hours(since, zone) else ceil_hour(since)
    if until is not None:
        return start, max(ceil_hour(until), start + HOUR)
    end = floor_hour(now)
    return start, end if compare and start < end else end + HOUR
