"""The records that an operator selects: the same filters for every command that lists, shows or changes records."""

import heapq
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import islice, product
from typing import Any

from syncctl.core.ids import key_id
from syncctl.core.states import SELECTABLE, TERMINAL, State
from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.selections import Criteria, Scan, list_scans, read_time

RECORDS_AT_ONCE = 1000
RECORDS_IN_MEMORY = 20_000
"""The number of records that the pages of all scans of a list hold in total."""
SMALLEST_PAGE = 20
FINISHED = tuple(state.value for state in TERMINAL)
KEY_READINGS_AT_MOST = 4096
"""Four readings for each of six columns: 4 to the power of 6."""
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,100}")
# An Idempotency-Key other than the record's first one is the record's id with a number appended.
_FULL_ID = re.compile(r"(.+-[0-9a-f]{32})(?:-\d+)?")
_BEGINNING_OF_ID = re.compile(r"(.+)-[0-9a-f]{1,31}")
_IDS_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The filters by which an operator selects records."""

    ids: tuple[str, ...] = ()
    #: The streams; empty for every stream.
    streams: tuple[str, ...] = ()
    #: The states, from `core.states.SELECTABLE`.
    states: tuple[str, ...] = (State.FAILED.value,)
    #: Only records that finished at this time or later; for unfinished ones, their due time is compared. Aware.
    since: datetime | None = None
    #: Only records whose time is before this.
    until: datetime | None = None
    #: The fingerprint of the records' error.
    error: str | None = None
    #: The key of the records' row, as `5` or `a=1,b=2`.
    key: str | None = None
    #: The maximum number of records.
    limit: int | None = None

    def choose_states(self, allowed: Sequence[str] = FINISHED) -> list[str]:
        """Return the states, each once.

        Raises:
            UsageError: A state is not one of the allowed ones.
        """
        for state in self.states:
            if state not in allowed:
                raise UsageError(f"state {state!r} is not one of {', '.join(allowed)}", hint="see --help")
        return list(dict.fromkeys(self.states))

    def describe(self) -> dict[str, Any]:
        """Return the filters that are set, for the audit log."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in self.__slots__
            if (value := getattr(self, name))
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One scan of the selected records, and the criteria that they must meet."""

    scan: Scan
    criteria: Criteria


def select_records(
    ledger: Ledger, selection: Selection, allowed: Sequence[str] = FINISHED
) -> Iterator[list[dict[str, Any]]]:
    """Yield the selected records for a change, page by page, the oldest first; the limit is ignored.

    Records that finish, or are logged, after the first page are left out: otherwise a replay of records that fail again
    at once would never end.

    Raises:
        UsageError: A state is not one of the allowed ones, or no stream has such a key.
    """
    states = selection.choose_states(allowed)
    now = ledger.streams.server_time()
    if selection.ids:
        criteria = Criteria(since=selection.since, until=selection.until, error=selection.error)
        for start in range(0, len(selection.ids), RECORDS_AT_ONCE):
            ids = selection.ids[start : start + RECORDS_AT_ONCE]
            yield ledger.selections.select_ids(ids, states=states, streams=selection.streams, criteria=criteria)
        return
    for part in _list_parts(ledger, selection, states, now=now):
        after: dict[str, Any] | None = None
        while page := ledger.selections.read_page(
            part.scan, criteria=part.criteria, after=after, limit=RECORDS_AT_ONCE
        ):
            yield page
            after = page[-1]


def list_records(
    ledger: Ledger, selection: Selection, *, newest_first: bool = True, allowed: Sequence[str] = SELECTABLE
) -> Iterator[dict[str, Any]]:
    """Yield the selected records of all streams and states in the order of their time, at most the limit.

    Memory does not grow with their number (invariant 11).

    Raises:
        UsageError: A state is not one of the allowed ones, or no stream has such a key.
    """
    parts = _list_parts(ledger, selection, selection.choose_states(allowed))
    size = min(RECORDS_AT_ONCE, max(SMALLEST_PAGE, RECORDS_IN_MEMORY // max(1, len(parts))))
    if selection.limit is not None:
        size = min(size, selection.limit)
    scans = [_walk(ledger, part, newest_first=newest_first, page_size=size) for part in parts]
    merged = heapq.merge(*scans, key=lambda pair: (pair[0], pair[1]["_id"]), reverse=newest_first)
    return islice((record for _, record in merged), selection.limit)


def _walk(
    ledger: Ledger, part: _Part, *, newest_first: bool, page_size: int
) -> Iterator[tuple[datetime, dict[str, Any]]]:
    after: dict[str, Any] | None = None
    while page := ledger.selections.list_page(
        part.scan, criteria=part.criteria, after=after, limit=page_size, newest_first=newest_first
    ):
        for record in page:
            yield read_time(part.scan, record), record
        if len(page) < page_size:
            return
        after = page[-1]


def list_streams(ledger: Ledger, selection: Selection) -> list[str]:
    """Return the selected streams."""
    return list(selection.streams) or sorted(ledger.streams.load_all())


def find_criteria(ledger: Ledger, selection: Selection, streams: Sequence[str]) -> dict[str, Criteria]:
    """Return, by stream, the criteria that its records must meet; streams that have no such key are absent.

    Raises:
        UsageError: The key fits no stream.
    """
    since, until, error = selection.since, selection.until, selection.error
    if selection.key is None:
        return dict.fromkeys(streams, Criteria(since=since, until=until, error=error))
    return {
        stream: Criteria(since=since, until=until, error=error, key_ids=key_ids)
        for stream, key_ids in find_key_ids(ledger, streams, selection.key).items()
    }


def _list_parts(
    ledger: Ledger, selection: Selection, states: Sequence[str], *, now: datetime | None = None
) -> list[_Part]:
    """Return the scans of all selected records.

    Args:
        now: Leave out records that were logged, or have finished, since this time.
    """
    parts = []
    for stream, criteria in find_criteria(ledger, selection, list_streams(ledger, selection)).items():
        for scan in (scan for state in states for scan in list_scans(stream, state)):
            own = criteria
            if now is not None:
                own = criteria.before(now, is_finished=scan.state in FINISHED)
            parts.append(_Part(scan=scan, criteria=own))
    return parts


def find_key_ids(ledger: Ledger, streams: Sequence[str], text: str) -> dict[str, tuple[str, ...]]:
    """Return, by stream, the ids of the keys that a text may mean; streams with other key columns are absent.

    Raises:
        UsageError: The text fits no stream.
    """
    by_stream: dict[str, tuple[str, ...]] = {}
    error: UsageError | None = None
    for stream in streams:
        names = ledger.keys.column_names(stream) or ledger.records.column_names(stream)
        if not names:
            continue
        try:
            by_stream[stream] = tuple(dict.fromkeys(key_id(reading) for reading in read_key(text, names)))
        except UsageError as caught:
            error = error or caught
    if error is not None and not by_stream:
        raise error
    return by_stream


def read_key(text: str, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the keys that a text may mean: each value as a whole number, as text, as a decimal, as a float.

    Args:
        text: `5`, `a=1,b=2`, or a JSON object, whose values are used with the types they have: a number with a point or
            an exponent may be a decimal or a float.

    Raises:
        UsageError: The text does not name the stream's key columns.
    """
    exact = _read_json_key(text)
    values = exact if exact is not None else _split_key(text, names)
    if sorted(values) != sorted(names):
        shown, quoted = ",".join(f"{name}=…" for name in names), ", ".join(f'"{name}": …' for name in names)
        raise UsageError(
            f"{text} is not a key of this stream",
            why=f"its key columns are {', '.join(names)}",
            hint=f"write {shown}; or, of any value, '{{{quoted}}}'",
        )
    # The columns of a key may differ in type: one may hold a text that looks like a number, another an integer.
    readings = [_read_json_value(value) if exact is not None else _read_value(value) for value in values.values()]
    for chosen in islice(product(*readings), KEY_READINGS_AT_MOST):
        yield dict(zip(values, chosen, strict=True))


