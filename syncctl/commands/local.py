"""`syncctl local up|down|status`: MongoDB and Redis for a try on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from syncctl.console import out
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.local.daemons import Daemons

DIRECTORY = ".syncctl"

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Start, stop and look at MongoDB and Redis for a try on this machine.

    They are real servers, on the loopback only, and keep their files in .syncctl of the directory.

    Examples:
      syncctl local up          start both, and print their URLs for .env
      syncctl local status      exit code 0 when both are up, 1 when not
      syncctl local down        stop both; their files stay
    """,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


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
            help="Port of MongoDB (27017); 0 takes a free one.",
        ),
    ] = None,
    redis_port: Annotated[
        int | None,
        typer.Option(
            "--redis-port", metavar="PORT", min=0, max=65535, help="Port of Redis (6379); 0 takes a free one."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start MongoDB and Redis, leave them running, and print their URLs as .env takes them.

    What runs already stays as it is. Files and logs are in .syncctl.

    Examples:
      syncctl local up
      syncctl local up --mongo-port 0 --redis-port 0     on free ports
      syncctl local up >> .env                           and keep their URLs
    """
    from syncctl.local.daemons import start_daemons

    out.say("starting MongoDB and Redis ...")
    daemons = start_daemons(_directory(ctx), mongo_port=mongo_port, redis_port=redis_port)
    if json:
        out.print_json(daemons)
        return
    for service in daemons.services:
        state = "started" if service.started else "already up"
        out.say(f"{service.name} {state}: port {service.port}, pid {service.pid}")
    out.say("for .env:")
    out.show(f"MONGO_URL={daemons.mongo_url}\nREDIS_URL={daemons.redis_url}")
    out.say(f"next: {_decide_next(ctx, daemons)}")


@app.command(short_help="Stop both; what they have stored stays")
def down(
    ctx: typer.Context,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove their files too: all they have stored.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before files are removed.")] = False,
    json: Json = False,
) -> ExitCode:
    """Stop MongoDB and Redis and wait for their end; what they have stored stays.

    Examples:
      syncctl local down
      syncctl local down --wipe --yes     and remove all they have stored
    """
    from syncctl.local.daemons import stop_daemons

    directory = _directory(ctx)
    if wipe and not yes and not _ask_wipe(directory):
        out.say("nothing was stopped or removed")
        return ExitCode.TROUBLE
    out.say("stopping MongoDB and Redis ...")
    stopped = stop_daemons(directory, wipe=wipe)
    if json:
        out.print_json(stopped)
        return ExitCode.DONE
    out.say(f"stopped: {', '.join(stopped.stopped)}" if stopped.stopped else "both were down already")
    if stopped.wiped:
        out.say(f"removed: their files in {directory}")
    elif stopped.stopped:
        out.say("what they have stored is kept; to go on with it: syncctl local up")
    return ExitCode.DONE


@app.command(short_help="Show whether both are up")
def status(ctx: typer.Context, json: Json = False) -> ExitCode:
    """Show whether MongoDB and Redis are up; exit code 0 when both are, 1 when not.

    Examples:
      syncctl local status
      syncctl local status --json
    """
    from syncctl.local.daemons import look_at_daemons

    daemons = look_at_daemons(_directory(ctx))
    if json:
        out.print_json(daemons)
    else:
        out.table(
            ("service", "state", "port", "pid", "url"),
            [(one.name, "up" if one.up else "down", one.port, one.pid, one.url) for one in daemons.services],
        )
    if not daemons.up:
        out.say("next: syncctl local up")
    return ExitCode.DONE if daemons.up else ExitCode.TROUBLE


def _decide_next(ctx: typer.Context, daemons: "Daemons") -> str:
    """Return the next useful command: to keep the URLs, unless the settings have them."""
    from syncctl.commandline import Invocation
    from syncctl.errors import ConfigurationError
    from syncctl.settings.env_file import EnvFile

    invocation = ctx.find_object(Invocation) or Invocation()
    try:
        settings = invocation.settings()
        env = EnvFile(invocation.directory)
    except ConfigurationError:
        return "syncctl doctor"
    urls = {"MONGO_URL": (settings.mongo_url, daemons.mongo_url), "REDIS_URL": (settings.redis_url, daemons.redis_url)}
    others = [name for name, (known, url) in urls.items() if _find_place(known) != _find_place(url or "")]
    if not others:
        return "syncctl init, or syncctl doctor"
    taken = [name for name in others if env.find(name)]
    if taken:
        return f"put {' and '.join(others)} into .env, which says otherwise"
    return "syncctl local up >> .env, so that all commands find them; then syncctl init"


def _find_place(url: str) -> str:
    """Return the host and the port of a URL; the loopback has two names."""
    return urlsplit(url).netloc.rpartition("@")[2].replace("127.0.0.1", "localhost")


def _ask_wipe(directory: Path) -> bool:
    from syncctl.local.daemons import measure_files

    megabytes = measure_files(directory) / 1_000_000
    what = f"all that MongoDB and Redis have stored in {directory} ({megabytes:.0f} MB)"
    if not out.is_interactive():
        raise UsageError(
            "--wipe needs --yes where nobody can be asked",
            why=f"it would remove {what}",
            hint="run: syncctl local down --wipe --yes",
        )
    return out.confirm(f"Stop both and remove {what}?")


def _directory(ctx: typer.Context) -> Path:
    from syncctl.commandline import Invocation

    invocation = ctx.find_object(Invocation)
    return ((invocation.directory if invocation else Path()) / DIRECTORY).absolute()
