"""reconcile: compare the rows of a source with what the ledger knows of them, and log what it lacks."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from syncctl.core.ids import record_id
from syncctl.core.rows import Cursor, Row, Scanned
from syncctl.core.stream import SCANS, Mode, Stream
from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.differences import Differences, Known, join, read_line, write_key, write_line
from syncctl.pipeline.merge import SortedLines
from syncctl.pipeline.recheck import Key, Lookup, SourceRow, Verdict, find_gone, hash_row, recheck
from syncctl.pipeline.repair import PATIENCE_SECONDS, Repair, repair_rows
from syncctl.pipeline.rewind import find_place

KEYS_AT_ONCE = 5000
LOOKED_AT_ONCE = 500
RETENTION_MARGIN_SECONDS = 3600.0
"""Records as old as the retention may be removed while the rows are read."""


class Reader(Lookup, Protocol):
    """What a reconciliation needs of a source."""

    @property
    def mode(self) -> Mode:
        """How the stream is followed."""

    @property
    def columns_fingerprint(self) -> str:
        """A short hash of the column names."""

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield every row there is, or those behind a cursor."""


@dataclass(kw_only=True)
class Reconciliation:
    """One comparison of a stream, and its repair.

    Args:
        directory: For what does not fit into memory; its own.
        since: Compare only the rows that were read after this time.
        retention_seconds: How long records are kept at least.
        show: Is told how many rows have been read.
    """

    ledger: Ledger
    stream: Stream
    reader: Reader
    directory: Path
    since: datetime | None
    retention_seconds: float
    dispatch: Callable[[], int]
    worker: str
    show: Callable[[int], None]
    found: Differences = field(init=False)
    _suspects: list[SourceRow] = field(init=False, default_factory=list)

    def compare(self) -> Differences:
        """Compare; changes nothing. Rows may change meanwhile: what seems to differ is looked at again.

        Raises:
            UsageError: The stream has no places that a time could name, or no history that long.
        """
        cursor, name = self.ledger.streams.load_cursor(self.stream.name), self.stream.name
        self.found = Differences(stream=name)
        since = self._find_since()
        if cursor is not None and self.reader.mode == "change_tracking" and self.stream.start != "beginning":
            # What was there before the start was never to be sent; nothing tells it from what was lost.
            self.found.missing = None
        if since is not None or self.stream.append_only or self.reader.mode == "flag":
            self.found.extra = None
        if since is None and cursor is not None and "floor" in cursor:
            since = {**cursor, **cursor["floor"]}
        with self._to_repair.open("w", encoding="utf-8") as file:
            self._file = file
            rows = self.reader.scan(cursor, since=since)
            if self.stream.append_only:
                self._compare_records(rows)
            elif self.found.extra is None:
                self._compare_pages(rows)
            else:
                self._compare_all(rows)
            self._look_again()
        return self.found

    def repair(self, *, who: str, patience_seconds: float = PATIENCE_SECONDS) -> Repair:
        """Log the rows that are missing or stale, and let them be sent; see `pipeline.repair.repair_rows`."""
        done = repair_rows(
            ledger=self.ledger,
            stream=self.stream,
            reader=self.reader,
            keys=self._to_repair,
            dispatch=self.dispatch,
            worker=self.worker,
            who=who,
            patience_seconds=patience_seconds,
        )
        self.found.repaired = done.logged
        return done

    @property
    def _to_repair(self) -> Path:
        return self.directory / "to-repair"

    def _find_since(self) -> Cursor | None:
        """Return the cursor whose rows behind it are compared; None for all rows."""
        at, name = self.since, self.stream.name
        if at is not None and self.reader.mode in SCANS:
            raise UsageError(
                f"stream {name} cannot be reconciled since a time",
                why=f"mode {self.reader.mode} has no cursor column that tells when a row was read",
                hint=f"run: syncctl reconcile {name}",
            )
        if self.stream.append_only:
            kept = max(0.0, self.retention_seconds - RETENTION_MARGIN_SECONDS)
            kept_since = self.ledger.streams.server_time() - timedelta(seconds=kept)
            if at is None or at < kept_since:
                return self.ledger.runs.find_cursor(name, kept_since) or self.ledger.runs.find_first_cursor(name)
        return None if at is None else find_place(self.ledger, self.stream, self.reader.mode, at)

    def _read(self, pages: Iterator[list[Scanned]]) -> Iterator[list[tuple[Row, SourceRow]]]:
        """Yield pages of rows, named and hashed as a poll does it, and say how far it is."""
        read = 0
        for page in pages:
            named = []
            for each in page:
                identity, content, row = hash_row(each.row)
                seen = SourceRow(key_id=identity, hash=content, is_ahead=each.is_ahead, at=row.at, key=row.key)
                named.append((row, seen))
            read += len(page)
            self.show(read)
            yield named

    def _compare_all(self, pages: Iterator[list[Scanned]]) -> None:
        """Compare every row with every key, both in the order of the key's id."""
        lines = SortedLines(self.directory)
        for page in self._read(pages):
            for _, each in page:
                lines.add(write_line(each))
        extra: list[str] = []
        for identity, group, known in join(iter(lines), self._walk_keys()):
            if group:
                self._judge([read_line(each) for each in group], None if known is None else known.hash)
            elif known is not None and known.is_live:
                extra.append(identity)
                if len(extra) >= LOOKED_AT_ONCE:
                    self._look_for(extra)
                    extra = []
        self._look_for(extra)

    def _walk_keys(self) -> Iterator[Known]:
        after = ""
        while page := self.ledger.keys.load_contents(self.stream.name, after=after, limit=KEYS_AT_ONCE):
            for identity, content, op in page:
                yield Known(identity, content, op == "upsert")
            after = page[-1][0]

    def _compare_pages(self, pages: Iterator[list[Scanned]]) -> None:
        """Compare rows with their keys page by page; what the ledger knows besides is not looked at."""
        for page in self._read(pages):
            known = self.ledger.keys.load(self.stream.name, [each.key_id for _, each in page])
            for _, each in page:
                key = known.get(each.key_id)
                self._judge([each], None if key is None else key.hash)

    def _compare_records(self, pages: Iterator[list[Scanned]]) -> None:
        """Compare rows with their records, by name: a stream that only appends has no keys."""
        for page in self._read(pages):
            names = [self._name_records(row, each) for row, each in page]
            logged = {
                each.id: each for each in self.ledger.records.load_logged([name for two in names for name in two])
            }
            for (_, each), (first, renamed) in zip(page, names, strict=True):
                found = logged.get(first)
                is_same = found is not None and (
                    found.hash == each.hash or found.columns_fingerprint != self.reader.columns_fingerprint
                )
                self.found.source_rows += 1
                verdict: Verdict = "missing" if found is None else "stale"
                if is_same or renamed in logged:
                    verdict = "accounted"
                elif each.is_ahead:
                    verdict = "ahead"
                self._count(verdict, each.key)

    def _name_records(self, row: Row, each: SourceRow) -> tuple[str, str]:
        version, name = row.version or row.at, self.stream.name
        return record_id(name, each.key_id, version), record_id(name, each.key_id, f"{version}/{each.hash}")

    def _judge(self, seen: Sequence[SourceRow], known: str | None) -> None:
        """Judge one row, which may have been seen twice if it moved while all were read."""
        self.found.source_rows += 1
        if any(each.hash == known for each in seen):
            self.found.count("accounted", seen[0].key)
        elif any(each.is_ahead for each in seen):
            self.found.count("ahead", seen[0].key)
        else:
            self._suspects.append(seen[-1])
            if len(self._suspects) >= LOOKED_AT_ONCE:
                self._look_again()

    def _look_again(self) -> None:
        suspects, self._suspects = self._suspects, []
        if suspects:
            verdicts = recheck(self.ledger, self.stream.name, self.reader, suspects)
            for each, verdict in zip(suspects, verdicts, strict=True):
                self._count(verdict, each.key)

    def _count(self, verdict: Verdict, key: Key) -> None:
        if self.found.count(verdict, key):
            self._file.write(json.dumps(write_key(key)) + "\n")

    def _look_for(self, identities: Sequence[str]) -> None:
        keys = self.ledger.keys.load_keys(self.stream.name, identities)
        for key in find_gone(self.ledger, self.stream.name, self.reader, keys):
            self.found.count_extra(key)
