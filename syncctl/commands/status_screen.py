"""The screen of `syncctl status --watch`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncctl.commands.records import format_key
from syncctl.commands.silence import began_at
from syncctl.commands.status_lines import (
    describe_age,
    describe_beat,
    describe_changed_files,
    describe_queue,
    describe_workers,
    list_standstills,
    list_warnings,
)
from syncctl.console import format_count
from syncctl.console.lines import Line, Part, fill, measure
from syncctl.console.pictures import STATE_STYLES, draw_path, draw_sparkline, draw_title, format_rate
from syncctl.core.durations import format_age
from syncctl.core.minute_rates import MINUTES, Flow, squeeze
from syncctl.core.safe_text import make_safe_line

if TYPE_CHECKING:
    from syncctl.pipeline.monitoring.status import Status
    from syncctl.pipeline.monitoring.watch import Activity, Event

STREAM_AT_MOST, STREAM_AT_LEAST = 24, 10
EVENTS_AT_LEAST = 3
TIME_WIDTH, KIND_WIDTH, ROW_AT_LEAST = 8, 12, 20
DETAIL_AT_LEAST = 34
"""The least width of an event's details; on a wide terminal they keep half of the width beside time and kind."""
TROUBLES_AT_MOST = 4
_FIGURES = (("in/s", 7), ("out/s", 7), ("backlog", 9), ("lag", 5), ("failed", 7))
"""The columns that are always shown, with their widths."""
_MORE = (("retrying", 8), ("last poll", 9), ("delivered", 11), ("cursor", 28))
"""More columns for a wide terminal, in the order in which they are added."""
_BARS_TITLES = (f"LAST {MINUTES} MINUTES", f"{MINUTES} MIN")
_EVENT_STYLES = {**STATE_STYLES, "late": "yellow", "lost": "yellow", "circuit open": "red", "paused": "red"}


