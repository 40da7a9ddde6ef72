"""`syncctl metrics`: metrics for Prometheus, printed once or served over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.session import load
from syncctl.commands.stop_signal import StopSignal
from syncctl.console import out
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.core.metric_table import Samples

WAIT_SECONDS = 3600.0


def metrics(
    ctx: typer.Context,
    *,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Serve the metrics at http://HOST:PORT/metrics."),
    ] = None,
) -> ExitCode:
    """Print metrics for Prometheus, or serve them.

    Counters and histograms are as of the last roll-up, which Beat asks for once a minute; all others are current.
    Without MongoDB, syncctl_ledger_up is 0 and most metrics are missing: the exit code is then 69 if they are printed
    once, and the HTTP status is still 200 if they are served.

    Examples:
        syncctl metrics
        syncctl metrics --listen 127.0.0.1:9464
    """
    address = None if listen is None else _parse_address(listen)
    settings = load(ctx)
    from syncctl.wiring.connections import Connections
    from syncctl.wiring.metrics import MetricsReader

    with Connections(settings) as connections:
        reader = MetricsReader(connections)
        try:
            if address is not None:
                return _serve(reader.read, *address)
            from syncctl.console.metrics_text import to_metrics_text

            with out.progress("reading"):
                text, _ = to_metrics_text(reader.read())
            out.show(text.decode().rstrip("\n"))
            if reader.error is None:
                return ExitCode.DONE
            out.error(reader.error)
            return ExitCode(reader.error.exit_code)
        finally:
            reader.close()


def _serve(read: "Callable[[], Samples]", host: str, port: int) -> ExitCode:
    import threading

    from syncctl.console.metrics_server import PATH, MetricsServer

    try:
        server = MetricsServer(host, port, read)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}",
            why=error.strerror or str(error),
            hint="choose an address of this machine and a free port: --listen 127.0.0.1:9464",
        ) from error
    shown = f"[{host}]" if ":" in host else host
    with server, StopSignal(notice="") as stop:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        out.say(f"serving http://{shown}:{server.server_address[1]}{PATH}; Ctrl-C stops")
        while not stop.wait(WAIT_SECONDS):
            pass
        server.shutdown()
    return stop.exit_code


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(
            f"--listen {text!r} is not an address",
            why="it needs a host and a port",
            hint="write 127.0.0.1:9464, [::1]:9464, or 0.0.0.0:9464 for every address of this machine",
        )
    return host, int(port)
