"""SQL Server's catalog: every statement that reads its catalog views, management views and properties.

The statements follow Microsoft's documents ("Object catalog views", "Dynamic management views", "Change tracking
functions").
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.catalog import CatalogColumn, CatalogIndex, CatalogTable, Reference, TableName, make_column
from syncctl.sources.catalog.relation import bracket, escape_colons, quote_name
from syncctl.sources.catalog.sqlserver_types import format_type, make_type
from syncctl.sources.dialect import Dialect

SERVER = (
    "SELECT CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(SERVERPROPERTY('Edition') AS nvarchar(128)),"
    " CAST(SERVERPROPERTY('EngineEdition') AS int)"
)
"""The server's version, edition and engine."""

IS_ENCRYPTED = "SELECT CAST(encrypt_option AS nvarchar(40)) FROM sys.dm_exec_connections WHERE session_id = @@SPID"
"""`TRUE` if this connection is encrypted."""

ISOLATION = (
    "SELECT name, is_read_committed_snapshot_on AS reads_versions,"
    " CASE snapshot_isolation_state WHEN 1 THEN 1 ELSE 0 END AS allows_snapshots"
    " FROM sys.databases WHERE database_id = DB_ID()"
)
"""The database's name, whether READ_COMMITTED_SNAPSHOT is on, and whether snapshot transactions are allowed."""

ROLE = (
    "SELECT name, is_read_only, CASE WHEN is_in_standby = 1 OR (is_read_only = 0"
    " AND CAST(DATABASEPROPERTYEX(DB_NAME(), 'Updateability') AS nvarchar(20)) = N'READ_ONLY') THEN 1 ELSE 0 END"
    " AS is_secondary FROM sys.databases WHERE database_id = DB_ID()"
)
"""The database's name, whether it was set read-only, and whether it is a copy of a database that is written elsewhere.

A readable secondary and a standby of log shipping accept no writes. Neither does a database that was set read-only, but
that is not a copy.
"""

ROWVERSIONS_HELD_BACK = "SELECT CAST(@@DBTS AS bigint) - CAST(MIN_ACTIVE_ROWVERSION() AS bigint) + 1"
"""How many rowversions were assigned from the lowest uncommitted one on; without any, the minimum is @@DBTS + 1."""

OLDEST_TRANSACTION = (
    "SELECT TOP 1 DATEDIFF(second, d.database_transaction_begin_time, SYSDATETIME()) AS age_seconds,"
    " CONVERT(varchar(19), d.database_transaction_begin_time, 126) AS began,"
    " s.session_id, s.login_name, s.host_name, s.program_name"
    " FROM sys.dm_tran_database_transactions AS d"
    " LEFT JOIN sys.dm_tran_session_transactions AS t ON t.transaction_id = d.transaction_id"
    " LEFT JOIN sys.dm_exec_sessions AS s ON s.session_id = t.session_id"
    " WHERE d.database_id = DB_ID() AND d.database_transaction_type = 1"
    " AND d.database_transaction_begin_time IS NOT NULL ORDER BY d.database_transaction_begin_time"
)
"""The oldest transaction that has written in this database: a transaction that only reads holds back no rowversion."""

PERMISSION = "SELECT HAS_PERMS_BY_NAME(:name, 'OBJECT', :right), OBJECT_ID(:name), USER_NAME()"
"""Whether the login has a right on an object, the object's number (None if the login may not see it), and the user."""

UNREADABLE_COLUMNS = (
    "SELECT name FROM sys.columns WHERE object_id = OBJECT_ID(:name)"
    " AND COALESCE(HAS_PERMS_BY_NAME(:name, 'OBJECT', 'SELECT', name, 'COLUMN'), 0) = 0"
)
"""The columns of a table that the login may not read."""

DESCRIBE_QUERY = (
    "SELECT name, COALESCE(system_type_name, user_type_name) AS type_name, is_nullable, collation_name, error_message"
    " FROM sys.dm_exec_describe_first_result_set(:statement, NULL, 0)"
    " WHERE is_hidden = 0 OR error_message IS NOT NULL ORDER BY column_ordinal"
)
"""The columns of a query, which is compiled but not run."""

DATABASE_NAME = "SELECT DB_NAME()"

DATABASE_IDENTITY = (
    "SELECT name, CONVERT(VARCHAR(36), service_broker_guid) AS id FROM sys.databases WHERE database_id = DB_ID()"
)
"""The database's name, and an id that stays the same on each replica, after a restore, and on another server."""

