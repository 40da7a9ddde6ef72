"""`syncctl poll`: read new rows into the ledger and wake workers to send them."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import merge_streams
from syncctl.commands.options import AsJson, Streams
from syncctl.commands.previews import show_requests
from syncctl.commands.session import choose_configured, open_session
from syncctl.commands.stop_signal import StopSignal
from syncctl.console import out
from syncctl.errors import ExitCode, LeaseHeld, ServiceUnavailable, SyncctlError, UsageError
from syncctl.partner.tls import warn_unverified

if TYPE_CHECKING:
    from syncctl.pipeline.polling.poll import Run
    from syncctl.wiring.connections import Connections

_COUNTS = ("read", "logged", "unchanged", "failed", "dispatched")
_COLUMNS = ("stream", *_COUNTS, "cursor", "ms", "error")


def poll(
    ctx: typer.Context,
    *,
    streams: Annotated[
        list[str] | None,
        typer.Argument(metavar="STREAM", help="Names of streams; by default all."),
    ] = None,
    stream: Streams = None,
    once: Annotated[bool, typer.Option("--once", help="Poll each stream once, then exit.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the requests of the next rows, but write and send nothing.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="With --dry-run: show at most N rows, 10 by default."),
    ] = None,
    known: Annotated[
        bool, typer.Option("--known", help="With --dry-run: if no row is new, show the first row of the table.")
    ] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Read new rows into the ledger and wake workers to send them.

    Without --once it keeps polling, each stream at its own interval, until Ctrl-C. Rows after the stream's cursor are
    read page by page; a row that cannot be read or encoded is logged as failed and does not stop the others. Exit code
    1: a row or a stream failed. 75: another process is polling the stream, or its polls are paused.

    With --dry-run it reads the next rows and shows the request for each, with secrets masked, also as a curl command.
    It takes no lease, logs and sends nothing, and does not move the cursor. Exit code 1: a row cannot be sent.

    Examples:
        syncctl poll --once                  every stream, once
        syncctl poll orders --once --json    one stream, as JSON
        syncctl poll                         keep polling until Ctrl-C
        syncctl poll orders --once --dry-run --limit 1
        syncctl poll orders --once --dry-run --known    test a mapping on a row that was already read
    """
    streams = merge_streams(streams, stream)
    for flag, given in (("--limit", limit is not None), ("--known", known)):
        if given and not dry_run:
            raise UsageError(
                f"{flag} needs --dry-run",
                why="without it a poll reads every new row",
                hint=f"add --dry-run, or omit {flag}",
            )
    if dry_run:
        with open_session(ctx) as connections:
            chosen = choose_configured(connections.settings, streams)
            return _preview(connections, chosen, limit or 10, known=known, as_json=as_json)
    if as_json and not once:
        raise UsageError(
            "--json needs --once",
            why="stdout carries one document, and polling does not end",
            hint="add --once, or omit --json",
        )
    with open_session(ctx, acts=True) as connections, StopSignal() as stop:
        chosen = choose_configured(connections.settings, streams)
        warn_unverified(connections.settings.partners_in_use())
        if once:
            return _poll_once(connections, chosen, stop, as_json=as_json)
        return _keep_polling(connections, chosen, stop)


def _preview(connections: "Connections", streams: Sequence[str], limit: int, *, known: bool, as_json: bool) -> ExitCode:
    from syncctl.wiring.use_cases import preview_poll

    previews = [preview for name in streams for preview in preview_poll(connections, name, limit=limit, known=known)]
    if not previews and known:
        out.say("the table has no rows")
    elif not previews:
        out.say(f"no row is new or changed; next: add --known, or run syncctl show {streams[0]} KEY --request")
    return show_requests(previews, as_json=as_json)


