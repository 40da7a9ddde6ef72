"""Calls of many rows: one request with a key of its own."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncctl.core.records import Record
from syncctl.core.stream import Batching
from syncctl.partner.call import Call
from syncctl.partner.response import (
    BODY_AT_MOST_BYTES,
    RESULT_AT_MOST_BYTES,
    RESULTS_AT_MOST_BYTES,
)

Planned = tuple[Record, Call]
_OWN = ("Idempotency-Key", "Syncctl-Attempt", "Content-Length")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bulk:
    """Records that go in one call. `is_joined`: their rows stand in a list, as the answer's results do."""

    records: tuple[Record, ...]
    call: Call
    is_joined: bool = False


def name_mapping(own: str, batching: Batching) -> str:
    """Return the name of what shapes a row's bytes: in a batch they stand among others, under another key."""
    if batching.size <= 1:
        return own
    parts = (own, batching.under or "", batching.key)
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def count_answer_bytes(batching: Batching) -> int:
    """Return how much of an answer is read: with results it grows with the rows of a call."""
    if batching.results is None:
        return BODY_AT_MOST_BYTES
    return min(BODY_AT_MOST_BYTES + batching.size * RESULT_AT_MOST_BYTES, RESULTS_AT_MOST_BYTES)


def make_groups(planned: Sequence[Planned], batching: Batching) -> Iterator[Bulk]:
    """Put calls that differ in nothing but their row together, in their order, up to the size of a batch."""
    if batching.size <= 1:
        for record, call in planned:
            yield Bulk(records=(record,), call=call)
        return
    waiting: dict[tuple[Any, ...], list[Planned]] = {}
    for each in planned:
        alike = waiting.setdefault(_likeness(each), [])
        alike.append(each)
        if len(alike) == batching.size:
            yield join(alike, batching)
            alike.clear()
    yield from (join(alike, batching) for alike in waiting.values() if alike)


def _likeness(planned: Planned) -> tuple[Any, ...]:
    """Return what must be the same in all calls of a group; a call that is no JSON object is like no other."""
    record, call = planned
    if not call.body.startswith(b"{"):
        return (record.id,)
    headers = tuple(sorted((name, value) for name, value in call.headers.items() if name not in _OWN))
    return call.method, call.target, headers


def join(planned: Sequence[Planned], batching: Batching) -> Bulk:
    """Return one call for several: the same rows under the same keys give the same bytes under the same key."""
    records = tuple(record for record, _ in planned)
    first = planned[0][1]
    if not first.body.startswith(b"{"):
        return Bulk(records=records, call=first)
    rows = b"[" + b",".join(_name_row(record, call.body, batching) for record, call in planned) + b"]"
    body = rows if batching.under is None else b"{" + json.dumps(batching.under).encode() + b":" + rows + b"}"
    keys = "\x1f".join(record.idempotency_key for record in records)
    headers = {
        **first.headers,
        "Idempotency-Key": f"{records[0].stream}-batch-{hashlib.sha256(keys.encode()).hexdigest()[:32]}",
        "Syncctl-Attempt": str(max(record.attempt for record in records)),
        "Content-Length": str(len(body)),
    }
    return Bulk(records=records, call=replace(first, headers=headers, body=body), is_joined=True)


def _name_row(record: Record, body: bytes, batching: Batching) -> bytes:
    """Return a row with its own key as its first field, by which the partner tells repeats."""
    name = json.dumps(batching.key).encode() + b":" + json.dumps(record.idempotency_key).encode()
    rest = body[1:].lstrip()
    return b"{" + name + (b"" if rest.startswith(b"}") else b",") + rest