TRACKING_RETENTION = (
    "SELECT DB_NAME(), d.is_auto_cleanup_on, CAST(d.retention_period AS bigint) * CASE d.retention_period_units"
    " WHEN 2 THEN 3600 WHEN 3 THEN 86400 ELSE 60 END,"
    " (SELECT COUNT(*) FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID(:name))"
    " FROM sys.change_tracking_databases AS d WHERE d.database_id = DB_ID()"
)
"""The database, whether changes are cleaned up, after how many seconds, and 1 if the table is tracked.

The statement returns no row if Change Tracking is off for the database.
"""

OLDEST_CHANGE = "SELECT CHANGE_TRACKING_MIN_VALID_VERSION(OBJECT_ID(:name))"
"""The version since which the changes of a table are known."""

# The replicas of an availability group were created at different times, but are one database: its id in the group is
# the same on all of them. After a restore the id is different, because a database has to leave the group for a restore.
TRACKING_STATE = (
    "SELECT CHANGE_TRACKING_CURRENT_VERSION() AS current_version,"
    " CHANGE_TRACKING_MIN_VALID_VERSION(OBJECT_ID(:table)) AS oldest_version, OBJECT_ID(:table) AS object_id,"
    " (SELECT COALESCE(CONVERT(VARCHAR(36), group_database_id), CONVERT(VARCHAR(33), create_date, 126))"
    " FROM sys.databases WHERE database_id = DB_ID()) AS database_identity"
)
"""The versions of a table's Change Tracking, and ids that distinguish this table and this database from others."""

RECOVERY_FORK = (
    "SELECT CONVERT(VARCHAR(36), recovery_fork_guid) FROM sys.database_recovery_status WHERE database_id = DB_ID()"
)
"""An id that changes when the database is restored to an earlier time."""

_TABLES = (
    "SELECT o.object_id, s.name AS schema_name, o.name, o.type FROM sys.objects AS o"
    " JOIN sys.schemas AS s ON s.schema_id = o.schema_id"
    " WHERE o.type IN ('U', 'V') AND o.is_ms_shipped = 0"
)
# A user-defined type is named after its base type; a CLR type (hierarchyid) has no base type.
_COLUMNS = (
    "SELECT x.object_id, x.name, COALESCE(base.name, own.name) AS type_name, x.system_type_id, x.max_length,"
    " x.precision, x.scale, x.is_nullable, x.collation_name FROM sys.columns AS x"
    " JOIN sys.types AS own ON own.user_type_id = x.user_type_id"
    " LEFT JOIN sys.types AS base ON base.user_type_id = x.system_type_id"
)
# Types 1 and 2 are B-trees; 7 is the hash index of a memory-optimized table, which has no order.
_INDEXES = (
    "SELECT x.object_id, x.index_id, i.type, i.is_unique, i.is_primary_key, c.name FROM sys.index_columns AS x"
    " JOIN sys.indexes AS i ON i.object_id = x.object_id AND i.index_id = x.index_id"
    " JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id"
    " WHERE i.type IN (1, 2, 7) AND i.is_disabled = 0 AND i.is_hypothetical = 0 AND i.has_filter = 0"
    " AND x.key_ordinal > 0"
)
_IDENTITIES = "SELECT x.object_id, x.name FROM sys.identity_columns AS x WHERE CAST(x.increment_value AS bigint) > 0"
_DEFAULTS = (
    "SELECT x.object_id, x.name, d.definition FROM sys.columns AS x"
    " JOIN sys.default_constraints AS d ON d.object_id = x.default_object_id WHERE 1 = 1"
)
# These columns hold the start of a system-versioned row's period, which SQL Server sets at each insert and update.
_PERIOD_STARTS = "SELECT x.object_id, x.name FROM sys.columns AS x WHERE x.generated_always_type = 1"
_UPDATE_TRIGGERS = (
    "SELECT x.object_id, m.definition FROM sys.objects AS x JOIN sys.triggers AS t ON t.parent_id = x.object_id"
    " JOIN sys.trigger_events AS e ON e.object_id = t.object_id JOIN sys.sql_modules AS m ON m.object_id = t.object_id"
    " WHERE t.is_disabled = 0 AND e.type = 2 AND m.definition IS NOT NULL"
)
_CHECKS = (
    "SELECT x.object_id, k.definition FROM sys.objects AS x"
    " JOIN sys.check_constraints AS k ON k.parent_object_id = x.object_id"
    " WHERE k.is_disabled = 0 AND LOWER(k.definition) LIKE '%isjson%'"
)
_REFERENCES = (
    "SELECT x.object_id, k.constraint_object_id, s.name AS schema_name, o.name AS table_name,"
    " o.object_id AS table_id, c.name AS column_name, p.name AS referenced_name FROM sys.objects AS x"
    " JOIN sys.foreign_key_columns AS k ON k.referenced_object_id = x.object_id"
    " JOIN sys.objects AS o ON o.object_id = k.parent_object_id AND o.object_id <> x.object_id"
    " JOIN sys.schemas AS s ON s.schema_id = o.schema_id"
    " JOIN sys.columns AS c ON c.object_id = k.parent_object_id AND c.column_id = k.parent_column_id"
    " JOIN sys.columns AS p ON p.object_id = k.referenced_object_id AND p.column_id = k.referenced_column_id"
    " WHERE 1 = 1"
)
_ROWS = "SELECT x.object_id, SUM(x.rows) AS row_count FROM sys.partitions AS x WHERE x.index_id IN (0, 1)"
_TRACKED = (
    "SELECT x.object_id, HAS_PERMS_BY_NAME(QUOTENAME(OBJECT_SCHEMA_NAME(x.object_id)) + '.'"
    " + QUOTENAME(OBJECT_NAME(x.object_id)), 'OBJECT', 'VIEW CHANGE TRACKING') AS is_allowed"
    " FROM sys.change_tracking_tables AS x WHERE 1 = 1"
)
_TRACKED_DATABASE = "SELECT COUNT(*) FROM sys.change_tracking_databases WHERE database_id = DB_ID()"

