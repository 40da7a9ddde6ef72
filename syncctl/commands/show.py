"""`syncctl show`: the story of one record, or of every version of one key."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.filters import Error, Key, States, is_any_given, read_filters
from syncctl.commands.options import AsJson, Streams
from syncctl.commands.previews import show_requests
from syncctl.commands.session import choose_known, open_session
from syncctl.commands.times import Since, Until
from syncctl.console import format_time, out, to_line
from syncctl.core.ids import format_seq
from syncctl.core.records import read_idempotency_key
from syncctl.core.states import SELECTABLE
from syncctl.errors import ExitCode, TroubleFound, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.selection import Selection
    from syncctl.wiring.connections import Connections

_FIELDS = (
    "stream", "key", "version", "seq", "op", "state", "error", "reason", "attempts", "outcomes", "replays", "claims",
    "logged_at", "due_at", "sent_at", "delivered_at", "failed_at", "superseded_at", "superseded_by", "discarded_at",
    "waits_for", "lease", "mapping_hash", "generation", "idempotency_key", "remote", "payload",
)  # fmt: skip
_NAME_WIDTH = 15
_LONGEST = 2000
_SHOWN_BY_DEFAULT = 100


def show(
    ctx: typer.Context,
    *,
    record: Annotated[
        str | None, typer.Argument(metavar="ID|STREAM", help="A record's id or the beginning of one, or a stream.")
    ] = None,
    row: Annotated[
        str | None, typer.Argument(metavar="KEY", help="With a stream: the row's key, such as 5 or a=1,b=2.")
    ] = None,
    stream: Streams = None,
    state: States = None,
    error: Error = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help=f"At most N records; {_SHOWN_BY_DEFAULT} by default."),
    ] = None,
    source: Annotated[
        bool, typer.Option("--source/--no-source", help="Read the row from the source too, or do not.")
    ] = True,
    request: Annotated[bool, typer.Option("--request", help="Show the exact request, with secrets masked.")] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show the story of a row: its versions, what happened to them, and what differs.

    The newest version of a key comes first. The timeline shows when the row was found and logged, each attempt with
    the partner's answer, replays, discards, newer versions, and outcomes that were written back into the source. Below
    it, the row as the source has it now is compared with its newest and its delivered version, field by field. If the
    source cannot be reached, the rest is shown. The beginning of an id is enough if no other id begins with it. The
    filters select records as in syncctl records. Exit code 1: there is no such record.

    With --request it shows the HTTP request instead, also as a curl command: the next request, or the last one of a
    finished record. If the mapping has changed since, it shows what a replay would send. Nothing is sent. Exit code 1:
    there is no such record, or it cannot be sent.

    Examples:
        syncctl show orders-3f2a9c
        syncctl show orders 5
        syncctl show order_lines order_id=5,line=2 --json
        syncctl show orders 5 --no-source
        syncctl show orders 5 --request
        syncctl show --error 4f1d2c77b05e --limit 3
    """
    if record is None and len(stream or ()) == 1 and key is not None:
        # The long form of a stream and a key.
        record, row, stream, key = (stream or [""])[0], key, None, None
    has_filters = is_any_given(stream, state, error, key, since, until, limit)
    if record is None and not has_filters:
        raise UsageError(
            "no record is selected",
            why="this command has no default",
            hint="name an id, a stream and a key, or filters",
        )
    filters = read_filters(
        streams=stream, states=state, by_default=SELECTABLE, error=error, key=row if row is not None else key,
        since=since, until=until, limit=limit or _SHOWN_BY_DEFAULT,
    )  # fmt: skip
    with open_session(ctx) as connections:
        if record is not None and not has_filters:
            named = [(record, row)]
        else:
            is_stream = record is not None and (row is not None or record in connections.settings.streams)
            if is_stream and record is not None:
                filters = replace(filters, streams=(record, *(filters.streams or ())))
            selection = filters.select(connections, ids=[record] if record is not None and not is_stream else ())
            named = [(record_id, None) for record_id in _find_ids(connections, selection)]
        if request:
            from syncctl.wiring.use_cases import preview_records

            previews = []
            for id_or_stream, of_row in named:
                _check_stream(connections, id_or_stream, of_row)
                previews += preview_records(connections, id_or_stream, of_row)
            return show_requests(previews, as_json=as_json)
        from syncctl.pipeline.inspection.show import show_records

        records = []
        for id_or_stream, of_row in named:
            _check_stream(connections, id_or_stream, of_row)
            configured = connections.settings.streams
            records += show_records(
                ledger=connections.ledger, id_or_stream=id_or_stream, key=of_row, configured=configured
            )
        return _show_stories(connections, records, ask_source=source, as_json=as_json)


