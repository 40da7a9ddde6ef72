"""Schema drift: report a source column that appears, disappears or changes its type, before it causes an error at a
partner."""

from typing import TYPE_CHECKING

from syncctl.core.schema_changes import list_schema_changes
from syncctl.core.stream import Stream
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from syncctl.logs import get_logger
from syncctl.pipeline.polling.page import Progress

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

log = get_logger(__name__)


def note_schema_changes(
    ledger: Ledger, stream: Stream, lease: PollLease, reader: "StreamReader", progress: Progress
) -> None:
    """Store the columns that the source declares now; report each difference from the previous poll once.

    The first poll has nothing to compare; nor has a poll whose settings name another table, or a new child.
    """
    changes = list_schema_changes(lease.declared, reader.declared, reader.sent_columns)
    if not ledger.source_schemas.note(lease, reader.declared, changes):
        # The poll that took over reports them.
        return
    for change in changes:
        log.warning(
            "poll.schema_changed",
            stream=stream.name,
            change=change.kind,
            column=change.column,
            before=change.before,
            after=change.after,
            sent=change.is_sent,
        )
        progress.schema_changes.append(change.line)