_CLR = 240
_WITHOUT_JSON_FORM = frozenset({"sql_variant", "hierarchyid", "geography", "geometry"})


class SqlServerCatalog:
    """See `syncctl.sources.catalog.Catalog`.

    Names, columns and indexes are required. If the login may not see other facts, they are added to `unknown`.
    """

    def list_tables(self, connection: sa.Connection) -> list[TableName]:
        """Return the tables and views on which the login has any right."""
        rows = connection.execute(sa.text(f"{_TABLES} ORDER BY s.name, o.name"))
        return [
            TableName(name=row.name, schema=row.schema_name, is_view=row.type.strip() == "V", object_id=row.object_id)
            for row in rows
        ]

    def default_schema(self, connection: sa.Connection) -> str:
        """Return the default schema of the login's user."""
        return str(connection.execute(sa.text("SELECT SCHEMA_NAME()")).scalar() or "dbo")

    def describe_tables(
        self, connection: sa.Connection, dialect: Dialect, names: Sequence[TableName], unknown: list[str]
    ) -> list[CatalogTable]:
        """Return the tables as the catalog views describe them, in a few statements for one table or for all."""
        ask = _Questions(connection, names[0].object_id if len(names) == 1 else None, unknown)
        columns = _group_columns(ask, dialect)
        indexes = _group_indexes(ask.rows(_INDEXES, "x.index_id, x.key_ordinal"))
        counts = {row.object_id: int(row.row_count) for row in ask.maybe(_ROWS, "row counts", by_table=True)}
        tracked = _find_tracked(ask)
        return [
            CatalogTable(
                name=name,
                rows=counts.get(name.object_id),
                columns=tuple(columns[name.object_id]),
                indexes=tuple(indexes[name.object_id]),
                is_tracked=name.object_id in tracked,
                tracking_refused=tracked.get(name.object_id) is False,
            )
            for name in names
        ]

    def list_references(self, connection: sa.Connection, name: TableName, unknown: list[str]) -> list[Reference]:
        """Return the foreign keys of tables that the login may see."""
        rows = _Questions(connection, name.object_id, unknown).maybe(_REFERENCES, "foreign keys")
        grouped: dict[tuple[int, TableName], list[tuple[str, str]]] = defaultdict(list)
        for row in rows:
            table = TableName(name=row.table_name, schema=row.schema_name, object_id=row.table_id)
            grouped[row.constraint_object_id, table].append((row.column_name, row.referenced_name))
        return [
            Reference(table=table, columns=tuple(columns))
            for (_, table), columns in sorted(
                grouped.items(), key=lambda pair: (pair[0][1].schema or "", pair[0][1].name, pair[0][0])
            )
        ]

    def index_query(self, parts: Sequence[str], column: str) -> tuple[str, Mapping[str, str]]:
        """Return a statement about the indexes of a table, which may be in another database."""
        database = f"{bracket(escape_colons(parts[0]))}." if len(parts) > 2 else ""
        statement = (
            f"SELECT CASE o.type WHEN 'U' THEN 1 ELSE 0 END, (SELECT SUM(p.rows) FROM {database}sys.partitions AS p"  # noqa: S608 - quoted
            " WHERE p.object_id = o.object_id AND p.index_id IN (0, 1)),"
            f" (SELECT COUNT(*) FROM {database}sys.index_columns AS x"
            f" JOIN {database}sys.indexes AS i ON i.object_id = x.object_id AND i.index_id = x.index_id"
            f" JOIN {database}sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id"
            " WHERE x.object_id = o.object_id AND x.key_ordinal = 1 AND c.name = :column AND i.type IN (1, 2)"
            " AND i.is_disabled = 0 AND i.is_hypothetical = 0 AND i.has_filter = 0)"
            f" FROM {database}sys.objects AS o WHERE o.object_id = OBJECT_ID(:name)"
        )
        return statement, {"name": quote_name(*parts), "column": column}


