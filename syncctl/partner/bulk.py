"""Bulk calls: one request for many rows, under its own key, and the result of each row in the response."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import simplejson

from syncctl.core.answer_conditions import find_value, parse_condition, parse_path
from syncctl.core.outcome import PAUSING_STATUSES, TOO_LARGE, Outcome, OutcomeRules, Verdict, decide_verdict
from syncctl.core.records import Record
from syncctl.core.redaction import Redact
from syncctl.core.safe_text import clean_text
from syncctl.core.stream import Batching
from syncctl.partner.call import Call, Unsendable
from syncctl.partner.captured_values import Capture
from syncctl.partner.response import (
    BODY_AT_MOST_BYTES,
    MESSAGE_AT_MOST,
    RESULT_AT_MOST_BYTES,
    RESULTS_AT_MOST_BYTES,
    Response,
    find_message,
    read_json,
)

ENVELOPE_BYTES = 64
"""The bytes around the rows in the body of a bulk call."""
PlannedCall = tuple[Record, Call]
_HEADERS_OF_A_CALL = ("Idempotency-Key", "Syncctl-Attempt", "Content-Length")
_MISSING: Any = object()
"""The result of a row that the response does not mention."""


class _Several(tuple[Any, ...]):
    """The results of a row that the response mentions more than once."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkCall:
    """The call for one record or for many."""

    records: tuple[Record, ...]
    call: Call
    #: Whether the body is a list of rows; the response may then contain a list of results.
    is_list: bool = False


def hash_bulk_mapping(mapping_hash: str, batching: Batching) -> str:
    """Return the hash of a mapping whose rows are sent in bulk calls, in which the same row has other bytes."""
    if batching.size <= 1:
        return mapping_hash
    parts = (mapping_hash, batching.under or "", batching.key)
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def limit_response_bytes(batching: Batching) -> int:
    """Return how many bytes of a response are read; with results, the limit grows with the rows of a call."""
    if batching.results is None:
        return BODY_AT_MOST_BYTES
    return min(BODY_AT_MOST_BYTES + batching.size * RESULT_AT_MOST_BYTES, RESULTS_AT_MOST_BYTES)


