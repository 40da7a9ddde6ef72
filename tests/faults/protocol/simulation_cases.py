"""The truth outside the ledger: a source whose transactions commit in any order, and a partner with a log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.cursors import Basis, Witness
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.schema_changes import DeclaredRelation
from syncctl.core.stream import Mode
from syncctl.core.write_backs import WriteBack, Written
from syncctl.partner.bulk import BulkCall

from .actors import gate

Answer = Literal[
    "accept", "later", "reject", "unanswered", "delayed", "given up", "unauthorized", "gone",
    # Only from a partner with its own ids.
    "broken", "conflict", "no id", "several",
]  # fmt: skip
Change = tuple[int, str | None]
"""The number that a statement took, and the content; None if it deleted the row."""
LINES = "lines"
"""The field in which a row has its children, and a cursor the place among their changes."""


def line_of(key: int) -> int:
    """Return the key under which a source's changes hold the child of a row, a line in another table."""
    return -key


@dataclass
class ScriptedSource:
    """A table whose every change takes a number when its statement runs and shows when it commits.

    A row may have a line in another table, whose changes take numbers from the same sequence. It also has columns for
    outcomes; writing those back is a change of the row like any other.
    """

    rows: dict[int, tuple[int, str]] = field(default_factory=dict)
    open: dict[int, dict[int, Change]] = field(default_factory=dict)
    #: Keys in the order in which their changes were committed, as change tracking knows them.
    changes: list[int] = field(default_factory=list)
    #: The keys whose flag is set, each with the number of its change.
    flags: dict[int, int] = field(default_factory=dict)
    #: The lines, by the key of their row.
    lines: dict[int, tuple[int, str]] = field(default_factory=dict)
    #: The keys of rows in the order in which changes of their lines were committed.
    line_changes: list[int] = field(default_factory=list)
    #: The outcomes that were written back, by key; they are deleted with their row.
    written: dict[int, dict[str, Any]] = field(default_factory=dict)
    #: The rows that were deleted and came back.
    reborn: set[int] = field(default_factory=set)
    number: int = 0
    transactions: int = 0
    _writing: dict[int, dict[int, tuple[int, Mapping[str, Any]]]] = field(default_factory=dict)
    _deleted: set[int] = field(default_factory=set)

    def begin(self, changes: Mapping[int, str | None]) -> int:
        """Run statements in a transaction that stays open; a None deletes the row."""
        self.transactions += 1
        stamped: dict[int, Change] = {}
        for key, content in changes.items():
            self.number += 1
            stamped[key] = (self.number, content)
        self.open[self.transactions] = stamped
        return self.transactions

    def locked(self) -> set[int]:
        """Return the rows that open transactions have written."""
        return {
            key for transactions in (self.open, self._writing) for changes in transactions.values() for key in changes
        }

    def commit(self, transaction: int) -> None:
        """Show a transaction's changes."""
        for key, (number, content) in self.open.pop(transaction).items():
            if key < 0:
                self.line_changes.append(-key)
                if content is not None:
                    self.lines[-key] = (number, content)
                continue
            if content is None and key not in self.rows:
                continue
            self.changes.append(key)
            if content is None:
                self.rows.pop(key)
                self.flags.pop(key, None)
                self.written.pop(key, None)
                self._deleted.add(key)
            else:
                if key not in self.rows and key in self._deleted:
                    self.reborn.add(key)
                self.rows[key] = (number, content)
                self.flags[key] = number

    def roll_back(self, transaction: int) -> None:
        """Forget a transaction's changes."""
        del self.open[transaction]

    def low_water(self) -> int:
        """Return the number below which no transaction is open."""
        numbers = [number for changes in self.open.values() for number, _ in changes.values()]
        numbers += [number for changes in self._writing.values() for number, _ in changes.values()]
        return min([*numbers, self.number + 1])

    def begin_write_back(self, values: Mapping[int, Mapping[str, Any]]) -> int:
        """Write outcomes into rows that no other transaction has locked."""
        self.transactions += 1
        self._writing[self.transactions] = {}
        for key, outcome in values.items():
            self.number += 1
            self._writing[self.transactions][key] = (self.number, outcome)
        return self.transactions

    def end_write_back(self, transaction: int, *, commit: bool) -> None:
        """Commit the outcomes that were written back, or roll them back. Safe to repeat."""
        for key, (number, outcome) in self._writing.pop(transaction, {}).items():
            if commit:
                self.changes.append(key)
                self.rows[key] = (number, self.rows[key][1])
                self.written[key] = {**self.written.get(key, {}), **outcome}

    def show(self, key: int, *, with_line: bool) -> str:
        """Return the content of a row, with that of its line."""
        content = self.rows[key][1]
        return f"{content}+{self.lines[key][1]}" if with_line and key in self.lines else content


