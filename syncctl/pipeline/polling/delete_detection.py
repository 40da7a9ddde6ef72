"""Mode snapshot's second half: find the rows that the ledger knows and the source no longer holds."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import Stream
from syncctl.errors import SourceError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.polling.page import PageLog

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

KEYS_AT_ONCE = 500
ALWAYS_ALLOWED_DELETES = 10
"""This many rows may be deleted whatever their share, unless the allowed share is 0."""


def detect_deletes(
    *, ledger: Ledger, stream: Stream, pages: PageLog, reader: "StreamReader", should_stop: Callable[[], bool]
) -> bool:
    """Look up every known row by its key, and log a delete for each row that is gone.

    Returns False if stopped before the end. The place is kept in the cursor, so that the next poll continues from
    there. Safe to repeat.

    Raises:
        SourceError: More rows are gone than the stream allows. The next poll begins a new round.
    """
    cursor = dict(pages.progress.cursor or {})
    known_before = int(cursor.get("known", 0))
    deleted = int(cursor.get("deleted", 0))

    def refuse_too_many(gone: int) -> None:
        if is_too_many(stream, gone=gone, known=known_before):
            pages.move_cursor(reader.start_cursor())
            raise _too_many(stream, gone=gone, known=known_before, deleted=deleted)

    if not cursor["swept"]:
        # The rows that are known now and were not read in this round.
        refuse_too_many(ledger.keys.count_live(stream.name) - int(cursor["rows"]))
    while known := ledger.keys.load_live(stream.name, after=cursor["swept"], limit=KEYS_AT_ONCE):
        gone = reader.find_missing([key for _, key in known])
        refuse_too_many(deleted + len(gone))
        deleted += len(gone)
        cursor = {**cursor, "swept": known[-1][0], "deleted": deleted}
        pages.log(
            Page(rows=tuple(Row(key=key, payload=None, op="delete") for key in gone), cursor=cursor),
            columns_fingerprint=reader.columns_fingerprint,
        )
        if should_stop():
            return False
    pages.move_cursor(reader.start_cursor())
    return True


def begin_round(ledger: Ledger, stream: Stream, cursor: Cursor) -> Cursor:
    """Return the cursor with the number of rows that were known when its round began."""
    return cursor if "known" in cursor else {**cursor, "known": ledger.keys.count_live(stream.name)}


def is_too_many(stream: Stream, *, gone: int, known: int) -> bool:
    """Return whether the number of rows that are gone requires an operator's decision.

    An emptied table, a new filter or a lost right must not delete everything at the partner.
    """
    always_allowed = ALWAYS_ALLOWED_DELETES if stream.max_delete_share > 0 else 0
    return gone > always_allowed and gone > known * stream.max_delete_share


def _too_many(stream: Stream, *, gone: int, known: int, deleted: int) -> SourceError:
    logged = f"{deleted:,} deletes were logged before" if deleted else "no delete was logged"
    return SourceError(
        f"stream {stream.name} stopped: {gone:,} of {known:,} known rows are gone",
        why=f"that is more than max_delete_share ({stream.max_delete_share:g}) allows; {logged}",
        hint="if they come back, the next poll finds them; if they were really deleted, set "
        f"streams.{stream.name}.max_delete_share = 1 for one poll",
    )
