"""The `syncctl` command: its global options and its list of commands; errors become exit codes here."""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, NoReturn

import typer
from typer.exceptions import TyperException

from syncctl import __version__
from syncctl.commandline import DIRECTORY_VARIABLE, Invocation, LazyGroup
from syncctl.console import out
from syncctl.core.safe_text import has_surrogate
from syncctl.errors import ExitCode, InternalError, SyncctlError, UsageError

COMMAND_GROUPS = {
    "Set up": {
        "demo": "Watch rows arrive on this machine, and prove that none is lost",
        "init": "Write .env and syncctl.toml, and create the ledger's indexes",
        "inspect": "List a source's tables, or show how best to read one",
        "config": "Show every setting and where it comes from",
        "doctor": "Check everything syncctl needs, and name a fix for each problem",
        "upgrade": "Upgrade an older ledger to the version of this syncctl",
        "local": "Run MongoDB and Redis on this machine, to try syncctl",
    },
    "Run": {
        "worker": "Run a Celery worker, which polls and delivers",
        "beat": "Run Celery Beat, which starts scheduled work",
        "poll": "Read new rows into the ledger and wake workers to send them",
        "add": "Send two numbers through broker, worker and result backend",
    },
    "Watch": {
        "status": "Show the current state of streams, queue, workers and Beat",
        "health": "Tell whether the worker or Beat of this machine is alive",
        "tail": "Show attempts as they happen",
        "metrics": "Print metrics for Prometheus, or serve them",
        "report": "Show what was delivered and what failed",
        "records": "List records, or export them",
        "failures": "Show failed records, grouped by error",
        "alerts": "Show which alerts fire, check them now, or test their channels",
        "show": "Show one record, or every version of one key, with full history",
        "audit": "Show who changed what, when, and how many records",
    },
    "Act": {
        "send": "Read one row now, send it, and show the partner's answer",
        "replay": "Send existing records again",
        "discard": "Give up on failed records, with a reason",
        "pause": "Pause the delivery of a stream; its rows are still read",
        "resume": "Resume a paused stream",
        "rewind": "Read rows again from an earlier point",
        "reconcile": "Compare the source with the ledger, and log rows it lacks",
        "cleanup": "Delete finished records older than their retention period",
        "archive": "Create an archive, or read the records in it",
    },
}
MODULES = {"resume": "pause"}


class _Commands(LazyGroup):
    """syncctl's own commands."""

    modules: ClassVar = MODULES
    groups: ClassVar = COMMAND_GROUPS


COMPLETION_VARIABLE = "_SYNCCTL_COMPLETE"
"""Set by a shell's completion script to the action that Typer has to take."""

