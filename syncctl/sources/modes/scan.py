"""What the modes without a cursor column have in common: they go through rows in the order of the key."""

from collections.abc import Iterator

from syncctl.core.rows import Cursor, Page, Scanned
from syncctl.sources.modes.reading import Reading, make_page
from syncctl.sources.pages import Where
from syncctl.sources.positions import Position


class Scan:
    """Goes through all rows of a condition, and keeps its place so that a long way may be gone in pieces."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._keyset = reading.pages.keyset

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows.

        Raises:
            ValueError: It is another place; there is none.
        """
        if text != "beginning":
            raise ValueError(f"mode {self._reading.layout.mode} has no cursor column to start at")
        return self._reading.bookmark(Position()).to_cursor()

    def scan(self, cursor: Cursor | None, *, since: Cursor | None = None) -> Iterator[list[Scanned]]:  # noqa: ARG002
        """Yield every row. None counts as being ahead: that only a cursor column can tell."""
        for found in self._reading.walk():
            yield [Scanned(row=each.row, is_ahead=False) for each in found]

    def count_behind(self, cursor: Cursor) -> int | None:  # noqa: ARG002
        """Return how many rows there are: each is compared again."""
        return self._reading.count([])

    def warnings(self) -> tuple[str, ...]:
        """Return nothing that is not known before."""
        return ()

    def _walk_on(self, cursor: Cursor, where: Where = ()) -> Iterator[Page]:
        """Yield the pages behind a cursor, in the order of the key."""
        mark = self._reading.read_bookmark(cursor)
        position, more = mark.position, True
        while more:
            found, more = self._reading.read([self._keyset.after(position), *where])
            if not found:
                return
            position = found[-1].position
            yield make_page(found, self._reading.bookmark(position).to_cursor())
