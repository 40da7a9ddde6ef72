"""The report as one self-contained HTML page: no script, no network, charts as inline SVG."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any

from syncctl.console.charts import Axis, Series, draw_bars, draw_distribution, draw_lines
from syncctl.console.markup import Child, Markup, element
from syncctl.console.report_style import STYLE
from syncctl.core.durations import format_change, format_ms
from syncctl.core.histogram import DELIVERY_BOUNDS_MS, LATENCY_BOUNDS_MS, accumulate
from syncctl.core.report_points import Point
from syncctl.core.time_zone import format_in_zone, name_zone

_MEASURES = (
    ("logged", "logged"),
    ("delivered", "delivered"),
    ("failed", "failed"),
    ("superseded", "superseded"),
    ("attempts", "calls"),
    ("retries", "retries"),
)
_TIMES = (("p50_ms", "half"), ("p95_ms", "95 %"), ("p99_ms", "99 %"))
_SHARES = ("p50", "p95", "p99")
_UNITS = {"slice": "5 minutes", "hour": "hour", "day": "day"}
_LINES_FROM = 3
"""Line charts are drawn from this number of units on; for fewer, the distributions and tables are enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPage:
    """The contents of the page."""

    since: datetime
    until: datetime
    zone: tzinfo
    made_at: datetime
    rolled_up_at: datetime | None
    version: str
    #: `hour`, `day`, `stream` or `error`.
    by: str
    #: The streams that the report is restricted to; empty for all.
    streams: Sequence[str]
    totals: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    errors: Sequence[Mapping[str, Any]]
    #: The start of the period before, and its totals; None without a comparison.
    before: tuple[datetime, Mapping[str, Any]] | None
    #: How many of the failed records are still failed.
    failed_now: int
    #: `slice`, `hour` or `day`: the unit of the outcomes.
    unit: str
    outcomes: Sequence[Point]
    times: Sequence[Point]
    latency: Mapping[int, int]
    #: The times from logged to delivered, by bucket; None if no hour of the period has them.
    delivery: Mapping[int, int] | None

    def render(self) -> str:
        """Return the page."""
        period = f"{self._when(self.since)} to {self._when(self.until)}"
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy()),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", f"Delivery report, {period}"),
            element("style", Markup(STYLE)),
        )
        streams = f"streams: {', '.join(self.streams)}" if self.streams else "all streams"
        body = element(
            "body",
            element(
                "header",
                element("h1", "Delivery report"),
                element("p", f"{period} · {name_zone(self.zone)} · {streams}"),
                element("p", self._verdict(), class_="verdict"),
            ),
            element(
                "main",
                self._tiles(),
                self._course(),
                self._distributions(),
                self._rows_table() if self.by != "error" else None,
                self._errors_table(),
            ),
            element("footer", [element("p", note) for note in self._notes()]),
        )
        return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'

    def _when(self, at: datetime) -> str:
        return at.astimezone(self.zone).strftime("%Y-%m-%d %H:%M")

    def _verdict(self) -> str:
        totals = self.totals
        if not totals["attempts"] and not totals["logged"] and not totals["failed"]:
            return "Nothing happened in this period."
        calls, delivered, failed = totals["attempts"], totals["delivered"], totals["failed"]
        text = f"{delivered:,} delivered, {failed:,} failed"
        if failed and self.failed_now != failed:
            text += f" (still failed: {self.failed_now:,})"
        repeated = sum(point.retried for point in self.times)
        if repeated:
            text += f"; {repeated:,} of {calls:,} calls had to be repeated"
        refused = [point.retried + point.failed for point in self.outcomes]
        if sum(refused) and len(refused) > 1:
            worst = max(range(len(refused)), key=lambda at: refused[at])
            when = self._axis(self.outcomes, str).names[worst]
            text += f". Most refusals and failures: {when}, {refused[worst]:,} of {sum(refused):,}"
        return text + "."

    def _tiles(self) -> Markup:
        before = self.before[1] if self.before else None
        tiles = [_tile(title, f"{self.totals[name]:,}", self.totals[name], before, name) for name, title in _MEASURES]
        for prefix, title in (("", "Latency of calls"), ("delivery_", "Logged to delivered")):
            names = [(f"{prefix}{name}", share) for name, share in _TIMES]
            lines = [
                (f"{share} within ", element("b", format_ms(self.totals[name])))
                for name, share in names
                if self.totals[name] is not None
            ]
            note = None
            if before is not None and before[f"{prefix}p95_ms"] is not None:
                note = element("small", f"95 % before: {format_ms(before[f'{prefix}p95_ms'])}")
            shown = [element("span", line) for line in lines] or [element("span", "not known", class_="unknown")]
            tiles.append(
                element("div", element("dt", title), element("dd", shown, note, class_="times"), class_="wide")
            )
        heading = "Totals"
        if self.before:
            heading += f", compared with {self._when(self.before[0])} to {self._when(self.since)}"
        return element("section", element("h2", heading), element("dl", tiles, class_="tiles"))

    def _course(self) -> Markup | None:
        if not any(point.delivered or point.failed or point.retried for point in self.outcomes):
            return None
        unit, axis = _UNITS[self.unit], self._axis(self.outcomes, lambda value: f"{value:,.10g}")
        delivered = [point.delivered for point in self.outcomes]
        failed = [point.failed for point in self.outcomes]
        retried = [point.retried for point in self.outcomes]
        worst = max(range(len(failed)), key=lambda at: failed[at] + retried[at])
        refused = f"{sum(retried):,} calls to be repeated and {sum(failed):,} failed records by {unit}"
        if failed[worst] + retried[worst]:
            refused += f"; most of them, {failed[worst] + retried[worst]:,}, in {axis.names[worst]}"
        parts: list[Markup | None] = [
            _figure(
                f"Delivered by {unit}",
                draw_bars(
                    axis,
                    [Series(name="delivered", colour="good", values=delivered)],
                    title=f"{sum(delivered):,} delivered by {unit}, at most {max(delivered):,}",
                ),
            ),
            _figure(
                f"Not accepted by {unit}",
                draw_bars(
                    axis,
                    [
                        Series(name="to be repeated", colour="warn", values=retried),
                        Series(name="failed", colour="bad", values=failed),
                    ],
                    title=refused,
                ),
                legend=(("warn", "calls to be repeated"), ("bad", "failed")),
            ),
        ]
        if len(self.times) >= _LINES_FROM:
            parts += [self._lines("latency_ms", "Latency of calls"), self._lines("delivery_ms", "Logged to delivered")]
        rows = [(axis.names[at], delivered[at], retried[at], failed[at]) for at in range(len(delivered))]
        table = element(
            "details",
            element("summary", "These figures as a table"),
            _table(("time", "delivered", "to be repeated", "failed"), rows),
        )
        return element("section", element("h2", "Course"), element("div", parts, class_="figures"), table)

    def _lines(self, name: str, title: str) -> Markup | None:
        values = [getattr(point, name) or (None,) * len(_SHARES) for point in self.times]
        if not any(value for percentiles in values for value in percentiles):
            return None
        unit = _UNITS["day" if self.unit == "day" else "hour"]
        lines = [
            Series(name=share, colour=share, values=[percentiles[at] for percentiles in values])
            for at, share in enumerate(_SHARES)
        ]
        most = max(value for percentiles in values for value in percentiles if value)
        drawn = draw_lines(
            self._axis(self.times, format_ms), lines, title=f"{title} by {unit}: p50, p95, p99; up to {format_ms(most)}"
        )
        legend = tuple((share, f"{text} within") for share, (_, text) in zip(_SHARES, _TIMES, strict=True))
        return _figure(f"{title} by {unit}", drawn, legend=legend)

    def _axis(self, points: Sequence[Point], show: Any) -> Axis:
        starts = [point.start.astimezone(self.zone) for point in points]
        if points and points[0].end - points[0].start > timedelta(hours=2):
            return Axis(labels=[f"{at:%d %b}" for at in starts], names=[f"{at:%Y-%m-%d}" for at in starts], show=show)
        many = starts and starts[0].date() != starts[-1].date()
        labels = [f"{at:%d %b}" if many and at.hour == at.minute == 0 else f"{at:%H:%M}" for at in starts]
        ends = [f"{point.end.astimezone(self.zone):%H:%M}" for point in points]
        names = [f"{at:%Y-%m-%d %H:%M} to {end}" for at, end in zip(starts, ends, strict=True)]
        return Axis(labels=labels, names=names, show=show)

    def _distributions(self) -> Markup | None:
        parts = []
        if self.latency:
            parts.append(_distribution("Latency of calls", self.latency, LATENCY_BOUNDS_MS, "calls", "p50"))
        if self.delivery:
            parts.append(_distribution("Logged to delivered", self.delivery, DELIVERY_BOUNDS_MS, "records", "good"))
        if not parts:
            return None
        return element("section", element("h2", "Distribution"), element("div", parts, class_="figures"))

    def _rows_table(self) -> Markup:
        is_timed = self.by in ("hour", "day")
        titles = (
            *(("time",) if is_timed else ()), "stream", "logged", "delivered", "failed", "superseded", "calls",
            "retries", "latency p50", "p95", "p99", "logged to delivered p50", "p95", "p99",
        )  # fmt: skip
        rows = []
        for row in self.rows:
            times = [_Right(format_ms(row[f"{prefix}{name}"])) for prefix in ("", "delivery_") for name, _ in _TIMES]
            start = [format_in_zone(row["window_start"], self.zone)] if is_timed else []
            rows.append((*start, row["stream"], *(row[name] for name, _ in _MEASURES), *times))
        if not rows:
            return element("section", element("h2", f"By {self.by}"), element("p", "no rows"))
        return element("section", element("h2", f"By {self.by}"), _table(titles, rows))

    def _errors_table(self) -> Markup | None:
        if not self.errors:
            return None
        names = ("count", "status", "message", "fingerprint", "sample_id")
        rows = [tuple(error.get(name) for name in names) for error in self.errors]
        rows = [(count, None if status is None else str(status), *rest) for count, status, *rest in rows]
        titles = ("attempts", "status", "message", "fingerprint", "a record with it")
        return element("section", element("h2", "Errors, the most frequent first"), _table(titles, rows))

    def _notes(self) -> list[str]:
        notes = [f"Made by syncctl {self.version} at {format_in_zone(self.made_at, self.zone)} from hourly roll-ups."]
        if self.rolled_up_at is not None:
            notes.append(f"Events up to {format_in_zone(self.rolled_up_at, self.zone)} are included.")
        notes.append("Each event counts in the hour in which it happened. Percentiles are exact to within 5 %.")
        notes.append("The time from logged to delivered counts once for each record, at its first delivery.")
        counted = self.totals["delivery_count"]
        if counted is None:
            notes.append("The times from logged to delivered were not kept yet in this period.")
        return notes


