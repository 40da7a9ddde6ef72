"""The differences between SQL Server and SQLite on which reading depends."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.rows import Value
from syncctl.core.stream import Stream
from syncctl.sources.catalog.relation import Column, Relation
from syncctl.sources.cursor import Raw

IsolationLevel = Literal["READ COMMITTED", "SERIALIZABLE"]

ReadCeiling = Callable[[sa.Connection], bytes]
"""Returns the lowest rowversion that an open transaction may have assigned."""


class Dialect(Protocol):
    """The types of a database, the exact reading and comparing of its values, and the errors that concern one row."""

    #: Reads the ceiling of rowversions; None if the database has no rowversions.
    read_ceiling: ReadCeiling | None
    #: The isolation level of statements that change something.
    transaction_level: IsolationLevel
    #: Whether the database can track changes.
    has_change_tracking: bool

    def column(self, reflected: dict[str, Any]) -> Column:
        """Return a column as SQLAlchemy's inspector describes it."""

    def query_columns(self, connection: sa.Connection, stream: Stream) -> tuple[Column, ...]:
        """Return the columns of a stream's query without reading its rows."""

    def shown(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return the expression that selects a column without losing anything of its value."""

    def bound(self, column: Column, raw: Raw) -> sa.ColumnElement[Any]:
        """Return a parameter that is compared with a column as a value of the column's own type."""

    def parameter(self, column: Column, raw: Raw) -> Raw:
        """Return a raw value in the form in which `bound` passes it to the driver."""

    def listed(self, column: Column, name: str) -> sa.ColumnElement[Any]:
        """Return a parameter of a column's type for a list of values, in which nothing else shows its type."""

    def join_list(self, values: sa.Values) -> FromClause:
        """Return a list of values as a relation with which others can be joined."""

    def matched(self, column: Column, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return a value of a list in the collation of the column with which it is compared."""

    def read_collation(self, connection: sa.Connection, relation: Relation, column: Column) -> str | None:
        """Return the collation of a text column; None if it has none."""

    def tie_breaker(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any] | None:
        """Return an expression that orders values which the column's own order treats as equal, or None."""

    def converter(self, column: Column) -> Callable[[Raw], Value]:
        """Return a function that turns a raw value into a JSON-safe one, or raises ValueError with the reason."""

    def one_moment(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """Let statements see the database at one moment, if that keeps no writer waiting. May be nested."""

    def parse_start(self, column: Column, text: str, sample: Raw) -> Raw:
        """Return a cursor value that an operator wrote, in the form of the column.

        Args:
            sample: A cursor value of the table; None if the table has none.

        Raises:
            ValueError: The text is not a value of the column's type.
        """

    def read_clock(self, connection: sa.Connection) -> datetime:
        """Return the time of the database's own clock, aware and in UTC."""

    def read_database(self, connection: sa.Connection) -> str:
        """Return an identity that distinguishes this database from others and is the same on its replicas, or ''."""

    def read_identity(self, connection: sa.Connection, stream: Stream) -> int | None:
        """Return the last number that a table's identity has assigned; None if the database does not know it."""

    def is_read_only_copy(self, connection: sa.Connection) -> bool:
        """Tell whether this is a copy of a database that is written elsewhere: a readable secondary or a standby."""

    def earliest(self, column: Column) -> str:
        """Return the first time that the column's type can hold."""

    def lock_wait(self, seconds: float, *, is_limit: bool) -> str:
        """Return a statement that makes a connection wait this long for locks of others.

        Args:
            is_limit: Whether this is shorter than usual; the usual time is that of a whole query.
        """

    def measure_text(self, column: Column, text: str) -> int:
        """Return how much of a text column's declared length a text uses."""

    def is_row_data_error(self, error: BaseException) -> bool:
        """Tell whether an error concerns the content of one row, so that other rows can be read."""
