"""Mode change_tracking: inserts, updates and deletes as SQL Server keeps track of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from syncctl.core.rows import Cursor, Page, Row
from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.changes import OPERATION, VERSION, ChangeFeed, Tracking
from syncctl.sources.keyset import Keyset
from syncctl.sources.modes.reading import Reading
from syncctl.sources.modes.scan import Scan
from syncctl.sources.positions import Position, Raw, tag, untag
from syncctl.sources.tables import Column, Kind

LOAD, CHANGES = "load", "changes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A place among the changes: behind the row with this version and key; without a key behind the whole version."""

    version: int
    key: tuple[Raw, ...] | None = None


class ChangeTracking(Scan):
    """Loads the table once, by key, and then reads what has changed since that began.

    Each page of changes is read in one transaction, which sees the database as it was at one moment where snapshot
    isolation is allowed: first whether the place is still known, then how far the changes go, then the changes.
    """

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading)
        assert reading.changes is not None  # noqa: S101 - the layout has looked
        self._feed: ChangeFeed = reading.changes
        self._allows_snapshots = reading.ask(self._feed.allows_snapshots)

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows, behind all changes, or behind a version.

        Raises:
            ValueError: It is no version that can be asked for.
        """
        state = self._reading.ask(self._read_state)
        if text == "beginning":
            return {**super().parse_cursor(text), "phase": LOAD, "since": state.current, "identity": state.identity}
        place = Place(version=_current(state))
        if text != "now":
            if not text.isdigit() or int(text) > place.version:
                raise ValueError(f"{text!r} is no version; the database stands at {place.version}")
            place = Place(version=int(text))
        return self._write(place, state.identity)

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the rest of the first load, then the changes.

        Raises:
            SourceRestored: The changes since the cursor are not known any more.
        """
        if (cursor.get("mode"), cursor.get("column")) != ("change_tracking", self._reading.layout.cursor_name):
            self._reading.read_bookmark(cursor)
        self._check_known(self._reading.ask(self._read_state), cursor)
        if cursor.get("phase") == LOAD:
            kept = {name: cursor[name] for name in ("phase", "since", "identity")}
            for page in self._walk_on(cursor):
                yield Page(rows=page.rows, cursor={**page.cursor, **kept})
            cursor = self._write(Place(version=int(cursor["since"])), cursor["identity"])
            yield Page(rows=(), cursor=cursor)
        yield from self._pages_of_changes(cursor)

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows the first load has to read; how many have changed since, nobody counts."""
        return super().count_behind(cursor) if cursor.get("phase") == LOAD else None

    def warnings(self) -> tuple[str, ...]:
        """Say what is missing for pages that hold together."""
        if self._allows_snapshots:
            return ()
        return ("changes are read without snapshot isolation: ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON",)

    def _pages_of_changes(self, cursor: Cursor) -> Iterator[Page]:
        place, identity = _read_place(cursor), cursor["identity"]
        more = True
        while more:
            rows, reached, more = self._reading.ask(lambda connection, at=place: self._read(connection, at, cursor))  # type: ignore[misc]
            if (reached, rows) == (place, []):
                return
            place = reached
            yield Page(rows=tuple(rows), cursor=self._write(place, identity))

    def _read(self, connection: sa.Connection, place: Place, cursor: Cursor) -> tuple[list[Row], Place, bool]:
        """Return one page of changes, the place behind it, and whether there are more."""
        size = self._reading.stream.page_size
        if self._allows_snapshots:
            # All that follows is one transaction, which ends when the connection goes back.
            connection = connection.execution_options(isolation_level="SNAPSHOT")
        state = self._read_state(connection)
        self._check_known(state, cursor, place)
        changes = self._list_changes(connection, place, upto=_current(state), limit=size + 1)
        rows = [row for each in changes[:size] if (row := self._make_row(connection, each)) is not None]
        if len(changes) <= size:
            return rows, Place(version=_current(state)), False
        last = changes[size - 1]
        return rows, Place(version=int(last[0]), key=tuple(last[2:])), True

    def _list_changes(
        self, connection: sa.Connection, place: Place, *, upto: int, limit: int
    ) -> Sequence[Sequence[Raw]]:
        """Return (version, operation, key ...) of the changes behind a place, in their order."""
        key = self._reading.layout.key
        # The changes of the version that a page ended in are asked for again; its key says where to go on.
        since = place.version if place.key is None else place.version - 1
        changes = self._feed.since(connection, self._reading.relation, since, tuple(each.name for each in key))
        keyset = Keyset(
            dialect=self._reading.opened.dialect,
            columns=(Column(name=VERSION, kind=Kind.INTEGER, nullable=False), *key),
            expressions=[changes.c[VERSION], *(changes.c[each.name] for each in key)],
        )
        shown = self._reading.opened.dialect.shown
        statement = (
            sa.select(
                changes.c[VERSION],
                changes.c[OPERATION],
                *(shown(each, changes.c[each.name]).label(f"k{n}") for n, each in enumerate(key)),
            )
            .where(changes.c[VERSION] <= sa.literal(upto, sa.BigInteger()))
            .order_by(*keyset.order_by())
            .limit(limit)
        )
        if place.key is not None:
            statement = statement.where(keyset.after(Position(value=place.version, key=place.key)))
        return connection.execute(statement).all()

    def _make_row(self, connection: sa.Connection, change: Sequence[Raw]) -> Row | None:
        """Return the row of a change; None where it is gone by now and its delete comes in a later version."""
        _, operation, *key = change
        if str(operation).strip() == "D":
            return self._reading.pages.make_deleted(key)
        found = self._reading.pages.read_at(connection, key)
        if found:
            return found[0].row
        # To the partner, a row that has left the stream's condition is gone; and one that is really gone stays so.
        return None if self._reading.stream.where is None else self._reading.pages.make_deleted(key)

    def _read_state(self, connection: sa.Connection) -> Tracking:
        state = self._feed.read_state(connection, self._reading.relation)
        if state.current is None or state.oldest is None:
            raise self._not_tracked(state)
        return state

    def _check_known(self, state: Tracking, cursor: Cursor, place: Place | None = None) -> None:
        """Refuse to go on from a place whose changes are not known: rows would be lost without a word."""
        name, before = self._reading.stream.name, cursor.get("identity", {})
        place = Place(version=int(cursor["since"])) if cursor.get("phase") == LOAD else place or _read_place(cursor)
        reached = place.version
        # Within a version, its changes are asked for once more: those since the version before.
        asked = reached if place.key is None else reached - 1
        other = sorted(part for part in before if part in state.identity and before[part] != state.identity[part])
        if other:
            why = f"this is not the database, or not the table, that was read before ({', '.join(other)} changed)"
        elif _current(state) < reached:
            why = f"its changes stand at version {state.current} and were read up to {reached} before"
        elif state.oldest is not None and asked < state.oldest:
            why = f"changes are known since version {state.oldest}, and were read up to {reached}: they were cleaned up"
        else:
            return
        raise SourceRestored(
            f"stream {name} cannot go on: its place among the changes is lost",
            why=why,
            hint=f"read the table again, unchanged rows are not sent: syncctl rewind {name} --to beginning; "
            f"rows deleted meanwhile show in: syncctl reconcile {name}",
        )

    def _not_tracked(self, state: Tracking) -> ConfigurationError:
        table = self._reading.stream.table
        if state.current is None:
            what, fix = (
                "the database keeps no track of changes",
                ("ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)"),
            )
        else:
            what, fix = f"{table} is not tracked", f"ALTER TABLE {table} ENABLE CHANGE_TRACKING"
        right = f"GRANT VIEW CHANGE TRACKING ON {table} TO ..."
        return ConfigurationError(
            f"stream {self._reading.stream.name} cannot be read in mode change_tracking",
            why=f"{what}, or the login may not see it",
            hint=f"run: {fix}; and: {right}",
        )

    def _write(self, place: Place, identity: Any) -> Cursor:
        key = None if place.key is None else [tag(each) for each in place.key]
        return {
            "mode": "change_tracking",
            "column": self._reading.layout.cursor_name,
            "at": str(place.version),
            "kind": "int",
            "key": key,
            "phase": CHANGES,
            "identity": dict(identity),
        }


def _current(state: Tracking) -> int:
    assert state.current is not None  # noqa: S101 - _read_state has looked
    return state.current


def _read_place(cursor: Cursor) -> Place:
    key = cursor.get("key")
    return Place(version=int(cursor["at"]), key=None if key is None else tuple(untag(each) for each in key))
