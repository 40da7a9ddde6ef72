"""What SQLite tells of its tables: pragmas, and a count of the rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.catalog.found import FoundColumn, FoundIndex, FoundTable, Name, make_column
from syncctl.sources.dialect import Dialect

_NAMES = sa.text(
    "SELECT name, type FROM sqlite_master"
    " WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
)
_COLUMNS = sa.text('SELECT name, type, "notnull", pk FROM pragma_table_xinfo(:name) WHERE hidden <> 1')
_INDEXES = sa.text('SELECT name, "unique", origin FROM pragma_index_list(:name) WHERE partial = 0')
_INDEX_COLUMNS = sa.text("SELECT name FROM pragma_index_xinfo(:name) WHERE key = 1 ORDER BY seqno")


class SqliteCatalog:
    """See `syncctl.sources.catalog.found.Catalog`."""

    def list_names(self, connection: sa.Connection) -> list[Name]:
        """Return the tables and views of the file."""
        return [Name(name=row.name, is_view=row.type == "view") for row in connection.execute(_NAMES)]

    def ask_schema(self, connection: sa.Connection) -> None:
        """Return None: a file is one schema."""

    def look(
        self, connection: sa.Connection, dialect: Dialect, names: Sequence[Name], unknown: list[str]
    ) -> list[FoundTable]:
        """Return what the pragmas say; a view that cannot be read is told as unknown."""
        found = []
        for name in names:
            try:
                found.append(_look(connection, dialect, name))
            except exc.OperationalError as error:
                if not name.is_view:
                    raise
                unknown.append(f"the view {name.name}: {error.orig}")
        return found


def _look(connection: sa.Connection, dialect: Dialect, name: Name) -> FoundTable:
    described = connection.execute(_COLUMNS, {"name": name.name}).all()
    types = {each["name"]: each["type"] for each in sa.inspect(connection).get_columns(name.name)}
    primary = tuple(row.name for row in sorted(described, key=lambda row: row.pk) if row.pk)
    numbered = _find_row_number(connection, name, described, primary)
    columns = tuple(
        FoundColumn(
            column=make_column(
                dialect, row.name, types[row.name], nullable=not (row.notnull or (row.name,) == numbered)
            ),
            declared=row.type or "",
            is_numbered=(row.name,) == numbered,
        )
        for row in described
    )
    indexes = list(_list_indexes(connection, name))
    if numbered:
        indexes.insert(0, FoundIndex(columns=numbered, is_unique=True, is_primary=True))
    rows = connection.execute(sa.select(sa.func.count()).select_from(sa.table(name.name))).scalar_one()
    return FoundTable(name=name, rows=rows, columns=columns, indexes=tuple(indexes))


def _find_row_number(
    connection: sa.Connection, name: Name, described: Sequence[Any], primary: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the primary key where it is SQLite's own row number: INTEGER PRIMARY KEY, which needs no index."""
    declared = [row.type.upper() for row in described if row.name in primary]
    if declared != ["INTEGER"]:
        return ()
    kept_apart = any(row.origin == "pk" for row in connection.execute(_INDEXES, {"name": name.name}))
    return () if kept_apart else primary


def _list_indexes(connection: sa.Connection, name: Name) -> Iterator[FoundIndex]:
    for index in connection.execute(_INDEXES, {"name": name.name}).all():
        columns = tuple(row.name for row in connection.execute(_INDEX_COLUMNS, {"name": index.name}))
        # An index on an expression names no column.
        if columns and None not in columns:
            yield FoundIndex(columns=columns, is_unique=bool(index.unique), is_primary=index.origin == "pk")
