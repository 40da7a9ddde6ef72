"""What SQL Server's catalog views tell of its tables; no table is read. (Microsoft, "Object catalog views".)"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.catalog.found import FoundColumn, FoundIndex, FoundTable, Name, make_column
from syncctl.sources.dialect import Dialect
from syncctl.sources.sqlserver import make_type

_NAMES = (
    "SELECT o.object_id, s.name AS schema_name, o.name, o.type FROM sys.objects AS o"
    " JOIN sys.schemas AS s ON s.schema_id = o.schema_id"
    " WHERE o.type IN ('U', 'V') AND o.is_ms_shipped = 0"
)
# A type of one's own is named after the type below it; one of the CLR (hierarchyid) has none below.
_COLUMNS = (
    "SELECT x.object_id, x.name, COALESCE(base.name, own.name) AS type_name, x.system_type_id, x.max_length,"
    " x.precision, x.scale, x.is_nullable, x.collation_name FROM sys.columns AS x"
    " JOIN sys.types AS own ON own.user_type_id = x.user_type_id"
    " LEFT JOIN sys.types AS base ON base.user_type_id = x.system_type_id"
)
# Types 1 and 2 are B-trees, 7 is the hash of a table in memory, which has no order.
_INDEXES = (
    "SELECT x.object_id, x.index_id, i.type, i.is_unique, i.is_primary_key, c.name FROM sys.index_columns AS x"
    " JOIN sys.indexes AS i ON i.object_id = x.object_id AND i.index_id = x.index_id"
    " JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id"
    " WHERE i.type IN (1, 2, 7) AND i.is_disabled = 0 AND i.is_hypothetical = 0 AND i.has_filter = 0"
    " AND x.key_ordinal > 0"
)
_IDENTITIES = "SELECT x.object_id, x.name FROM sys.identity_columns AS x WHERE CAST(x.increment_value AS bigint) > 0"
_ROWS = "SELECT x.object_id, SUM(x.rows) AS row_count FROM sys.partitions AS x WHERE x.index_id IN (0, 1)"
_TRACKED = (
    "SELECT x.object_id, HAS_PERMS_BY_NAME(QUOTENAME(OBJECT_SCHEMA_NAME(x.object_id)) + '.'"
    " + QUOTENAME(OBJECT_NAME(x.object_id)), 'OBJECT', 'VIEW CHANGE TRACKING') AS is_allowed"
    " FROM sys.change_tracking_tables AS x WHERE 1 = 1"
)
_TRACKED_DATABASE = "SELECT COUNT(*) FROM sys.change_tracking_databases WHERE database_id = DB_ID()"

_CLR = 240
_WITHOUT_JSON_FORM = frozenset({"sql_variant", "hierarchyid", "geography", "geometry"})
_SIZED = frozenset({"char", "varchar", "binary", "varbinary"})
_FRACTIONAL = frozenset({"time", "datetime2", "datetimeoffset"})


class SqlServerCatalog:
    """See `syncctl.sources.catalog.found.Catalog`.

    Whatever else than names, columns and indexes the login may not see is unknown, and no error.
    """

    def list_names(self, connection: sa.Connection) -> list[Name]:
        """Return the tables and views on which the login has any right."""
        rows = connection.execute(sa.text(f"{_NAMES} ORDER BY s.name, o.name"))
        return [
            Name(name=row.name, schema=row.schema_name, is_view=row.type.strip() == "V", number=row.object_id)
            for row in rows
        ]

    def ask_schema(self, connection: sa.Connection) -> str:
        """Return the default schema of the login's user."""
        return str(connection.execute(sa.text("SELECT SCHEMA_NAME()")).scalar() or "dbo")

    def look(
        self, connection: sa.Connection, dialect: Dialect, names: Sequence[Name], unknown: list[str]
    ) -> list[FoundTable]:
        """Return what the catalog says: a handful of statements, for one table or for all."""
        ask = _Questions(connection, names[0].number if len(names) == 1 else None, unknown)
        identities = {(row.object_id, row.name) for row in ask.maybe(_IDENTITIES, "which columns are identities")}
        columns = _group_columns(ask.rows(f"{_COLUMNS} WHERE 1 = 1", "x.column_id"), dialect, identities)
        indexes = _group_indexes(ask.rows(_INDEXES, "x.index_id, x.key_ordinal"))
        counts = {row.object_id: int(row.row_count) for row in ask.maybe(_ROWS, "row counts", by_table=True)}
        tracked = _find_tracked(ask)
        return [
            FoundTable(
                name=name,
                rows=counts.get(name.number),
                columns=tuple(columns[name.number]),
                indexes=tuple(indexes[name.number]),
                is_tracked=name.number in tracked,
                tracking_refused=tracked.get(name.number) is False,
            )
            for name in names
        ]


