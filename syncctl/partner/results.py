"""What the answer to a call of many rows says of each of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import simplejson

from syncctl.core.conditions import find_value, parse_condition, parse_path
from syncctl.core.outcome import PAUSING_STATUSES, Outcome, Verdict, decide_verdict, list_rules
from syncctl.core.records import Record
from syncctl.core.redaction import Redact, clean_text
from syncctl.core.stream import Batching
from syncctl.partner.bulk import Bulk
from syncctl.partner.response import MESSAGE_AT_MOST, Answer, find_message

_NOTHING: Any = object()
"""What stands for a row of which the answer says nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers of a stream are read.

    Args:
        redact: Takes secrets out of what a partner says.
        outcomes: What the stream has a status mean.
    """

    batching: Batching
    redact: Redact = field(kw_only=True)
    outcomes: Mapping[int, Verdict] = field(kw_only=True)

    def split_outcome(self, group: Bulk, outcome: Outcome, answer: Answer | None) -> list[Outcome]:
        """Return what a call came to for each of its rows."""
        outcome = replace(outcome, batch_key=group.call.headers.get("Idempotency-Key"))
        rows = len(group.records)
        if answer is None or self.batching.results is None or not self._tells_of_rows(outcome, answer):
            return _for_all(outcome, rows)
        items = _read_items(answer, self.batching.results)
        found = None if items is None else self._assign(items, group.records)
        if found is None:
            # The partner may have them, and said nothing that could be read.
            error = _explain(answer, items, self.batching.results, rows)
            return _for_all(_unclear(outcome, error, rows), rows)
        return [
            self._judge(replace(outcome, breaker_signal="none" if place else "up"), item, record, rows)
            for place, (item, record) in enumerate(zip(found, group.records, strict=True))
        ]

    def _tells_of_rows(self, outcome: Outcome, answer: Answer) -> bool:
        """Say whether a list of results is to be looked for: a 5xx is about the call, whatever its body lists.

        So are refused credentials, and a refusal where a row's item has nothing to judge it by.
        """
        judges = self.batching.result_status is not None or self.batching.result_accepted_when is not None
        is_about_rows = answer.status < 500 and outcome.pauses is None
        return outcome.verdict is Verdict.ACCEPTED or (judges and is_about_rows)

    def _assign(self, items: list[Any], records: Sequence[Record]) -> list[Any] | None:
        """Return the item of each row: by what names the row, else by its place; None where places do not fit.

        A row is named by its `Idempotency-Key`, or by its key where that is one column: if every name is one of
        these. A partner may call rows by ids of its own.
        """
        if self.batching.result_key is None:
            return items if len(items) == len(records) else None
        named = _index(items, parse_path(self.batching.result_key))
        own = [_own_name(each) for each in records]
        by_own = len(set(own)) == len(records) and bool(named) and named.keys() <= set(own)
        return [
            named.get(name if by_own and name is not None else record.idempotency_key, _NOTHING)
            for name, record in zip(own, records, strict=True)
        ]

    def _judge(self, whole: Outcome, item: Any, record: Record, rows: int) -> Outcome:
        if item is _NOTHING:
            return _unclear(whole, "the answer says nothing of this row", rows)
        message = clean_text(self.redact(find_message(simplejson.dumps(item).encode()) or ""))[:MESSAGE_AT_MOST]
        judged = whole
        if self.batching.result_status is not None:
            status, _ = find_value(item, parse_path(self.batching.result_status))
            if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
                return _unclear(whole, "the answer has no status for this row", rows)
            judged = self._judge_status(whole, status, message, record)
        condition = self.batching.result_accepted_when
        is_open = self.batching.result_status is None or judged.verdict is Verdict.ACCEPTED
        if condition is not None and is_open:
            if parse_condition(condition).holds(item):
                return replace(judged, verdict=Verdict.ACCEPTED, error=None)
            error = f"this row was refused: {message}".rstrip(": ")
            return replace(judged, verdict=Verdict.REJECTED, error=error)
        return judged

    def _judge_status(self, whole: Outcome, status: int, message: str, record: Record) -> Outcome:
        rules = list_rules(self.outcomes, deletes=record.op == "delete")
        verdict = decide_verdict(status, sent=True, complete=True, rules=rules)
        if status in PAUSING_STATUSES and status not in rules:
            # About this row: the call itself had the right credentials and met its endpoint.
            verdict = Verdict.REJECTED
        error = None if verdict is Verdict.ACCEPTED else f"HTTP {status} for this row: {message}".rstrip(": ")
        return replace(whole, verdict=verdict, status=status, error=error, has_own_rule=True)


def _for_all(outcome: Outcome, rows: int) -> list[Outcome]:
    """Return an outcome for each row of a call; one of them speaks of the partner."""
    outcome = _refused_together(outcome, rows)
    return [outcome, *[replace(outcome, breaker_signal="none")] * (rows - 1)]


def _refused_together(outcome: Outcome, rows: int) -> Outcome:
    """Return the outcome of rows that were refused with others: one bad row must not fail those beside it.

    Who it is only shows when each goes alone.
    """
    if outcome.verdict is not Verdict.REJECTED or rows == 1:
        return outcome
    error = f"{outcome.error}; refused with {rows - 1} others, it goes alone next"
    return replace(outcome, verdict=Verdict.RETRY_LATER, error=error, send_alone=True)


def _unclear(outcome: Outcome, error: str, rows: int) -> Outcome:
    """Return the outcome of rows that the answer says nothing of: the partner may have what it did not refuse."""
    if outcome.verdict is not Verdict.ACCEPTED:
        return _refused_together(outcome, rows)
    return replace(outcome, verdict=Verdict.AMBIGUOUS, error=error)


def _explain(answer: Answer, items: list[Any] | None, results: str, rows: int) -> str:
    if items is not None:
        return f"its list at {results} has {len(items)} items for {rows} rows"
    if answer.is_capped:
        return f"its answer is longer than {len(answer.body):,} bytes: lower batch"
    return f"its JSON has no list at {results}"


def _read_items(answer: Answer, results: str) -> list[Any] | None:
    try:
        document = simplejson.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    found = document if results == "$" else find_value(document, parse_path(results))[0]
    return found if isinstance(found, list) else None


def _index(items: Sequence[Any], path: tuple[str | int, ...]) -> Mapping[str, Any]:
    """Return the items by the name that stands in each."""
    return dict(_names(items, path))


def _names(items: Sequence[Any], path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    for each in items:
        name, _ = find_value(each, path)
        if isinstance(name, str | int) and not isinstance(name, bool):
            yield str(name), each


def _own_name(record: Record) -> str | None:
    """Return a record's key as text, where it is one column."""
    return str(next(iter(record.key.values()))) if len(record.key) == 1 else None
