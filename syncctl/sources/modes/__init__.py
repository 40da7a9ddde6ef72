"""The cursor modes, one file each: the ways in which a stream finds new, changed and deleted rows."""

from collections.abc import Callable, Iterator
from typing import Protocol

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.core.stream import Mode
from syncctl.sources.modes.change_tracking import ChangeTracking
from syncctl.sources.modes.flag import Flag
from syncctl.sources.modes.increasing import Increasing
from syncctl.sources.modes.rowversion import Rowversion
from syncctl.sources.modes.snapshot import Snapshot
from syncctl.sources.open_stream import OpenStream


class CursorMode(Protocol):
    """A way to follow a stream. Every page is a separate statement, which runs when the page is asked for."""

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor at `beginning`, `now`, or a value that an operator wrote.

        Raises:
            ValueError: The text is not a place in this stream.
        """

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages after a cursor until one is short."""

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield all rows, or the rows after `since`, and mark those that the next poll from `cursor` will read."""

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows come after a cursor; None if the mode cannot count them."""

    def warnings(self) -> tuple[str, ...]:
        """Return warnings for the operator, one line each."""


MODES: dict[Mode, Callable[[OpenStream], CursorMode]] = {
    "rowversion": Rowversion,
    "increasing": Increasing,
    "change_tracking": ChangeTracking,
    "flag": Flag,
    "snapshot": Snapshot,
}
