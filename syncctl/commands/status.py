"""`syncctl status`: the current state of streams, queue, workers and Beat."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.commands.silence import Patience, Silence
from syncctl.commands.status_lines import (
    describe_age,
    describe_beat,
    describe_changed_files,
    describe_queue,
    describe_workers,
    list_standstills,
    list_steps,
    list_warnings,
)
from syncctl.commands.stop_signal import StopSignal
from syncctl.commands.times import parse_seconds
from syncctl.console import format_time, out
from syncctl.core.durations import format_age, format_duration
from syncctl.errors import ExitCode, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.monitoring.status import Status
    from syncctl.wiring.connections import Connections

_COUNTS = ("pending", "retrying", "queued", "sending", "delivered", "failed", "superseded", "discarded")
COLUMNS = ("stream", "cursor", "last poll", "oldest due", *_COUNTS, "held", "breaker")
_OPTIONAL = ("oldest due", "held", "queued", "sending", "superseded", "discarded", "breaker")
_UNREMARKABLE = (None, 0, "closed")
_WITHOUT_REDIS = "nothing is lost, and rows are polled and sent once Redis can be used; run: syncctl doctor redis"
INTERVAL_AT_LEAST_SECONDS = 0.5
LOOK_AT_RESIZE_SECONDS = 0.2
PAUSE_PER_READING = 2.0
"""How long the screen waits after a slow reading, as a multiple of the time that it took."""


def status(
    ctx: typer.Context,
    *,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show a screen that refreshes until Ctrl-C.")] = False,
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="How often --watch refreshes: 2s, 30s.")
    ] = "2s",
) -> ExitCode:
    """Show the current state of streams, queue, workers and Beat.

    Counts of finished records come from the reports and may be a minute old; all others are current.

    With --watch, a screen shows for each stream the rates in and out, the backlog, the lag and the last half hour;
    below, it shows what holds streams, and the latest events. It follows the size of the terminal. In a pipe, the plain
    status is printed again and again.

    Examples:
        syncctl status
        syncctl status --watch
        syncctl status --watch --interval 10s
        syncctl status --json
    """
    if as_json and watch:
        raise UsageError(
            "--json and --watch cannot be combined",
            why="stdout carries one document",
            hint="omit one of them; for documents as things happen: syncctl tail --json",
        )
    seconds = parse_seconds(interval, flag="--interval")
    if seconds < INTERVAL_AT_LEAST_SECONDS:
        raise UsageError(
            f"--interval {interval} is too short",
            why="each refresh asks MongoDB and Redis",
            hint=f"at least {format_duration(INTERVAL_AT_LEAST_SECONDS)}",
        )
    with open_session(ctx) as connections:
        from syncctl.wiring.use_cases import read_status

        if watch:
            with StopSignal(notice="") as stop:
                show = _watch_screen if out.can_redraw() else _watch_plain
                show(connections, stop, seconds)
            return stop.exit_code
        with out.progress("asking MongoDB and Redis"):
            current = read_status(connections)
        if current.queue["error"]:
            out.warn(f"{current.queue['error']}; {_WITHOUT_REDIS}")
        if as_json:
            out.print_json(current)
        else:
            show_status(current)
    return ExitCode.DONE


def _watch_plain(connections: "Connections", stop: StopSignal, seconds: float) -> None:
    """Print the status repeatedly, each time below a line with the time; say once when MongoDB stops answering.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached and never could since the command began.
    """
    from syncctl.wiring.use_cases import prove_answering, read_status

    silence = Silence("MongoDB", Patience(lambda: prove_answering(connections)))
    has_read = False
    _ = connections.ledger
    while not (stop.is_set or out.reader_gone):
        try:
            current = stop.await_result(lambda: read_status(connections), on_wait=silence.wait)
        except ServiceUnavailable as error:
            if not has_read:
                raise
            silence.note(str(error))
        else:
            has_read = True
            silence.end()
            if current is not None:
                out.show(format_time(datetime.now(UTC)))
                if changed := connections.settings.layers.list_changed_files():
                    out.warn(describe_changed_files(changed))
                show_status(current)
                out.show("")
        stop.wait(seconds)


def _watch_screen(connections: "Connections", stop: StopSignal, seconds: float) -> None:
    """Show a screen until a signal. If MongoDB or Redis stops answering, the last figures stay, with a notice.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached and never could since the command began.
    """
    from syncctl.commands.status_screen import StatusScreen
    from syncctl.console.live import LivePicture
    from syncctl.wiring.use_cases import prove_answering, read_watched

    screen = StatusScreen(every=format_duration(seconds))
    patience = Patience(lambda: prove_answering(connections, redis=True))
    with LivePicture(sys.stdout, has_own_screen=True) as picture:

        def show_wait(waited: float) -> None:
            why = patience.look(waited) if screen.has_figures and not screen.is_troubled else None
            if why is not None:
                screen.note_trouble(why, waited_seconds=waited)
            if why is not None or picture.is_resized:
                picture.draw(screen.draw)

        while not stop.is_set:
            began, pause = time.monotonic(), seconds
            try:
                figures = stop.await_result(lambda: read_watched(connections), on_wait=show_wait)
            except ServiceUnavailable as error:
                if not screen.has_figures:
                    raise
                screen.note_trouble(str(error), waited_seconds=time.monotonic() - began)
            else:
                if figures is not None:
                    if not screen.is_troubled:
                        pause = max(pause, PAUSE_PER_READING * (time.monotonic() - began))
                    screen.take(*figures, changed_files=connections.settings.layers.list_changed_files())
            if stop.is_set:
                return
            picture.draw(screen.draw)
            until = time.monotonic() + pause
            while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, LOOK_AT_RESIZE_SECONDS)):
                if picture.is_resized:
                    picture.draw(screen.draw)


def show_status(current: "Status") -> None:
    """Write the status as a table and lines."""
    rows = [_describe_stream(stream) for stream in current.streams]
    # On a terminal, hide optional columns without a remarkable value.
    columns = [
        name
        for name in COLUMNS
        if name not in _OPTIONAL or not out.is_watched() or any(row[name] not in _UNREMARKABLE for row in rows)
    ]
    if rows:
        shown = [[row[name] for name in columns] for row in rows]
        out.table(columns, shown, delivered="green", failed="red", retrying="yellow")
    else:
        out.show("no streams yet; add one to syncctl.toml, or run: syncctl init --help")
    now = datetime.now(UTC)
    if rows:
        _show_line("rates", _describe_rates(current))
    _show_line("queue", describe_queue(current.queue))
    for label, line in list_standstills(current, now):
        _show_line(label, line)
    _show_line("workers", describe_workers(current))
    _show_line("beat", describe_beat(current.beat, now))
    for warning in list_warnings(current, now):
        out.warn(warning)
    for number, step in enumerate(list_steps(current)):
        out.say(f"{'next:' if number == 0 else '     '} {step}")


def _show_line(label: str, sentence: str) -> None:
    out.show_sentence(f"{label:8} {sentence}", indent=9)


def _describe_rates(current: "Status") -> str:
    from syncctl.console.pictures import format_rate

    logged, accepted, attempts = (
        sum(stream["rates"][f"{name}_per_second"] for stream in current.streams)
        for name in ("logged", "accepted", "attempts")
    )
    text = f"{format_rate(logged)}/s in, {format_rate(accepted)}/s out"
    others = attempts - accepted
    return f"{text}, {format_rate(others)}/s not accepted" if others >= 0.01 else text


def _describe_stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    marks = ["paused"] if stream["paused"] else []
    marks += ["polls paused"] if stream["polls_paused"] else []
    marks += ["quiet hours"] if stream["quiet_until"] else []
    if not stream.get("configured", True):
        marks.append("not configured")
    name = stream["stream"] + (f" ({', '.join(marks)})" if marks else "")
    at, oldest = stream["last_poll_at"], stream["oldest_due_seconds"]
    last_poll = describe_age(at, datetime.now(UTC)) if at else None
    oldest_due = None if oldest is None else format_age(oldest)
    return {
        "stream": name,
        "cursor": stream["cursor"],
        "last poll": last_poll,
        "oldest due": oldest_due,
        **{state: stream["counts"][state] for state in _COUNTS},
        "held": stream["held"],
        "breaker": stream["breaker"],
    }
