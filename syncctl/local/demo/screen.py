"""How the demo looks: one live screen on a terminal, a line every other second elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from syncctl.console import out
from syncctl.console.terminal import can_redraw, decide_colour, make_safe
from syncctl.local.demo.snapshot import STATES, UNFINISHED, Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

LINE_EVERY_SECONDS = 2.0
_STYLES = {"retrying": "yellow", "delivered": "green", "failed": "red", "superseded": "dim"}
_SHORT = {
    "accepted": "accepted",
    "too_many_429": "429",
    "error_500": "500",
    "cut_before_applied": "cut before",
    "cut_after_applied": "cut after",
    "refused_422": "422",
}


class Screen(Protocol):
    """Where the demo is drawn, on stderr."""

    def show(self, snapshot: Snapshot) -> None:
        """Draw how it stands."""

    def rest(self) -> None:
        """Leave what is drawn as it is; other text follows. Safe to repeat."""


def open_screen() -> Screen:
    """Return the best screen that stderr can show."""
    if out.quiet:
        return NoScreen()
    encoding = (getattr(sys.stderr, "encoding", None) or "").lower()
    return LiveScreen() if can_redraw(sys.stderr) and encoding.startswith("utf") else LineScreen()


class NoScreen:
    """Nothing, for `--quiet`."""

    def show(self, snapshot: Snapshot) -> None:
        """Draw nothing."""

    def rest(self) -> None:
        """Do nothing."""


class LineScreen:
    """A line every other second."""

    def __init__(self) -> None:
        self._shown_at = float("-inf")

    def show(self, snapshot: Snapshot) -> None:
        """Write a line when it is time for one."""
        if time.monotonic() - self._shown_at < LINE_EVERY_SECONDS:
            return
        self._shown_at = time.monotonic()
        counts = ", ".join(f"{snapshot.counts[state]:,} {state}" for state in STATES if snapshot.counts[state])
        out.say(
            f"{snapshot.elapsed_seconds:6.1f} s  source {snapshot.source_rows:,} rows | "
            f"ledger {counts or 'empty'} | "
            f"partner {snapshot.partner['calls']:,} calls, {snapshot.calls_per_second:,.0f}/s"
        )

    def rest(self) -> None:
        """Show the next look at once."""
        self._shown_at = float("-inf")


class LiveScreen:
    """One screen that is drawn over."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def show(self, snapshot: Snapshot) -> None:
        """Draw it anew."""
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            terminal = Console(file=sys.stderr, no_color=not decide_colour(sys.stderr), highlight=False, markup=False)
            self._live = Live(console=terminal, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        self._live.update(draw(snapshot), refresh=True)

    def rest(self) -> None:
        """Leave the last picture standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def draw(snapshot: Snapshot) -> "RenderableType":
    """Return the picture of one look."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts = (_draw_flow(snapshot), Text(), _draw_counts(snapshot), Text(), _draw_progress(snapshot))
    return Panel(Group(*parts), title="syncctl demo", subtitle=snapshot.phase, padding=(1, 2))


def _draw_flow(snapshot: Snapshot) -> "Table":
    from rich.table import Table
    from rich.text import Text

    queue = "?" if snapshot.messages is None else f"{snapshot.messages:,}"
    flow = (
        ("source", "SQLite", f"{snapshot.source_rows:,} rows", f"of {snapshot.rows_wanted:,}"),
        ("ledger", "MongoDB", f"{snapshot.records:,} records", f"{snapshot.unfinished:,} under way"),
        ("queue", "Redis", f"{queue} messages", f"{snapshot.workers} worker{'' if snapshot.workers == 1 else 's'}"),
        ("partner", "HTTP API", f"{snapshot.partner['calls']:,} calls", f"{snapshot.partner['rows']:,} rows"),
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

    states, answers = Text(), Text()
    for state in STATES:
        _append_count(states, state, snapshot.counts[state], _STYLES.get(state, ""))
    for name, count in snapshot.answers.items():
        _append_count(answers, _SHORT[name], count, "green" if name == "accepted" else "yellow")
    grid = Table.grid(padding=(0, 2))
    grid.add_row("records", states)
    grid.add_row("answers", answers)
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
    done = snapshot.records - sum(snapshot.counts[state] for state in UNFINISHED)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    rate = f"{100 * done // total:3d} %   {snapshot.calls_per_second:,.0f} calls/s   {snapshot.elapsed_seconds:.0f} s"
    grid.add_row(ProgressBar(total=total, completed=done), Text(rate))
    return grid
