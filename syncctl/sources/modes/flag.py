"""Mode flag: the rows for which a condition holds, until a statement in the source acknowledges them."""

from collections.abc import Iterator

from syncctl.core.rows import Cursor, Page
from syncctl.sources.modes.scan import Scan


class Flag(Scan):
    """Goes through the rows of the condition round after round; what waits for its delivery is seen and known."""

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the rest of this round, and then the turn to the next."""
        last = cursor
        for page in self._walk_on(cursor):
            last = page.cursor
            yield page
        start = self.parse_cursor("beginning")
        if dict(last) != dict(start):
            yield Page(rows=(), cursor=start)