def _policy() -> str:
    """Allow the page's own style sheet by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _tile(title: str, shown: str, value: int, before: Mapping[str, Any] | None, name: str) -> Markup:
    note = None
    if before is not None:
        change = f" ({format_change(value, before[name])})" if before[name] else ""
        note = element("small", f"before: {before[name]:,}{change}")
    is_bad = name == "failed" and value
    return element("div", element("dt", title), element("dd", shown, note, class_="bad-text" if is_bad else None))


def _distribution(title: str, buckets: Mapping[int, int], bounds: Sequence[int], noun: str, colour: str) -> Markup:
    below = [0, *accumulate(buckets, bounds)]
    counts = [after - before for before, after in pairwise(below)]
    names = [f"≤ {format_ms(bound)}" for bound in bounds] + [f"> {format_ms(bounds[-1])}"]
    shown = [at for at, count in enumerate(counts) if count]
    first, last = shown[0], shown[-1] + 1
    most = max(range(len(counts)), key=lambda at: counts[at])
    text = f"{title} of {below[-1]:,} {noun}: most, {counts[most]:,}, {names[most]}"
    return _figure(title, draw_distribution(names[first:last], counts[first:last], title=text, colour=colour))


def _figure(title: str, drawn: Markup, *, legend: Iterable[tuple[str, str]] = ()) -> Markup:
    keys = [
        element("span", element("svg", element("rect", width=10, height=10, class_=colour), width=10, height=10), text)
        for colour, text in legend
    ]
    caption = element("figcaption", element("h3", title), element("p", keys, class_="legend") if keys else None)
    return element("figure", caption, drawn)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    numeric = [any(isinstance(row[at], int | float | _Right) for row in rows) for at in range(len(titles))]
    classes = ["number" if is_numeric else None for is_numeric in numeric]
    head = element("tr", [element("th", t, scope="col", class_=c) for t, c in zip(titles, classes, strict=True)])
    body = [element("tr", [_cell(value, c) for value, c in zip(row, classes, strict=True)]) for row in rows]
    table = element("table", element("thead", head), element("tbody", body))
    # A table that is wider than the screen scrolls on its own, also by keyboard.
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label="table")


def _cell(value: Child, class_: str | None) -> Markup:
    shown = f"{value:,}" if class_ and isinstance(value, int | float) else "-" if value is None else value
    return element("td", shown, class_=class_)


class _Right(str):
    """A text that states a quantity, so that its column is aligned to the right like a column of numbers."""

    __slots__ = ()