def _show_stories(
    connections: "Connections", records: Sequence[Mapping[str, Any]], *, ask_source: bool, as_json: bool
) -> ExitCode:
    from syncctl.commands.show_story import show_story
    from syncctl.pipeline.inspection.row_comparison import hide_masked
    from syncctl.pipeline.inspection.timeline import build_timeline
    from syncctl.wiring.use_cases import compare_row

    rows = _group_by_row(records)
    timelines = [build_timeline(connections.ledger, versions) for versions in rows]
    with out.progress("reading the row from its source"):
        comparison = compare_row(connections, records[0], ask_source=ask_source) if len(rows) == 1 else None
    if comparison is not None and comparison.source_error is not None:
        out.warn(f"the row was not read from the source: {comparison.source_error}")
    settings = connections.settings
    records = [
        {**record, "payload": hide_masked(record["payload"], settings.stream(record["stream"]))}
        if record.get("payload") is not None and record["stream"] in settings.streams
        else record
        for record in records
    ]
    if as_json:
        timeline = [event for events in timelines for event in events]
        documents = [to_public(record) for record in records]
        out.print_json({"records": documents, "timeline": timeline, "row": comparison})
        return ExitCode.DONE
    for number, version in enumerate(records):
        if number:
            out.show("")
        show_record(version)
    show_story(timelines, comparison)
    failed = next((version["_id"] for version in records if version["state"] == "failed"), None)
    if failed:
        out.say(f"next: syncctl replay --id {failed}")
    return ExitCode.DONE


def _group_by_row(records: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the records of each row, the rows in the order of their first records."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["stream"], record["key_id"]), []).append(record)
    return list(rows.values())


def _find_ids(connections: "Connections", selection: "Selection") -> list[str]:
    """Return the ids of selected records, the newest first.

    Raises:
        TroubleFound: There is none.
    """
    from syncctl.pipeline.selection import list_records, select_records

    ledger = connections.prepared_ledger
    if selection.ids:
        ids = [record["_id"] for page in select_records(ledger, selection, SELECTABLE) for record in page]
    else:
        ids = [record["_id"] for record in list_records(ledger, selection)]
    if not ids:
        raise TroubleFound("no record is selected", why="none meets all filters", hint="see: syncctl records")
    return ids


def _check_stream(connections: "Connections", name: str, key: str | None) -> None:
    """Check that a key is preceded by the name of a stream.

    Raises:
        UsageError: neither the configuration nor the ledger has a stream of that name.
    """
    if key is not None:
        choose_known(connections, [name])


def to_public(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a record; it always has the same keys, null if a record lacks a field."""
    fields = {name: record.get(name) for name in _FIELDS} | {"idempotency_key": read_idempotency_key(record)}
    return {"id": record["_id"], **fields, "history": record.get("history", [])}


def show_record(record: Mapping[str, Any]) -> None:
    out.show(f"record {record['_id']}")
    fields = {**record, "seq": format_seq(int(record["seq"])), "idempotency_key": read_idempotency_key(record)}
    _show_fields([(name, _describe(fields[name])) for name in _FIELDS if fields.get(name) not in (None, "", {}, [])])


def _show_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Write names and values; on a terminal a long value is wrapped beside its name, and a very long one truncated."""
    if not out.is_watched():
        for name, text in fields:
            out.show(f"  {name:{_NAME_WIDTH}} {text}")
        return
    from rich.table import Table
    from rich.text import Text

    from syncctl.core.safe_text import make_safe

    grid = Table.grid(padding=(0, 1))
    grid.add_column(min_width=_NAME_WIDTH + 2, no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields:
        rest = len(text) - _LONGEST
        shown = f"{text[:_LONGEST]} ... {rest:,} more characters: --json" if rest > 0 else text
        grid.add_row(Text(f"  {name}"), Text(make_safe(shown)))
    out.show(grid)


def _describe(value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    return value if isinstance(value, str) else to_line(value)
