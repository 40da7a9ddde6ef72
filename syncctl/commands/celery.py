"""Run Celery's worker or Beat in this process, for `syncctl worker` and `syncctl beat`."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from syncctl.console import out
from syncctl.errors import ExitCode, InternalError, ServiceUnavailable, UsageError
from syncctl.logs import configure_logging, get_logger

if TYPE_CHECKING:
    from syncctl.settings import Settings

log = get_logger(__name__)


def run_celery(program: str, arguments: Sequence[str], *, settings: "Settings", debug: bool) -> ExitCode:
    """Run `worker` or `beat` until it is asked to stop.

    The first Ctrl-C or SIGTERM lets the calls in progress finish; so does a terminal that closes. The second kills the
    worker and its processes, which is safe because their leases expire, and ends this process with 130 or 143.

    Args:
        program: `worker` or `beat`.
        arguments: Arguments for Celery's command line.

    Returns:
        0 after a graceful stop.

    Raises:
        UsageError: Celery rejects an argument, or would take it as a part of its configuration.
        ConfigurationError: The ledger belongs to another project.
        InternalError: Celery ended unexpectedly.
    """
    for argument in arguments:
        # Celery would read such an argument as configuration, which only syncctl may set.
        if "=" in argument and not argument.startswith("-"):
            raise UsageError(
                f"{argument!r} is not an option of Celery's {program}",
                why="Celery's configuration is made by syncctl and cannot be changed here",
                hint=f"run: celery {program} --help",
            )
    level = "debug" if debug else settings.log.level
    configure_logging(
        level=level, format=settings.log.format, attempts=settings.log.attempts, secrets=settings.secrets()
    )
    log.info(f"{program}.start", arguments=" ".join(arguments))
    # Until Celery has installed its own handler, SIGTERM simply ends this process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from celery.signals import worker_init, worker_process_init, worker_shutting_down
    from click.exceptions import ClickException

    from syncctl.celery_app import make_app

    app = make_app(settings)
    # An unreachable ledger is not an error here, because the worker waits for it; a ledger of another project is.
    with suppress(ServiceUnavailable):
        app.seal.refresh()
    # Import these modules now: while Beat first imports them, it cannot be stopped, because its signal handler would
    # re-enter the import.
    app.loader.import_default_modules()
    _ = app.backend
    workers: list[Any] = []
    asked: list[int] = []
    worker_init.connect(lambda sender, **_: workers.append(sender), weak=False)
    worker_shutting_down.connect(lambda exitcode, **_: asked.append(exitcode), weak=False)
    worker_shutting_down.connect(_force_on_next_signal, weak=False)
    worker_init.connect(_stop_on_hangup, weak=False)
    worker_process_init.connect(_ignore_hangup, weak=False)
    # Celery writes a banner and its messages on Ctrl-C to stdout.
    sys.__stdout__ = Path(os.devnull).open("w")  # type: ignore[misc]  # noqa: SIM115
    try:
        code = app.start(argv=["--quiet", program, f"--loglevel={level}", *arguments])
    except ClickException as error:
        raise UsageError(
            f"Celery rejected the arguments for its {program}",
            why=error.format_message(),
            hint=f"run: celery {program} --help",
        ) from error
    except SystemExit as error:
        code = error.code
    for worker in workers:
        # Celery does not return the worker's exit code. After Ctrl-C it is 1, as `worker_shutting_down` announced.
        if not (asked and worker.exitcode in (None, asked[-1])):
            code = code or worker.exitcode or int(ExitCode.BUG)
    if code in (None, 0):
        return ExitCode.DONE
    if code == ExitCode.USAGE:
        return ExitCode.USAGE
    raise InternalError(f"the {program} ended unexpectedly", why=f"Celery says: {code}", hint="read its log above")


def _force_on_next_signal(**_: object) -> None:
    out.say("stopping after the calls in progress; press Ctrl-C again to stop at once")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _force)
    # Whoever has pressed Ctrl-C may close the terminal before the calls have ended.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _stop_on_hangup(sender: Any, **_: object) -> None:
    """Let a terminal that closes stop a worker as SIGTERM does: Celery would cut its calls off, and start it anew.

    A SIGHUP that was ignored, as by `nohup`, still is.
    """
    before = signal.getsignal(signal.SIGHUP)
    install = sender.install_platform_tweaks

    def install_signals(worker: Any) -> None:
        install(worker)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if before == signal.SIG_IGN else _stop_once)

    sender.install_platform_tweaks = install_signals


def _stop_once(_number: int, _frame: FrameType | None) -> None:
    # Both the terminal and its shell send it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.raise_signal(signal.SIGTERM)


def _ignore_hangup(**_: object) -> None:
    """Leave it to the worker to end its processes: a terminal sends SIGHUP to each of them."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _force(number: int, _frame: FrameType | None) -> NoReturn:
    """Kill the worker's processes and end; their records are sent again once their leases have expired."""
    from billiard import active_children

    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    os._exit(128 + number)
