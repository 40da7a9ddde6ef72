"""preview: show the requests that would be sent, without sending or writing anything: no lease, record or cursor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from syncctl.core.ids import make_seq
from syncctl.core.records import Record
from syncctl.core.rows import Row, Value
from syncctl.core.states import TERMINAL, State
from syncctl.core.stream import Stream
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import lost_object_of, record_of, to_document
from syncctl.partner.client import PartnerClient
from syncctl.partner.request.curl import Request, show_request
from syncctl.pipeline.delivery.remote_steps import choose_step, shape_by_remote
from syncctl.pipeline.polling.identity import NamedRow, name_row, new_record

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

PAGES_AT_MOST = 100
"""The search for new rows ends after this many pages: in a mode that reads the whole table, most rows may be known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The request of one record."""

    stream: str
    #: The record's id; for a row that is not logged yet, the id that it will get.
    id: str
    key: Mapping[str, Value]
    op: str
    request: Request
    #: Whether the record is finished and was sent as a different request, because the mapping has changed since.
    mapping_changed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestPreviewer:
    """Shows the requests in which a stream's records are sent."""

    client: PartnerClient
    #: The environment variable that holds the one secret of the partner's auth, if it is known.
    variable: str | None = None
    #: If the stream has a body schema, a client that does not check it, to show bodies that do not match.
    unchecked: PartnerClient | None = None

    def show(self, record: Record) -> Request:
        """Return the request of a record; if it cannot be sent, the reason, and the body if there is one."""
        request = show_request(self.client, record, variable=self.variable)
        if request.error is None or self.unchecked is None:
            return request
        return replace(request, body=show_request(self.unchecked, record).body)


def preview_rows(
    *,
    ledger: Ledger,
    stream: Stream,
    open_reader: "Callable[[Stream], StreamReader]",
    previewer: RequestPreviewer,
    limit: int,
    known: bool = False,
) -> list[Preview]:
    """Read the rows that the next poll would log, at most `limit`, and show the request of each.

    Deletes that mode snapshot detects are not among them: they come at the end of a whole round.

    Args:
        known: Whether to show the first row of the table if no row is new or changed.

    Raises:
        ServiceUnavailable: MongoDB or the source cannot be reached.
    """
    cursor = ledger.polls.load_cursor(stream.name)
    reader = open_reader(replace(stream, page_size=max(1, min(limit, stream.page_size))))
    previews: list[Preview] = []
    try:
        pages = reader.pages(reader.start_cursor() if cursor is None else cursor)
        for _, page in zip(range(PAGES_AT_MOST), pages, strict=False):
            for named, before in _find_changed(ledger, stream, page.rows):
                previews.append(_preview_row(stream, named, before, reader.columns_fingerprint, previewer, key=before))
                if len(previews) >= limit:
                    return previews
        row = reader.first_row() if known and not previews else None
        if row is None:
            return previews
        named = name_row(row, seq=make_seq(0, 1))
        key = ledger.keys.load(stream.name, [named.key_id]).get(named.key_id) if stream.keeps_remote else None
        return [_preview_row(stream, named, None, reader.columns_fingerprint, previewer, key=key)]
    finally:
        reader.close()


def preview_row(stream: Stream, row: Row, columns_fingerprint: str, previewer: RequestPreviewer) -> Preview:
    """Show the request of a row as if the ledger knew nothing of it, without reading the ledger."""
    return _preview_row(stream, name_row(row, seq=make_seq(0, 1)), None, columns_fingerprint, previewer)


def preview_steps(stream: Stream, row: Row, columns_fingerprint: str, previewer: RequestPreviewer) -> Iterator[Preview]:
    """Show each request that may be made for a row: the first, an update, and the lookup of the partner's object.

    The partner's values are assumed to be `1`; the ledger is not read.
    """
    first = preview_row(replace(stream, lookup=None), row, columns_fingerprint, previewer)
    yield first
    named = name_row(row, seq=make_seq(0, 1))
    document, _ = to_document(new_record(stream, named, None, columns_fingerprint), datetime.now(UTC))
    if document["state"] != State.PENDING:
        return
    record = replace(record_of(document), remote=dict.fromkeys(stream.remote_names, "1"))
    if stream.update_method is not None:
        yield replace(first, request=previewer.show(replace(record, step="update")))
    if stream.lookup is not None:
        yield replace(first, request=previewer.show(replace(record, step="look_up")))


