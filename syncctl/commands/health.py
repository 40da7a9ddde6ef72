"""`syncctl health`: whether the worker or Beat of this machine is alive."""

from enum import StrEnum
from typing import Annotated

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.commands.times import parse_seconds
from syncctl.console import out
from syncctl.core.durations import format_age, format_duration
from syncctl.errors import ExitCode, TroubleFound, UsageError


class Role(StrEnum):
    """The role of a syncctl process."""

    WORKER = "worker"
    BEAT = "beat"


_NAMES = {Role.WORKER: "worker", Role.BEAT: "Beat"}


def health(
    ctx: typer.Context,
    *,
    role: Annotated[Role | None, typer.Argument(metavar="ROLE", help="worker or beat. [default: either]")] = None,
    max_age: Annotated[
        str, typer.Option("--max-age", metavar="DURATION", help="How old its last heartbeat may be.")
    ] = "1m",
    as_json: AsJson = False,
) -> ExitCode:
    """Tell from the heartbeats whether the worker or Beat of this machine is alive, for containers and probes.

    Each process sends a heartbeat to the ledger every five seconds; a worker sends its first once it takes tasks. Exit
    code 0: the last heartbeat is recent enough. 1: it is not, or there is none. 69: MongoDB cannot be reached, or there
    is no recent heartbeat and Redis cannot be used, so that restarting the process would not help. Changes nothing.

    Examples:
        syncctl health
        syncctl health worker --max-age 2m
        syncctl health beat --json
    """
    seconds = parse_seconds(max_age, flag="--max-age")
    if seconds <= 0:
        raise UsageError("--max-age is zero", why="no heartbeat is that recent", hint="for example: --max-age 1m")
    with open_session(ctx) as connections:
        from syncctl.wiring.use_cases import read_health

        current = read_health(connections, roles=tuple(Role) if role is None else (role,), max_age_seconds=seconds)
    if as_json:
        out.print_json(current)
    elif current.ok:
        youngest = current.processes[0]
        age = format_age(youngest.age_seconds)
        out.show(f"{_NAMES[Role(youngest.role)]} {youngest.process}: its last heartbeat was {age} ago")
    else:
        wanted = " or ".join(_NAMES[Role(name)] for name in current.roles)
        ages = [format_age(process.age_seconds) for process in current.processes]
        raise TroubleFound(
            f"no {wanted} of {current.host} has sent a heartbeat within {format_duration(seconds)}",
            why=f"the last one was {ages[0]} ago" if ages else "none is known",
            hint=f"run: syncctl {current.roles[0]}, or read its log; for all machines: syncctl status",
        )
    return ExitCode.DONE if current.ok else ExitCode.TROUBLE
