"""Mode flag: acknowledge each row's outcome in the source reliably and once, even if the row is edited meanwhile.

A statement tests the version that was read, and its commit is noted before it happens. For every row it is therefore
known, or found out by reading the row again, which of these is true:

- The statement was committed. A flag that is set afterwards is a new one, and the row is sent again.
- The statement changed nothing and the flag is still set. If the row has the content that was sent, the statement is
  run again with the row's present version; otherwise the poll logs the new content.
- The process died around the commit. If the version cannot show whether it was committed, a flag that is set is treated
  as a new one: the row may be sent twice, but no flag is lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.stream import Stream
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from syncctl.logs import get_logger
from syncctl.pipeline.polling.identity import NamedRow, name_row
from syncctl.pipeline.polling.page import Progress
from syncctl.pipeline.polling.recheck import find_readable

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

log = get_logger(__name__)

ACKNOWLEDGED_AT_ONCE = 100
UNREADABLE = "the row is still flagged, and the database cannot read it"
WITHOUT_EFFECT = "the statement changes nothing, although the row has the version that was read and is still flagged"


def acknowledge_finished(
    *,
    ledger: Ledger,
    stream: Stream,
    lease: PollLease,
    reader: "StreamReader",
    progress: Progress,
    should_stop: Callable[[], bool],
) -> int:
    """Acknowledge every finished record that is not acknowledged yet in the source; return how many.

    Safe to repeat: the statements test the version that was read, so a late or repeated one overwrites no edit.

    Raises:
        ServiceUnavailable: The source cannot be reached; the next poll acknowledges the records.
    """
    acknowledged = 0
    failed_too = stream.acknowledge_failed is not None
    while finished := ledger.acknowledgements.find(stream.name, failed_too=failed_too, limit=ACKNOWLEDGED_AT_ONCE):
        results = _acknowledge(ledger, stream, reader, finished)
        told = {result.id: result for result in results if result.error is None and result.new_version is None}
        # Rows that this poll reads from now on are read after the statement; the epoch marks the polls after it.
        versions = [(record.key_id, record.id) for record in finished if record.id in told]
        ledger.keys.note_acknowledged(stream.name, versions, epoch=lease.epoch)
        ledger.acknowledgements.settle(finished, results)
        acknowledged += len(told)
        progress.steps += 1
        for result in results:
            if result.error is not None:
                log.warning("poll.not_acknowledged", stream=stream.name, record=result.id, error=result.error)
            elif result.id in told and result.rows == 0:
                log.warning("poll.acknowledged_nothing", stream=stream.name, record=result.id)
        if should_stop():
            break
    return acknowledged


def _acknowledge(
    ledger: Ledger, stream: Stream, reader: "StreamReader", finished: Sequence[Acknowledgement]
) -> list[Acknowledged]:
    """Run the statements, and find out the state of the rows that they did not change."""
    begun = [record for record in finished if record.begun is not None]
    flagged, unreadable = _find_flagged(reader, begun)
    results = [
        _judge_begun(record, is_flagged=record.key_id in flagged, is_readable=record.key_id not in unreadable)
        for record in begun
        if not _was_not_committed(record, flagged.get(record.key_id))
    ]
    judged = {result.id for result in results}
    remaining = [record for record in finished if record.id not in judged]

    def before_commit(changed: Sequence[Acknowledged]) -> None:
        ledger.acknowledgements.begin(remaining, changed)

    done = reader.acknowledge(remaining, before_commit) if remaining else []
    without_effect = {result.id for result in done if result.error is None and result.rows == 0}
    results += [result for result in done if result.id not in without_effect]
    unchanged = [record for record in remaining if record.id in without_effect]
    return results + _judge_unchanged(ledger, stream, reader, unchanged)


def _find_flagged(
    reader: "StreamReader", records: Sequence[Acknowledgement]
) -> tuple[Mapping[str, NamedRow], set[str]]:
    """Return the rows of these records that are flagged now, by key id, and the key ids that cannot be read."""
    rows, unreadable = find_readable(reader, [record.key for record in records])
    return {named.key_id: named for named in (name_row(row, seq=0) for row in rows)}, unreadable


def _was_not_committed(record: Acknowledgement, row: NamedRow | None) -> bool:
    """Tell whether a begun statement was certainly not committed, because a commit would have changed the version."""
    if record.begun is None or record.begun.version_after is None or row is None:
        return False
    return row.row.acknowledge == record.version != record.begun.version_after


def _judge_begun(record: Acknowledgement, *, is_flagged: bool, is_readable: bool) -> Acknowledged:
    """Judge a record whose statement was about to be committed when its process died."""
    if not is_readable:
        return Acknowledged(id=record.id, error=UNREADABLE)
    # If the row is not flagged, the statement removed the flag. Otherwise the flag may be new: the row is sent again.
    after = record.begun.version_after if record.begun else None
    return Acknowledged(id=record.id, rows=0 if is_flagged else 1, version_after=after)


def _judge_unchanged(
    ledger: Ledger, stream: Stream, reader: "StreamReader", records: Sequence[Acknowledgement]
) -> list[Acknowledged]:
    """Judge records whose statement changed nothing, by the rows as they are now."""
    if not records:
        return []
    flagged, unreadable = _find_flagged(reader, records)
    known = ledger.keys.load(stream.name, [record.key_id for record in records])
    return [
        Acknowledged(id=record.id, error=UNREADABLE)
        if record.key_id in unreadable
        else _judge_row(record, flagged.get(record.key_id), known.get(record.key_id))
        for record in records
    ]


def _judge_row(record: Acknowledgement, row: NamedRow | None, key: KnownKey | None) -> Acknowledged:
    nothing = Acknowledged(id=record.id)
    if row is None or key is None or key.version != record.id:
        # The flag is gone, or a newer version of the row will be acknowledged.
        return nothing
    if row.hash != record.hash:
        # This poll logs the new content. If the row has its old content again by then, it still must be acknowledged.
        return replace(nothing, new_version=record.version)
    if row.row.acknowledge is None or row.row.acknowledge == record.version:
        return replace(nothing, error=WITHOUT_EFFECT)
    return replace(nothing, new_version=row.row.acknowledge)
