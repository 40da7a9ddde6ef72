"""`syncctl local up|down|status`: run MongoDB and Redis on this machine to try syncctl."""

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from syncctl.commands.options import AsJson, Yes
from syncctl.commands.session import ask_consent
from syncctl.console import out
from syncctl.core.redaction import mask_url
from syncctl.errors import ConfigurationError, ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.local.daemons import Daemons
    from syncctl.settings import Settings

DIRECTORY = ".syncctl"

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Start and stop MongoDB and Redis on this machine, to try syncctl.

    They are real servers that listen only on the loopback and ask for a password. They store their files in .syncctl, a
    directory inside the working directory that only you can read.

    Examples:
      syncctl local up --save   start both, and write their URLs to .env
      syncctl local status      exit code 0 if both are up, 1 if not
      syncctl local down        stop both; their data stays
    """,
)


@app.command(short_help="Start both and leave them running")
def up(
    ctx: typer.Context,
    mongo_port: Annotated[
        int | None,
        typer.Option(
            "--mongo-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="MongoDB's port; 0 picks a free one. Default: the one that it had last, or 27017.",
        ),
    ] = None,
    redis_port: Annotated[
        int | None,
        typer.Option(
            "--redis-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="Redis's port; 0 picks a free one. Default: the one that it had last, or 6379.",
        ),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write their URLs to .env instead of printing them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Let --save replace URLs of other servers in .env.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start MongoDB and Redis, leave them running, and print their URLs as lines for .env, or save them there.

    A server that already runs is left alone, and one that was stopped or has died comes back on its port. Data, logs
    and passwords are in .syncctl. The URLs hold the passwords: they are not printed into a file that other users can
    read (exit code 2), and --save writes .env so that only you can read it.

    Examples:
      syncctl local up --save
      syncctl local up --save --mongo-port 0 --redis-port 0     on free ports
      syncctl local up --json | jq -r .mongo_url
    """
    if force and not save:
        raise UsageError("--force needs --save", why="only .env has something to replace", hint="add --save")
    if as_json or not save:
        _refuse_readable_output("run: syncctl local up --save, which writes them to .env; or umask 077 for a new file")
    from syncctl.local.daemons import start_daemons

    if save:
        _check_saved(ctx, force=force)
    out.say("starting MongoDB and Redis ...")
    daemons = start_daemons(_directory(ctx), mongo_port=mongo_port, redis_port=redis_port)
    for service in daemons.services:
        state = "started" if service.started else "already running"
        out.say(f"{service.name} {state}: port {service.port}, pid {service.pid}")
    if save:
        _save(ctx, daemons)
    if as_json:
        out.print_json(daemons)
        return
    if not save:
        out.show(f"MONGO_URL={daemons.mongo_url}\nREDIS_URL={daemons.redis_url}")
    out.say(f"next: {_decide_next(ctx, daemons)}")


