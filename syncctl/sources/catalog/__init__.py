"""The catalog of a database: its tables and views, their columns and indexes, found without reading their rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from syncctl.sources.catalog.relation import Column, Kind, bracket

if TYPE_CHECKING:
    from syncctl.sources.dialect import Dialect


_NOW = re.compile(
    r"\b(?:getdate|getutcdate|sysdatetime|sysutcdatetime|sysdatetimeoffset|unixepoch)\s*\(|\bcurrent_timestamp\b|'now'",
    re.IGNORECASE,
)

_SET_CLAUSE = re.compile(r"\bset\b(.*?)(?:\bwhere\b|\bfrom\b|;|\bend\b|\Z)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableName:
    """The name of a table or a view."""

    name: str
    #: None if the database has no schemas.
    schema: str | None = None
    is_view: bool = False
    #: SQL Server's number for the table.
    object_id: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogColumn(Column):
    """One column of a table."""

    #: The type as people write it.
    declared: str
    #: Whether the database itself assigns its values.
    is_numbered: bool = False
    has_json_form: bool = True
    #: Whether its default is the current time.
    is_set_at_insert: bool = False
    #: Whether the database sets it at each update: by a trigger, or as the start of a row's period.
    is_set_at_update: bool = False
    #: Whether a check of the table makes sure that its text is JSON.
    is_checked_json: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogIndex:
    """An index over all rows of a table."""

    columns: tuple[str, ...]
    is_unique: bool = False
    is_primary: bool = False
    #: Whether rows can be read in the order of the index.
    is_ordered: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogTable:
    """A table or a view with its columns and indexes."""

    name: TableName
    #: The number of rows; None if only a scan could tell, or if the login may not see it.
    rows: int | None
    columns: tuple[CatalogColumn, ...]
    indexes: tuple[CatalogIndex, ...] = ()
    #: Whether Change Tracking is on for the table and its database.
    is_tracked: bool = False
    #: Whether Change Tracking is on, but the login may not read the changes.
    tracking_refused: bool = False

    def find(self, name: str) -> CatalogColumn:
        """Return a column by its exact name."""
        return next(column for column in self.columns if column.name == name)

    def serves(self, column: str) -> bool:
        """Tell whether an index can be read in the order of a column."""
        return any(index.is_ordered and index.columns[0] == column for index in self.indexes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A foreign key of another table."""

    #: The table that has the foreign key.
    table: TableName
    #: Pairs of a column of that table and the column to which it refers.
    columns: tuple[tuple[str, str], ...]


class Catalog(Protocol):
    """Reads how a kind of database describes its contents."""

    def list_tables(self, connection: sa.Connection) -> list[TableName]:
        """Return the tables and views that the login may see, without the system tables of the database."""

    def default_schema(self, connection: sa.Connection) -> str | None:
        """Return the schema of names without one; None if the database has no schemas."""

    def describe_tables(
        self, connection: sa.Connection, dialect: "Dialect", names: Sequence[TableName], unknown: list[str]
    ) -> list[CatalogTable]:
        """Return these tables with their columns and indexes.

        Args:
            unknown: Receives a line for each question that the login may not ask.
        """

    def list_references(self, connection: sa.Connection, name: TableName, unknown: list[str]) -> list[Reference]:
        """Return the foreign keys of other tables that refer to a table.

        Args:
            unknown: Receives a line if the login may not ask.
        """

    def index_query(self, parts: Sequence[str], column: str) -> tuple[str, Mapping[str, str]]:
        """Return a statement, with its parameters, about the indexes of a table over all its rows.

        Args:
            parts: The parts of the table's name.

        Returns:
            A statement that returns one row: whether it is a table (not a view), how many rows it has or None, and how
            many indexes start with the column. It returns no row if the login may not see the table.
        """


def make_column(
    dialect: "Dialect",
    name: str,
    column_type: Any,
    *,
    nullable: bool,
    declared: str,
    is_numbered: bool,
    has_json_form: bool = True,
    default: str | None = None,
    triggers: Iterable[str] = (),
    is_set_at_update: bool = False,
    checks: Iterable[str] = (),
) -> CatalogColumn:
    """Return a column as the dialect types it.

    Args:
        default: The expression of its default.
        triggers: The texts of the triggers that run at each update of the table.
        checks: The texts of the table's checks.
    """
    column = dialect.column({"name": name, "type": column_type, "nullable": nullable})
    is_time = column.kind in (Kind.TIME, Kind.DATE)
    return CatalogColumn(
        name=name,
        kind=column.kind,
        type=column.type,
        nullable=nullable,
        declared=declared,
        is_numbered=is_numbered,
        has_json_form=has_json_form,
        is_set_at_insert=_NOW.search(default or "") is not None,
        is_set_at_update=is_set_at_update or any(sets_time(text, name, is_time=is_time) for text in triggers),
        is_checked_json=any(asks_for_json(text, name) for text in checks),
    )


def asks_for_json(check: str, name: str) -> bool:
    """Tell whether a check requires a column to be JSON, as in `isjson([lines])=(1)` or `json_valid("lines")`.

    Args:
        check: The text of the check, or of the table's definition.
    """
    spelled = "|".join(map(re.escape, (name, bracket(name), f'"{name.replace(chr(34), chr(34) * 2)}"', f"`{name}`")))
    call = rf"(\bnot\s*\(?\s*)?\b(?:isjson|json_valid)\s*\(\s*(?:{spelled})\s*(?:,[^)]*)?\)(\s*=\s*\(?\s*0)?"
    return any(not (denied or is_zero) for denied, is_zero in re.findall(call, check, re.IGNORECASE))


def sets_time(trigger: str, name: str, *, is_time: bool) -> bool:
    """Tell whether a trigger sets a column to the current time, or a column of times to anything.

    Args:
        trigger: The text of the trigger.
        is_time: Whether the column's type is a time.
    """
    assignment = re.compile(rf"(?<![\w@]){re.escape(name)}[\]\"`]?\s*=([^,]*)", re.IGNORECASE)
    values = [value for clause in _SET_CLAUSE.findall(trigger) for value in assignment.findall(clause)]
    return any(is_time or _NOW.search(value) for value in values)
