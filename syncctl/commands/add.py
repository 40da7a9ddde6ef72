"""`syncctl add`: send two numbers through broker, worker and result backend, and get their sum back."""

import math
from typing import Annotated

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.commands.times import parse_seconds
from syncctl.console import out
from syncctl.errors import ExitCode, ServiceUnavailable, UsageError


def add(
    ctx: typer.Context,
    *,
    x: Annotated[str, typer.Argument(metavar="X", help="A number.")],
    y: Annotated[str, typer.Argument(metavar="Y", help="A number.")],
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long to wait for the answer.")
    ] = "10s",
    as_json: AsJson = False,
) -> ExitCode:
    """Send two numbers through broker, worker and result backend, and get their sum back.

    This proves that a task reaches the queue, that a running worker takes it, and that the result comes back;
    if not, the error names the part that failed. Exit code 69: a part does not work.

    Examples:
        syncctl add 2 3
        syncctl add -2 0.5
        syncctl add 2 3 --timeout 30s --json
    """
    first, second = parse_number(x, "X"), parse_number(y, "Y")
    seconds = parse_seconds(timeout, flag="--timeout")
    with open_session(ctx, acts=True) as connections:
        from syncctl.broker.queue import add_through_queue

        try:
            with out.progress("waiting for a worker"):
                app, broker = connections.celery_app, connections.broker
                trip = add_through_queue(app, broker, first, second, timeout_seconds=seconds)
        except ServiceUnavailable as error:
            if error.service == "redis":
                raise ServiceUnavailable(
                    f"broker: {error.what}", service="redis", why=error.why, hint=error.hint
                ) from error
            raise
    if as_json:
        out.print_json(trip)
    else:
        out.show(f"{trip.x} + {trip.y} = {trip.sum}")
        out.say(f"round trip {trip.round_trip_ms:.0f} ms, worker {trip.worker}")
    return ExitCode.DONE


def parse_number(text: str, name: str) -> int | float:
    """Parse a whole number as int, any other as float.

    Raises:
        UsageError: the text is not a finite number.
    """
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    raise UsageError(f"{name} is not a number: {text}", why="add takes two finite numbers", hint="run: syncctl add 2 3")
