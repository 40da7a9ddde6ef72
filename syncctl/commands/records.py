"""`syncctl records`: list records, or export them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

import typer

from syncctl.commands.filters import Error, Key, Listing, States, read_filters
from syncctl.commands.options import AsJson, Streams, require_one_form
from syncctl.commands.session import open_session
from syncctl.commands.times import Since, Until
from syncctl.console import out
from syncctl.core.ids import show_key
from syncctl.core.records import read_idempotency_key
from syncctl.core.states import SELECTABLE, name_state
from syncctl.errors import ExitCode

LISTED_BY_DEFAULT = 50
ROWS_AT_ONCE = 500
_SHORT_ID_DIGITS = 8
_FIELDS = (
    "version",
    "seq",
    "op",
    "error",
    "reason",
    "attempts",
    "replays",
    "logged_at",
    "due_at",
    "sent_at",
    "finished_at",
)
_CSV_COLUMNS = (
    "id", "stream", "key", "version", "op", "state", "attempts", "replays", "status", "message", "fingerprint",
    "reason", "logged_at", "due_at", "sent_at", "finished_at", "idempotency_key",
)  # fmt: skip
_COLUMNS = ("id", "stream", "key", "state", "at", "attempts", "status", "fingerprint", "message")
_SHORT_COLUMNS = ("id", "key", "state", "at", "status", "message")


def records(
    ctx: typer.Context,
    *,
    stream: Streams = None,
    state: States = None,
    error: Error = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help=f"At most N; a table shows {LISTED_BY_DEFAULT} by default."),
    ] = None,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="The oldest first, as replay takes them.")
    ] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header on stdout.")] = False,
) -> ExitCode:
    """List records, or export them.

    The newest come first. The time of a record is when it finished, or, while it waits, when it is due; --since and
    --until apply to this time. Without --limit, --json and --csv print every selected record, however many there are.

    Examples:
        syncctl records --state failed
        syncctl records --state retrying --stream orders
        syncctl records --error 4f1d2c77b05e --since 24h --csv > failed.csv
        syncctl records --stream orders --key 5 --json
        syncctl records --state failed --oldest-first --limit 10    those that replay --limit 10 takes
    """
    require_one_form(json=as_json, csv=as_csv)
    from syncctl.pipeline.selection import list_records

    at_most = limit if limit is not None or as_json or as_csv else LISTED_BY_DEFAULT
    # One record beyond the limit shows whether there are more.
    filters = read_filters(
        streams=stream, states=state, by_default=SELECTABLE, error=error, key=key, since=since, until=until,
        limit=None if at_most is None else at_most + 1,
    )  # fmt: skip
    with open_session(ctx) as connections:
        ledger = connections.prepared_ledger
        selection = filters.select(connections)
        listing = Listing(list_records(ledger, selection, newest_first=not oldest_first), at_most)
        if as_json:
            out.print_json_list("records", map(to_public, listing), lambda: {"more": listing.has_more})
        elif as_csv:
            with out.progress("exporting", unit="records") as show:
                out.print_csv(_CSV_COLUMNS, map(_to_csv_row, _count(listing, show)))
        else:
            show_table(listing)
    if listing.has_more and limit is None:
        out.say("more records match; to see them: --limit N, --json or --csv")
    return ExitCode.DONE


def _count(listing: Listing, show: Callable[[int], None]) -> Iterator[Mapping[str, Any]]:
    """Yield the records, and report the number of them so far."""
    for number, record in enumerate(listing, start=1):
        yield record
        show(number)


def to_public(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a listed record; it always has the same keys."""
    return {
        "id": record["_id"],
        "stream": record["stream"],
        "key": record["key"],
        "state": name_state(record["state"], fresh=record.get("fresh")),
        **{name: record.get(name) for name in _FIELDS},
        "idempotency_key": read_idempotency_key(record),
    }


def format_key(key: Mapping[str, Any]) -> str:
    """Return a key in the form that `--key` accepts."""
    return str(next(iter(key.values()))) if len(key) == 1 else show_key(key)


def _describe(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a record, by column."""
    error = record.get("error") or {}
    at = record.get("finished_at") or record.get("due_at") or record.get("lease", {}).get("at") or record["logged_at"]
    return {
        **to_public(record),
        "key": format_key(record["key"]),
        "at": at,
        **{name: error.get(name) for name in ("status", "fingerprint")},
        "message": error.get("message") or record.get("reason"),
    }


def _to_csv_row(record: Mapping[str, Any]) -> Sequence[Any]:
    cells = {**_describe(record), "message": (record.get("error") or {}).get("message")}
    return [cells[name] for name in _CSV_COLUMNS]


def show_table(listing: Iterable[Mapping[str, Any]], *, next_command: str = "syncctl show") -> None:
    """Write one table for each `ROWS_AT_ONCE` records, so that memory does not grow with their number."""
    columns = _SHORT_COLUMNS if out.is_watched() else _COLUMNS
    rows = iter(listing)
    first: Mapping[str, Any] | None = None
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        first = first or chunk[0]
        cells = [_describe(record) for record in chunk]
        if out.is_watched():
            cells = [{**row, "id": shorten_id(str(row["id"]))} for row in cells]
        out.table(
            columns, [[row[name] for name in columns] for row in cells],
            prose=("message",), whole=("id",), message="red",
        )  # fmt: skip
        if out.reader_gone:
            return
    if first is None:
        out.show("no records")
    else:
        out.say(f"next: {next_command} {first['_id']}")


def shorten_id(record_id: str) -> str:
    """Return the beginning of an id, which is enough to name its record unless another id begins with it too."""
    stream, _, digits = record_id.rpartition("-")
    return f"{stream}-{digits[:_SHORT_ID_DIGITS]}"
