"""`syncctl beat`: run Celery Beat."""

from typing import Annotated

import typer

from syncctl.commands.celery import run_celery
from syncctl.commands.session import load
from syncctl.errors import ExitCode


def beat(
    ctx: typer.Context,
    *,
    celery_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CELERY", help="Passed to Celery as they are."),
    ] = None,
) -> ExitCode:
    """Run Celery Beat, which starts polls, upkeep, roll-up and cleanup on time, until Ctrl-C.

    One is enough; two do no harm, since every task it starts takes a lease first. On one machine `syncctl
    worker --beat` does the same inside the worker. Exit code 0 after Ctrl-C or SIGTERM.

    Examples:
        syncctl beat
        syncctl beat -- --pidfile /run/syncctl/beat.pid
    """
    return run_celery("beat", celery_args or (), settings=load(ctx), debug=ctx.obj.debug)
