"""Mode flag: tell the source what became of its rows."""

from collections.abc import Callable, Sequence
from typing import Protocol

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.ids import key_id
from syncctl.core.stream import Stream
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.streams import PollLease
from syncctl.logs import get_logger

log = get_logger(__name__)

AT_ONCE = 100


class Told(Protocol):
    """What this needs of a source."""

    def acknowledge(self, rows: Sequence[Acknowledgement]) -> list[Acknowledged]:
        """Run the statement of mode flag for these rows."""


def acknowledge_finished(
    *, ledger: Ledger, stream: Stream, lease: PollLease, reader: Told, should_stop: Callable[[], bool]
) -> int:
    """Tell the source of every finished record that it has not been told of; return how many. Safe to repeat.

    The statements test the version that was read, so one that runs twice, or late, wipes no edit out.

    Raises:
        ServiceUnavailable: The source cannot be reached; it is told at the next poll.
    """
    told = 0
    failed_too = stream.acknowledge_failed is not None
    while rows := ledger.acknowledgements.find(stream.name, failed_too=failed_too, limit=AT_ONCE):
        done = reader.acknowledge(rows)
        settled = {each.id for each in done if each.error is None}
        changed = {each.id for each in done if each.error is None and each.rows != 0}
        # Rows that this poll reads from here on were read after the statement: they count from the next poll on.
        versions = [(key_id(each.key), each.id) for each in rows if each.id in changed]
        ledger.keys.note_acknowledged(stream.name, versions, epoch=lease.epoch)
        ledger.acknowledgements.settle(rows, done)
        told += len(settled)
        for each in done:
            if each.error is None and each.rows == 0:
                log.warning("poll.acknowledged_nothing", stream=stream.name, record=each.id)
            if each.error is not None:
                log.warning("poll.not_acknowledged", stream=stream.name, record=each.id, error=each.error)
        if should_stop():
            break
    return told