def _find_changed(ledger: Ledger, stream: Stream, rows: Sequence[Row]) -> Iterator[tuple[NamedRow, KnownKey | None]]:
    """Yield the rows of a page that a poll would log, each with its key in the ledger."""
    named_rows: dict[str, NamedRow] = {}
    for position, row in enumerate(rows):
        named = name_row(row, seq=make_seq(0, position + 1))
        named_rows[f"{named.key_id}.{position}" if stream.append_only else named.key_id] = named
    known = {} if stream.append_only else ledger.keys.load(stream.name, named_rows)
    for named in named_rows.values():
        before = known.get(named.key_id)
        is_new = before is None and (stream.append_only or named.row.op != "delete")
        if is_new or (before is not None and before.hash != named.hash):
            yield named, before


def _preview_row(
    stream: Stream,
    named: NamedRow,
    before: KnownKey | None,
    columns_fingerprint: str,
    previewer: RequestPreviewer,
    *,
    key: KnownKey | None = None,
) -> Preview:
    """Show the request of a row.

    Args:
        before: The key whose version the row's new version is chained on.
        key: The row's key, for its values of the partner's object.
    """
    version = (named.row.version or named.row.at) if stream.append_only else None
    new = new_record(stream, named, before, columns_fingerprint, version)
    document, _ = to_document(new, datetime.now(UTC))
    if document["state"] == State.PENDING:
        request = _show_next(stream, record_of(document), key, previewer)
    else:
        request = Request(error=document.get("reason") or document["error"]["message"])
    return Preview(stream=stream.name, id=new.id, key=new.key, op=new.op, request=request)


def _show_next(stream: Stream, record: Record, key: KnownKey | None, previewer: RequestPreviewer) -> Request:
    """Return the next request for a record; in a stream with lookups, it may be the lookup."""
    step = choose_step(stream, record, key) if stream.keeps_remote else record
    if not isinstance(step, Record):
        return Request(error=step.reason)
    # A finished record is shown with its last attempt, but a call with different bytes would be one more attempt.
    as_sent = replace(step, attempt=step.attempt + (step.state in TERMINAL))
    shaped = shape_by_remote(as_sent, previewer.client.hash_remote(step))
    return previewer.show(replace(step, generation=shaped.generation))


def preview_record(
    document: Mapping[str, Any], *, stream: Stream, key: KnownKey | None, previewer: RequestPreviewer
) -> Preview:
    """Show the request of a record's next call, or of its last call if the record is finished.

    If the mapping or the known values of the partner's object have changed since it was finished, this is the request
    that a replay would send, under a new `Idempotency-Key`.

    Args:
        key: The key of the record's row, as the ledger knows it.
    """
    mapping = previewer.client.mapping_hash
    record = _as_claimed(document, mapping)
    if record.payload is None and record.op == "upsert":
        error = document.get("error") or {}
        request = Request(error=error.get("message") or "the row could not be read or stored")
    else:
        request = _show_next(stream, record, key, previewer)
    is_other = record.state in TERMINAL and document.get("mapping_hash", mapping) != mapping
    return Preview(
        stream=record.stream, id=record.id, key=record.key, op=record.op, request=request, mapping_changed=is_other
    )


def _as_claimed(document: Mapping[str, Any], mapping_hash: str) -> Record:
    """Return the record as a claim finds it, under a new key if the mapping has changed since."""
    to_come = document["state"] in {State.PENDING.value, State.QUEUED.value}
    remapped = document.get("mapping_hash", mapping_hash) != mapping_hash
    generation = int(document.get("generation", 0)) + remapped
    return Record(
        id=document["_id"],
        stream=document["stream"],
        key=document["key"],
        seq=int(document["seq"]),
        op=document["op"],
        payload=document["payload"],
        state=State(document["state"]),
        attempt=max(1, int(document.get("claims", 0)) + to_come),
        generation=generation,
        remote_hash=document.get("remote_hash", ""),
        looked_up=bool(document.get("looked_up")),
        recreates=lost_object_of(document),
    )
