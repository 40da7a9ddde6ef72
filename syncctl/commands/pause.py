"""`syncctl pause` and `syncctl resume`: stop a stream, and let it go on."""

from typing import Annotated

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import choose_known, name_operator, open_session
from syncctl.console import out
from syncctl.errors import ExitCode

_Names = Annotated[list[str], typer.Argument(metavar="STREAM", help="Which streams.")]


def pause(
    ctx: typer.Context,
    *,
    streams: _Names,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the audit.")] = "",
    as_json: AsJson = False,
) -> ExitCode:
    """Stop delivering a stream; its rows are still read.

    Calls that are under way finish; nothing else of the stream is sent until `syncctl resume`. New rows are
    logged meanwhile and wait in the ledger.

    Examples:
        syncctl pause orders --reason "partner maintenance until 06:00"
        syncctl pause orders invoices --json
    """
    with open_session(ctx) as services:
        names = choose_known(services, streams)
        services.pause(names, who=name_operator(), reason=reason)
    return _report(names, paused=True, as_json=as_json)


def resume(ctx: typer.Context, streams: _Names, as_json: AsJson = False) -> ExitCode:
    """Let a paused stream go on.

    It goes on where it stood: every record that became due meanwhile is sent, the oldest first.

    Examples:
        syncctl resume orders
        syncctl resume orders invoices --json
    """
    with open_session(ctx) as services:
        names = choose_known(services, streams)
        services.resume(names, who=name_operator())
    return _report(names, paused=False, as_json=as_json)


def _report(names: tuple[str, ...], *, paused: bool, as_json: bool) -> ExitCode:
    if as_json:
        out.print_json({"streams": [{"stream": name, "paused": paused} for name in names]})
    else:
        out.show(f"{'paused' if paused else 'resumed'} {', '.join(names)}")
    out.say(f"next: syncctl resume {' '.join(names)}, once it may go on" if paused else "next: syncctl status")
    return ExitCode.DONE