def _poll_once(connections: "Connections", streams: Sequence[str], stop: StopSignal, *, as_json: bool) -> ExitCode:
    runs: list[Run] = []
    held: list[LeaseHeld] = []
    bugs: list[Exception] = []
    for name in streams:
        if stop.is_set:
            break
        try:
            runs.append(_poll_with_progress(connections, name, stop))
        except LeaseHeld as error:
            held.append(error)
        except SyncctlError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in one stream must not stop the others
            bugs.append(error)
    if held and not runs and not as_json:
        raise held[0]
    for lease in held:
        out.warn(str(lease))
    if as_json:
        out.print_json({"runs": runs})
    else:
        _show_runs(runs)
    for run in runs:
        _show_notes(run)
    _show_errors(runs)
    if not as_json:
        _name_next_command(runs)
    if bugs:
        raise bugs[0]
    return _decide_exit_code(runs, held, stop)


def _poll_with_progress(connections: "Connections", name: str, stop: StopSignal) -> "Run":
    from syncctl.wiring import row_path

    with out.progress(f"polling {name}", unit="pages") as show:
        pages = 0

        def should_stop() -> bool:
            nonlocal pages
            pages += 1
            show(pages)
            return stop.is_set

        return row_path.poll(connections, name, should_stop=should_stop)


def _keep_polling(connections: "Connections", streams: Sequence[str], stop: StopSignal) -> ExitCode:
    """Poll each stream at its interval; one that fails or is leased elsewhere is polled again after its interval."""
    from syncctl.wiring import row_path

    every = {name: connections.settings.stream(name).poll_every_seconds for name in streams}
    due_at = dict.fromkeys(streams, time.monotonic())
    noted: dict[str, Sequence[str]] = {}
    refused: dict[str, str] = {}
    out.say(f"polling {', '.join(streams)}; press Ctrl-C to stop")
    while not stop.is_set and not out.reader_gone:
        name = min(due_at, key=lambda stream: due_at[stream])
        if stop.wait(due_at[name] - time.monotonic()):
            break
        due_at[name] = time.monotonic() + every[name]
        try:
            connections.ledger.schema.check()
            run = row_path.poll(connections, name, should_stop=lambda: stop.is_set)
        except (LeaseHeld, ServiceUnavailable) as error:
            if refused.get(name) != str(error):
                out.warn(str(error))
            refused[name] = str(error)
            continue
        refused.pop(name, None)
        if run.read or run.error:
            out.show(_describe(run))
        if run.notes != noted.get(name):
            _show_notes(run)
        noted[name] = run.notes
        _show_errors([run])
    return stop.exit_code


def _describe(run: "Run") -> str:
    shown = " ".join(f"{name}={getattr(run, name)}" for name in _COUNTS)
    return f"{run.stream} {shown} cursor={run.cursor_after} ms={run.duration_ms:.0f}"


def _show_runs(runs: "Sequence[Run]") -> None:
    rows = [
        (run.stream, *(getattr(run, name) for name in _COUNTS), run.cursor_after, round(run.duration_ms), run.error)
        for run in runs
    ]
    if rows:
        out.table(_COLUMNS, rows, prose=("error",), failed="red", error="red", logged="green")


def _show_notes(run: "Run") -> None:
    for note in run.notes:
        out.warn(f"{run.stream}: {note}")


def _show_errors(runs: "Sequence[Run]") -> None:
    for run in runs:
        if run.error:
            hint = run.hint or f"run: syncctl doctor source {run.stream}"
            out.error(SyncctlError(f"cannot poll stream {run.stream}", why=run.error, hint=hint))


def _name_next_command(runs: "Sequence[Run]") -> None:
    broken = [run.stream for run in runs if run.error]
    if broken:
        out.say(f"next: syncctl doctor source {' '.join(broken)}")
    elif any(run.failed for run in runs):
        out.say("next: syncctl failures")
    elif any(run.logged for run in runs):
        out.say("next: syncctl status")


def _decide_exit_code(runs: "Sequence[Run]", held: Sequence[LeaseHeld], stop: StopSignal) -> ExitCode:
    if stop.is_set:
        return stop.exit_code
    if any(run.failed or run.error for run in runs):
        return ExitCode.TROUBLE
    return ExitCode.LEASE_HELD if held else ExitCode.DONE