class _Questions:
    """Asks the catalog about one table, or about all."""

    def __init__(self, connection: sa.Connection, number: int | None, unknown: list[str]) -> None:
        self._connection = connection
        self._number = number
        self._unknown = unknown

    def rows(self, statement: str, order: str) -> Sequence[Any]:
        """Return the rows of a statement that is required."""
        return self._run(statement, f" ORDER BY x.object_id, {order}")

    def maybe(self, statement: str, what: str, *, by_table: bool = False) -> Sequence[Any]:
        """Return the rows of a statement; none if the login may not run it."""
        try:
            return self._run(statement, " GROUP BY x.object_id" if by_table else "")
        except exc.DBAPIError as error:
            # Class 42: a right is missing or, in this version, the view. Any other class is a failure of the server.
            if not str(getattr(error.orig, "args", [""])[0]).startswith("42"):
                raise
            self._connection.rollback()
            self._unknown.append(f"{what}: this login may not see it")
            return []

    def _run(self, statement: str, end: str) -> Sequence[Any]:
        if self._number is None or " AS x" not in statement:
            return self._connection.execute(sa.text(statement + end)).all()
        one = f"{statement} AND x.object_id = :number{end}"
        return self._connection.execute(sa.text(one), {"number": self._number}).all()


def _find_tracked(ask: _Questions) -> dict[int, bool]:
    """Return the numbers of the tables with Change Tracking, and whether the login may read their changes."""
    tracked = ask.maybe(_TRACKED, "Change Tracking")
    if not tracked:
        return {}
    # A table cannot be tracked unless its database is. If the login may not see the database, the table is proof.
    databases = ask.maybe(_TRACKED_DATABASE, "Change Tracking of the database")
    if databases and not databases[0][0]:
        return {}
    return {row.object_id: row.is_allowed != 0 for row in tracked}


def _group_columns(ask: _Questions, dialect: Dialect) -> dict[int, list[CatalogColumn]]:
    identities = {(row.object_id, row.name) for row in ask.maybe(_IDENTITIES, "which columns are identities")}
    defaults = {(row.object_id, row.name): row.definition for row in ask.maybe(_DEFAULTS, "defaults of columns")}
    starts = {(row.object_id, row.name) for row in ask.maybe(_PERIOD_STARTS, "periods of rows")}
    triggers: dict[int, list[str]] = defaultdict(list)
    for row in ask.maybe(_UPDATE_TRIGGERS, "triggers"):
        triggers[row.object_id].append(row.definition)
    checks: dict[int, list[str]] = defaultdict(list)
    for row in ask.maybe(_CHECKS, "checks"):
        checks[row.object_id].append(row.definition)
    columns: dict[int, list[CatalogColumn]] = defaultdict(list)
    for row in ask.rows(f"{_COLUMNS} WHERE 1 = 1", "x.column_id"):
        declared = format_type(row.type_name, row.max_length, row.precision, row.scale)
        made = make_type("timestamp" if declared == "rowversion" else declared, row.collation_name)
        columns[row.object_id].append(
            make_column(
                dialect,
                row.name,
                made,
                nullable=bool(row.is_nullable),
                declared=declared,
                is_numbered=(row.object_id, row.name) in identities,
                default=defaults.get((row.object_id, row.name)),
                triggers=triggers[row.object_id],
                checks=checks[row.object_id],
                is_set_at_update=(row.object_id, row.name) in starts,
                has_json_form=row.type_name not in _WITHOUT_JSON_FORM and row.system_type_id != _CLR,
            )
        )
    return columns


def _group_indexes(rows: Sequence[Any]) -> dict[int, list[CatalogIndex]]:
    index_columns: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in rows:
        index_columns[row.object_id, row.index_id].append(row)
    indexes: dict[int, list[CatalogIndex]] = defaultdict(list)
    for (object_id, _), parts in index_columns.items():
        indexes[object_id].append(
            CatalogIndex(
                columns=tuple(part.name for part in parts),
                is_unique=bool(parts[0].is_unique),
                is_primary=bool(parts[0].is_primary_key),
                is_ordered=parts[0].type != 7,
            )
        )
    return indexes
