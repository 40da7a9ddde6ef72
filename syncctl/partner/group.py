"""Calls of many rows: one request with a key of its own, and what its answer says of each row."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import simplejson

from syncctl.core.conditions import find_value, parse_condition, parse_path
from syncctl.core.outcome import HALTS, Outcome, Verdict, decide_verdict
from syncctl.core.records import Record
from syncctl.core.stream import Batching
from syncctl.partner.answer import (
    BODY_AT_MOST_BYTES,
    RESULT_AT_MOST_BYTES,
    RESULTS_AT_MOST_BYTES,
    Answer,
    find_message,
)
from syncctl.partner.call import Call

Planned = tuple[Record, Call]
_OWN = ("Idempotency-Key", "Syncctl-Attempt", "Content-Length")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Records that go in one call."""

    records: tuple[Record, ...]
    call: Call


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


def make_groups(planned: Sequence[Planned], batching: Batching) -> Iterator[Group]:
    """Put calls that differ in nothing but their row together, in their order, up to the size of a batch."""
    if batching.size <= 1:
        for record, call in planned:
            yield Group(records=(record,), call=call)
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


def join(planned: Sequence[Planned], batching: Batching) -> Group:
    """Return one call for several: the same rows under the same keys give the same bytes under the same key."""
    records = tuple(record for record, _ in planned)
    first = planned[0][1]
    if not first.body.startswith(b"{"):
        return Group(records=records, call=first)
    rows = b"[" + b",".join(_name_row(record, call.body, batching) for record, call in planned) + b"]"
    body = rows if batching.under is None else b"{" + json.dumps(batching.under).encode() + b":" + rows + b"}"
    keys = "\x1f".join(record.idempotency_key for record in records)
    headers = {
        **first.headers,
        "Idempotency-Key": f"{records[0].stream}-batch-{hashlib.sha256(keys.encode()).hexdigest()[:32]}",
        "Syncctl-Attempt": str(max(record.attempt for record in records)),
        "Content-Length": str(len(body)),
    }
    return Group(records=records, call=replace(first, headers=headers, body=body))


def _name_row(record: Record, body: bytes, batching: Batching) -> bytes:
    """Return a row with its own key as its first field, by which the partner tells repeats."""
    name = json.dumps(batching.key).encode() + b":" + json.dumps(record.idempotency_key).encode()
    rest = body[1:].lstrip()
    return b"{" + name + (b"" if rest.startswith(b"}") else b",") + rest


def split_outcome(group: Group, outcome: Outcome, answer: Answer | None, batching: Batching) -> list[Outcome]:
    """Return what a call came to for each of its rows."""
    key = group.call.headers.get("Idempotency-Key")
    outcome = replace(outcome, batch_key=key)
    items = None if answer is None or batching.results is None else _read_items(answer, batching)
    if items is None:
        if answer is not None and batching.results is not None and outcome.verdict is Verdict.ACCEPTED:
            # The partner may have them, and said nothing that could be read.
            error = f"its JSON has no list at {batching.results}"
            if answer.is_capped:
                error = f"its answer is longer than {len(answer.body):,} bytes: lower batch"
            outcome = replace(outcome, verdict=Verdict.AMBIGUOUS, error=error)
        if outcome.verdict is Verdict.REJECTED and len(group.records) > 1:
            # One bad row must not fail those beside it, and who it is only shows when each goes alone.
            error = f"{outcome.error}; refused with {len(group.records) - 1} others, it goes alone next"
            outcome = replace(outcome, verdict=Verdict.RETRY_LATER, error=error, alone=True)
        return [outcome, *[replace(outcome, speaks="nothing")] * (len(group.records) - 1)]
    found = _assign_items(items, group.records, batching)
    return [
        _judge(replace(outcome, speaks="nothing" if place else "up"), item, batching)
        for place, item in enumerate(found)
    ]


def _read_items(answer: Answer, batching: Batching) -> list[Any] | None:
    try:
        document = simplejson.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    found, _ = (document, True) if batching.results == "$" else find_value(document, parse_path(batching.results or ""))
    return found if isinstance(found, list) else None


def _assign_items(items: list[Any], records: Sequence[Record], batching: Batching) -> list[Any]:
    """Return what the answer says of each row, None for nothing: by what names the row, else by its place.

    A row is named by its `Idempotency-Key`, or by its key where that is one column.
    """
    if batching.result_key is None:
        return [*items, *[None] * len(records)][: len(records)]
    path = parse_path(batching.result_key)
    named: dict[str, Any] = {}
    for each in items:
        name, is_there = find_value(each, path)
        if is_there and isinstance(name, str | int) and not isinstance(name, bool):
            named.setdefault(str(name), each)
    return [next((named[name] for name in _names(record) if name in named), None) for record in records]


def _names(record: Record) -> Iterator[str]:
    yield record.idempotency_key
    if len(record.key) == 1:
        yield from (str(value) for value in record.key.values())


def _judge(whole: Outcome, item: Any, batching: Batching) -> Outcome:
    if item is None:
        verdict = Verdict.AMBIGUOUS if whole.verdict is Verdict.ACCEPTED else Verdict.RETRY_LATER
        return replace(whole, verdict=verdict, error="the answer says nothing of this row")
    message = find_message(simplejson.dumps(item).encode()) or ""
    if batching.result_status is not None:
        status, _ = find_value(item, parse_path(batching.result_status))
        if isinstance(status, int) and not isinstance(status, bool):
            verdict = decide_verdict(status, sent=True, complete=True)
            if status in HALTS:
                # About this row: the call itself had the right credentials and met its endpoint.
                verdict = Verdict.REJECTED
            error = None if verdict is Verdict.ACCEPTED else f"HTTP {status} for this row: {message}".rstrip(": ")
            return replace(whole, verdict=verdict, status=status, error=error)
    if batching.result_accepted_when is not None and not parse_condition(batching.result_accepted_when).holds(item):
        error = f"this row was refused: {message}".rstrip(": ")
        return replace(whole, verdict=Verdict.REJECTED, error=error)
    if batching.result_accepted_when is None and batching.result_status is not None:
        verdict = Verdict.AMBIGUOUS if whole.verdict is Verdict.ACCEPTED else Verdict.RETRY_LATER
        return replace(whole, verdict=verdict, error="the answer has no status for this row")
    return replace(whole, verdict=Verdict.ACCEPTED, error=None)