class StatusScreen:
    """Draws the newest figures for any size of the terminal.

    Args:
        every: How often it is refreshed, as text.
    """

    def __init__(self, *, every: str) -> None:
        self._every = every
        self._status: Status | None = None
        self._activity: Activity | None = None
        self._changed_files: Sequence[str] = ()
        #: Since when there are no new figures, and why.
        self._trouble: tuple[datetime, str] | None = None
        #: Since when Redis cannot be used.
        self._without_redis_since: datetime | None = None

    @property
    def has_figures(self) -> bool:
        """Whether there is anything to show."""
        return self._status is not None

    @property
    def is_troubled(self) -> bool:
        """Whether there are no new figures, or Redis cannot be used."""
        return self._trouble is not None or self._without_redis_since is not None

    def take(self, status: "Status", activity: "Activity", *, changed_files: Sequence[str] = ()) -> None:
        """Take new figures.

        Args:
            changed_files: The names of the files of settings that have changed since the command read them.
        """
        if not status.queue["error"]:
            self._without_redis_since = None
        elif self._without_redis_since is None:
            self._without_redis_since = self._trouble[0] if self._trouble else activity.at
        self._status, self._activity, self._trouble = status, activity, None
        self._changed_files = changed_files

    def note_trouble(self, why: str, *, waited_seconds: float = 0.0) -> None:
        """Take the reason why there are no new figures; the old ones stay."""
        since = self._trouble[0] if self._trouble else began_at(waited_seconds)
        self._trouble = (since, why)

    def draw(self, width: int, height: int) -> list[Line]:
        """Return the lines of the screen, at most `height`."""
        status, activity = self._status, self._activity
        if status is None or activity is None:
            return []
        now = activity.at
        top = self._draw_top(status, activity, width)
        bottom: list[Line] = [
            [("workers  ", "dim"), (describe_workers(status), "")],
            [("beat     ", "dim"), (describe_beat(status.beat, now), "yellow" if status.beat["late"] else "")],
        ]
        troubles = _list_troubles(status, now, without_redis_since=self._without_redis_since)
        left = height - len(top) - len(bottom)
        shown_troubles = min(len(troubles), TROUBLES_AT_MOST, max(left // 4, 1))
        # The table has a header and a line for each stream, as far as the last events leave room for them.
        wanted = 1 + len(status.streams)
        table = min(wanted, max(left - shown_troubles - EVENTS_AT_LEAST - 2, 3))
        lines = [*top, *_draw_table(status.streams, activity, width, table - 1)]
        lines += _cut_list(troubles, shown_troubles, "more: syncctl status")
        rest = height - len(lines) - len(bottom) - 2
        if rest > 0:
            events = _draw_events(activity.events[:rest], now, width)
            lines += [[], [("LAST EVENTS", "bold")], *(events or [[("nothing in the last 24 hours", "dim")]])]
        lines += [[]] * max(height - len(lines) - len(bottom), 0)
        return [*lines[: max(height - len(bottom), 0)], *bottom][:height]

    def _draw_top(self, status: "Status", activity: "Activity", width: int) -> list[Line]:
        title = f"syncctl status  {Path.cwd().name}"
        lines: list[Line] = [draw_title(title, f"{activity.at:%H:%M:%S} UTC, every {self._every}", width)]
        if self._trouble is not None:
            since, why = self._trouble
            lines.append([(f"no new figures since {since:%H:%M:%S}: {why}; trying again", "red")])
        if self._changed_files:
            lines.append([(describe_changed_files(self._changed_files), "yellow")])
        return [*lines, *_draw_path(status, activity.flows, width), []]


def _draw_path(status: "Status", flows: Mapping[str, Flow], width: int) -> list[Line]:
    streams = status.streams
    logged, accepted = (
        sum(flow.rates[f"{name}_per_second"] for flow in flows.values()) for name in ("logged", "accepted")
    )
    backlog = sum(stream["backlog"] for stream in streams)
    in_flight = sum(stream["counts"]["sending"] for stream in streams)
    down = [partner for partner in status.partners if partner["paused"] or partner["breaker"] == "open"]
    is_away = status.queue["messages"] is None
    stations: Sequence[Sequence[Part]] = (
        (("source", "bold cyan"), (f"{format_rate(logged)}/s in", "bold"), (format_count(len(streams), "stream"), "")),
        (("ledger", "bold cyan"), (f"{backlog:,} waiting", "bold"), (f"{in_flight:,} in flight", "")),
        (
            ("queue", "bold cyan"),
            ("no Redis" if is_away else describe_queue(status.queue), "red" if is_away else "bold"),
            (format_count(len(status.workers), "worker"), "" if status.workers else "red"),
        ),
        (
            ("partner", "bold cyan"),
            (f"{format_rate(accepted)}/s out", "bold"),
            (f"{len(down)} down or paused", "red") if down else ("accepting", ""),
        ),
    )
    return draw_path(stations, width)


def _list_troubles(status: "Status", now: datetime, *, without_redis_since: datetime | None) -> list[Line]:
    """Return a line for each obstacle, and for each warning."""
    lines = [line for _, line in list_standstills(status, now)]
    if without_redis_since is not None:
        lines.insert(0, f"since {without_redis_since:%H:%M:%S}: {status.queue['error']}; syncctl doctor redis")
    return [[("! ", "yellow"), (line, "yellow")] for line in [*lines, *list_warnings(status, now)]]


def _cut_list(lines: Sequence[Line], at_most: int, more: str) -> list[Line]:
    """Return the first lines; if some are left out, the last line says how many."""
    if len(lines) <= at_most:
        return list(lines)
    left = len(lines) - max(at_most - 1, 0)
    return [*lines[: max(at_most - 1, 0)], [(f"  and {left} {more}", "dim")]]


def _draw_table(streams: Sequence[Mapping[str, Any]], activity: "Activity", width: int, at_most: int) -> list[Line]:
    """Return the header and a line for each stream; if there are too many, those that need attention come first."""
    name_width = min(max([STREAM_AT_LEAST, *(measure(stream["stream"]) for stream in streams)]), STREAM_AT_MOST)
    left = width - 2 - name_width - sum(size + 1 for _, size in _FIGURES) - 2
    if left < MINUTES // 2:
        # On a narrow terminal the name gives way to the bars, but stays wide enough to tell streams apart.
        name_width = max(STREAM_AT_LEAST, name_width - (MINUTES // 2 - left))
        left = width - 2 - name_width - sum(size + 1 for _, size in _FIGURES) - 2
    bars = MINUTES if left >= MINUTES else MINUTES // 2 if left >= MINUTES // 2 else max(left, 0)
    left -= bars
    more = []
    for name, size in _MORE:
        if left >= size + 2:
            more.append((name, size))
            left -= size + 2
    header: list[Part] = [(fill("  STREAM", name_width + 2), "bold")]
    header += [(f" {fill(name.upper(), size, right=True)}", "bold") for name, size in _FIGURES]
    title = next((name for name in _BARS_TITLES if len(name) <= bars), "")
    header.append((f"  {fill(title, bars)}", "bold"))
    header += [(f"  {fill(name.upper(), size, right=name != 'cursor')}", "bold") for name, size in more]
    shown = streams
    if len(streams) > at_most:
        shown = sorted(streams, key=_needs_look, reverse=True)
    lines = [
        _draw_stream(stream, activity.flows[stream["stream"]], activity.at, name_width, bars, more) for stream in shown
    ]
    return [header, *_cut_list(lines, at_most, "more streams")]


def _needs_look(stream: Mapping[str, Any]) -> tuple[bool, int, int]:
    is_held = stream["paused"] or stream["breaker"] != "closed" or bool(stream["obstacles"])
    return is_held, stream["counts"]["failed"], stream["backlog"]


def _draw_stream(
    stream: Mapping[str, Any], flow: Flow, now: datetime, name_width: int, bars: int, more: Sequence[tuple[str, int]]
) -> Line:
    counts, rates = stream["counts"], flow.rates
    oldest, last_poll = stream["oldest_due_seconds"], stream["last_poll_at"]
    is_down = stream["breaker"] == "open"
    mark = "!" if is_down or stream["paused"] or stream["obstacles"] else " "
    figures = {
        "in/s": (format_rate(rates["logged_per_second"]), ""),
        "out/s": (format_rate(rates["accepted_per_second"]), "green" if flow.accepted[-1] else ""),
        "backlog": (f"{stream['backlog']:,}", "bold" if stream["backlog"] else "dim"),
        "lag": ("-" if oldest is None else format_age(oldest), ""),
        "failed": (f"{counts['failed']:,}", "red" if counts["failed"] else "dim"),
        "retrying": (f"{counts['retrying']:,}", "yellow" if counts["retrying"] else "dim"),
        "last poll": ("-" if last_poll is None else describe_age(last_poll, now), ""),
        "delivered": (f"{counts['delivered']:,}", ""),
        "cursor": (str(stream["cursor"] if stream["cursor"] is not None else "-"), "dim"),
    }
    style = "red" if is_down else "yellow" if mark == "!" else ""
    line: list[Part] = [(f"{mark} {fill(stream['stream'], name_width)}", style)]
    line += [(f" {fill(figures[name][0], size, right=True)}", figures[name][1]) for name, size in _FIGURES]
    line.append((f"  {fill(draw_sparkline(squeeze(flow.accepted, bars)), bars)}", "cyan"))
    line += [(f"  {fill(figures[name][0], size, right=name != 'cursor')}", figures[name][1]) for name, size in more]
    return line


def _draw_events(events: Sequence["Event"], now: datetime, width: int) -> list[Line]:
    """Return a line for each event; the rows get the width of the longest, unless the details need that room."""
    rows = [
        make_safe_line(event.subject if event.key is None else f"{event.subject} {format_key(event.key)}")
        for event in events
    ]
    left = width - TIME_WIDTH - KIND_WIDTH - 6
    row_at_most = left - max(DETAIL_AT_LEAST, left // 2)
    row_width = max(ROW_AT_LEAST, min(row_at_most, max(map(measure, rows), default=0)))
    return [_draw_event(event, row, row_width, now) for event, row in zip(events, rows, strict=True)]


def _draw_event(event: "Event", row: str, row_width: int, now: datetime) -> Line:
    at = f"{event.at:%H:%M:%S}" if event.at.date() == now.date() else f"{event.at:%d} {event.at:%H:%M}"
    style = _EVENT_STYLES.get(event.kind, "red" if event.is_trouble else "")
    return [
        (f"{at:{TIME_WIDTH}}  ", "dim"),
        (f"{fill(event.kind, KIND_WIDTH)}  ", style),
        (f"{fill(row, row_width)}  ", ""),
        (event.detail, ""),
    ]