@app.command(short_help="Stop both; their data stays")
def down(
    ctx: typer.Context,
    wipe: Annotated[bool, typer.Option("--wipe", help="Also remove all their data.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Stop MongoDB and Redis and wait until they have ended; their data stays.

    Examples:
      syncctl local down
      syncctl local down --wipe --yes     and remove all their data
    """
    from syncctl.local.daemons import stop_daemons

    directory = _directory(ctx)
    if wipe and not yes:
        question = f"stop both servers and remove {_name_data(directory)}?"
        if not ask_consent(question, yes=False, hint="run: syncctl local down --wipe --yes"):
            return ExitCode.TROUBLE
    out.say("stopping MongoDB and Redis ...")
    stopped = stop_daemons(directory, wipe=wipe)
    if as_json:
        out.print_json(stopped)
        return ExitCode.DONE
    out.say(f"stopped: {', '.join(stopped.stopped)}" if stopped.stopped else "neither is running")
    if stopped.wiped:
        out.say(f"removed their data in {directory}")
    elif stopped.stopped:
        out.say("their data is kept; next: syncctl local up")
    return ExitCode.DONE


@app.command(short_help="Show whether both are up")
def status(ctx: typer.Context, as_json: AsJson = False) -> ExitCode:
    """Show whether MongoDB and Redis are up; exit code 0 if both are, 1 if not.

    Examples:
      syncctl local status
      syncctl local status --json
    """
    if as_json:
        _refuse_readable_output("run umask 077 first, and write to a new file")
    from syncctl.local.daemons import inspect_daemons

    daemons = inspect_daemons(_directory(ctx))
    if as_json:
        out.print_json(daemons)
    else:
        out.table(
            ("service", "state", "port", "pid", "url"),
            [
                (
                    service.name,
                    "up" if service.up else "down",
                    service.port,
                    service.pid,
                    mask_url(service.url or "") or None,
                )
                for service in daemons.services
            ],
            folded=("url",),
        )
    if not daemons.up:
        out.say("next: syncctl local up")
    return ExitCode.DONE if daemons.up else ExitCode.TROUBLE


def _decide_next(ctx: typer.Context, daemons: "Daemons") -> str:
    """Return the next useful command: the one that saves the URLs, unless the settings already have them."""
    from syncctl.settings.dotenv_file import DotenvFile

    try:
        settings: Settings = ctx.obj.settings()
        env = DotenvFile(ctx.obj.directory)
    except ConfigurationError:
        return "syncctl doctor"
    urls = {"MONGO_URL": (settings.mongo_url, daemons.mongo_url), "REDIS_URL": (settings.redis_url, daemons.redis_url)}
    others = [name for name, (known, url) in urls.items() if _find_place(known) != _find_place(url or "")]
    if not others:
        return "syncctl init, or syncctl doctor"
    taken = [name for name in others if env.find(name)]
    if taken:
        return f"set {' and '.join(others)} in .env, which has other values: syncctl local up --save --force"
    return "syncctl local up --save, so that every command finds them; then syncctl init"


def _check_saved(ctx: typer.Context, *, force: bool) -> None:
    """Check that `.env` has no URLs of other servers, unless they may be replaced.

    Raises:
        UsageError: `.env` has such a URL, and it may not be replaced.
        ConfigurationError: `.env` cannot be read.
    """
    from syncctl.local.daemons import is_own_url
    from syncctl.settings.dotenv_file import DotenvFile

    env = DotenvFile(ctx.obj.directory)
    for name in ("MONGO_URL", "REDIS_URL"):
        variable = env.find(name)
        if variable is None or is_own_url(_directory(ctx), env.get(variable)):
            continue
        can_replace = variable.upper() == name
        if not (force and can_replace):
            raise UsageError(
                "--save contradicts .env",
                why=f"{env.locate(variable)} sets {variable} to another server",
                hint="add --force to replace it" if can_replace else f"remove {variable} from .env",
            )


def _save(ctx: typer.Context, daemons: "Daemons") -> None:
    """Write the URLs that `.env` lacks; if one of these servers has a new port, its URL keeps its database.

    Raises:
        UsageError: `.env` cannot be written.
    """
    from syncctl.local.daemons import is_own_url
    from syncctl.settings.dotenv_file import DotenvFile
    from syncctl.settings.setup_files import list_overruled, save_values

    env = DotenvFile(ctx.obj.directory)
    values: dict[str, str] = {}
    for name, url in (("MONGO_URL", daemons.mongo_url), ("REDIS_URL", daemons.redis_url)):
        variable, new = env.find(name), url or ""
        old = env.get(variable) if variable else ""
        if is_own_url(_directory(ctx), old):
            new = urlsplit(old)._replace(netloc=urlsplit(new).netloc).geturl()
        if _find_place(old) != _find_place(new):
            values[name] = new
    save_values(ctx.obj.directory, values)
    for sentence in list_overruled(
        {"MONGO_URL": daemons.mongo_url or "", "REDIS_URL": daemons.redis_url or ""} | values
    ):
        out.warn(sentence)
    out.say(f"wrote {' and '.join(values)} to .env" if values else ".env has their URLs already")


def _find_place(url: str) -> str:
    """Return user, password, host and port of a URL; `127.0.0.1` and `localhost` give the same result."""
    return urlsplit(url).netloc.replace("127.0.0.1", "localhost")


def _refuse_readable_output(hint: str) -> None:
    """Check, as the first step, that no other user can read the file to which the passwords will be written.

    Restricting the file's permissions would not help: a process that already has it open could read them later.

    Raises:
        UsageError: another user can read it.
    """
    try:
        state = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return
    if (stat.S_ISREG(state.st_mode) or stat.S_ISFIFO(state.st_mode)) and state.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            "other users can read the file that the passwords would be written to",
            why=f"its rights are {stat.S_IMODE(state.st_mode):04o}, and a process that has it open reads what is "
            "written later",
            hint=hint,
        )


def _name_data(directory: Path) -> str:
    from syncctl.local.daemons import measure_files

    megabytes = measure_files(directory) / 1_000_000
    return f"all data of MongoDB and Redis in {directory} ({megabytes:.0f} MB)"


def _directory(ctx: typer.Context) -> Path:
    directory: Path = ctx.obj.directory
    return (directory / DIRECTORY).absolute()
