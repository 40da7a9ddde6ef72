"""The display of the demo: one live screen on a terminal, otherwise a line every two seconds."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from syncctl.console import format_count, out
from syncctl.console.lines import Line, Part
from syncctl.console.live import LivePicture
from syncctl.console.pictures import STATE_STYLES, draw_counts, draw_path, draw_progress, draw_title
from syncctl.console.terminal import can_redraw
from syncctl.core.states import UNFINISHED_COUNTS
from syncctl.local.demo.environment import STREAM
from syncctl.local.demo.scenario import LOOKUP_ANSWERS, STATES, Snapshot

if TYPE_CHECKING:
    from syncctl.pipeline.reporting.report import Report

LINE_EVERY_SECONDS = 2.0
WIDEST = 120
# On a narrow terminal the last ones are cut first. `queued` is missing, because no record has that state any more.
_DRAWN = ("pending", "retrying", "sending", "delivered", "failed", "superseded")
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
        self._picture: LivePicture | None = None
        self._line_at = float("-inf")
        #: The newest progress that no line has shown yet.
        self._unshown: Snapshot | None = None

    def say(self, text: str) -> None:
        """Announce the next step."""
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
            out.table(_FAILURE_COLUMNS, rows, title="failed records by error", prose=("message",), count="red")

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
        if self._picture is not None:
            self._picture.close()
            self._picture = None

    def _redraw(self, snapshot: Snapshot) -> None:
        if self._picture is None:
            self._picture = LivePicture(sys.stderr, has_own_screen=False)
        self._picture.draw(lambda width, height: _draw(snapshot, width)[:height])


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


def _draw(snapshot: Snapshot, width: int) -> list[Line]:
    """Return the picture of one snapshot."""
    # A wider picture would only pull its parts apart.
    width = min(width, WIDEST)
    return [
        draw_title("syncctl demo", snapshot.phase, width),
        [],
        *draw_path(_list_stations(snapshot), width),
        [],
        *_draw_counts(snapshot),
        [],
        _draw_progress(snapshot, width),
    ]


def _list_stations(snapshot: Snapshot) -> Sequence[Sequence[Part]]:
    queue = "?" if snapshot.messages is None else f"{snapshot.messages:,}"
    source = snapshot.source
    held = "rows" if source.lines is None else "objects"
    below = f"of {snapshot.rows_wanted:,}" if source.lines is None else f"{source.lines:,} lines"
    stations = (
        ("source", "SQLite", f"{source.rows:,} rows", below),
        ("ledger", "MongoDB", f"{snapshot.records:,} records", f"{snapshot.unfinished:,} unfinished"),
        ("queue", "Redis", f"{queue} messages", format_count(snapshot.workers, "worker")),
        ("partner", "HTTP API", f"{snapshot.partner['calls']:,} calls", f"{snapshot.partner['rows']:,} {held}"),
    )
    return [list(zip(station, ("bold cyan", "dim", "bold", ""), strict=True)) for station in stations]


def _draw_counts(snapshot: Snapshot) -> list[Line]:
    answers: list[tuple[str, int, str]] = []
    lookups: list[tuple[str, int, str]] = []
    for name, count in snapshot.answers.items():
        part = lookups if name in LOOKUP_ANSWERS else answers
        part.append((_SHORT[name], count, "green" if name in ("accepted", "found") else "yellow"))
    lines = [
        draw_counts("records", [(state, snapshot.counts[state], STATE_STYLES.get(state, "")) for state in _DRAWN]),
        draw_counts("answers", answers),
    ]
    if snapshot.source.written_back is not None:
        written = [("ids", snapshot.source.written_back, "green"), ("outcomes due", snapshot.unwritten, "yellow")]
        lines += [draw_counts("lookups", lookups), draw_counts("written", written)]
    failures = [f"{group['count']:,} x {group['message']}" for group in snapshot.failures]
    return [*lines, *([("failed   ", ""), (failure, "red")] for failure in failures)]


def _draw_progress(snapshot: Snapshot, width: int) -> Line:
    total = max(snapshot.records, snapshot.rows_wanted)
    done = snapshot.records - sum(snapshot.counts[state] for state in UNFINISHED_COUNTS)
    rate = f"{snapshot.calls_per_second:,.0f} calls/s   {snapshot.elapsed_seconds:.0f} s"
    return draw_progress(done / total, f"{100 * done // total:3d} %   {rate}", width)