def show_payload(payload: Mapping[str, Any]) -> str:
    """Return the content of a row that was logged, with that of its line."""
    return "+".join([str(payload["content"]), *(str(line["text"]) for line in payload.get(LINES, ()))])


class ScriptedReader:
    """Reads a scripted source page by page in one of the five modes, as sources/modes does.

    `rowversion` is bounded by the oldest open transaction. `increasing` has no versions; after the new rows it reads
    those before the cursor again, as `lookback` does, in rounds that keep their place between polls.
    """

    columns_fingerprint = "scripted"
    advice: tuple[str, ...] = ()
    declared: tuple[DeclaredRelation, ...] = ()
    cursor_kind = "values"
    telling_columns: frozenset[str] = frozenset()
    reads_table = False
    basis = Basis(database="", table="main.orders", key=("id",), query=None, where=None, start="beginning")

    def __init__(self, source: ScriptedSource, mode: Mode, *, page_size: int, has_lines: bool = False) -> None:
        self._source = source
        self.mode = mode
        self._page_size = page_size
        self._has_lines = has_lines

    def first_warnings(self) -> tuple[str, ...]:
        """Return no warnings."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings about this stream for an operator."""
        return ()

    def start_cursor(self) -> Cursor:
        """Return the cursor before all rows."""
        start: dict[str, Any] = {"mode": self.mode, "at": "0"}
        if self.mode == "change_tracking":
            start |= {"phase": "load", "since": len(self._source.changes)}
        return start

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor until one is short."""
        follows_lines = self._has_lines and self.mode != "snapshot"
        return self._follow_lines(cursor) if follows_lines else self._pages_of_rows(cursor)

    def _follow_lines(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages of the rows themselves, and then the rows whose lines have changed."""
        bare = {name: value for name, value in cursor.items() if name != LINES}
        place = cursor.get(LINES)
        if place is None:
            # Take the place before the first row is read: rows whose lines change later are read again.
            gate("read place of lines")
            place = len(self._source.line_changes) if self.mode == "change_tracking" else self._source.low_water() - 1
        for page in self._pages_of_rows(bare):
            bare = dict(page.cursor)
            yield replace(page, cursor={**bare, LINES: place})
        while True:
            gate("read lines that changed")
            changed, place, is_last = self._find_changed_lines(int(place))
            gate("look for keys")
            keys = sorted(key for key in changed if key in self._source.rows)
            rows = [replace(row, again=True) for row in self._read_rows(keys)]
            yield Page(rows=tuple(rows), cursor={**bare, LINES: place})
            if is_last:
                return

    def _find_changed_lines(self, place: int) -> tuple[list[int], int, bool]:
        """Return the keys of some rows whose lines changed after a place, the place after them, and whether all are."""
        if self.mode == "change_tracking":
            keys = self._source.line_changes[place : place + self._page_size]
            return list(dict.fromkeys(keys)), place + len(keys), len(keys) < self._page_size
        ceiling = self._source.low_water()
        lines = sorted((number, key) for key, (number, _) in self._source.lines.items() if place < number < ceiling)
        lines = lines[: self._page_size]
        return [key for _, key in lines], lines[-1][0] if lines else place, len(lines) < self._page_size

    def _read_rows(self, keys: Sequence[int]) -> list[Row]:
        """Read rows again, by their keys."""
        read = [(self._source.rows[key], key) for key in keys]
        self._read_lines()
        return [self._make_row(key, content, at=number) for (number, content), key in read]

    def _read_lines(self) -> None:
        """Stand between the read of rows and that of their lines: outside a snapshot they may change in between."""
        if self._has_lines:
            gate("read lines")

    def _pages_of_rows(self, cursor: Cursor) -> Iterator[Page]:
        if self.mode == "change_tracking":
            return self._pages_of_changes(cursor)
        if self.mode == "snapshot":
            return self._pages_of_snapshot(cursor)
        if self.mode == "flag":
            return self._pages_of_flags(cursor)
        return self._pages_by_number(cursor)

    def _pages_by_number(self, cursor: Cursor) -> Iterator[Page]:
        position = int(cursor["at"])
        if self.mode == "rowversion":
            for rows, at in self._walk_numbers(position, self._source.low_water):
                yield Page(rows=rows, cursor={"mode": self.mode, "at": str(at)})
            return
        place = {"place": cursor["place"], "upto": cursor["upto"]} if "place" in cursor else {}
        highest = position
        for rows, highest in self._walk_numbers(position, lambda: self._source.number + 1):
            yield Page(rows=rows, cursor={"mode": self.mode, "at": str(highest), **place})
        upto = int(place.get("upto", highest))
        for rows, at in self._walk_numbers(int(place.get("place", 0)), lambda: upto + 1):
            place = {"place": at, "upto": upto}
            yield Page(rows=rows, cursor={"mode": self.mode, "at": str(highest), **place})
        yield Page(rows=(), cursor={"mode": self.mode, "at": str(highest)})

    def _walk_numbers(self, position: int, find_ceiling: Callable[[], int]) -> Iterator[tuple[tuple[Row, ...], int]]:
        """Yield the rows whose number is after a position and below a ceiling, with the position after them."""
        while True:
            gate("read ceiling")
            ceiling = find_ceiling()
            gate("read page")
            page = sorted(
                (number, key, content)
                for key, (number, content) in self._source.rows.items()
                if position < number < ceiling
            )[: self._page_size]
            position = page[-1][0] if page else position
            is_versioned = self.mode == "rowversion" and not self._has_lines
            if page:
                self._read_lines()
            yield (
                tuple(
                    self._make_row(key, content, at=number, version=f"0x{number:016x}" if is_versioned else None)
                    for number, key, content in page
                ),
                position,
            )
            if len(page) < self._page_size:
                return

    def _walk(self, position: int, keys: Mapping[int, Any]) -> Iterator[tuple[tuple[Row, ...], int]]:
        """Yield the rows of some keys after a position, in the order of the key, with the position after them."""
        while True:
            gate("read page")
            page = sorted(key for key in keys if key > position and key in self._source.rows)[: self._page_size]
            if not page:
                return
            position = page[-1]
            read = [(key, *self._source.rows[key]) for key in page]
            if self.mode != "snapshot":
                self._read_lines()
            yield (
                tuple(self._make_row(key, content, at=key, acknowledge=str(number)) for key, number, content in read),
                position,
            )
            if len(page) < self._page_size:
                return

    def _pages_of_snapshot(self, cursor: Cursor) -> Iterator[Page]:
        if cursor.get("phase") == "sweep":
            return
        count = int(cursor.get("rows", 0))
        kept = {name: cursor[name] for name in ("known",) if name in cursor}
        last: dict[str, Any] = dict(cursor)
        for rows, position in self._walk(int(cursor["at"]), self._source.rows):
            count += len(rows)
            last = {"mode": self.mode, "at": str(position), "phase": "read", "rows": count, **kept}
            yield Page(rows=rows, cursor=last)
        yield Page(rows=(), cursor={**last, "at": "all rows read", "phase": "sweep", "rows": count, "swept": ""})

    def _pages_of_flags(self, cursor: Cursor) -> Iterator[Page]:
        for rows, position in self._walk(int(cursor["at"]), self._source.flags):
            yield Page(rows=rows, cursor={"mode": self.mode, "at": str(position)})
        yield Page(rows=(), cursor=self.start_cursor())

    def _pages_of_changes(self, cursor: Cursor) -> Iterator[Page]:
        if cursor.get("phase") == "load":
            kept = {name: cursor[name] for name in ("phase", "since")}
            for rows, position in self._walk(int(cursor["at"]), self._source.rows):
                yield Page(rows=rows, cursor={"mode": self.mode, "at": str(position), **kept})
            cursor = {"mode": self.mode, "at": str(cursor["since"]), "phase": "changes"}
            yield Page(rows=(), cursor=cursor)
        place = int(cursor["at"])
        while True:
            gate("read page")
            changed = self._source.changes[place : place + self._page_size]
            newest = {key: place + index for index, key in enumerate(changed)}
            place += len(changed)
            read = {key: self._source.rows.get(key) for key in newest}
            if read:
                self._read_lines()
            keys = [key for key, _ in sorted(newest.items(), key=lambda change: change[1])]
            rows = tuple(self._make_changed(key, read[key]) for key in keys)
            yield Page(rows=rows, cursor={"mode": self.mode, "at": str(place), "phase": "changes"})
            if len(changed) < self._page_size:
                return

    def _make_changed(self, key: int, row: tuple[int, str] | None) -> Row:
        if row is None:
            return Row(key={"id": key}, payload=None, op="delete")
        return self._make_row(key, row[1], at=row[0])

    def _make_row(
        self, key: int, content: str, *, at: int, version: str | None = None, acknowledge: str | None = None
    ) -> Row:
        acknowledge = acknowledge if self.mode == "flag" else None
        payload: dict[str, Any] = {"id": key, "content": content}
        if self._has_lines:
            payload[LINES] = [{"text": self._source.lines[key][1]}] if key in self._source.lines else []
        return Row(
            key={"id": key},
            payload=payload,
            version=version,
            at=str(at),
            acknowledge=acknowledge,
        )

    def find_again(self, witnesses: Sequence[Witness]) -> list[Row | None]:
        """Return nothing: no number of a scripted source is given out again."""
        return [None for _ in witnesses]

    def find_missing(self, keys: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the keys that no row has now."""
        gate("look for keys")
        return [key for key in keys if key["id"] not in self._source.rows]

    def find_rows(self, keys: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Return the flagged rows that have one of these keys now."""
        gate("look for keys")
        rows = []
        for key in (int(key["id"]) for key in keys):
            if key in self._source.flags and key in self._source.rows:
                number, content = self._source.rows[key]
                rows.append(self._make_row(key, content, at=key, acknowledge=str(number)))
        return rows

    def acknowledge(
        self, rows: Sequence[Acknowledgement], before_commit: Callable[[Sequence[Acknowledged]], None]
    ) -> list[Acknowledged]:
        """Take down the flags of rows that are as they were read."""
        gate("before acknowledge")
        done = []
        for row in rows:
            is_same = self._source.flags.get(int(str(row.key["id"]))) == int(row.version)
            # The number stays, so that it does not tell whether the statement was committed.
            done.append(Acknowledged(id=row.id, rows=int(is_same), version_after=row.version if is_same else None))
        before_commit([result for result in done if result.rows])
        gate("before commit")
        for row, result in zip(rows, done, strict=True):
            key = int(str(row.key["id"]))
            if result.rows and self._source.flags.get(key) == int(row.version):
                del self._source.flags[key]
        gate("after acknowledge")
        return done

    def write_back(
        self, rows: Sequence[WriteBack], before_commit: Callable[[Sequence[WriteBack]], None]
    ) -> list[Written]:
        """Write outcomes into rows; those that another transaction has locked are refused."""
        gate("before write back")
        by_key = {int(str(row.key["id"])): row for row in rows}
        locked = self._source.locked()
        free = {key: row for key, row in by_key.items() if key in self._source.rows and key not in locked}
        transaction = self._source.begin_write_back({key: row.values for key, row in free.items()})
        try:
            before_commit(list(free.values()))
            gate("before commit")
            self._source.end_write_back(transaction, commit=True)
        finally:
            # A poll that dies here releases its rows.
            self._source.end_write_back(transaction, commit=False)
        gate("after commit")
        return [
            Written(id=row.id, error="$locked") if key in locked else Written(id=row.id, rows=int(key in free))
            for key, row in by_key.items()
        ]

    def close(self) -> None:
        """Release the source."""


@dataclass(frozen=True)
class LoggedCall:
    """The call for one record as the partner saw it."""

    idempotency_key: str
    attempt: int
    key: int
    #: None if the call deletes the row.
    content: str | None
    #: The body that the mapping makes of the content.
    body: str
    record_id: str
    seq: int
    method: str = "POST"
    #: The partner's id in the path; None if the path has none.
    object_id: str | None = None

    @property
    def bytes(self) -> str:
        """Everything that the partner receives."""
        return f"{self.method} {self.object_id} {self.body}"


@dataclass
class ScriptedPartner:
    """Applies each `Idempotency-Key` once, in the order in which calls land; some land late, some get no answer."""

    log: list[LoggedCall] = field(default_factory=list)
    bytes_by_key: dict[str, str] = field(default_factory=dict)
    holds: dict[int, str] = field(default_factory=dict)
    #: The bytes of the last call that took effect, by row.
    bodies: dict[int, str] = field(default_factory=dict)
    delayed: list[LoggedCall] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)

    def land(self, call: LoggedCall) -> None:
        """Apply a call, unless its key was applied before."""
        self.log.append(call)
        self.check_bytes(call)
        if call.idempotency_key in self.accepted:
            return
        self.accepted.add(call.idempotency_key)
        self.bodies[call.key] = call.body
        if call.content is None:
            self.holds.pop(call.key, None)
        else:
            self.holds[call.key] = call.content

    def check_bytes(self, call: LoggedCall) -> None:
        """Judge the bytes of a call that lands."""
        seen = self.bytes_by_key.setdefault(call.idempotency_key, call.bytes)
        assert seen == call.bytes, f"other bytes under the key {call.idempotency_key} (invariant 7): {seen}, {call}"

    def answer(self, call: LoggedCall) -> Outcome:
        """Take a call in and answer it as the script says."""
        how = self.next_answer()
        if how in REFUSALS:
            return refuse(how)
        if how == "given up":
            self.delayed.append(call)
            return Outcome(verdict=Verdict.RETRY_LATER, status=504, latency_ms=1.0, error="HTTP 504")
        if how == "delayed":
            self.delayed.append(call)
            return Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=1.0, error="no answer")
        self.land(call)
        if how == "unanswered":
            return Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=1.0, error="no answer")
        return Outcome(verdict=Verdict.ACCEPTED, status=200, latency_ms=1.0)

    def next_answer(self) -> Answer:
        """Return how the next call is answered."""
        return self.answers.pop(0) if self.answers else "accept"


