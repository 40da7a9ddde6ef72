"""SQLite's catalog, read from its pragmas, and a count of rows."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.catalog import CatalogIndex, CatalogTable, Reference, TableName, make_column
from syncctl.sources.catalog.relation import escape_colons
from syncctl.sources.dialect import Dialect

_NAMES = sa.text(
    "SELECT name, type FROM sqlite_master"
    " WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
)
_COLUMNS = sa.text('SELECT name, type, "notnull", pk, dflt_value FROM pragma_table_xinfo(:name) WHERE hidden <> 1')
_TRIGGERS = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name COLLATE NOCASE")
_DEFINITION = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name COLLATE NOCASE")
_AT_UPDATE = re.compile(r"\bupdate\b.*?\bbegin\b", re.IGNORECASE | re.DOTALL)
_INDEXES = sa.text('SELECT name, "unique", origin FROM pragma_index_list(:name) WHERE partial = 0')
_INDEX_COLUMNS = sa.text("SELECT name FROM pragma_index_xinfo(:name) WHERE key = 1 ORDER BY seqno")
_REFERENCES = sa.text(
    'SELECT m.name, f.id, f."from", f."to", k.name AS key_column FROM sqlite_master AS m'
    " JOIN pragma_foreign_key_list(m.name) AS f LEFT JOIN pragma_table_info(:name) AS k ON k.pk = f.seq + 1"
    " WHERE m.type = 'table' AND f.\"table\" = :name COLLATE NOCASE AND m.name <> :name ORDER BY m.name, f.id, f.seq"
)
_ROWS_COUNTED = 100_000

SQLITE_VERSION = "SELECT sqlite_version()"


class SqliteCatalog:
    """See `syncctl.sources.catalog.Catalog`."""

    def list_tables(self, connection: sa.Connection) -> list[TableName]:
        """Return the tables and views of the file."""
        return [TableName(name=row.name, is_view=row.type == "view") for row in connection.execute(_NAMES)]

    def default_schema(self, connection: sa.Connection) -> None:
        """Return None, because a file has no schemas."""

    def describe_tables(
        self, connection: sa.Connection, dialect: Dialect, names: Sequence[TableName], unknown: list[str]
    ) -> list[CatalogTable]:
        """Return the tables as the pragmas describe them; a view that cannot be read is added to `unknown`."""
        tables = []
        for name in names:
            try:
                tables.append(_describe(connection, dialect, name))
            except exc.OperationalError as error:
                if not name.is_view:
                    raise
                unknown.append(f"the view {name.name}: {error.orig}")
        return tables

    def list_references(self, connection: sa.Connection, name: TableName, unknown: list[str]) -> list[Reference]:  # noqa: ARG002
        """Return the foreign keys as the pragma lists them; if a key names no columns, it refers to the primary key."""
        grouped = groupby(connection.execute(_REFERENCES, {"name": name.name}), key=lambda row: (row[0], row[1]))
        return [
            Reference(table=TableName(name=table), columns=tuple((row[2], row[3] or row[4]) for row in rows))
            for (table, _), rows in grouped
        ]

    def index_query(self, parts: Sequence[str], column: str) -> tuple[str, Mapping[str, str]]:
        """Return a statement about the indexes of a table; it counts rows up to a bound."""
        quoted = escape_colons(parts[-1].replace('"', '""'))
        statement = (
            "SELECT type = 'table',"  # noqa: S608 - the name is quoted
            f' (SELECT COUNT(*) FROM (SELECT 1 FROM "{quoted}" LIMIT {_ROWS_COUNTED})),'
            " (SELECT COUNT(*) FROM pragma_index_list(:name) AS i JOIN pragma_index_xinfo(i.name) AS c"
            " WHERE i.partial = 0 AND c.seqno = 0 AND c.name = :column)"
            " + (SELECT COUNT(*) FROM pragma_table_info(:name) WHERE pk = 1 AND name = :column)"
            " FROM sqlite_master WHERE type IN ('table', 'view') AND name = :name COLLATE NOCASE"
        )
        return statement, {"name": parts[-1], "column": column}


def _describe(connection: sa.Connection, dialect: Dialect, name: TableName) -> CatalogTable:
    described = connection.execute(_COLUMNS, {"name": name.name}).all()
    types = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns(name.name)}
    primary = tuple(row.name for row in sorted(described, key=lambda row: row.pk) if row.pk)
    numbered = _find_row_number(connection, name, described, primary)
    triggers = [sql for sql in connection.execute(_TRIGGERS, {"name": name.name}).scalars() if _AT_UPDATE.search(sql)]
    # SQLite stores a table's checks in the statement that created the table.
    checks = [sql for sql in connection.execute(_DEFINITION, {"name": name.name}).scalars() if sql]
    columns = tuple(
        make_column(
            dialect,
            row.name,
            types[row.name],
            nullable=not (row.notnull or (row.name,) == numbered),
            declared=row.type or "",
            is_numbered=(row.name,) == numbered,
            default=row.dflt_value,
            triggers=triggers,
            checks=checks,
        )
        for row in described
    )
    indexes = list(_list_indexes(connection, name))
    if numbered:
        indexes.insert(0, CatalogIndex(columns=numbered, is_unique=True, is_primary=True))
    rows = connection.execute(sa.select(sa.func.count()).select_from(sa.table(name.name))).scalar_one()
    return CatalogTable(name=name, rows=rows, columns=columns, indexes=tuple(indexes))


def _find_row_number(
    connection: sa.Connection, name: TableName, described: Sequence[Any], primary: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the primary key if it is SQLite's own row number: INTEGER PRIMARY KEY, which needs no index."""
    declared = [row.type.upper() for row in described if row.name in primary]
    if declared != ["INTEGER"]:
        return ()
    has_index = any(row.origin == "pk" for row in connection.execute(_INDEXES, {"name": name.name}))
    return () if has_index else primary


def _list_indexes(connection: sa.Connection, name: TableName) -> Iterator[CatalogIndex]:
    for index in connection.execute(_INDEXES, {"name": name.name}).all():
        columns = tuple(row.name for row in connection.execute(_INDEX_COLUMNS, {"name": index.name}))
        # An index on an expression names no column.
        if columns and None not in columns:
            yield CatalogIndex(columns=columns, is_unique=bool(index.unique), is_primary=index.origin == "pk")
