"""`syncctl worker`: run a Celery worker."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from syncctl.commands.celery import run_celery
from syncctl.commands.session import load
from syncctl.errors import ExitCode, UsageError

QUEUES = ("deliver", "poll", "control")


class Pool(StrEnum):
    """How a worker runs several tasks at a time."""

    PREFORK = "prefork"
    THREADS = "threads"
    SOLO = "solo"


def worker(
    ctx: typer.Context,
    *,
    pool: Annotated[
        Pool | None,
        typer.Option("--pool", help="Processes, threads, or one task at a time. [default: worker.pool]"),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, metavar="N", help="Tasks at a time. [default: worker.concurrency]"),
    ] = None,
    queues: Annotated[
        str, typer.Option("--queues", metavar="LIST", help="Serve only these queues: deliver, poll, control.")
    ] = ",".join(QUEUES),
    beat: Annotated[bool, typer.Option("--beat", help="Also run Beat, for a single machine.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The worker's name; the host is appended.")
    ] = None,
    celery_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CELERY", help="Arguments passed on to Celery."),
    ] = None,
) -> ExitCode:
    """Run a Celery worker that polls and delivers, until Ctrl-C.

    The first Ctrl-C or SIGTERM lets calls in progress finish, with exit code 0; the second stops at once. Any number of
    workers may run, on any number of machines. Beat must run too: in one of them (--beat), or as
    `syncctl beat`.

    Examples:
        syncctl worker --beat                            everything on one machine
        syncctl worker --pool threads --concurrency 8
        syncctl worker --queues deliver --name sender
        syncctl worker -- --max-tasks-per-child 1000     arguments after -- go to Celery
    """
    settings = load(ctx, acts=True)
    arguments = [
        f"--pool={pool or settings.worker.pool}",
        f"--concurrency={concurrency or settings.worker.concurrency}",
        f"--queues={_check_queues(queues)}",
    ]
    if beat:
        arguments.append("--beat")
    # The pid tells two workers on one machine apart; if `--name` is given, the heartbeat adds the process.
    arguments.append(f"--hostname={name or f'worker-{os.getpid()}'}@%h")
    arguments += celery_args or ()
    return run_celery("worker", arguments, settings=settings, debug=ctx.obj.debug)


def _check_queues(text: str) -> str:
    """Check and return a list of queues.

    Raises:
        UsageError: a queue does not exist, so the worker would receive nothing from it.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in QUEUES]
    if unknown or not names:
        raise UsageError(
            f"no such queue: {', '.join(unknown) or text!r}",
            why=f"the queues are {', '.join(QUEUES)}",
            hint="omit --queues to serve all of them",
        )
    return ",".join(dict.fromkeys(names))
