"""What a catalog says of a table or a view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from syncctl.sources.dialect import Dialect
from syncctl.sources.tables import Column


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """A table or a view. `schema` is None where the database has none; `number` is the catalog's own name for it."""

    name: str
    schema: str | None = None
    is_view: bool = False
    number: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundColumn:
    """One column. `declared` is its type as people write it; `is_numbered`: the database gives its values out."""

    column: Column
    declared: str
    is_numbered: bool = False
    has_json_form: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundIndex:
    """An index over all rows. `is_ordered`: rows can be read in its order."""

    columns: tuple[str, ...]
    is_unique: bool = False
    is_primary: bool = False
    is_ordered: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTable:
    """A table or a view with what belongs to it.

    `rows` is None where only a scan would tell, or the login may not see it. `is_tracked`: Change Tracking is on for
    the table and its database. `tracking_refused`: it is, and the login may not read it.
    """

    name: Name
    rows: int | None
    columns: tuple[FoundColumn, ...]
    indexes: tuple[FoundIndex, ...] = ()
    is_tracked: bool = False
    tracking_refused: bool = False

    def find(self, name: str) -> FoundColumn:
        """Return a column by its exact name."""
        return next(each for each in self.columns if each.column.name == name)

    def serves(self, column: str) -> bool:
        """Say whether an index can be read in the order of a column."""
        return any(index.is_ordered and index.columns[0] == column for index in self.indexes)


class Catalog(Protocol):
    """How a database tells what is in it, without reading a row where that can be helped."""

    def list_names(self, connection: sa.Connection) -> list[Name]:
        """Return the tables and views that the login may see, without the database's own."""

    def ask_schema(self, connection: sa.Connection) -> str | None:
        """Return the schema in which a name without one is looked for; None where the database has no schemas."""

    def look(
        self, connection: sa.Connection, dialect: Dialect, names: Sequence[Name], unknown: list[str]
    ) -> list[FoundTable]:
        """Return what the catalog says of these.

        Args:
            unknown: Gets a line for each question that the login may not ask.
        """


def make_column(dialect: Dialect, name: str, declared: Any, *, nullable: bool) -> Column:
    """Return a column as the dialect reads it."""
    return dialect.column({"name": name, "type": declared, "nullable": nullable})
