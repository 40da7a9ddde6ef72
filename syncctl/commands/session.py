"""Shared parts of commands: settings, connections, the choice of streams, and consent."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from syncctl.commandline import Invocation
from syncctl.console import out
from syncctl.core.spelling import find_near
from syncctl.errors import ConfigurationError, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from syncctl.settings import Settings
    from syncctl.wiring.connections import Connections

_GO_THERE = "go to the project's directory or add --directory DIR"


def load(ctx: typer.Context, *, acts: bool = False) -> "Settings":
    """Read the settings of this call, and redact their secrets in the log from now on.

    Args:
        acts: Whether the command changes something, which requires that a project is configured.

    Raises:
        ConfigurationError: a setting is missing, unknown or wrong, or `acts` and there is no configuration at all.
    """
    invocation: Invocation = ctx.obj
    settings = invocation.settings()
    invocation.configure_logging()
    if acts and not settings.is_configured:
        raise ConfigurationError(
            _say_unconfigured(invocation),
            why="without MONGO_URL, REDIS_URL, project or a stream, this would act on whatever runs on localhost",
            hint=f"{_GO_THERE}; to begin a project, run: syncctl init",
        )
    return settings


@contextmanager
def open_session(ctx: typer.Context, *, acts: bool = False) -> Iterator["Connections"]:
    """Open the connections of one command; each connects at its first use.

    Args:
        acts: Whether the command changes something, which requires that the ledger belongs to this project.

    Raises:
        ConfigurationError: a setting is missing, unknown or wrong; or `acts`, and there is no configuration, or the
            ledger belongs to another project.
        ServiceUnavailable: a service that the command needs cannot be reached; if nothing is configured, its hint says
            so.
    """
    settings = load(ctx, acts=acts)
    from syncctl.wiring.use_cases import open_connections

    with open_connections(settings) as connections:
        if acts:
            connections.check_project()
        try:
            yield connections
        except ServiceUnavailable as error:
            if settings.is_configured:
                raise
            hint = f"{_say_unconfigured(ctx.obj)}: {_GO_THERE}"
            raise ServiceUnavailable(error.what, service=error.service, why=error.why, hint=hint) from error


def _say_unconfigured(invocation: Invocation) -> str:
    return f"nothing is configured in {invocation.directory.absolute()}"


def choose_configured(settings: "Settings", names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the named streams, or every configured stream if none is named.

    Raises:
        UsageError: a stream does not exist, or none is configured.
    """
    for name in names or ():
        if name not in settings.streams:
            raise _no_such_stream(name, settings.streams)
    chosen = tuple(dict.fromkeys(names or settings.streams))
    if not chosen:
        raise UsageError(
            "no stream is configured",
            why="neither syncctl.toml nor the environment defines one",
            hint="add [streams.NAME] to syncctl.toml, or run: syncctl init --help",
        )
    return chosen


def choose_known(connections: "Connections", names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the named streams, including those no longer configured; an empty result means every stream.

    Raises:
        UsageError: neither the configuration nor the ledger has a stream of that name.
    """
    unknown = [name for name in names or () if name not in connections.settings.streams]
    if unknown:
        from syncctl.wiring.use_cases import read_status

        known = {stream["stream"] for stream in read_status(connections).streams} | set(connections.settings.streams)
        for name in unknown:
            if name not in known:
                raise _no_such_stream(name, known)
    return tuple(dict.fromkeys(names or ()))


def ask_consent(
    question: str, *, yes: bool, hint: str = "add --yes to do it, or --dry-run to see what would change"
) -> bool:
    """Ask before a bulk change, and say that nothing was changed if the answer is no.

    Raises:
        UsageError: this is not a terminal, and `--yes` was not given.
    """
    if yes:
        return True
    if not out.is_interactive():
        raise UsageError(
            f"confirmation needed: {question}",
            why="this is not a terminal, and --yes was not given",
            hint=hint,
        )
    if out.confirm(question):
        return True
    out.say("nothing was changed")
    return False


def _no_such_stream(name: str, known: Iterable[str]) -> UsageError:
    names = sorted(known)
    near = find_near(name, names)
    return UsageError(
        f"no such stream: {name}",
        why=f"did you mean {near}?" if near else f"the streams are {', '.join(names)}" if names else "there are none",
        hint="run: syncctl status",
    )
