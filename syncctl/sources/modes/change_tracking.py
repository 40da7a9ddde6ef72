"""Mode change_tracking: inserts, updates and deletes as SQL Server's Change Tracking records them.

According to Microsoft's documents "Work with Change Tracking" and "CHANGETABLE", a delete reports only the key, a
version is assigned at commit, and truncating a table or turning the tracking off and on clears the recorded changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.rows import Cursor, Page, Row
from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.catalog.relation import Column, Kind, Relation, escape_colons, quote_name, split_name
from syncctl.sources.catalog.sqlserver_catalog import ISOLATION, RECOVERY_FORK, TRACKING_STATE
from syncctl.sources.cursor import Position, Raw, tag, untag
from syncctl.sources.keyset import Keyset
from syncctl.sources.modes.snapshot import KeyScan
from syncctl.sources.open_stream import OpenStream

VERSION, OPERATION = "SYS_CHANGE_VERSION", "SYS_CHANGE_OPERATION"
ALIAS = "ct"
LOAD, CHANGES = "load", "changes"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingState:
    """The state of a table's Change Tracking at one moment."""

    #: The version of the last committed change; None if the database does not track changes.
    current: int | None
    #: The version since which changes are known; None if the table is not tracked.
    oldest: int | None
    #: Named ids that stay the same as long as the database and the table do; only those that the login may see.
    identity: dict[str, str]


class ChangeFeed:
    """SQL Server's own record of changes: `CHANGETABLE(CHANGES ...)`."""

    def read_state(self, connection: sa.Connection, relation: Relation) -> TrackingState:
        """Read the versions, and the ids that distinguish this database from a restored one."""
        table = _format_table(connection, relation)
        row = connection.execute(sa.text(TRACKING_STATE), {"table": table}).one()
        identity = {"object": row.object_id, "database": row.database_identity, "fork": _read_fork(connection)}
        return TrackingState(
            current=None if row.current_version is None else int(row.current_version),
            oldest=None if row.oldest_version is None else int(row.oldest_version),
            identity={name: str(value) for name, value in identity.items() if value is not None},
        )

    def allows_snapshots(self, connection: sa.Connection) -> bool:
        """Tell whether ALLOW_SNAPSHOT_ISOLATION is on, so that a transaction sees the database at one moment."""
        return bool(connection.exec_driver_sql(ISOLATION).one().allows_snapshots)

    def since(self, connection: sa.Connection, relation: Relation, version: int, key: tuple[str, ...]) -> FromClause:
        """Return the changes since a version as a subquery: the key columns, VERSION, and OPERATION (I, U or D)."""
        quote = connection.dialect.identifier_preparer.quote
        columns = ", ".join(f"c.{quote(name)}" for name in key)
        table = _format_table(connection, relation)
        # The version is part of the text, because CHANGETABLE takes only a constant.
        text = (
            f"SELECT {columns}, c.{VERSION}, c.{OPERATION}"  # noqa: S608 - names are quoted, the version is a number
            f" FROM CHANGETABLE(CHANGES {table}, {int(version)}) AS c"
        )
        return (
            sa.text(escape_colons(text))
            .columns(*(sa.column(name) for name in key), sa.column(VERSION), sa.column(OPERATION))
            .subquery(ALIAS)
        )


def _format_table(connection: sa.Connection, relation: Relation) -> str:
    """Return the quoted name of the table that a relation reads."""
    table = relation.clause.element  # type: ignore[attr-defined]  # an alias of a table
    return str(connection.dialect.identifier_preparer.format_table(table))


