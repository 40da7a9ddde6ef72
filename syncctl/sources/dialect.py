"""The differences between SQL Server and SQLite that reading depends on."""

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
"""Returns the lowest rowversion that an open transaction may have given out."""


class Dialect(Protocol):
    """The types of a database, how its exact values are read and compared, and the errors that concern one row."""

    #: None if the database has no rowversions.
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
        """Return a parameter of a column's type in a list of values, where no column beside it tells its type."""

    def join_list(self, values: sa.Values) -> FromClause:
        """Return a list of values as something that other relations are joined with."""

    def matched(self, column: Column, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return a value of a list in the collation of the column that it is compared with."""

    def read_collation(self, connection: sa.Connection, relation: Relation, column: Column) -> str | None:
        """Return the collation by which a column of texts compares; None if it has none."""

    def tie_breaker(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any] | None:
        """Return what orders values that the column's own order takes for equal; None if they have no order."""

    def converter(self, column: Column) -> Callable[[Raw], Value]:
        """Return a function that makes a JSON-safe value of a raw one, or raises ValueError with the reason."""

    def one_moment(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """Let statements see the database at one moment, where that keeps no writer waiting. May be nested."""

    def parse_start(self, column: Column, text: str, sample: Raw) -> Raw:
        """Return a cursor value that an operator wrote, in the form of the column.

        Args:
            sample: A cursor value of the table; None if the table has none.

        Raises:
            ValueError: The text is not a value of the column's type.
        """

    def read_clock(self, connection: sa.Connection) -> datetime:
        """Return the database's own clock, aware and in UTC."""

    def read_database(self, connection: sa.Connection) -> str:
        """Return what distinguishes this database from others, and stays the same on its replicas; empty if unknown."""

    def read_identity(self, connection: sa.Connection, stream: Stream) -> int | None:
        """Return the last number that a table's identity has given out; None if the database cannot tell."""

    def is_read_only_copy(self, connection: sa.Connection) -> bool:
        """Tell whether this is a copy of a database that is written to elsewhere: a readable secondary, a standby."""

    def earliest(self, column: Column) -> str:
        """Return the first time that the column's type can hold."""

    def lock_wait(self, seconds: float, *, is_limit: bool) -> str:
        """Return the statement after which a connection waits this long for locks of others.

        Args:
            is_limit: Whether it is less than usual; the usual time is that of a whole query.
        """

    def measure_text(self, column: Column, text: str) -> int:
        """Return how much of a text column's declared length a text takes."""

    def is_row_data_error(self, error: BaseException) -> bool:
        """Tell whether an error is about the content of one row, so that the rows beside it can be read."""
