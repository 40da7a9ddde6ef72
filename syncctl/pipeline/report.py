"""report: roll the ledger's events up by hour, and add the hours up by day, stream or error."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
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
from syncctl.ledger.reports import FREEZE_AFTER, HourCounts, RollUp
from syncctl.pipeline.report_sums import By, Figures, StreamDays, Summary

TOP_ERRORS = 10
HOURS_AT_ONCE = 24
DAY = timedelta(days=1)
_RECENT = timedelta(minutes=5)
"""Beat rolls up every minute by default; where that is slow, roll-ups younger than this will do."""
_LONG_SECONDS = 1.0
_REST_FACTOR = 10
"""A roll-up that takes longer than a second is followed by no other for ten times as long."""
RECORDS_AT_ONCE = 20_000
"""A roll-up of this many changed records takes less than a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The period before, of the same length, added up in the same way."""

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


def roll_up(*, ledger: Ledger, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Recompute the open hours, and freeze those that are over; return how many were stored. Safe to repeat.

    Args:
        should_stop: Asked between days: the next roll-up goes on.
    """
    begun = time.monotonic()
    now = ledger.streams.server_time()
    start = ledger.reports.frozen_until() or ledger.reports.first_logged_at()
    if start is None:
        return 0
    start = first = floor_hour(start)
    frozen_until = floor_hour(now - FREEZE_AFTER)
    stored = 0
    while start <= now:
        end = min(start + timedelta(hours=HOURS_AT_ONCE), floor_hour(now) + HOUR)
        hours: list[HourCounts] = ledger.reports.roll_up(start, end, frozen_until=frozen_until)
        done = RollUp(at=now, took_seconds=time.monotonic() - begun) if end > now else None
        ledger.reports.store(hours, frozen_until=min(frozen_until, end), done=done)
        stored += len(hours)
        start = end
        if start <= now and should_stop():
            return stored
    if first < frozen_until:
        ledger.reports.forget_counted(first, frozen_until)
    add_up_days(ledger=ledger, should_stop=should_stop)
    return stored


def add_up_days(*, ledger: Ledger, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Add up the days of UTC of which every hour is frozen, from the first that is not stored. Safe to repeat."""
    frozen_until = ledger.reports.frozen_until()
    start = ledger.report_days.complete_until()
    if start is None:
        first = ledger.reports.first_hour()
        start = None if first is None else floor_day(first, UTC)
    while start is not None and frozen_until is not None and start + DAY <= frozen_until:
        summary = StreamDays()
        for hour in ledger.reports.load(start, start + DAY):
            summary.add(hour)
        ledger.report_days.store(start, summary.to_documents(), until=start + DAY)
        start += DAY
        if should_stop():
            return


def read_hours(
    ledger: Ledger, start: datetime, end: datetime, streams: Sequence[str], *, whole_days: bool
) -> Iterator[Mapping[str, Any]]:
    """Yield the stored hours of a period, the oldest first.

    Args:
        whole_days: Days of UTC need not be told apart by hour: yield their sums where they are stored.
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


def roll_up_when_due(*, ledger: Ledger, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Roll up as Beat does: where that takes long, less often, so that it takes a tenth of MongoDB's time at most."""
    known = ledger.reports.last_roll_up()
    if known is not None and ledger.streams.server_time() - known.at < _rest_after(known):
        return 0
    return roll_up(ledger=ledger, should_stop=should_stop)


def _rest_after(done: RollUp) -> timedelta:
    is_long = done.took_seconds >= _LONG_SECONDS
    return timedelta(seconds=_REST_FACTOR * done.took_seconds if is_long else 0)


def bring_up_to_date(*, ledger: Ledger, at_once: int = RECORDS_AT_ONCE) -> bool:
    """Roll up, unless many records have changed and Beat rolled up minutes ago; tell whether it was done.

    Args:
        at_once: How many changed records are rolled up in any case.
    """
    known = ledger.reports.last_roll_up()
    is_recent = known is not None and ledger.streams.server_time() - known.at < _RECENT + _rest_after(known)
    if is_recent and ledger.reports.has_more_changes(at_once):
        return False
    roll_up(ledger=ledger)
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnReport:
    """A report with the course of its period, and how often each latency and each time to delivery occurred."""

    report: Report
    #: Events after `report.rolled_up_at` are missing, because a roll-up would have taken long.
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
        since: Rounded down to the full hour.
        until: Rounded up to the full hour; None means now, and with `compare` the last full hour.
        zone: Whose days are added up.
        compare: Also add up the period before.
        states: Only rows in which a record ended in one of these; empty: all rows.
        error: By error: only errors whose fingerprint begins like this.
        limit: At most so many rows: the newest hours or days, or the first streams or errors.
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
        draws: False leaves the figures empty.
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
        # The streams that are shown, also where their states were others.
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
        until: None means now; with `compare` it means the last full hour, because part of an hour compares with none.
    """
    start = floor_hour(since) if is_cut_by_hours(since, zone) else ceil_hour(since)
    if until is not None:
        return start, max(ceil_hour(until), start + HOUR)
    end = floor_hour(now)
    return start, end if compare and start < end else end + HOUR
