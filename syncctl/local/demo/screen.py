"""How the demo looks: one live screen on a terminal, elsewhere a line every other second."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from syncctl.console import out
from syncctl.console.terminal import can_redraw, decide_colour
from syncctl.core.safe_text import make_safe
from syncctl.core.states import UNFINISHED_COUNTS
from syncctl.local.demo.environment import STREAM
from syncctl.local.demo.scenario import LOOKUP_ANSWERS, STATES, Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from syncctl.pipeline.report import Report

LINE_EVERY_SECONDS = 2.0
_STYLES = {"retrying": "yellow", "delivered": "green", "failed": "red", "superseded": "dim"}
_SHORT = {
    "accepted": "accepted",
    "too_many_429": "429",
    "error_500": "500",
    "cut_before_applied": "cut before",
    "cut_after_applied": "cut after",
    "refused_422": "422",
    "found": "found",
    "not_found": "not found",
}
_FAILURE_COLUMNS = ("count", "status", "message", "fingerprint")
_REPORT_COLUMNS = ("logged", "delivered", "failed", "superseded", "attempts", "retries", "p95_ms")


class DemoDisplay:
    """Shows the demo to a person: progress on stderr, tables on stdout.

    Args:
        as_json: Print no tables; stdout is reserved for the account.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        encoding = (getattr(sys.stderr, "encoding", None) or "").lower()
        self._can_redraw = can_redraw(sys.stderr) and encoding.startswith("utf")
        self._live: Live | None = None
        self._line_at = float("-inf")
        #: The newest progress that no line has shown yet.
        self._unshown: Snapshot | None = None

    def say(self, text: str) -> None:
        """Say what happens now."""
        self.pause()
        out.say(text)

    def show(self, snapshot: Snapshot) -> None:
        """Show the progress."""
        if out.quiet:
            return
        if self._can_redraw:
            self._redraw(snapshot)
        elif time.monotonic() - self._line_at >= LINE_EVERY_SECONDS:
            self._line_at = time.monotonic()
            self._unshown = None
            _write_line(snapshot)
        else:
            self._unshown = snapshot

    def show_failures(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """List failed records by their error, as `syncctl failures` does."""
        self.pause()
        if not self._as_json:
            rows = [[group[name] for name in _FAILURE_COLUMNS] for group in groups]
            out.table(_FAILURE_COLUMNS, rows, title="failed records by error", count="red")

    def show_report(self, report: "Report") -> None:
        """Show the report, as `syncctl report` does."""
        self.pause()
        if not self._as_json:
            rows = [[row.get(name) for name in _REPORT_COLUMNS] for row in report.rows]
            names = [name.replace("_", " ") for name in _REPORT_COLUMNS]
            out.table(names, rows, title=f"report of {STREAM}", delivered="green", failed="red")

    def pause(self) -> None:
        """Leave the last picture in place, because other text follows. Safe to repeat."""
        self._line_at = float("-inf")
        if self._unshown is not None:
            _write_line(self._unshown)
            self._unshown = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _redraw(self, snapshot: Snapshot) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            terminal = Console(file=sys.stderr, no_color=not decide_colour(sys.stderr), highlight=False, markup=False)
            self._live = Live(console=terminal, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        self._live.update(_draw(snapshot), refresh=True)


def _write_line(snapshot: Snapshot) -> None:
    counts = ", ".join(f"{snapshot.counts[state]:,} {state}" for state in STATES if snapshot.counts[state])
    out.say(
        f"{snapshot.elapsed_seconds:6.1f} s  source {_count_source(snapshot)} | "
        f"ledger {counts or 'empty'} | "
        f"partner {snapshot.partner['calls']:,} calls, {snapshot.calls_per_second:,.0f}/s"
    )


def _count_source(snapshot: Snapshot) -> str:
    source = snapshot.source
    if source.lines is None:
        return f"{source.rows:,} rows"
    return f"{source.rows:,} rows, {source.lines:,} lines, {source.written_back:,} ids written back"


def _draw(snapshot: Snapshot) -> "RenderableType":
    """Return the picture of one snapshot."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts = (_draw_flow(snapshot), Text(), _draw_counts(snapshot), Text(), _draw_progress(snapshot))
    return Panel(Group(*parts), title="syncctl demo", subtitle=snapshot.phase, padding=(1, 2))


def _draw_flow(snapshot: Snapshot) -> "Table":
    from rich.table import Table
    from rich.text import Text

    queue = "?" if snapshot.messages is None else f"{snapshot.messages:,}"
    source = snapshot.source
    held = "rows" if source.lines is None else "objects"
    below = f"of {snapshot.rows_wanted:,}" if source.lines is None else f"{source.lines:,} lines"
    flow = (
        ("source", "SQLite", f"{source.rows:,} rows", below),
        ("ledger", "MongoDB", f"{snapshot.records:,} records", f"{snapshot.unfinished:,} unfinished"),
        ("queue", "Redis", f"{queue} messages", f"{snapshot.workers} worker{'' if snapshot.workers == 1 else 's'}"),
        ("partner", "HTTP API", f"{snapshot.partner['calls']:,} calls", f"{snapshot.partner['rows']:,} {held}"),
    )
    grid = Table.grid(expand=True, padding=(0, 1))
    for at in range(2 * len(flow) - 1):
        grid.add_column(ratio=None if at % 2 else 1, justify="center")
    for line, style in enumerate(("bold cyan", "dim", "bold", "")):
        cells: list[Any] = []
        for station in flow:
            cells += [Text(station[line], style, no_wrap=True), Text("──▶" if line == 0 else "", "dim")]
        grid.add_row(*cells[:-1])
    return grid


def _draw_counts(snapshot: Snapshot) -> "Table":
    from rich.table import Table
    from rich.text import Text

    states, answers, lookups = Text(), Text(), Text()
    for state in STATES:
        _append_count(states, state, snapshot.counts[state], _STYLES.get(state, ""))
    for name, count in snapshot.answers.items():
        part = lookups if name in LOOKUP_ANSWERS else answers
        _append_count(part, _SHORT[name], count, "green" if name in ("accepted", "found") else "yellow")
    grid = Table.grid(padding=(0, 2))
    grid.add_row("records", states)
    grid.add_row("answers", answers)
    if snapshot.source.written_back is not None:
        written = Text()
        grid.add_row("lookups", lookups)
        _append_count(written, "ids", snapshot.source.written_back, "green")
        _append_count(written, "outcomes due", snapshot.unwritten, "yellow")
        grid.add_row("written", written)
    for group in snapshot.failures:
        grid.add_row("failed", Text(make_safe(f"{group['count']:,} x {group['message']}"), "red", no_wrap=True))
    return grid


def _append_count(text: "Text", name: str, count: int, style: str) -> None:
    text.append(f"{name} ", "dim")
    text.append(f"{count:,}", style if count else "dim")
    text.append("   ")


def _draw_progress(snapshot: Snapshot) -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = max(snapshot.records, snapshot.rows_wanted)
    done = snapshot.records - sum(snapshot.counts[state] for state in UNFINISHED_COUNTS)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    rate = f"{100 * done // total:3d} %   {snapshot.calls_per_second:,.0f} calls/s   {snapshot.elapsed_seconds:.0f} s"
    grid.add_row(ProgressBar(total=total, completed=done), Text(rate))
    return grid
