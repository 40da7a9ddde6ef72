"""What is true outside the ledger: a source whose transactions commit in any order, and a partner with a log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.cursors import Basis, Witness
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import Mode
from syncctl.partner.bulk import BulkCall

from .actors import gate

Answer = Literal["accept", "later", "reject", "unanswered", "delayed", "given up", "unauthorized", "gone"]
Change = tuple[int, str | None]
"""The number that a statement took, and the content; None where it deleted the row."""


@dataclass
class ScriptedSource:
    """A table whose every change takes a number when its statement runs and shows when it commits."""

    rows: dict[int, tuple[int, str]] = field(default_factory=dict)
    open: dict[int, dict[int, Change]] = field(default_factory=dict)
    #: Keys in the order in which their changes were committed, as change tracking knows them.
    changes: list[int] = field(default_factory=list)
    #: The keys whose flag stands, by the number of their change.
    flags: dict[int, int] = field(default_factory=dict)
    number: int = 0
    transactions: int = 0

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
        return {key for changes in self.open.values() for key in changes}

    def commit(self, transaction: int) -> None:
        """Show a transaction's changes."""
        for key, (number, content) in self.open.pop(transaction).items():
            if content is None and key not in self.rows:
                continue
            self.changes.append(key)
            if content is None:
                self.rows.pop(key)
                self.flags.pop(key, None)
            else:
                self.rows[key] = (number, content)
                self.flags[key] = number

    def roll_back(self, transaction: int) -> None:
        """Forget a transaction's changes."""
        del self.open[transaction]

    def low_water(self) -> int:
        """Return the number below which no transaction is open."""
        numbers = [number for changes in self.open.values() for number, _ in changes.values()]
        return min([*numbers, self.number + 1])


class ScriptedReader:
    """Reads a scripted source page by page in one of the five modes, as sources/modes does.

    `rowversion` is bounded by the oldest open transaction. `increasing` has no versions; after the new rows it reads
    those before the cursor again, as `lookback` does, in rounds that keep their place between polls.
    """

    columns_fingerprint = "scripted"
    cursor_kind = "values"
    telling_columns: frozenset[str] = frozenset()
    reads_table = False
    basis = Basis(database="", table="main.orders", key=("id",), query=None, where=None, start="beginning")

    def __init__(self, source: ScriptedSource, mode: Mode, *, page_size: int) -> None:
        self._source = source
        self.mode = mode
        self._page_size = page_size

    def first_warnings(self) -> tuple[str, ...]:
        """Return no warnings."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know of this stream."""
        return ()

    def start_cursor(self) -> Cursor:
        """Return the cursor before all rows."""
        start: dict[str, Any] = {"mode": self.mode, "at": "0"}
        if self.mode == "change_tracking":
            start |= {"phase": "load", "since": len(self._source.changes)}
        return start

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages behind a cursor until one is short."""
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
        """Yield the rows whose number is behind a position and below a ceiling, with the position behind them."""
        while True:
            gate("read ceiling")
            ceiling = find_ceiling()
            gate("read page")
            found = sorted(
                (number, key, content)
                for key, (number, content) in self._source.rows.items()
                if position < number < ceiling
            )[: self._page_size]
            position = found[-1][0] if found else position
            is_versioned = self.mode == "rowversion"
            yield (
                tuple(
                    self._make_row(key, content, at=number, version=f"0x{number:016x}" if is_versioned else None)
                    for number, key, content in found
                ),
                position,
            )
            if len(found) < self._page_size:
                return

    def _walk(self, position: int, keys: Mapping[int, Any]) -> Iterator[tuple[tuple[Row, ...], int]]:
        """Yield the rows of some keys behind a position, in the order of the key, with the position behind them."""
        while True:
            gate("read page")
            found = sorted(key for key in keys if key > position and key in self._source.rows)[: self._page_size]
            if not found:
                return
            position = found[-1]
            rows = []
            for key in found:
                number, content = self._source.rows[key]
                rows.append(self._make_row(key, content, at=key, acknowledge=str(number)))
            yield tuple(rows), position
            if len(found) < self._page_size:
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
            rows = tuple(self._make_changed(key) for key, _ in sorted(newest.items(), key=lambda change: change[1]))
            yield Page(rows=rows, cursor={"mode": self.mode, "at": str(place), "phase": "changes"})
            if len(changed) < self._page_size:
                return

    def _make_changed(self, key: int) -> Row:
        found = self._source.rows.get(key)
        if found is None:
            return Row(key={"id": key}, payload=None, op="delete")
        return self._make_row(key, found[1], at=found[0])

    def _make_row(
        self, key: int, content: str, *, at: int, version: str | None = None, acknowledge: str | None = None
    ) -> Row:
        acknowledge = acknowledge if self.mode == "flag" else None
        return Row(
            key={"id": key},
            payload={"id": key, "content": content},
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

    def close(self) -> None:
        """Let go of the source."""


@dataclass(frozen=True)
class LoggedCall:
    """The call for one record as the partner saw it."""

    idempotency_key: str
    attempt: int
    key: int
    #: None where it deletes the row.
    content: str | None
    #: The bytes: what the mapping makes of the content.
    body: str
    record_id: str
    seq: int


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
        seen = self.bytes_by_key.setdefault(call.idempotency_key, call.body)
        assert seen == call.body, f"other bytes under the key {call.idempotency_key} (invariant 7)"
        if call.idempotency_key in self.accepted:
            return
        self.accepted.add(call.idempotency_key)
        self.bodies[call.key] = call.body
        if call.content is None:
            self.holds.pop(call.key, None)
        else:
            self.holds[call.key] = call.content

    def answer(self, call: LoggedCall) -> Outcome:
        """Take a call in and answer it as the script says."""
        how = self.answers.pop(0) if self.answers else "accept"
        if how == "reject":
            return Outcome(verdict=Verdict.REJECTED, status=422, latency_ms=1.0, error="HTTP 422 $no")
        if how == "later":
            return Outcome(verdict=Verdict.RETRY_LATER, status=503, latency_ms=1.0, error="HTTP 503")
        if how == "unauthorized":
            return Outcome(verdict=Verdict.RETRY_LATER, status=401, latency_ms=1.0, error="HTTP 401")
        if how == "gone":
            return Outcome(verdict=Verdict.RETRY_LATER, status=410, latency_ms=1.0, error="HTTP 410")
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


class JoinedCall(tuple[LoggedCall, ...]):
    """The calls of several rows in one."""

    body = b""


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
        content = None if record.payload is None else str(record.payload["content"])
        return LoggedCall(
            idempotency_key=record.idempotency_key,
            attempt=record.attempt,
            key=int(str(record.key["id"])),
            content=content,
            body=f"{self._mapping}:{content}",
            record_id=record.id,
            seq=record.seq,
        )

    def combine(
        self,
        planned: Sequence[tuple[Record, LoggedCall]],
        *,
        bytes_at_most: int | None = None,  # noqa: ARG002 - no partner here refuses a body for its size
    ) -> list[BulkCall]:
        """Put rows together into calls."""
        found = [planned[start : start + self._rows] for start in range(0, len(planned), self._rows)]
        return [
            BulkCall(records=tuple(record for record, _ in rows), call=JoinedCall(call for _, call in rows))  # type: ignore[arg-type]
            for rows in found
        ]
