"""preview: what would be sent, without sending or writing anything: no lease, no record, no cursor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from syncctl.core.ids import content_hash, make_seq
from syncctl.core.records import Record
from syncctl.core.rows import Row, Value
from syncctl.core.states import TERMINAL, State
from syncctl.core.stream import Stream
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import record_of, to_document
from syncctl.partner.client import PartnerClient
from syncctl.partner.request.curl import Request, show_request
from syncctl.pipeline.identity import Seen, identify, new_record
from syncctl.pipeline.poll import Reader

PAGES_AT_MOST = 100
"""Of a table that is compared as a whole, most rows may be known: looking ends here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The request of one record; `id` is the record's, which a row not yet logged will get.

    `mapping_changed`: the record is finished, and what it was sent as was another request.
    """

    stream: str
    id: str
    key: Mapping[str, Value]
    op: str
    request: Request
    mapping_changed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketch:
    """Shows what a stream's records are sent as.

    Args:
        variable: The environment variable that holds the one secret of the partner's auth, where that is known.
        unchecked: A client without the check of the body's schema, where the stream has one: what does not fit is
            shown all the same.
    """

    client: PartnerClient
    variable: str | None = None
    unchecked: PartnerClient | None = None

    def show(self, record: Record) -> Request:
        """Return the request of a record; where it cannot be sent, why, and the body where there is one."""
        request = show_request(self.client, record, variable=self.variable)
        if request.error is None or self.unchecked is None:
            return request
        return replace(request, body=show_request(self.unchecked, record).body)


class FirstRowReader(Reader, Protocol):
    """What a preview needs of a source."""

    def first_row(self) -> Row | None:
        """Return the first row in cursor order, None where there is none."""


def preview_rows(
    *,
    ledger: Ledger,
    stream: Stream,
    open_reader: Callable[[Stream], FirstRowReader],
    sketch: Sketch,
    limit: int,
    known: bool = False,
) -> list[Preview]:
    """Read the rows that the next poll would log, at most `limit`, and show what each would be sent as.

    Deletes that a snapshot finds by comparing are not among them: they come at the end of a whole round.

    Args:
        known: Where no row is new or changed, show the first row of the table.

    Raises:
        ServiceUnavailable: MongoDB or the source cannot be reached.
    """
    cursor = ledger.streams.load_cursor(stream.name)
    reader = open_reader(replace(stream, page_size=max(1, min(limit, stream.page_size))))
    found: list[Preview] = []
    try:
        pages = reader.pages(reader.start_cursor() if cursor is None else cursor)
        for _, page in zip(range(PAGES_AT_MOST), pages, strict=False):
            for seen, version in _find_changed(ledger, stream, page.rows):
                found.append(_preview_row(stream, seen, version, reader.columns_fingerprint, sketch))
                if len(found) >= limit:
                    return found
        row = reader.first_row() if known and not found else None
        return found if row is None else [preview_row(stream, row, reader.columns_fingerprint, sketch)]
    finally:
        reader.close()


def preview_row(stream: Stream, row: Row, columns_fingerprint: str, sketch: Sketch) -> Preview:
    """Show what a row would be sent as if nothing were known of it; asks no ledger."""
    row, key = identify(row)
    seen = Seen(row=row, key_id=key, hash=content_hash(row.payload, row.op, row.error), seq=make_seq(0, 1))
    return _preview_row(stream, seen, None, columns_fingerprint, sketch)


def _find_changed(ledger: Ledger, stream: Stream, rows: Sequence[Row]) -> Iterator[tuple[Seen, Any]]:
    """Yield the rows of a page that a poll would log, each with what its key knows."""
    named: dict[str, Seen] = {}
    for position, each in enumerate(rows):
        row, key = identify(each)
        content = content_hash(row.payload, row.op, row.error)
        name = f"{key}.{position}" if stream.append_only else key
        named[name] = Seen(row=row, key_id=key, hash=content, seq=make_seq(0, position + 1))
    known = {} if stream.append_only else ledger.keys.load(stream.name, named)
    for seen in named.values():
        before = known.get(seen.key_id)
        is_new = before is None and (stream.append_only or seen.row.op != "delete")
        if is_new or (before is not None and before.hash != seen.hash):
            yield seen, before


def _preview_row(stream: Stream, seen: Seen, before: Any, columns_fingerprint: str, sketch: Sketch) -> Preview:
    version = (seen.row.version or seen.row.at) if stream.append_only else None
    new = new_record(stream, seen, before, columns_fingerprint, version)
    document = to_document(new, datetime.now(UTC))
    if document["state"] == State.PENDING:
        request = sketch.show(record_of(document))
    else:
        request = Request(error=document.get("reason") or document["error"]["message"])
    return Preview(stream=stream.name, id=new.id, key=new.key, op=new.op, request=request)


def preview_record(document: Mapping[str, Any], *, sketch: Sketch) -> Preview:
    """Show what a record of the ledger is sent as: its next call, or its last one where it is finished.

    Where the mapping has changed since it was finished, that is what a replay would send.
    """
    mapping = sketch.client.mapping_hash
    record = _as_claimed(document, mapping)
    if record.payload is None and record.op == "upsert":
        error = document.get("error") or {}
        request = Request(error=error.get("message") or "the row could not be read or stored")
    else:
        request = sketch.show(record)
    is_other = record.state in TERMINAL and document.get("mapping_hash", mapping) != mapping
    return Preview(
        stream=record.stream, id=record.id, key=record.key, op=record.op, request=request, mapping_changed=is_other
    )


def _as_claimed(document: Mapping[str, Any], mapping_hash: str) -> Record:
    """Return the record as a claim finds it: a mapping that has changed since takes it to a new key."""
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
    )
