"""`syncctl failures`: failed records grouped by error."""

from typing import Annotated

import typer

from syncctl.commands.filters import Error, Key, read_filters
from syncctl.commands.options import AsJson, Streams
from syncctl.commands.session import open_session
from syncctl.commands.times import Since, Until
from syncctl.console import out
from syncctl.core.states import State
from syncctl.errors import ExitCode

_COLUMNS = ("count", "streams", "status", "message", "first_at", "last_at", "fingerprint", "sample_id")
_SHORT_COLUMNS = ("count", "streams", "status", "fingerprint", "message")


def failures(
    ctx: typer.Context,
    *,
    stream: Streams = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="failed (the default), retrying, superseded or discarded; may be repeated.",
        ),
    ] = None,
    error: Error = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show at most N groups.")] = 20,
    as_json: AsJson = False,
) -> ExitCode:
    """Show failed records grouped by error, the most frequent first.

    Errors that differ only in numbers, ids and similar details form one group with one fingerprint, which
    `syncctl replay --error` accepts. Exit code 1: there are failed records.

    Examples:
        syncctl failures
        syncctl failures --stream orders --since 24h
        syncctl failures --state retrying             what is being tried again, and why
        syncctl failures --json
    """
    from syncctl.pipeline.monitoring.status import WITH_ERRORS, group_failures

    filters = read_filters(
        streams=stream, states=state, allowed=WITH_ERRORS, error=error, key=key, since=since, until=until
    )
    with open_session(ctx) as connections:
        selection = filters.select(connections)
        with out.progress("grouping the errors"):
            grouped = group_failures(ledger=connections.prepared_ledger, selection=selection, limit=limit)
    if as_json:
        out.print_json(grouped)
    elif grouped.groups:
        # 80 columns have no room for the samples; that of the first group is shown below the table.
        columns = _SHORT_COLUMNS if out.is_watched() else _COLUMNS
        rows = [
            [" ".join(group["streams"]) if name == "streams" else group[name] for name in columns]
            for group in grouped.groups
        ]
        out.table([name.replace("_", " ") for name in columns], rows, prose=("streams", "message"), count="red")
    else:
        out.show(f"no {'/'.join(selection.states)} records")
    if grouped.groups:
        first = grouped.groups[0]
        out.say(f"next: syncctl show {first['sample_id']}")
        if selection.states == (State.FAILED.value,):
            out.say(f"      syncctl replay --error {first['fingerprint']} --dry-run")
        return ExitCode.TROUBLE
    return ExitCode.DONE