REFUSALS: Mapping[Answer, tuple[Verdict, int]] = {
    "reject": (Verdict.REJECTED, 422),
    "later": (Verdict.RETRY_LATER, 503),
    "unauthorized": (Verdict.RETRY_LATER, 401),
    "gone": (Verdict.RETRY_LATER, 410),
}


def refuse(how: Answer) -> Outcome:
    """Return the outcome of a call that the partner does not act on."""
    verdict, status = REFUSALS[how]
    return Outcome(verdict=verdict, status=status, latency_ms=1.0, error=f"HTTP {status} $no")


class JoinedCall(tuple[LoggedCall, ...]):
    """The calls of several rows in one."""

    body = b""


_METHODS = {"update": "PUT", "look_up": "GET"}


class ScriptedClient:
    """Turns records into calls; the mapping shapes the bytes.

    Args:
        rows: How many rows go in one call.
    """

    def __init__(self, mapping: int, *, rows: int = 1) -> None:
        self.mapping_hash = f"mapping-{mapping}"
        self._mapping = mapping
        self._rows = rows

    def prepare(self, record: Record) -> LoggedCall:
        """Return the call for a record."""
        content = None if record.payload is None else show_payload(record.payload)
        object_id = record.remote.get("id") if self.hash_remote(record) else None
        return LoggedCall(
            idempotency_key=record.idempotency_key,
            attempt=record.attempt,
            key=int(str(record.key["id"])),
            content=content,
            body=f"{self._mapping}:{content}",
            record_id=record.id,
            seq=record.seq,
            method=_METHODS.get(record.step) or ("DELETE" if record.op == "delete" else "POST"),
            object_id=None if object_id is None else str(object_id),
        )

    def hash_remote(self, record: Record) -> str:
        """Return the partner's id if it is in the path."""
        names_object = record.step == "update" or (record.step == "send" and record.op == "delete")
        return f"{record.step} {record.remote['id']}" if names_object and "id" in record.remote else ""

    def combine(
        self,
        planned: Sequence[tuple[Record, LoggedCall]],
        *,
        bytes_at_most: int | None = None,  # noqa: ARG002 - no partner here refuses a body for its size
    ) -> list[BulkCall]:
        """Put rows together into calls."""
        alone = [[pair] for pair in planned if pair[1].method in ("GET", "PUT")]
        others = [pair for pair in planned if pair[1].method not in ("GET", "PUT")]
        groups = [*alone, *(others[start : start + self._rows] for start in range(0, len(others), self._rows))]
        return [
            BulkCall(records=tuple(record for record, _ in rows), call=JoinedCall(call for _, call in rows))  # type: ignore[arg-type]
            for rows in groups
        ]
