"""Check that a stored cursor still fits its stream: its basis, and that the rows before it are the rows that were read.

A change is refused, or reported until a rewind accepts it. No row is passed over silently (invariant 12).
"""

import shlex
from typing import TYPE_CHECKING

from syncctl.core.cursors import Basis, Part, Witness, Witnesses, find_impostors, list_changes, read_basis
from syncctl.core.rows import Cursor, Note
from syncctl.core.stream import Stream
from syncctl.errors import ServiceUnavailable, SourceError, SourceRestored
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from syncctl.logs import get_logger

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

log = get_logger(__name__)

UNCHECKED = Note(
    text="the last rows before the cursor could not be looked up, so a table that was filled anew goes unnoticed",
    hint="index the table by the key of the stream, or raise the source's query_timeout; it is tried again after ten "
    "minutes",
)
SHOWN = 3
_BEGINNING = "beginning"


def check_basis(ledger: Ledger, stream: Stream, lease: PollLease, reader: "StreamReader") -> list[Note]:
    """Store the basis of a stream's cursor; return notes on changes for the operator (invariant 12).

    In the stored basis, settings that only decide which rows are read stay as they were until a rewind accepts the new
    ones, so that each poll reports them. A stream without a known basis gets the present one.

    Raises:
        SourceError: The cursor belongs to another table, another database, or rows with another key.
    """
    before = None if lease.basis is None or lease.cursor is None else read_basis(lease.basis)
    if before is None or lease.cursor is None:
        ledger.polls.set_basis(lease, reader.basis.to_document())
        return []
    lost, told = list_changes(before, reader.basis, reader.mode)
    if is_beginning(lease.cursor):
        # No row has been read yet.
        lost, told = frozenset(), told & {"start"}
    if lost:
        raise _refuse(stream.name, lease.cursor, before, reader.basis, lost)
    kept = reader.basis.keep(before, told)
    if kept != before:
        ledger.polls.set_basis(lease, kept.to_document())
    return [_tell(stream, lease.cursor, part, before) for part in sorted(told)]


def is_beginning(cursor: Cursor) -> bool:
    """Tell whether a cursor is the place before all rows."""
    return cursor.get("at") == _BEGINNING and cursor.get("key") is None


def write_rewind(stream: str, to: str) -> str:
    """Return the command that sets a stream's cursor to a value."""
    is_plain = to in (_BEGINNING, "now") or to.lower().startswith("0x") or to.lstrip("+-").replace(".", "", 1).isdigit()
    return f"syncctl rewind {stream} --to {to if is_plain else shlex.quote(f'cursor:{to}')}"


def _refuse(name: str, cursor: Cursor, before: Basis, now: Basis, lost: frozenset[Part]) -> SourceError:
    part = next(part for part in ("database", "table", "key") if part in lost)
    was, is_now = _describe(before, part), _describe(now, part)
    setting = f"the URL of streams.{name}.source" if part == "database" else f"streams.{name}.{part}"
    at = str(cursor["at"])
    return SourceError(
        f"stream {name} cannot go on: it reads {is_now} now",
        why=f"its cursor {at} belongs to {was}; if the stream went on, it would pass over the rows before this cursor",
        hint=f"undo the change of {setting}; or say where to go on: {write_rewind(name, _BEGINNING)} (all rows; "
        f"unchanged ones are not sent), --to now, or, if the cursor is still right: {write_rewind(name, at)}",
    )


def _describe(basis: Basis, part: Part) -> str:
    if part == "database":
        return f"database {basis.database}"
    if part == "key":
        return f"rows with the key {', '.join(basis.key)}"
    return "a query" if basis.table is None else f"table {basis.table}"


def _tell(stream: Stream, cursor: Cursor, part: Part, before: Basis) -> Note:
    name, at = stream.name, str(cursor["at"])
    stay = write_rewind(name, at)
    if part == "start":
        return Note(
            text=f"start = {stream.start} has no effect any more: the stream began at {before.start}, and is at {at}",
            hint=f"to go there: {write_rewind(name, stream.start)}; to stay: {stay}; or undo the change",
        )
    return Note(
        text=f"{part} has changed: rows before the cursor {at} that it did not include so far are not read",
        hint=f"to read them: {write_rewind(name, _BEGINNING)}; if there are none: {stay}; or undo the change",
    )


def check_witnesses(lease: PollLease, reader: "StreamReader") -> Witnesses | None:
    """Return the last rows before the cursor as they are now; None if they cannot be looked up, for example in time.

    To find a row of a view or a query by its key, the database may need a scan. No poll fails because of that.

    Raises:
        SourceRestored: Other rows now have their numbers or versions, so new rows before the cursor would be passed
            over (invariant 12).
    """
    witnesses, cursor = lease.witnesses, lease.cursor
    if (
        cursor is None
        or is_beginning(cursor)
        or not witnesses.rows
        or witnesses.columns_fingerprint != reader.columns_fingerprint
    ):
        return Witnesses(columns_fingerprint=reader.columns_fingerprint)
    if lease.is_unchecked:
        return None
    try:
        now = reader.find_again(witnesses.rows)
    except SourceRestored:
        raise
    except (ServiceUnavailable, SourceError) as error:
        log.warning("poll.unchecked", stream=lease.stream, error=str(error))
        return None
    columns = reader.telling_columns
    impostors = find_impostors(
        witnesses, now, columns, kind=reader.cursor_kind, reached=str(cursor["at"]), is_table=reader.reads_table
    )
    if impostors:
        raise _refuse_impostors(lease.stream, cursor, impostors, reader)
    return witnesses.look_again(now, columns)


def _refuse_impostors(name: str, cursor: Cursor, impostors: list[Witness], reader: "StreamReader") -> SourceRestored:
    at, column = str(cursor["at"]), reader.cursor_column
    shown = ", ".join(witness.at for witness in impostors[-SHOWN:])
    cause = (
        "versions are given out a second time" if reader.cursor_kind == "versions" else "other rows are in their place"
    )
    return SourceRestored(
        f"stream {name} cannot go on: the database was restored, or the table was filled anew",
        why=f"rows were read with {column} {shown}, but now {cause}; if the stream went on, it would pass over such "
        f"rows up to the cursor {at}",
        hint=f"read all rows (unchanged ones are not sent): {write_rewind(name, _BEGINNING)}; or, if these rows were "
        f"only changed: {write_rewind(name, at)}",
    )
