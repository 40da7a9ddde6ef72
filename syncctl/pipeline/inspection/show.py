"""show: one record by its id, or every version of a row by its key, with the full history and the differences."""

from collections.abc import Callable, Container, Mapping
from typing import Any

from syncctl.core.ids import key_id, show_key
from syncctl.core.rows import Row, Value
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, TroubleFound, UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.inspection.row_comparison import Comparison, compare_versions
from syncctl.pipeline.selection import complete_id, read_key


def show_records(
    *, ledger: Ledger, id_or_stream: str, key: str | None, configured: Container[str]
) -> list[dict[str, Any]]:
    """Return a record by its id, or every version of a row by its stream and key (`5`, or `a=1,b=2`), newest first.

    Args:
        configured: The names of the configured streams.

    Raises:
        TroubleFound: There is no such record.
        UsageError: The key does not have the stream's columns, or a stream was named without a key.
    """
    if key is None:
        if id_or_stream in configured or id_or_stream in ledger.streams.load_all():
            raise UsageError(
                f"{id_or_stream} is a stream, and a key is missing",
                why="a record is shown by its id, or by its stream and the key of its row",
                hint=f"write for example syncctl show {id_or_stream} 5",
            )
        return find_record(ledger, id_or_stream)
    names = ledger.keys.column_names(id_or_stream) or ledger.records.column_names(id_or_stream)
    if not names:
        raise TroubleFound(
            f"the ledger knows no row of {id_or_stream}",
            why="it was never polled",
            hint=f"syncctl poll {id_or_stream} --once",
        )
    error: TroubleFound | None = None
    for reading in read_key(key, names):
        try:
            return find_versions(ledger, id_or_stream, reading)
        except TroubleFound as caught:
            error = error or caught
    assert error is not None  # noqa: S101 - read_key gives at least one reading
    raise error


def find_record(ledger: Ledger, record_id: str) -> list[dict[str, Any]]:
    """Return the one record with an id.

    Args:
        record_id: The id, or the beginning of it, as `complete_id` reads it.

    Raises:
        TroubleFound: There is no such record.
        UsageError: Several ids begin with it.
    """
    records = ledger.records.find(record_id=complete_id(ledger, record_id))
    return _add_remote(ledger, _require(records, f"no record has the id {record_id}"))


def find_versions(ledger: Ledger, stream: str, key: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Return all versions of a row, newest first.

    Raises:
        TroubleFound: There is none.
    """
    records = ledger.records.find(stream=stream, key_id=key_id(key))
    return _add_remote(ledger, _require(records, f"the ledger holds no record of {stream} {show_key(key)}"))


def compare_row(
    *,
    ledger: Ledger,
    stream: Stream | None,
    record: Mapping[str, Any],
    read_row: Callable[[Mapping[str, Value]], Row | None] | None,
) -> Comparison:
    """Return how the row of a record differs in the source now, in its newest version, and as it was delivered.

    Args:
        stream: The settings of its stream; None if it is no longer configured.
        read_row: Reads the row with a key now; None to leave the source out.
    """
    name, key = record["stream"], record["key"]
    versions = ledger.records.find(stream=name, key_id=record["key_id"]) or [dict(record)]
    known = ledger.keys.load(name, [record["key_id"]]).get(record["key_id"])
    row, error = None, None
    source = "not_asked"
    if read_row is not None:
        try:
            row = read_row(key)
            source = "gone" if row is None else "read"
            if row is not None and row.error is not None:
                source, error = "unreadable", row.error
        except ServiceUnavailable as unavailable:
            source, error = "unreachable", str(unavailable)
        except (SourceError, ConfigurationError) as refused:
            source, error = "unreadable", str(refused)
    return compare_versions(
        stream=stream,
        name=name,
        versions=versions,
        delivered_seq=known.delivered_seq if known is not None else 0,
        row=row,
        source=source,
        source_error=error,
    )


def _add_remote(ledger: Ledger, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the known values of the partner's objects for the rows, from their keys."""
    for stream in {record["stream"] for record in records}:
        of_stream = [record for record in records if record["stream"] == stream]
        known = ledger.keys.load(stream, [record["key_id"] for record in of_stream])
        for record in of_stream:
            key = known.get(record["key_id"])
            record["remote"] = dict(key.remote.values) if key is not None and key.remote is not None else None
    return records


def _require(records: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    if not records:
        raise TroubleFound(what, why="it was never logged, or cleanup has removed it", hint="look at: syncctl status")
    return records
