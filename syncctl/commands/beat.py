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
        typer.Argument(metavar="-- CELERY", help="Arguments passed on to Celery."),
    ] = None,
) -> ExitCode:
    """Run Celery Beat, which schedules polls, maintenance, roll-up and cleanup, until Ctrl-C.

    One Beat is enough. A second one does no harm, because every task takes a lease first. On a single machine,
    `syncctl worker --beat` runs Beat inside the worker. Exit code 0 after Ctrl-C or SIGTERM.

    Examples:
        syncctl beat
        syncctl beat -- --pidfile /run/syncctl/beat.pid
    """
    return run_celery("beat", celery_args or (), settings=load(ctx, acts=True), debug=ctx.obj.debug)
