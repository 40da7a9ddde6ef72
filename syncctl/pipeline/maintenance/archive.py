"""The archive of records that cleanup removes: writing them beforehand, and finding them afterwards."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from syncctl.archive.archive_files import ArchivedFile, append_lines, day_of, list_files
from syncctl.archive.frames import Damage
from syncctl.core.ids import key_id
from syncctl.errors import TroubleFound, UsageError
from syncctl.ledger.archived_records import begin_line, read_line, to_line
from syncctl.pipeline.selection import read_key

Doc = Mapping[str, Any]
DAMAGES_TOLD_AT_MOST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The conditions of a search in an archive; a record must meet all of them."""

    streams: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    #: The earliest time at which the records finished.
    since: datetime | None = None
    #: The time before which the records finished.
    until: datetime | None = None
    #: The text of a key: `5`, or `a=1,b=2`.
    key: str | None = None
    #: An id, or the beginning of one.
    record_id: str | None = None


def archive_records(directory: Path, stream: str, documents: Sequence[Doc]) -> None:
    """Write finished records of a stream to the archive, each to the file of the day on which it finished.

    When this returns, the records are on the disk and have been read back. Safe to repeat.

    Raises:
        ArchiveError: Some records could not be written, so none of them may be removed.
    """
    days: dict[date, list[bytes]] = {}
    for document in documents:
        days.setdefault(day_of(document["finished_at"]), []).append(to_line(document))
    for day, lines in days.items():
        append_lines(directory, stream, day, lines)


def search_archive(
    directory: Path, wanted: Wanted, *, warn: Callable[[str], None], on_file: Callable[[int], None] = lambda _: None
) -> Iterator[Doc]:
    """Yield the wanted records of an archive, the oldest days first, each once.

    A record that cleanup archived twice, because it was interrupted in between, is yielded once; a record that was
    replayed in between is yielded in each form in which it was archived. Memory does not grow with the number of
    records.

    Args:
        warn: Called with a line about each place that cannot be read; the rest is read anyway.
        on_file: Called after each file with the number of files read so far.

    Raises:
        TroubleFound: The directory cannot be read.
    """
    begin = begin_line(wanted.record_id).rstrip() if wanted.record_id is not None else b""
    since = day_of(wanted.since) if wanted.since else None
    until = day_of(wanted.until) if wanted.until else None
    files = list_files(directory, streams=wanted.streams, since=since, until=until)
    match = _Match(wanted)
    # A database without a name is a temporary file that SQLite removes with the connection.
    with closing(sqlite3.connect("")) as seen:
        seen.execute("create table seen (digest blob primary key) without rowid")
        for number, file in enumerate(files, start=1):
            for line in _read_whole(file, warn):
                if not line.startswith(begin):
                    continue
                record = read_line(line)
                if record is None:
                    warn(f"{file.path}: a line is not a record of syncctl, and is passed over")
                elif match.meets(record) and _is_new(seen, line):
                    yield record
            on_file(number)


def find_archived(directory: Path, record_id: str, *, warn: Callable[[str], None]) -> list[Doc]:
    """Return a record of an archive, in each form in which it was archived, the newest last.

    Args:
        record_id: Its id, or the beginning of it.

    Raises:
        TroubleFound: There is no such record.
        UsageError: Several ids begin with it.
    """
    stream, dash, _ = record_id.rpartition("-")
    if not dash:
        raise UsageError(
            f"{record_id} is not the id of a record",
            why="an id is the name of a stream, a dash, and hex digits",
            hint="run: syncctl archive search --key KEY",
        )
    records: list[Doc] = []
    ids: dict[str, None] = {}
    for record in search_archive(directory, Wanted(streams=(stream,), record_id=record_id), warn=warn):
        ids[record["_id"]] = None
        if len(ids) > 1:
            raise UsageError(
                f"{record_id} is ambiguous", why=f"{' and '.join(ids)} begin with it", hint="give more of its digits"
            )
        records.append(record)
    if not records:
        raise TroubleFound(
            f"the archive in {directory} has no record {record_id}",
            why="it was never archived, is still in the ledger, or its file was moved",
            hint=f"run: syncctl show {record_id}",
        )
    return records


class _Match:
    """Tells whether records meet conditions."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._key_ids: dict[tuple[str, ...], frozenset[str]] = {}

    def meets(self, record: Doc) -> bool:
        """Tell whether a record meets all conditions."""
        wanted = self._wanted
        return (
            (not wanted.states or record["state"] in wanted.states)
            and (wanted.since is None or record["finished_at"] >= wanted.since)
            and (wanted.until is None or record["finished_at"] < wanted.until)
            and (wanted.key is None or record.get("key_id") in self._read_key(tuple(record["key"])))
        )

    def _read_key(self, columns: tuple[str, ...]) -> frozenset[str]:
        if columns not in self._key_ids:
            try:
                ids = frozenset(key_id(reading) for reading in read_key(self._wanted.key or "", columns))
            except UsageError:
                # The rows of another stream have other columns.
                ids = frozenset()
            self._key_ids[columns] = ids
        return self._key_ids[columns]


def _read_whole(file: ArchivedFile, warn: Callable[[str], None]) -> Iterator[bytes]:
    """Yield the readable lines of a file, and warn about the rest."""
    damages = 0
    try:
        for line in file.read_lines():
            if not isinstance(line, Damage):
                yield line
                continue
            damages += 1
            if damages <= DAMAGES_TOLD_AT_MOST:
                warn(f"{file.path}: from byte {line.at:,} on, {line.why}")
    except TroubleFound as error:
        warn(str(error))


def _is_new(seen: sqlite3.Connection, line: bytes) -> bool:
    digest = hashlib.blake2b(line, digest_size=16).digest()
    return seen.execute("insert or ignore into seen values (?)", (digest,)).rowcount == 1
