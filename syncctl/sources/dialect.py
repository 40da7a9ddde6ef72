"""The seam between the reader and the two kinds of database it reads."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from syncctl.core.rows import Value
from syncctl.core.stream import Stream
from syncctl.sources.changes import ChangeFeed
from syncctl.sources.positions import Raw
from syncctl.sources.tables import Column, Kind

IsolationLevel = Literal["READ COMMITTED", "SERIALIZABLE"]

ReadCeiling = Callable[[sa.Connection], bytes]
"""Returns the lowest rowversion that a transaction still open may have given out."""


class Dialect(Protocol):
    """What differs between databases: types, how exact values are read and compared, errors of one row."""

    read_ceiling: ReadCeiling | None
    """None where the database has no rowversions."""

    transaction_level: IsolationLevel
    """In which statements that change something run."""

    changes: ChangeFeed | None
    """None where the database keeps no track of changes."""

    def column(self, reflected: dict[str, Any]) -> Column:
        """Return a column as SQLAlchemy's inspector describes it."""

    def query_columns(self, connection: sa.Connection, stream: Stream) -> tuple[Column, ...]:
        """Return the columns of a stream's query without running it through."""

    def shown(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return how a column is selected so that nothing of its value is lost on the way."""

    def bound(self, column: Column, raw: Raw) -> sa.ColumnElement[Any]:
        """Return a parameter that compares with a column as a value of the column's own type."""

    def converter(self, column: Column) -> Callable[[Raw], Value]:
        """Return what makes a JSON-safe value of a raw one; it raises ValueError with the reason."""

    def parse_start(self, column: Column, text: str, sample: Raw) -> Raw:
        """Return a cursor value that an operator wrote, in the form of the column.

        Args:
            sample: A cursor value of the table, None where it has none.

        Raises:
            ValueError: It is no value of the column's type.
        """

    def read_clock(self, connection: sa.Connection) -> datetime:
        """Return the database's own clock, aware and in UTC."""

    def read_identity(self, connection: sa.Connection, stream: Stream) -> int | None:
        """Return the last number that a table's identity has given out; None where the database does not tell."""

    def is_read_only_copy(self, connection: sa.Connection) -> bool:
        """Say whether this is a copy that others write to elsewhere: a readable secondary, a standby."""

    def earliest(self, column: Column) -> str:
        """Return the first time that the column's type knows."""

    def is_row_data_error(self, error: BaseException) -> bool:
        """Say whether an error is about the content of a row, so that the rows beside it can be read."""


CURSOR_KINDS = frozenset({Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT, Kind.TIME, Kind.DATE, Kind.TEXT, Kind.OTHER})
"""Kinds that mode increasing can follow. OTHER: a column of which the database tells no type."""

LOOKBACK_KINDS = frozenset({Kind.TIME, Kind.DATE, Kind.TEXT, Kind.OTHER})
"""Kinds whose values may be times; text that is none has no lookback."""