def _read_fork(connection: sa.Connection) -> str | None:
    """Return an id that changes with a restore to an earlier time; None if the login may not see it."""
    try:
        fork = connection.exec_driver_sql(RECOVERY_FORK).scalar()
    except exc.DBAPIError:
        return None
    return None if fork is None else str(fork)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A place among the changes: after the row with this version and key; without a key, after the whole version."""

    version: int
    key: tuple[Raw, ...] | None = None


class ChangeTracking(KeyScan):
    """Loads the table once, by key, and then reads the changes since the load began.

    Each page of changes is read in one transaction, which sees the database at one moment if snapshot isolation is
    allowed. It reads first whether the place is still known, then how far the changes go, then the changes.
    """

    def __init__(self, opened: OpenStream) -> None:
        super().__init__(opened)
        assert opened.changes is not None  # noqa: S101 - decide_layout has checked it
        self._feed = opened.changes
        self._allows_snapshots = opened.run(self._feed.allows_snapshots)

    def parse_cursor(self, text: str) -> Cursor:
        """Return the cursor before all rows, after all changes, or after a version.

        Raises:
            ValueError: The text is not a version that has been reached.
        """
        state = self._opened.run(self._read_state)
        if text == "beginning":
            return {**super().parse_cursor(text), "phase": LOAD, "since": state.current, "identity": state.identity}
        place = Place(version=_current(state))
        if text != "now":
            if not text.isdigit() or int(text) > place.version:
                raise ValueError(f"{text!r} is not a version; the database is at {place.version}")
            place = Place(version=int(text))
        return self._write(place, state.identity)

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the rest of the first load, then the changes.

        Raises:
            SourceRestored: The changes since the cursor are no longer known.
        """
        if (cursor.get("mode"), cursor.get("column")) != ("change_tracking", self._opened.layout.cursor_name):
            self._opened.read_cursor(cursor)
        self._check_known(self._opened.run(self._read_state), cursor)
        if cursor.get("phase") == LOAD:
            kept = {name: cursor[name] for name in ("phase", "since", "identity")}
            for page in self._walk_on(cursor):
                yield Page(rows=page.rows, cursor={**page.cursor, **kept})
            cursor = self._write(Place(version=int(cursor["since"])), cursor["identity"])
            yield Page(rows=(), cursor=cursor)
        yield from self._pages_of_changes(cursor)

    def count_behind(self, cursor: Cursor) -> int | None:
        """Return how many rows the first load has to read; None after it, because changes cannot be counted."""
        return super().count_behind(cursor) if cursor.get("phase") == LOAD else None

    def warnings(self) -> tuple[str, ...]:
        """Warn if changes and rows are read at different moments."""
        if self._allows_snapshots:
            return ()
        return ("changes are read without snapshot isolation: ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON",)

    def _pages_of_changes(self, cursor: Cursor) -> Iterator[Page]:
        place, identity = _read_place(cursor), cursor["identity"]
        more = True
        while more:
            rows, reached, more = self._opened.run(lambda connection, at=place: self._read(connection, at, cursor))  # type: ignore[misc]
            if (reached, rows) == (place, []):
                return
            place = reached
            yield Page(rows=tuple(rows), cursor=self._write(place, identity))

    def _read(self, connection: sa.Connection, place: Place, cursor: Cursor) -> tuple[list[Row], Place, bool]:
        """Return one page of changes, the place after it, and whether there are more."""
        size = self._opened.stream.page_size
        if self._allows_snapshots:
            # All statements from here on are one transaction, which ends when the connection is returned.
            connection = connection.execution_options(isolation_level="SNAPSHOT")
        state = self._read_state(connection)
        self._check_known(state, cursor, place)
        changes = self._list_changes(connection, place, upto=_current(state), limit=size + 1)
        read = [(number, *self._make_row(connection, change)) for number, change in enumerate(changes[:size])]
        present = [(number, row, raw) for number, row, raw in read if row is not None]
        rows = [row for _, row, _ in present]
        complete = self._opened.pages.attach(connection, rows, [raw for _, _, raw in present])
        if complete == len(rows) and len(changes) <= size:
            return rows, Place(version=_current(state)), False
        # A page of rows with large children ends early, before the first row whose children are not attached.
        last = changes[size - 1] if complete == len(rows) else changes[present[complete][0] - 1]
        return rows[:complete], Place(version=int(last[0]), key=tuple(last[2:])), True

    def _list_changes(
        self, connection: sa.Connection, place: Place, *, upto: int, limit: int
    ) -> Sequence[Sequence[Raw]]:
        """Return (version, operation, key ...) of the changes after a place, in their order."""
        key, dialect = self._opened.layout.key, self._opened.source.dialect
        # A page may end within a version: its changes are asked for again, and the key says where to continue.
        since = place.version if place.key is None else place.version - 1
        changes = self._feed.since(connection, self._opened.relation, since, tuple(column.name for column in key))
        keyset = Keyset(
            dialect=dialect,
            columns=(Column(name=VERSION, kind=Kind.INTEGER, nullable=False), *key),
            expressions=[changes.c[VERSION], *(changes.c[column.name] for column in key)],
        )
        statement = (
            sa.select(
                changes.c[VERSION],
                changes.c[OPERATION],
                *(dialect.shown(column, changes.c[column.name]).label(f"k{n}") for n, column in enumerate(key)),
            )
            .where(changes.c[VERSION] <= sa.literal(upto, sa.BigInteger()))
            .order_by(*keyset.order_by())
            .limit(limit)
        )
        if place.key is not None:
            statement = statement.where(keyset.after(Position(value=place.version, key=place.key)))
        return connection.execute(statement).all()

    def _make_row(self, connection: sa.Connection, change: Sequence[Raw]) -> tuple[Row | None, Sequence[Raw] | None]:
        """Return the row of a change, without its children, and its raw values.

        The row is None if it is gone by now; its delete then comes in a later version.
        """
        _, operation, *key = change
        if str(operation).strip() == "D":
            return self._opened.pages.make_deleted(key), None
        rows = self._opened.pages.read_bare_at(connection, key)
        if rows:
            return rows[0][0].row, rows[0][1]
        # For the partner, a row that no longer meets the stream's condition is gone, like a deleted row.
        return (None if self._opened.stream.where is None else self._opened.pages.make_deleted(key)), None

    def _read_state(self, connection: sa.Connection) -> TrackingState:
        state = self._feed.read_state(connection, self._opened.relation)
        if state.current is None or state.oldest is None:
            raise self._not_tracked(state)
        return state

    def _check_known(self, state: TrackingState, cursor: Cursor, place: Place | None = None) -> None:
        """Refuse to continue from a place whose changes are not known: rows would be lost silently (invariant 12)."""
        name, before = self._opened.stream.name, cursor.get("identity", {})
        place = Place(version=int(cursor["since"])) if cursor.get("phase") == LOAD else place or _read_place(cursor)
        reached = place.version
        # From a place within a version, the version's changes are asked for again: those since the previous version.
        asked = reached if place.key is None else reached - 1
        other = sorted(part for part in before if part in state.identity and before[part] != state.identity[part])
        if other:
            why = f"this is not the database, or not the table, that was read before ({', '.join(other)} changed)"
        elif _current(state) < reached:
            why = f"its changes are at version {state.current}, but were read up to {reached} before"
        elif state.oldest is not None and asked < state.oldest:
            why = f"changes are known since version {state.oldest}, and were read up to {reached}: they were cleaned up"
        else:
            return
        command_name = self._opened.stream.command_name
        raise SourceRestored(
            f"stream {name} cannot go on: its place among the changes is lost",
            why=why,
            hint="read the table again, which does not send unchanged rows: "
            f"syncctl rewind {command_name} --to beginning; "
            f"then find rows that were deleted in the meantime: syncctl reconcile {command_name}",
        )

    def _not_tracked(self, state: TrackingState) -> ConfigurationError:
        table = quote_name(*split_name(self._opened.stream.table or ""))
        if state.current is None:
            what, fix = (
                "the database does not track changes",
                "ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)",
            )
        else:
            what, fix = f"{table} is not tracked", f"ALTER TABLE {table} ENABLE CHANGE_TRACKING"
        right = f"GRANT VIEW CHANGE TRACKING ON {table} TO ..."
        return ConfigurationError(
            f"stream {self._opened.stream.name} cannot be read in mode change_tracking",
            why=f"{what}, or the login may not see it",
            hint=f"run: {fix}; and: {right}",
        )

    def _write(self, place: Place, identity: Any) -> Cursor:
        key = None if place.key is None else [tag(value) for value in place.key]
        return {
            "mode": "change_tracking",
            "column": self._opened.layout.cursor_name,
            "at": str(place.version),
            "kind": "int",
            "key": key,
            "phase": CHANGES,
            "identity": dict(identity),
        }


def _current(state: TrackingState) -> int:
    assert state.current is not None  # noqa: S101 - _read_state has checked it
    return state.current


def _read_place(cursor: Cursor) -> Place:
    key = cursor.get("key")
    return Place(version=int(cursor["at"]), key=None if key is None else tuple(untag(value) for value in key))
