"""The `syncctl` command: global options, one line per command; errors become exit codes here."""

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
from syncctl.commandline import Invocation, LazyGroup
from syncctl.console import out
from syncctl.errors import ExitCode, InternalError, SyncctlError, UsageError

COMMANDS = {
    "demo": "Watch rows travel on this machine, and prove that none was lost",
    "init": "Write .env and syncctl.toml, and create the ledger's indexes",
    "doctor": "Check everything it needs, and name the fix of what fails",
    "worker": "Run a Celery worker, which polls and delivers",
    "beat": "Run Celery Beat, which starts what is due on time",
    "poll": "Read new rows into the ledger and dispatch them",
    "add": "Send two numbers through broker, worker and result backend",
    "status": "Show streams, queue, workers and beat as they are now",
    "report": "Show what was delivered and what failed",
    "failures": "Show failed records, grouped by error",
    "show": "Show one record, or every version of one key, with full history",
    "replay": "Send existing records again",
    "discard": "Give failed records up, with a reason",
    "pause": "Stop delivering a stream; its rows are still read",
    "resume": "Let a paused stream go on",
    "cleanup": "Delete finished records that are older than their retention",
    "rewind": "Read rows again from an earlier place on",
    "reconcile": "Compare the source with the ledger, and log what it lacks",
    "inspect": "List a source's tables, or tell how one is best read",
    "config": "Show every setting and where it comes from",
    "local": "Run MongoDB and Redis on this machine, for a try",
}
MODULES = {"resume": "pause"}


class _Commands(LazyGroup):
    """syncctl's own commands."""

    modules: ClassVar = MODULES
    catalogue: ClassVar = COMMANDS


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
        typer.Option("--directory", "-C", metavar="PATH", help="Where .env and syncctl.toml are."),
    ] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on stderr but warnings and errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> ExitCode | None:
    """Every row of your SQL Server table reaches your partner's API.

    None lost, none stale, each one accounted for.

    Examples:
      syncctl demo                           see it work, on this machine alone
      syncctl init                           set up this directory
      syncctl doctor                         check everything it needs
      syncctl worker --beat                  run it, all on one machine
      syncctl status                         see how it stands
      syncctl report --since 24h --by day    account for it
    """
    invocation: Invocation = ctx.obj
    invocation.adopt({"directory": directory, "debug": debug, "quiet": quiet})
    if version:
        out.show(f"syncctl {__version__}")
        return ExitCode.DONE
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        return ExitCode.USAGE
    return None


def main() -> NoReturn:
    """Run one command of syncctl and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command and return its exit code; every error has been shown by then."""
    invocation = Invocation()
    signal.signal(signal.SIGTERM, _stop_on_sigterm)
    try:
        outcome = typer.main.get_command(app).main(
            args=list(args), prog_name="syncctl", standalone_mode=False, obj=invocation
        )
        return int(outcome or 0)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except TyperException as error:
        return _report(_translate_usage(error), invocation)
    except SyncctlError as error:
        return _report(error, invocation)
    except Exception as error:  # noqa: BLE001 (the last line of defence: an operator never sees a bare traceback)
        return _report(_translate_bug(error), invocation)


def _report(error: SyncctlError, invocation: Invocation) -> int:
    """Show an error without its secrets, and with its traceback when asked for."""
    from syncctl.core.redaction import redact

    secrets = invocation.secrets()
    if invocation.debug and not isinstance(error, UsageError):
        cause = error.__cause__ if isinstance(error, InternalError) and error.__cause__ else error
        sys.stderr.write(redact("".join(traceback.format_exception(cause)), secrets))
    texts = (redact(text, secrets) for text in (error.what, error.why, error.hint))
    what, why, hint = texts
    out.error(SyncctlError(what, why=why, hint=hint))
    return error.exit_code


def _translate_usage(error: TyperException) -> UsageError:
    """Turn an error of the option parser into ours: what is wrong, the usage, and what was probably meant."""
    ctx: Any = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "syncctl"
    usage = " ".join(ctx.get_usage().split()).removeprefix("Usage: ") if ctx is not None else ""
    possibilities = getattr(error, "possibilities", None)
    message = str(getattr(error, "message", "")) if possibilities else _format_message(error)
    message = " ".join(message.replace("Value error, ", "").split()).rstrip(".")
    hint = f"run: {path} --help"
    if possibilities:
        hint = f"did you mean {possibilities[0]}? Else {hint}"
    return UsageError(message[:1].lower() + message[1:], why=f"usage: {usage}" if usage else "", hint=hint)


def _format_message(error: TyperException) -> str:
    format_message = getattr(error, "format_message", None)
    return str(format_message() if format_message is not None else error)


def _translate_bug(error: Exception) -> InternalError:
    bug = InternalError(
        "syncctl came upon a bug of its own",
        why=f"{type(error).__name__}: {error}",
        hint="run the same command with --debug and report the traceback",
    )
    bug.__cause__ = error
    return bug


def _stop_on_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitCode.TERMINATED)
