"""`syncctl pause` and `syncctl resume`: stop delivering or polling a stream, or calling a partner, and start again."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import merge_streams
from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson, Streams
from syncctl.commands.session import choose_known, open_session
from syncctl.console import out
from syncctl.core.durations import parse_duration
from syncctl.core.quiet_hours import find_instant, find_next, parse_wall_time, to_local
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
    polls: Annotated[bool, typer.Option("--polls", help="Pause the polls of the streams: no row is read.")] = False,
    deliveries: Annotated[
        bool, typer.Option("--deliveries", help="Pause the deliveries, which is the default; with --polls both.")
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="When it ends by itself: 2h (from now), 06:00, or 2026-01-31T06:00; local time unless a zone follows.",
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="REASON", help="The reason, which is kept in the audit log.")
    ] = "",
    as_json: AsJson = False,
) -> ExitCode:
    """Pause the delivery of a stream, or of all streams of a partner; rows are still read.

    Calls in progress finish; nothing else is sent until `syncctl resume`, or until the time that --until names. New
    rows are logged in the meantime and wait in the ledger. With --polls, the source is not read, and records that are
    in the ledger are still sent.

    Examples:
        syncctl pause orders --reason "price list is wrong"
        syncctl pause --partner default --until 06:00 --reason "the partner's maintenance"
        syncctl pause orders --polls --until 2h --reason "the database is being moved"
        syncctl pause orders invoices --json
    """
    from syncctl.pipeline.pause import PauseScope, pause_streams

    scope = PauseScope(deliveries=deliveries or not polls, polls=polls)
    with open_session(ctx, acts=True) as connections:
        chosen = _choose(connections, merge_streams(streams, stream), partner)
        if polls and chosen.partners:
            raise _no_polls_of_partner(connections, chosen.partners[0], command="pause")
        ends_at = _parse_end(until, connections.ledger.streams.server_time()) if until is not None else None
        pause_streams(
            ledger=connections.ledger,
            streams=chosen.streams,
            partners=chosen.partners,
            scope=scope,
            ends_at=ends_at,
            who=name_operator(),
            reason=reason,
        )
    if as_json:
        held = {"paused": scope.deliveries, "polls_paused": scope.polls, "until": ends_at}
        out.print_json(
            {
                "streams": [{"stream": name, **held} for name in chosen.streams],
                "partners": [{"partner": name, "paused": True, "until": ends_at} for name in chosen.partners],
            }
        )
    else:
        what = (
            "" if scope.deliveries and not polls else "polls of " if not scope.deliveries else "polls and delivery of "
        )
        end = f" until {_describe_end(ends_at)}" if ends_at is not None else ""
        out.show(f"paused {what}{_name(chosen.streams, chosen.partners)}{end}")
    again = " ".join([*chosen.streams, *(f"--partner {name}" for name in chosen.partners)])
    if polls and not scope.deliveries:
        again += " --polls"
    out.say(f"next: syncctl resume {again}, {'to end it sooner' if ends_at else 'when it may go on'}")
    return ExitCode.DONE


def resume(
    ctx: typer.Context,
    *,
    streams: _Names = None,
    stream: Streams = None,
    partner: _Partners = None,
    polls: Annotated[bool, typer.Option("--polls", help="Resume the polls alone.")] = False,
    deliveries: Annotated[bool, typer.Option("--deliveries", help="Resume the deliveries alone.")] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Resume a paused stream or partner.

    Delivery continues where it stopped: every record that has become due is sent, the oldest first. If the partner's
    circuit is open, the partner is called again at once. Paused polls go on too, from the stream's cursor.

    Examples:
        syncctl resume orders
        syncctl resume orders --polls        its deliveries stay paused, if they are
        syncctl resume --partner default
        syncctl resume orders invoices --json
    """
    from syncctl.pipeline.pause import EVERYTHING, PauseScope
    from syncctl.wiring import use_cases

    scope = PauseScope(deliveries=deliveries, polls=polls) if polls or deliveries else EVERYTHING
    with open_session(ctx, acts=True) as connections:
        chosen = _choose(connections, merge_streams(streams, stream), partner)
        if polls and chosen.partners:
            raise _no_polls_of_partner(connections, chosen.partners[0], command="resume")
        done = use_cases.resume(connections, chosen.streams, partners=chosen.partners, scope=scope, who=name_operator())
        left = _find_paused(connections, chosen.streams) if as_json else {}
    if as_json:
        out.print_json(
            {
                "streams": [
                    {
                        "stream": name,
                        **left[name],
                        "resumed": name in done.streams,
                        "polls_resumed": name in done.polls,
                    }
                    for name in chosen.streams
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


def _find_paused(connections: "Connections", streams: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return for each stream whether its deliveries and its polls are paused now."""
    ledger = connections.ledger
    return {
        name: {
            "paused": ledger.streams.load_gate(name).hold.paused,
            "polls_paused": ledger.polls.load_pause(name) is not None,
        }
        for name in streams
    }


def _parse_end(text: str, now: datetime) -> datetime:
    """Return the time at which a pause ends: a duration from now, a time of day, or a time; local if it has no zone.

    Args:
        now: MongoDB's current time; the end of the pause is judged by MongoDB's clock.

    Raises:
        UsageError: The text is none of these, or the time is not in the future.
    """
    end = _read_end(text.strip(), now)
    if end is None:
        raise UsageError(
            f"--until {text!r} is not a time",
            why="it is not a duration, a time of day or an ISO 8601 time",
            hint="for example: --until 2h, --until 06:00 or --until 2026-01-31T06:00",
        )
    if end <= now:
        raise UsageError(
            f"--until {text} has passed",
            why=f"it is {_describe_end(end)}, and now is {_describe_end(now)}",
            hint="give a later time, or omit --until",
        )
    return end


def _read_end(text: str, now: datetime) -> datetime | None:
    with suppress(ValueError):
        return find_next(parse_wall_time(text), after=now)
    with suppress(ValueError, OverflowError):
        return now + timedelta(seconds=parse_duration(text))
    with suppress(ValueError, OverflowError, OSError):
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else find_instant(moment.date(), moment.time())
    return None


def _describe_end(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ} ({to_local(at):%H:%M %Z})"


def _show_resumed(chosen: "_Chosen", done: "Resumed") -> None:
    if resumed := _name(done.streams, done.partners):
        out.show(f"resumed {resumed}")
    if done.polls:
        out.show(f"resumed the polls of {', '.join(done.polls)}")
    idle = _name(
        [name for name in chosen.streams if name not in (*done.streams, *done.polls)],
        [name for name in chosen.partners if name not in done.partners],
    )
    if idle:
        out.show(f"not paused: {idle}")


def _no_polls_of_partner(connections: "Connections", partner: str, *, command: str) -> UsageError:
    streams = [name for name, stream in connections.settings.streams.items() if stream.partner == partner]
    return UsageError(
        "--polls cannot be combined with --partner",
        why="a partner is called, and streams are polled",
        hint=f"run: syncctl {command} {' '.join(streams) or 'STREAM'} --polls",
    )


def _name(streams: Sequence[str], partners: Sequence[str]) -> str:
    return ", ".join([*streams, *(f"partner {name}" for name in partners)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    streams: tuple[str, ...]
    partners: tuple[str, ...]


def _choose(connections: "Connections", streams: list[str] | None, partners: list[str] | None) -> _Chosen:
    """Return the named streams and partners; an empty choice is refused, so that it never means all by mistake.

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
