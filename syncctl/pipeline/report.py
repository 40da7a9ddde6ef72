"""report: roll the ledger's events up by hour, and add the hours up by day, stream or error."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from syncctl.core.histogram import percentile
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.reports import FREEZE_AFTER, HOUR, HourCounts, floor_hour

By = Literal["hour", "day", "stream", "error"]
COUNTS = ("logged", "delivered", "failed", "superseded", "attempts", "retries")
TOP_ERRORS = 10
HOURS_AT_ONCE = 24


@dataclass(kw_only=True, slots=True)
class HourSum:
    """Hours added up."""

    stream: str
    window_start: datetime | None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    latency: dict[int, int] = field(default_factory=dict)

    def add(self, hour: Mapping[str, Any]) -> None:
        """Add one stored hour."""
        for name in COUNTS:
            self.counts[name] += int(hour.get(name, 0))
        for bucket, count in hour.get("latency", {}).items():
            self.latency[int(bucket)] = self.latency.get(int(bucket), 0) + int(count)

    def to_row(self) -> dict[str, Any]:
        """Return the report's row."""
        percentiles = {f"p{share}_ms": percentile(self.latency, share / 100) for share in (50, 95, 99)}
        return {"stream": self.stream, "window_start": self.window_start, **self.counts, **percentiles}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The events between two full hours, `until` excluded."""

    since: datetime
    until: datetime
    by: By
    rows: tuple[Mapping[str, Any], ...]
    totals: Mapping[str, Any]
    top_errors: tuple[Mapping[str, Any], ...]


def roll_up(*, ledger: Ledger) -> int:
    """Recompute the open hours, and freeze those that are over; return how many were stored. Safe to repeat."""
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
        ledger.reports.store(hours, frozen_until=min(frozen_until, end))
        stored += len(hours)
        start = end
    if first < frozen_until:
        ledger.reports.forget_counted(first, frozen_until)
    return stored


def build_report(
    *,
    ledger: Ledger,
    since: datetime,
    until: datetime | None = None,
    by: By = "hour",
    streams: Sequence[str] = (),
    states: Sequence[str] = (),
    error: str | None = None,
    limit: int | None = None,
) -> Report:
    """Bring the roll-ups up to date and add them up.

    Args:
        since: Rounded down to the full hour.
        until: Rounded up to the full hour; None means now.
        states: Only rows in which a record ended in one of these; empty: all rows.
        error: By error: only errors whose fingerprint begins like this.
        limit: At most so many rows: the newest hours or days, or the first streams or errors.
    """
    ledger.ensure_prepared()
    roll_up(ledger=ledger)
    now = ledger.streams.server_time()
    start = floor_hour(since)
    end = floor_hour(until or now)
    if until is None or end != until:
        end += HOUR
    hours = ledger.reports.load(start, end, streams)
    totals = HourSum(stream="", window_start=None)
    for hour in hours:
        totals.add(hour)
    shown = {name: value for name, value in totals.to_row().items() if name not in ("stream", "window_start")}
    errors = add_up_errors(hours)
    rows = errors if by == "error" else [total.to_row() for total in add_up(hours, by)]
    if by == "error":
        rows = [row for row in rows if row["fingerprint"].startswith(error or "")]
    elif states:
        rows = [row for row in rows if any(row[state] for state in states)]
    if limit is not None:
        rows = rows[-limit:] if by in ("hour", "day") else rows[:limit]
    return Report(since=start, until=end, by=by, rows=tuple(rows), totals=shown, top_errors=tuple(errors[:TOP_ERRORS]))


def add_up(hours: Iterable[Mapping[str, Any]], by: By) -> list[HourSum]:
    """Add hours up by stream and hour, by stream and day (UTC), or by stream."""
    sums: dict[tuple[str, datetime | None], HourSum] = {}
    for hour in hours:
        at: datetime | None = hour["window_start"]
        if by == "day" and at is not None:
            at = at.replace(hour=0)
        elif by == "stream":
            at = None
        sums.setdefault((hour["stream"], at), HourSum(stream=hour["stream"], window_start=at)).add(hour)
    return list(sums.values())


def add_up_errors(hours: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Add errors up by fingerprint, the most frequent first."""
    errors: dict[str, dict[str, Any]] = {}
    for hour in hours:
        for error in hour.get("errors", ()):
            total = errors.setdefault(error["fingerprint"], {**error, "count": 0})
            total["count"] += int(error["count"])
    return sorted(errors.values(), key=lambda error: -int(error["count"]))
