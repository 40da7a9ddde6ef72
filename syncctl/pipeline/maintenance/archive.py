"""The archive of records that cleanup has removed: writing them before, and finding them after."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from syncctl.archive.archive_files import ArchivedFile, append_lines, list_files
from syncctl.archive.frames import Damage
from syncctl.core.ids import key_id
from syncctl.errors import TroubleFound, UsageError
from syncctl.ledger.archived_records import begin_line, read_line, to_line
from syncctl.pipeline.selection import read_key

Doc = Mapping[str, Any]
DAMAGES_TOLD_AT_MOST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which records of an archive are looked for; all conditions are met at once."""

    streams: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    #: When they finished.
    since: datetime | None = None
    #: Excluded.
    until: datetime | None = None
    #: The text of a key: `5`, or `a=1,b=2`.
    key: str | None = None
    #: An id, or the beginning of one.
    record_id: str | None = None


def archive_records(directory: Path, stream: str, documents: Sequence[Doc]) -> None:
    """Write finished records of a stream to the archive, each to the file of the day on which it finished.

    When this returns, they are on the disk and were read back. Safe to repeat.

    Raises:
        ArchiveError: Some could not be written, so that none of them may be removed.
    """
    days: dict[date, list[bytes]] = {}
    for document in documents:
        days.setdefault(document["finished_at"].astimezone(UTC).date(), []).append(to_line(document))
    for day, lines in days.items():
        append_lines(directory, stream, day, lines)


def search_archive(
    directory: Path, wanted: Wanted, *, warn: Callable[[str], None], on_file: Callable[[int], None] = lambda _: None
) -> Iterator[Doc]:
    """Yield the records of an archive that are looked for, the oldest days first, each once.

    A record that cleanup archived twice, because it was interrupted in between, is yielded once; one that was replayed
    in between, as often as it differs. Memory does not grow with their number.

    Args:
        warn: Told of what cannot be read; the rest is read all the same.
        on_file: Told how many files have been read.

    Raises:
        TroubleFound: The directory cannot be read.
    """
    begin = begin_line(wanted.record_id).rstrip() if wanted.record_id is not None else b""
    since = wanted.since.astimezone(UTC).date() if wanted.since else None
    until = wanted.until.astimezone(UTC).date() if wanted.until else None
    files = list_files(directory, streams=wanted.streams, since=since, until=until)
    match = _Match(wanted)
    # A database without a name is a file of its own that is removed with the connection.
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
        TroubleFound: There is none.
        UsageError: Several ids begin so.
    """
    stream, dash, _ = record_id.rpartition("-")
    if not dash:
        raise UsageError(
            f"{record_id} is not the id of a record",
            why="an id is the name of a stream, a dash, and hex digits",
            hint="run: syncctl archive search --key KEY",
        )
    found: list[Doc] = []
    ids: dict[str, None] = {}
    for record in search_archive(directory, Wanted(streams=(stream,), record_id=record_id), warn=warn):
        ids[record["_id"]] = None
        if len(ids) > 1:
            raise UsageError(
                f"{record_id} is ambiguous", why=f"{' and '.join(ids)} begin with it", hint="give more of its digits"
            )
        found.append(record)
    if not found:
        raise TroubleFound(
            f"the archive in {directory} has no record {record_id}",
            why="it was never archived, is still in the ledger, or its file was moved",
            hint=f"run: syncctl show {record_id}",
        )
    return found


class _Match:
    """Tells whether records meet conditions."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._key_ids: dict[tuple[str, ...], frozenset[str]] = {}

    def meets(self, record: Doc) -> bool:
        """Tell whether a record meets all of them."""
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
    """Yield the lines of a file that can be read, and tell of the rest."""
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
