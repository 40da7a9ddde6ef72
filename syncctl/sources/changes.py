"""SQL Server's Change Tracking: which rows were inserted, updated or deleted since a version.

After Microsoft's documents: "Work with Change Tracking" and "CHANGETABLE". Deletes bring only the key; a version is
given out at commit; truncating a table and switching the tracking off and on clear it.
"""

from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql.selectable import FromClause

from syncctl.sources.tables import Relation

VERSION, OPERATION = "SYS_CHANGE_VERSION", "SYS_CHANGE_OPERATION"
ALIAS = "ct"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """What is known of a table's tracking at one moment.

    Args:
        current: The version of the last change that was committed; None where the database keeps no track.
        oldest: Changes since this version and later ones can be asked for; None where the table is not tracked.
        identity: Parts by name that stay the same as long as the database and the table are; what the login may not
            see is absent.
    """

    current: int | None
    oldest: int | None
    identity: dict[str, str]


class ChangeFeed(Protocol):
    """A database's own record of what has changed."""

    def read_state(self, connection: sa.Connection, relation: Relation) -> Tracking:
        """Return where the tracking of a table stands."""

    def allows_snapshots(self, connection: sa.Connection) -> bool:
        """Say whether a transaction can see the database as it was at one moment."""

    def since(self, connection: sa.Connection, relation: Relation, version: int, key: tuple[str, ...]) -> FromClause:
        """Return what has changed since a version: the key columns, VERSION, and OPERATION (I, U or D)."""


# The replicas of an availability group were created at different times, and are one database: its id in the group is
# the same on all of them, and another one after a restore, for which a database has to leave the group.
_IDENTITY = (
    "SELECT COALESCE(CONVERT(VARCHAR(36), group_database_id), CONVERT(VARCHAR(33), create_date, 126))"
    " FROM sys.databases WHERE database_id = DB_ID()"
)


class SqlServerChanges:
    """`CHANGETABLE(CHANGES ...)`."""

    def read_state(self, connection: sa.Connection, relation: Relation) -> Tracking:
        """Ask for the versions and for what tells this database from a restored one."""
        table = _format_table(connection, relation)
        row = connection.execute(
            sa.text(
                "SELECT CHANGE_TRACKING_CURRENT_VERSION() AS current_version,"
                " CHANGE_TRACKING_MIN_VALID_VERSION(OBJECT_ID(:table)) AS oldest_version,"
                " OBJECT_ID(:table) AS object_id,"
                f" ({_IDENTITY}) AS database_identity"
            ),
            {"table": table},
        ).one()
        identity = {"object": str(row.object_id), "database": row.database_identity, "fork": _read_fork(connection)}
        return Tracking(
            current=None if row.current_version is None else int(row.current_version),
            oldest=None if row.oldest_version is None else int(row.oldest_version),
            identity={name: str(value) for name, value in identity.items() if value is not None},
        )

    def allows_snapshots(self, connection: sa.Connection) -> bool:
        """Say whether ALLOW_SNAPSHOT_ISOLATION is on."""
        state = connection.exec_driver_sql(
            "SELECT snapshot_isolation_state FROM sys.databases WHERE database_id = DB_ID()"
        ).scalar()
        return state == 1

    def since(self, connection: sa.Connection, relation: Relation, version: int, key: tuple[str, ...]) -> FromClause:
        """Return CHANGETABLE as a subquery. The version stands in the text, for it must be a constant there."""
        quote = connection.dialect.identifier_preparer.quote
        columns = ", ".join(f"c.{quote(name)}" for name in key)
        table = _format_table(connection, relation)
        text = (
            f"SELECT {columns}, c.{VERSION}, c.{OPERATION}"  # noqa: S608 - names are quoted, the version is a number
            f" FROM CHANGETABLE(CHANGES {table}, {int(version)}) AS c"
        )
        return (
            sa.text(text.replace(":", r"\:"))
            .columns(*(sa.column(name) for name in key), sa.column(VERSION), sa.column(OPERATION))
            .subquery(ALIAS)
        )


def _format_table(connection: sa.Connection, relation: Relation) -> str:
    """Return the quoted name of the table that a relation reads."""
    table = relation.clause.element  # type: ignore[attr-defined]  # an alias of a table
    return str(connection.dialect.identifier_preparer.format_table(table))


def _read_fork(connection: sa.Connection) -> str | None:
    """Return what a restore to an earlier time changes, where the login may see it."""
    try:
        fork = connection.exec_driver_sql(
            "SELECT CONVERT(VARCHAR(36), recovery_fork_guid) FROM sys.database_recovery_status"
            " WHERE database_id = DB_ID()"
        ).scalar()
    except exc.DBAPIError:
        return None
    return None if fork is None else str(fork)