def refuse_second_key(body: bytes, batching: Batching) -> None:
    """Check that a row has no field with the name of the key field: readers would take that field for the key.

    Raises:
        Unsendable: the row has such a field.
    """
    if batching.size <= 1 or not body.startswith(b"{"):
        return
    spellings = (json.dumps(batching.key), json.dumps(batching.key, ensure_ascii=False))
    if not any(spelling.encode() in body for spelling in spellings) and b"\\u" not in body:
        return
    try:
        has_key = batching.key in simplejson.loads(body, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return  # not JSON, so it has no fields
    if has_key:
        raise Unsendable(
            f"the row has a field {batching.key}, where a call of several rows has the row's Idempotency-Key: "
            "give the key another name with batch_shape.key, or rename the field"
        )


def combine_calls(
    planned: Sequence[PlannedCall], batching: Batching, *, bytes_at_most: int | None = None
) -> Iterator[BulkCall]:
    """Combine calls that differ only in their row, in their order, up to the size of a batch.

    Rows that failed together with others are combined only with such rows, so that they spoil no other calls
    (invariant 12). Two versions of a row go in two calls if results may name rows by the row's own key: such a result
    would not say which version it is about.

    Args:
        bytes_at_most: The largest size of a body, if the partner's limit is known; a single row may be larger.
    """
    if batching.size <= 1:
        for record, call in planned:
            yield BulkCall(records=(record,), call=call)
        return
    waiting: dict[tuple[Any, ...], list[PlannedCall]] = {}
    sizes: dict[tuple[Any, ...], int] = {}
    versions: Counter[tuple[Any, ...]] = Counter()
    may_name_by_key = _may_name_by_row_key(batching)
    for record, call in planned:
        at_most = min(batching.size, record.rows_at_most or batching.size)
        row = tuple(record.key.values())
        versions[row] += may_name_by_key
        kind = (at_most, versions[row], *_name_likeness(record, call))
        alike = waiting.setdefault(kind, [])
        # Most partners have shown no limit; then nothing needs to be measured.
        size = 0 if bytes_at_most is None else len(_add_key(record, call.body, batching)) + 1
        if alike and bytes_at_most is not None and sizes[kind] + size > bytes_at_most:
            yield _join_calls(alike, batching)
            alike.clear()
        sizes[kind] = sizes[kind] + size if alike else ENVELOPE_BYTES + size
        alike.append((record, call))
        if len(alike) == at_most:
            yield _join_calls(alike, batching)
            alike.clear()
    yield from (_join_calls(alike, batching) for alike in waiting.values() if alike)


def _may_name_by_row_key(batching: Batching) -> bool:
    """Tell whether results may name rows by the row's own key; the field of the `Idempotency-Key` has just that."""
    return batching.result_key is not None and parse_path(batching.result_key)[-1] != batching.key


def _name_likeness(record: Record, call: Call) -> tuple[Any, ...]:
    """Return the parts that all calls in a bulk call must share; a body that is not a JSON object goes alone."""
    if call.goes_alone or not call.body.startswith(b"{"):
        return (record.id,)
    headers = tuple(sorted((name, value) for name, value in call.headers.items() if name not in _HEADERS_OF_A_CALL))
    return call.method, call.target, headers


def _join_calls(planned: Sequence[PlannedCall], batching: Batching) -> BulkCall:
    """Return one call for several calls; the same rows under the same keys give the same bytes under the same key."""
    records = tuple(record for record, _ in planned)
    first = planned[0][1]
    if first.goes_alone or not first.body.startswith(b"{"):
        return BulkCall(records=records, call=first)
    rows = b"[" + b",".join(_add_key(record, call.body, batching) for record, call in planned) + b"]"
    body = rows if batching.under is None else b"{" + json.dumps(batching.under).encode() + b":" + rows + b"}"
    keys = "\x1f".join(record.idempotency_key for record in records)
    headers = {
        **first.headers,
        "Idempotency-Key": f"{records[0].stream}-batch-{hashlib.sha256(keys.encode()).hexdigest()[:32]}",
        "Syncctl-Attempt": str(max(record.attempt for record in records)),
        "Content-Length": str(len(body)),
    }
    return BulkCall(records=records, call=replace(first, headers=headers, body=body), is_list=True)


def _add_key(record: Record, body: bytes, batching: Batching) -> bytes:
    """Return a row with its own key added as the first field, by which the partner recognizes repeats."""
    key = json.dumps(batching.key).encode() + b":" + json.dumps(record.idempotency_key).encode()
    rest = body[1:].lstrip()
    return b"{" + key + (b"" if rest.startswith(b"}") else b",") + rest


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultReader:
    """Reads the results of rows in the responses to a stream's bulk calls."""

    batching: Batching
    redact: Redact
    #: The stream's own verdicts by status.
    outcomes: OutcomeRules = field(default_factory=OutcomeRules)
    #: Reads the partner's values of a row from its result; None if none are captured.
    capture: Capture | None = None

    def split_outcome(self, bulk: BulkCall, outcome: Outcome, response: Response | None) -> list[Outcome]:
        """Return the outcome of each row of a call."""
        outcome = replace(outcome, batch_key=bulk.call.headers.get("Idempotency-Key"))
        rows = len(bulk.records)
        if response is None or self.batching.results is None or not self._has_results(outcome, response):
            return _repeat_for_rows(outcome, bulk)
        results = _read_results(response, self.batching.results)
        by_row = None if results is None else self._assign(results, bulk.records)
        if by_row is None:
            # The partner may have the rows, but its response cannot be read.
            error = _explain_unreadable(response, results, self.batching.results, rows)
            return _repeat_for_rows(_make_ambiguous(outcome, error), bulk)
        return [
            self._capture_values(
                self._judge(replace(outcome, breaker_signal="none" if place else "up"), result, record, bulk),
                result,
                record,
            )
            for place, (result, record) in enumerate(zip(by_row, bulk.records, strict=True))
        ]

    def _capture_values(self, outcome: Outcome, result: Any, record: Record) -> Outcome:
        if self.capture is None or outcome.verdict is not Verdict.ACCEPTED or record.op == "delete":
            return outcome
        return self.capture.add_result(outcome, result[-1] if isinstance(result, _Several) else result)

    def _has_results(self, outcome: Outcome, response: Response) -> bool:
        """Tell whether to look for results of rows.

        A 5xx or refused credentials concern the whole call, whatever the body lists. So does a rejection if the results
        have neither a status nor a condition by which to judge a row, and a 2xx that the stream's own conditions do not
        accept.
        """
        if outcome.verdict is Verdict.ACCEPTED or 200 <= response.status <= 299:
            return outcome.verdict is Verdict.ACCEPTED
        judges_rows = self.batching.result_status is not None or self.batching.result_accepted_when is not None
        is_about_rows = response.status < 500 and outcome.pauses is None
        return judges_rows and is_about_rows

    def _assign(self, results: list[Any], records: Sequence[Record]) -> list[Any] | None:
        """Return the result of each row, found by the row's name, otherwise by its place; None if places do not match.

        The name is the row's `Idempotency-Key`, or the row's key if that is one column and every name in the results is
        such a key. A partner may instead name rows by its own ids.
        """
        if self.batching.result_key is None:
            return results if len(results) == len(records) else None
        by_name = _name_results(results, parse_path(self.batching.result_key))
        keys = [_show_key(record) for record in records]
        uses_keys = len(set(keys)) == len(records) and bool(by_name) and by_name.keys() <= set(keys)
        return [
            by_name.get(key if uses_keys and key is not None else record.idempotency_key, _MISSING)
            for key, record in zip(keys, records, strict=True)
        ]

    def _judge(self, whole: Outcome, result: Any, record: Record, bulk: BulkCall) -> Outcome:
        """Return the outcome of one row."""
        if isinstance(result, _Several):
            return self._judge_several(whole, result, record, bulk)
        if result is _MISSING:
            return _send_alone(_make_ambiguous(whole, "the response does not mention this row"), bulk)
        message = self.redact(find_message(simplejson.dumps(result, allow_nan=True)) or "", is_cut=True)
        message = clean_text(message)[:MESSAGE_AT_MOST]
        judged = whole
        if self.batching.result_status is not None:
            status, _ = find_value(result, parse_path(self.batching.result_status))
            if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
                return _send_alone(_make_ambiguous(whole, "the response has no status for this row"), bulk)
            judged = self._judge_status(whole, status, message, record)
        condition = self.batching.result_accepted_when
        is_open = self.batching.result_status is None or judged.verdict is Verdict.ACCEPTED
        if condition is not None and is_open:
            if parse_condition(condition).holds(result):
                return replace(judged, verdict=Verdict.ACCEPTED, error=None)
            error = f"this row was refused: {message}".rstrip(": ")
            return replace(judged, verdict=Verdict.REJECTED, error=error)
        return judged

    def _judge_several(self, whole: Outcome, results: _Several, record: Record, bulk: BulkCall) -> Outcome:
        """Return the outcome of a row with several results; if they differ, the response does not say what happened."""
        judged = [self._judge(whole, result, record, bulk) for result in results]
        if len({outcome.verdict for outcome in judged}) == 1:
            return judged[-1]
        told = next(outcome.error for outcome in judged if outcome.error is not None)
        error = f"the response has {len(results)} different results for this row; one of them: {told}"
        return _send_alone(_make_ambiguous(whole, error), bulk)

    def _judge_status(self, whole: Outcome, status: int, message: str, record: Record) -> Outcome:
        rules = self.outcomes.list_rules(record.op, names_row=True)
        verdict = decide_verdict(status, sent=True, complete=True, rules=rules)
        if status in PAUSING_STATUSES and status not in rules:
            # This concerns the row: the call itself had the right credentials and reached its endpoint.
            verdict = Verdict.REJECTED
        error = None if verdict is Verdict.ACCEPTED else f"HTTP {status} for this row: {message}".rstrip(": ")
        return replace(whole, verdict=verdict, status=status, error=error, has_own_rule=True)


def _repeat_for_rows(outcome: Outcome, bulk: BulkCall) -> list[Outcome]:
    """Return an outcome for each row of a call; only one of them reaches the circuit breaker."""
    rows = len(bulk.records)
    outcome = _send_alone(replace(outcome, shared_by=rows), bulk)
    return [outcome, *[replace(outcome, breaker_signal="none")] * (rows - 1)]


def _send_alone(outcome: Outcome, bulk: BulkCall) -> Outcome:
    """Return the outcome of rows that were rejected together: one bad row must not fail the others (invariant 12).

    Only sending each row alone shows which row is bad. If the body was too large, fewer rows make a smaller one.
    """
    rows = len(bulk.records)
    if outcome.verdict is not Verdict.REJECTED or rows == 1:
        return outcome
    if outcome.status == TOO_LARGE and not outcome.has_own_rule:
        error = f"{outcome.error}; refused with {rows - 1} others, will be sent with fewer next"
        at_most, size = rows // 2, len(bulk.call.body)
    else:
        error, at_most, size = f"{outcome.error}; refused with {rows - 1} others, will be sent alone next", 1, None
    return replace(
        outcome,
        verdict=Verdict.RETRY_LATER,
        error=error,
        shared_by=rows,
        rows_at_most=at_most,
        too_large_bytes=size,
    )


def _make_ambiguous(outcome: Outcome, error: str) -> Outcome:
    """Return the outcome of rows without a result: unless the call was refused, the partner may have them."""
    if outcome.verdict is not Verdict.ACCEPTED:
        return outcome
    return replace(outcome, verdict=Verdict.AMBIGUOUS, error=error)


def _explain_unreadable(response: Response, results: list[Any] | None, path: str, rows: int) -> str:
    if results is not None:
        return f"its list at {path} has {len(results)} items for {rows} rows"
    if response.is_capped:
        return f"its response is longer than {len(response.body):,} bytes: lower rows_per_call"
    return f"its JSON has no list at {path}"


def _read_results(response: Response, path: str) -> list[Any] | None:
    """Return the list of results in a response; None if there is none."""
    try:
        document = read_json(response)
    except ValueError:
        return None
    results = document if path == "$" else find_value(document, parse_path(path))[0]
    return results if isinstance(results, list) else None


def _name_results(results: Sequence[Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the result of each row, or its results if there are several, by the name of the row."""
    by_name: dict[str, list[Any]] = {}
    for result in results:
        name, _ = find_value(result, path)
        if isinstance(name, str | int) and not isinstance(name, bool):
            by_name.setdefault(str(name), []).append(result)
    return {name: named[0] if len(named) == 1 else _Several(named) for name, named in by_name.items()}


def _show_key(record: Record) -> str | None:
    """Return a record's key as text if it is one column, otherwise None."""
    return str(next(iter(record.key.values()))) if len(record.key) == 1 else None
