"""The cursor modes, one file each: how a stream finds what is new, changed or gone."""

from collections.abc import Callable, Iterator
from typing import Protocol

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.core.stream import Mode
from syncctl.sources.modes.change_tracking import ChangeTracking
from syncctl.sources.modes.flag import Flag
from syncctl.sources.modes.increasing import Increasing
from syncctl.sources.modes.reading import Reading
from syncctl.sources.modes.rowversion import Rowversion
from syncctl.sources.modes.snapshot import Snapshot


class CursorMode(Protocol):
    """How a stream is followed. Every page is a statement of its own, run when the page is asked for."""

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor at `beginning`, `now`, or a value that an operator wrote.

        Raises:
            ValueError: It is no place in this stream.
        """

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the pages behind a cursor until one is short."""

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:
        """Yield the rows behind a cursor, or all there are, and say which of them the next poll will read."""

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows lie behind a cursor; None where the mode cannot tell."""

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know, one line each."""


MODES: dict[Mode, Callable[[Reading], CursorMode]] = {
    "rowversion": Rowversion,
    "increasing": Increasing,
    "change_tracking": ChangeTracking,
    "flag": Flag,
    "snapshot": Snapshot,
}