def _split_key(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the value of each column that a text names, or nothing if it names other columns.

    A text without a `=` is the value of the first column.
    """
    named = re.compile(rf"(?:^|,)\s*({'|'.join(re.escape(name) for name in names)})\s*=")
    marks = list(named.finditer(text))
    if "=" not in text:
        return {names[0]: text}
    if not marks or marks[0].start() != 0 or len({mark[1] for mark in marks}) < len(marks):
        return {}
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return {mark[1]: text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}


def _read_json_key(text: str) -> dict[str, Any] | None:
    """Return the columns and values of a JSON object; None if the text is not one, or a value cannot be in a key."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        columns = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError, InvalidOperation):
        return None
    is_key = all(isinstance(value, str | int | Decimal) for value in columns.values())
    return columns if is_key else None


def _read_json_value(value: str | int | Decimal) -> list[Any]:
    return [value, float(value)] if isinstance(value, Decimal) else [value]


def _read_value(text: str) -> list[Any]:
    """Return the values that a text may mean: a whole number, text, a decimal, a float."""
    readings = (_read_whole_number(text), text, _read_decimal(text), _read_float(text))
    return list({type(read): read for read in readings}.values())


def _read_whole_number(text: str) -> int | str:
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else text


def _read_decimal(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def _read_float(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def complete_id(ledger: Ledger, text: str) -> str:
    """Return the id of the record that a text names; a text that names no record is returned unchanged.

    Raises:
        UsageError: Several ids begin with the text.
    """
    if full := _FULL_ID.fullmatch(text):
        return full[1]
    beginning = _BEGINNING_OF_ID.fullmatch(text)
    if beginning is None:
        return text
    ids = ledger.records.find_beginning(text, stream=beginning[1], limit=_IDS_SHOWN + 1)
    if len(ids) > 1:
        more = ", ..." if len(ids) > _IDS_SHOWN else ""
        raise UsageError(
            f"{text} is ambiguous: several ids begin with it",
            why=", ".join(ids[:_IDS_SHOWN]) + more,
            hint="give more of its digits",
        )
    return ids[0] if ids else text


def complete_ids(ledger: Ledger, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the ids that texts name, each once and in their order.

    Raises:
        UsageError: Several ids begin with one of them.
    """
    return tuple(dict.fromkeys(complete_id(ledger, text) for text in texts))