app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def syncctl(
    ctx: typer.Context,
    directory: Annotated[
        Path,
        typer.Option(
            "--directory",
            "-C",
            metavar="PATH",
            envvar=DIRECTORY_VARIABLE,
            show_envvar=False,
            show_default=False,
            help=f"The directory with .env and syncctl.toml. Default: ${DIRECTORY_VARIABLE}, or this one.",
        ),
    ] = Path(),
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="auto|text|json",
            help="How log lines are written; auto: text on a terminal, otherwise JSON.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also log each call to a partner, with its record and outcome.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write only warnings and errors to stderr.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> ExitCode | None:
    """Every row of your SQL Server table reaches your partner's API.

    None lost, none stale, each one accounted for.

    Examples:
      syncctl demo                           see it work on this machine alone
      syncctl init                           set up this directory
      syncctl doctor                         check everything syncctl needs
      syncctl worker --beat                  run everything on one machine
      syncctl status                         see the current state
      syncctl report --since 24h --by day    account for every row
    """
    invocation: Invocation = ctx.obj
    source = ctx.get_parameter_source("directory")
    by_variable = source is not None and source.name == "ENVIRONMENT"
    given = {"directory": directory, "log_format": log_format, "verbose": verbose, "debug": debug, "quiet": quiet}
    invocation.adopt(given, by_variable=by_variable)
    if version:
        out.show(f"syncctl {__version__}")
        return ExitCode.DONE
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        return ExitCode.USAGE
    return None


YOUNG_OBJECTS = 50_000
"""How many objects are made before Python looks for cycles among them: a page of rows, instead of the usual 700."""


def main() -> NoReturn:
    """Run one command of syncctl and exit with its code."""
    # A third of a poll's CPU time went into looking for cycles among rows, which have none.
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    _open_closed_streams()
    exit_code = run(sys.argv[1:])
    # While Python ends, the handlers would raise inside the libraries' own cleanup.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    sys.exit(exit_code)


def _open_closed_streams() -> None:
    """Open what was closed, as by `>&-`: libraries expect streams, and a connection would get the number of one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (until the process ends)


def run(args: Sequence[str]) -> int:
    """Run one command and return its exit code, after showing any error."""
    if COMPLETION_VARIABLE in os.environ:
        return _complete(args)
    as_json = out.is_for_machines = _wants_json(args)
    invocation = Invocation()
    signal.signal(signal.SIGTERM, _stop_on_sigterm)
    try:
        _check_encoding(args)
        outcome = typer.main.get_command(app).main(
            args=list(args), prog_name="syncctl", standalone_mode=False, obj=invocation
        )
        return int(outcome or 0)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except TyperException as error:
        return _report(_translate_usage(error), invocation, as_json=as_json)
    except SyncctlError as error:
        return _report(error, invocation, as_json=as_json)
    except Exception as error:  # noqa: BLE001 (the last line of defence: an operator never sees a bare traceback)
        return _report(_translate_bug(error), invocation, as_json=as_json)


def _complete(args: Sequence[str]) -> int:
    """Answer the completion script of a shell; whatever is wrong, nothing is written to the line being typed."""
    try:
        typer.main.get_command(app).main(args=list(args), prog_name="syncctl", standalone_mode=False, obj=Invocation())
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else ExitCode.DONE
    except (Exception, KeyboardInterrupt):  # noqa: BLE001 (there is no place on the screen for an error)
        return ExitCode.TROUBLE
    return ExitCode.DONE


def _check_encoding(args: Sequence[str]) -> None:
    """Refuse arguments that could neither be stored nor shown.

    Raises:
        UsageError: an argument has bytes that stand for no character.
    """
    wrong = next((arg for arg in args if has_surrogate(arg)), None)
    if wrong is not None:
        raise UsageError(
            f"the argument {wrong!r} is not UTF-8 text",
            why="it has bytes that stand for no character",
            hint="correct it",
        )


def _wants_json(args: Sequence[str]) -> bool:
    """Tell whether `--json` is among the options, even if the command line is wrong."""
    return "--json" in args[: args.index("--")] if "--" in args else "--json" in args


def _report(error: SyncctlError, invocation: Invocation, *, as_json: bool) -> int:
    """Show an error with its secrets redacted, and with its traceback if `--debug` was given."""
    from syncctl.core.redaction import redact
    from syncctl.core.safe_text import make_safe

    secrets = invocation.secrets()
    if invocation.debug and not isinstance(error, UsageError):
        cause = error.__cause__ if isinstance(error, InternalError) and error.__cause__ else error
        sys.stderr.write(make_safe(redact("".join(traceback.format_exception(cause)), secrets)))
    what, why, hint = (redact(text, secrets) for text in (error.what, error.why, error.hint))
    shown = SyncctlError(what, why=why, hint=hint)
    if as_json:
        out.error_json(shown, exit_code=error.exit_code)
    else:
        out.error(shown)
    return error.exit_code


def _translate_usage(error: TyperException) -> UsageError:
    """Turn an error of the option parser into a `UsageError`, with the usage and the option that was probably meant."""
    ctx: Any = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "syncctl"
    usage = " ".join(ctx.get_usage().split()).removeprefix("Usage: ") if ctx is not None else ""
    possibilities = getattr(error, "possibilities", None)
    message = str(getattr(error, "message", "")) if possibilities else _format_message(error)
    message = " ".join(message.replace("Value error, ", "").split()).rstrip(".")
    hint = f"run: {path} --help"
    if possibilities:
        hint = f"did you mean {possibilities[0]}? Otherwise {hint}"
    elif "unexpected extra argument" in message and any("--stream" in param.opts for param in ctx.command.params):
        hint = f"for the records of one stream: {path} --stream NAME; all options: {path} --help"
    return UsageError(message[:1].lower() + message[1:], why=f"usage: {usage}" if usage else "", hint=hint)


def _format_message(error: TyperException) -> str:
    format_message = getattr(error, "format_message", None)
    return str(format_message() if format_message is not None else error)


def _translate_bug(error: Exception) -> InternalError:
    bug = InternalError(
        "internal error: this is a bug in syncctl",
        why=f"{type(error).__name__}: {error}",
        hint="run the same command with --debug and report the traceback",
    )
    bug.__cause__ = error
    return bug


def _stop_on_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitCode.TERMINATED)
