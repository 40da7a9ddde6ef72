"""`syncctl audit`: who changed what, when, and how many records."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.filters import Listing, choose_actions
from syncctl.commands.options import AsJson, Streams
from syncctl.commands.session import choose_known, open_session
from syncctl.commands.times import Since, Until, parse_window
from syncctl.console import format_time, out, to_line
from syncctl.errors import ExitCode

if TYPE_CHECKING:
    from syncctl.wiring.connections import Connections

LISTED_BY_DEFAULT = 50
ROWS_AT_ONCE = 500
_COLUMNS = ("at", "action", "who", "count", "ended", "detail")
_ENDLESS = "not ended"


def audit(
    ctx: typer.Context,
    *,
    since: Since = None,
    until: Until = None,
    stream: Streams = None,
    action: Annotated[
        list[str] | None,
        typer.Option(
            "--action",
            metavar="ACTION",
            help="replay, discard, send, rewind, repair, cleanup, pause, resume or upgrade; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help=f"At most N; a table shows {LISTED_BY_DEFAULT} by default."),
    ] = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Show who changed what, when, and how many records.

    The newest come first. Each replay, discard, send, rewind, repair, cleanup, pause, resume and upgrade has an entry,
    which is written before its first change. An entry without an end means that the operation is running, or was
    killed.

    Examples:
        syncctl audit
        syncctl audit --since 24h --stream orders
        syncctl audit --action pause --action resume --json
    """
    begin, end = parse_window(since, until)
    actions = choose_actions(action)
    at_most = limit if limit is not None or as_json else LISTED_BY_DEFAULT
    with open_session(ctx) as connections:
        entries = connections.prepared_ledger.audit.walk(
            since=begin, until=end, actions=actions, touching=_find_partners(connections, stream)
        )
        listing = Listing(entries, at_most)
        if as_json:
            out.print_json_list("entries", map(_to_public, listing), lambda: {"more": listing.has_more})
        else:
            _show(iter(listing))
    if listing.has_more and limit is None:
        out.say("there are more entries; to see them: --limit N, --since or --json")
    return ExitCode.DONE


def _find_partners(connections: "Connections", streams: list[str] | None) -> dict[str, str | None] | None:
    """Return the partner of each named stream; None if no stream is named."""
    if not streams:
        return None
    configured = connections.settings.streams
    return {
        name: configured[name].partner if name in configured else None for name in choose_known(connections, streams)
    }


def _to_public(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of an entry; it always has the same keys."""
    fields = ("at", "ended_at", "action", "who", "count", "error")
    return {**{name: entry.get(name) for name in fields}, "detail": entry.get("detail") or {}}


def _show(entries: Iterator[Mapping[str, Any]]) -> None:
    is_empty = True
    while chunk := list(islice(entries, ROWS_AT_ONCE)):
        is_empty = False
        rows = [
            [*(entry.get(name) for name in _COLUMNS[:4]), _describe_end(entry), _describe(entry)] for entry in chunk
        ]
        out.table(_COLUMNS, rows, prose=_COLUMNS[-1:], ended="red")
        if out.reader_gone:
            return
    if is_empty:
        out.show("no entries")


def _describe_end(entry: Mapping[str, Any]) -> str | None:
    """Return `not ended` or the error of an operation; None if it ended without an error."""
    if entry.get("ended_at") is None:
        return _ENDLESS
    return entry.get("error")


def _describe(entry: Mapping[str, Any]) -> str:
    """Return the details of an entry as text, leaving out empty ones."""
    detail = {**(entry.get("detail") or {})}
    detail |= detail.pop("deleted", None) or {}
    return " ".join(
        f"{name}={_format(value)}" for name, value in detail.items() if value not in (None, "", [], {}, 0, False)
    )


def _format(value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return to_line(value)
