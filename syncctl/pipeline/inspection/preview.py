"""preview: what would be sent, without sending or writing anything: no lease, no record, no cursor."""

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
"""In a mode that reads the whole table most rows may be known, so that the search for new ones ends here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The request of one record."""

    stream: str
    #: The record's id; of a row that is not logged yet, the id that it will get.
    id: str
    key: Mapping[str, Value]
    op: str
    request: Request
    #: The record is finished, and was sent as another request, because the mapping has changed since.
    mapping_changed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestPreviewer:
    """Shows the requests as which a stream's records are sent."""

    client: PartnerClient
    #: The environment variable that holds the one secret of the partner's auth, where it is known.
    variable: str | None = None
    #: A client that does not check the body's schema, where the stream has one: it shows bodies that do not fit.
    unchecked: PartnerClient | None = None

    def show(self, record: Record) -> Request:
        """Return the request of a record; if it cannot be sent, the reason, and the body where there is one."""
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
        known: If no row is new or changed, show the first row of the table.

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
    """Show the request of a row as if the ledger knew nothing of it; does not ask the ledger."""
    return _preview_row(stream, name_row(row, seq=make_seq(0, 1)), None, columns_fingerprint, previewer)


def preview_steps(stream: Stream, row: Row, columns_fingerprint: str, previewer: RequestPreviewer) -> Iterator[Preview]:
    """Show each request that may be made for a row: the first, an update, and the question whether it exists.

    Values of the partner are taken to be `1`; does not ask the ledger.
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
        before: The key that its version is chained on.
        key: What is known of the partner's object for it.
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
    """Return the request that is made next for a record: in a stream with lookups that may be the question."""
    step = choose_step(stream, record, key) if stream.keeps_remote else record
    if not isinstance(step, Record):
        return Request(error=step.reason)
    # A record that is finished is shown with its last attempt, but a call with other bytes would be one more.
    as_sent = replace(step, attempt=step.attempt + (step.state in TERMINAL))
    shaped = shape_by_remote(as_sent, previewer.client.hash_remote(step))
    return previewer.show(replace(step, generation=shaped.generation))


def preview_record(
    document: Mapping[str, Any], *, stream: Stream, key: KnownKey | None, previewer: RequestPreviewer
) -> Preview:
    """Show the request of a record: that of its next call, or of its last one where it is finished.

    If the mapping has changed since it was finished, or what is known of the partner's object, it is the request that a
    replay would send, under its own `Idempotency-Key`.

    Args:
        key: What is known of its row.
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