class _Questions:
    """Asks the catalog of one table, or of all."""

    def __init__(self, connection: sa.Connection, number: int | None, unknown: list[str]) -> None:
        self._connection = connection
        self._number = number
        self._unknown = unknown

    def rows(self, statement: str, order: str) -> Sequence[Any]:
        """Return what cannot be done without."""
        return self._run(statement, f" ORDER BY x.object_id, {order}")

    def maybe(self, statement: str, what: str, *, by_table: bool = False) -> Sequence[Any]:
        """Return what may be denied, nothing where it is."""
        try:
            return self._run(statement, " GROUP BY x.object_id" if by_table else "")
        except exc.DBAPIError as error:
            # Class 42: no right to it, or no such view in this version. All else is trouble with the server.
            if not str(getattr(error.orig, "args", [""])[0]).startswith("42"):
                raise
            self._connection.rollback()
            self._unknown.append(f"{what}: this login may not ask")
            return []

    def _run(self, statement: str, end: str) -> Sequence[Any]:
        if self._number is None or " AS x" not in statement:
            return self._connection.execute(sa.text(statement + end)).all()
        one = f"{statement} AND x.object_id = :number{end}"
        return self._connection.execute(sa.text(one), {"number": self._number}).all()


def _find_tracked(ask: _Questions) -> dict[int, bool]:
    """Return the tables with Change Tracking, and whether the login may read it."""
    tracked = ask.maybe(_TRACKED, "Change Tracking")
    if not tracked:
        return {}
    # A table cannot be tracked without its database; where the login may not see the latter, the former will do.
    databases = ask.maybe(_TRACKED_DATABASE, "Change Tracking of the database")
    if databases and not databases[0][0]:
        return {}
    return {row.object_id: row.is_allowed != 0 for row in tracked}


def _group_columns(
    rows: Sequence[Any], dialect: Dialect, identities: set[tuple[int, str]]
) -> dict[int, list[FoundColumn]]:
    found: dict[int, list[FoundColumn]] = defaultdict(list)
    for row in rows:
        declared = declare(row.type_name, row.max_length, row.precision, row.scale)
        made = make_type("timestamp" if declared == "rowversion" else declared, row.collation_name)
        found[row.object_id].append(
            FoundColumn(
                column=make_column(dialect, row.name, made, nullable=bool(row.is_nullable)),
                declared=declared,
                is_numbered=(row.object_id, row.name) in identities,
                has_json_form=row.type_name not in _WITHOUT_JSON_FORM and row.system_type_id != _CLR,
            )
        )
    return found


def _group_indexes(rows: Sequence[Any]) -> dict[int, list[FoundIndex]]:
    columns: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in rows:
        columns[row.object_id, row.index_id].append(row)
    found: dict[int, list[FoundIndex]] = defaultdict(list)
    for (number, _), parts in columns.items():
        found[number].append(
            FoundIndex(
                columns=tuple(part.name for part in parts),
                is_unique=bool(parts[0].is_unique),
                is_primary=bool(parts[0].is_primary_key),
                is_ordered=parts[0].type != 7,
            )
        )
    return found


def declare(name: str, length: int, precision: int, scale: int) -> str:
    """Return a type as people write it, from what `sys.columns` says: `nvarchar(50)`, `decimal(12,2)`."""
    if name == "timestamp":
        return "rowversion"
    if name in _SIZED:
        return f"{name}({'max' if length < 0 else length})"
    if name in ("nchar", "nvarchar"):
        # The catalog counts bytes.
        return f"{name}({'max' if length < 0 else length // 2})"
    if name in ("decimal", "numeric"):
        return f"{name}({precision},{scale})"
    return f"{name}({scale})" if name in _FRACTIONAL else name
