"""`syncctl pause` and `syncctl resume`: stop delivering a stream or to a partner, and start again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import merge_streams
from syncctl.commands.options import AsJson, Streams
from syncctl.commands.session import choose_known, name_operator, open_session
from syncctl.console import out
from syncctl.core.spelling import find_near
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.pause import Resumed
    from syncctl.wiring.connections import Connections

_Names = Annotated[list[str] | None, typer.Argument(metavar="STREAM", help="Names of streams.")]
_Partners = Annotated[
    list[str] | None,
    typer.Option("--partner", metavar="PARTNER", help="A partner with all its streams; may be repeated."),
]


def pause(
    ctx: typer.Context,
    *,
    streams: _Names = None,
    stream: Streams = None,
    partner: _Partners = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="REASON", help="The reason, which is kept in the audit log.")
    ] = "",
    as_json: AsJson = False,
) -> ExitCode:
    """Pause the delivery of a stream, or of all streams of a partner; rows are still read.

    Calls in progress finish; nothing else is sent until `syncctl resume`. New rows are logged in the meantime and wait
    in the ledger.

    Examples:
        syncctl pause orders --reason "price list is wrong"
        syncctl pause --partner default --reason "maintenance until 06:00"
        syncctl pause orders invoices --json
    """
    from syncctl.pipeline.pause import pause_delivery

    with open_session(ctx, acts=True) as connections:
        chosen = _choose(connections, merge_streams(streams, stream), partner)
        pause_delivery(
            ledger=connections.ledger,
            streams=chosen.streams,
            partners=chosen.partners,
            who=name_operator(),
            reason=reason,
        )
    if as_json:
        out.print_json(
            {
                "streams": [{"stream": name, "paused": True} for name in chosen.streams],
                "partners": [{"partner": name, "paused": True} for name in chosen.partners],
            }
        )
    else:
        out.show(f"paused {_name(chosen.streams, chosen.partners)}")
    again = " ".join([*chosen.streams, *(f"--partner {name}" for name in chosen.partners)])
    out.say(f"next: syncctl resume {again}, when delivery may continue")
    return ExitCode.DONE


def resume(
    ctx: typer.Context,
    *,
    streams: _Names = None,
    stream: Streams = None,
    partner: _Partners = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Resume a paused stream or partner.

    Delivery continues where it stopped: every record that has become due is sent, the oldest first. If the partner's
    circuit is open, the partner is called again at once.

    Examples:
        syncctl resume orders
        syncctl resume --partner default
        syncctl resume orders invoices --json
    """
    from syncctl.wiring import operators

    with open_session(ctx, acts=True) as connections:
        chosen = _choose(connections, merge_streams(streams, stream), partner)
        done = operators.resume(connections, chosen.streams, partners=chosen.partners, who=name_operator())
    if as_json:
        out.print_json(
            {
                "streams": [
                    {"stream": name, "paused": False, "resumed": name in done.streams} for name in chosen.streams
                ],
                "partners": [
                    {"partner": name, "paused": False, "resumed": name in done.partners} for name in chosen.partners
                ],
            }
        )
    else:
        _show_resumed(chosen, done)
    out.say("next: syncctl status")
    return ExitCode.DONE


def _show_resumed(chosen: "_Chosen", done: "Resumed") -> None:
    if resumed := _name(done.streams, done.partners):
        out.show(f"resumed {resumed}")
    idle = _name(
        [name for name in chosen.streams if name not in done.streams],
        [name for name in chosen.partners if name not in done.partners],
    )
    if idle:
        out.show(f"not paused: {idle}")


def _name(streams: Sequence[str], partners: Sequence[str]) -> str:
    return ", ".join([*streams, *(f"partner {name}" for name in partners)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    streams: tuple[str, ...]
    partners: tuple[str, ...]


def _choose(connections: "Connections", streams: list[str] | None, partners: list[str] | None) -> _Chosen:
    """Return the named streams and partners; an empty choice must not mean all of them by mistake.

    Raises:
        UsageError: none is named, or one does not exist.
    """
    if not streams and not partners:
        raise UsageError(
            "no stream or partner was named",
            why="this command has no default",
            hint=f"name streams ({', '.join(connections.settings.streams)}), or add --partner NAME",
        )
    for name in partners or ():
        if name not in connections.settings.partners:
            raise _no_such_partner(connections, name)
    named = tuple(dict.fromkeys(partners or ()))
    return _Chosen(streams=choose_known(connections, streams) if streams else (), partners=named)


def _no_such_partner(connections: "Connections", name: str) -> UsageError:
    known = sorted(connections.settings.partners)
    near = find_near(name, known)
    if name in connections.settings.streams:
        hint = f"{name} is a stream: name it without --partner"
    elif near or len(known) == 1:
        hint = f"use --partner {near or known[0]}"
    else:
        hint = "run: syncctl status --json, which shows the partner of each stream"
    return UsageError(f"no such partner: {name}", why=f"the partners are {', '.join(known)}", hint=hint)
