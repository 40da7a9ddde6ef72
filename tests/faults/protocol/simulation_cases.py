"""A source whose transactions commit in any order, and a partner that logs its calls: the truth outside the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.core.rows import Cursor, Page, Row

from .actors import gate


@dataclass
class ScriptedSource:
    """A table whose every change takes a number when its statement runs and shows when it commits.

    With `versioned`, readers are bounded by the oldest open transaction, as rowversion is. Without, they read a window
    back that covers every open transaction, as `lookback` does.
    """

    versioned: bool
    rows: dict[int, tuple[int, str]] = field(default_factory=dict)
    open: dict[int, dict[int, tuple[int, str | None]]] = field(default_factory=dict)
    number: int = 0
    transactions: int = 0

    def begin(self, changes: dict[int, str | None]) -> int:
        """Run statements in a transaction that stays open; a None deletes the row."""
        self.transactions += 1
        stamped: dict[int, tuple[int, str | None]] = {}
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
            if content is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = (number, content)

    def roll_back(self, transaction: int) -> None:
        """Forget a transaction's changes."""
        del self.open[transaction]

    def low_water(self) -> int:
        """Return the number below which no transaction is open."""
        numbers = [number for changes in self.open.values() for number, _ in changes.values()]
        return min([*numbers, self.number + 1])


class ScriptedReader:
    """Reads a scripted source page by page, as sources/reader.py does."""

    columns_fingerprint = "scripted"
    advice = ()

    def __init__(self, source: ScriptedSource, *, page_size: int) -> None:
        self._source = source
        self._page_size = page_size

    def start_cursor(self) -> Cursor:
        return {"mode": "scripted", "at": "0"}

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        highest = int(cursor["at"])
        # A lookback must cover every transaction that was open when the cursor moved here.
        position = highest if self._source.versioned else max(0, highest - 1000)
        while True:
            gate("read ceiling")
            ceiling = self._source.low_water() if self._source.versioned else self._source.number + 1
            gate("read page")
            found = sorted(
                (number, key, content)
                for key, (number, content) in self._source.rows.items()
                if position < number < ceiling
            )[: self._page_size]
            rows = tuple(
                Row(
                    key={"id": key},
                    payload={"id": key, "content": content},
                    version=f"0x{number:016x}" if self._source.versioned else None,
                    at=str(number),
                )
                for number, key, content in found
            )
            position = found[-1][0] if found else position
            highest = max(highest, position)
            yield Page(rows=rows, cursor={"mode": "scripted", "at": str(highest)})
            if len(rows) < self._page_size:
                return

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class LoggedCall:
    """One call as the partner saw it."""

    idempotency_key: str
    attempt: int
    key: int
    content: str
    record_id: str
    seq: int


@dataclass
class ScriptedPartner:
    """Applies each `Idempotency-Key` once, in the order in which calls arrive; some arrive late, some get no answer."""

    log: list[LoggedCall] = field(default_factory=list)
    bytes_by_key: dict[str, str] = field(default_factory=dict)
    holds: dict[int, str] = field(default_factory=dict)
    delayed: list[LoggedCall] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)

    def apply(self, call: LoggedCall) -> None:
        """Apply a call, unless its key was applied before."""
        self.log.append(call)
        seen = self.bytes_by_key.setdefault(call.idempotency_key, call.content)
        assert seen == call.content, f"other bytes under the key {call.idempotency_key} (invariant 7)"
        if call.idempotency_key not in self.accepted:
            self.accepted.add(call.idempotency_key)
            self.holds[call.key] = call.content

    def answer(self, call: LoggedCall) -> Outcome:
        """Take a call in and answer it as the script says."""
        how = self.answers.pop(0) if self.answers else "accept"
        if how == "reject":
            return Outcome(verdict=Verdict.REJECTED, status=422, latency_ms=1.0, error="HTTP 422 $no")
        if how == "later":
            return Outcome(verdict=Verdict.RETRY_LATER, status=503, latency_ms=1.0, error="HTTP 503")
        if how == "given up":
            self.delayed.append(call)
            return Outcome(verdict=Verdict.RETRY_LATER, status=504, latency_ms=1.0, error="HTTP 504")
        if how == "delayed":
            self.delayed.append(call)
            return Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=1.0, error="no answer")
        self.apply(call)
        if how == "unanswered":
            return Outcome(verdict=Verdict.AMBIGUOUS, latency_ms=1.0, error="no answer")
        return Outcome(verdict=Verdict.ACCEPTED, status=200, latency_ms=1.0)


def call_of(record: Record) -> LoggedCall:
    """Return the call for a record."""
    assert record.payload is not None
    return LoggedCall(
        idempotency_key=record.idempotency_key,
        attempt=record.attempt,
        key=int(str(record.key["id"])),
        content=str(record.payload["content"]),
        record_id=record.id,
        seq=record.seq,
    )
