"""SQLite: the source of the demo and the tests. Each value has the type with which it was stored."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy import types as t
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.rows import Value
from syncctl.core.stream import Source, Stream
from syncctl.core.values import to_value
from syncctl.errors import ConfigurationError, ServiceUnavailable
from syncctl.sources.catalog.relation import Column, Kind, Relation, strip_statement
from syncctl.sources.cursor import Raw
from syncctl.sources.dialect import IsolationLevel, ReadCeiling
from syncctl.sources.driver_errors import Address
from syncctl.sources.instants import parse_instant

_NUMBERED = re.compile(r":\d+$")
_KINDS: tuple[tuple[type[t.TypeEngine[Any]], Kind], ...] = (
    (t.Boolean, Kind.BOOLEAN),
    (t.Integer, Kind.INTEGER),
    (t.Float, Kind.FLOAT),
    (t.Numeric, Kind.DECIMAL),
    (t.DateTime, Kind.TIME),
    (t.Date, Kind.DATE),
    (t.Time, Kind.CLOCK),
    (t.String, Kind.TEXT),
    (t.LargeBinary, Kind.BINARY),
)


def open_engine(source: Source, url: sa.URL, address: Address) -> sa.Engine:
    """Return an engine that reads an existing file; it never creates one.

    Raises:
        ConfigurationError: The URL names no file.
        ServiceUnavailable: The file does not exist.
    """
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(
            f"{address.setting} names no file",
            why="a database in memory is empty for every program but the one that created it",
            hint="write sqlite:///orders.db, or sqlite:////full/path/orders.db",
        )
    path = Path(url.database)
    if not path.is_file():
        raise ServiceUnavailable(
            f"cannot open {address.title}",
            service="source",
            why="it is a directory" if path.is_dir() else "there is no such file",
            hint=f"check {address.setting}; a full path has four slashes: sqlite:////full/path/orders.db",
        )

    def connect() -> sqlite3.Connection:
        # mode=rw creates no file, and lets a reader open a database in write-ahead logging.
        return sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=rw",
            uri=True,
            timeout=source.query_timeout_seconds,
            check_same_thread=False,
        )

    return sa.create_engine(
        "sqlite://",
        creator=connect,
        poolclass=sa.pool.QueuePool,
        pool_size=1,
        pool_pre_ping=True,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )


class SqliteDialect:
    """The dialect of SQLite: values are read as they are stored, and compared in the type in which they were read."""

    read_ceiling: ReadCeiling | None = None
    transaction_level: IsolationLevel = "SERIALIZABLE"
    has_change_tracking = False

    def column(self, reflected: dict[str, Any]) -> Column:
        """Return a column; its declared type shows the intended values, not the stored ones."""
        kind = next((kind for parent, kind in _KINDS if isinstance(reflected["type"], parent)), Kind.OTHER)
        return Column(name=reflected["name"], kind=kind, type=reflected["type"], nullable=reflected["nullable"])

    def query_columns(self, connection: sa.Connection, stream: Stream) -> tuple[Column, ...]:
        """Return the columns of a query; SQLite reports only their names."""
        inner = strip_statement(stream.query or "")
        names = _read_names(connection, f"select * from ({inner}) limit 0")  # noqa: S608
        if any(_NUMBERED.search(name) for name in names):
            # In a subquery, the second column of the same name is called `id:1`. The query itself has the real name,
            # but when it is run, SQLite looks for the first row.
            names = _read_names(connection, inner)
        return tuple(Column(name=name, kind=Kind.OTHER) for name in names)

    def shown(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:  # noqa: ARG002
        """Return the column as it is stored."""
        return expression

    def bound(self, column: Column, raw: Raw) -> sa.ColumnElement[Any]:  # noqa: ARG002
        """Return the raw value, because SQLite compares by storage class."""
        return sa.literal(raw)

    def parameter(self, column: Column, raw: Raw) -> Raw:  # noqa: ARG002
        """Return the raw value."""
        return raw

    def listed(self, column: Column, name: str) -> sa.ColumnElement[Any]:  # noqa: ARG002
        """Return a plain parameter, because a cast would turn texts that are not numbers into numbers."""
        return sa.bindparam(name)

    def join_list(self, values: sa.Values) -> FromClause:
        """Return a common table expression: only there does SQLite name the columns of a list."""
        return values.cte()

    def matched(self, column: Column, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:  # noqa: ARG002
        """Return the value, because SQLite uses the collation of the column on the left."""
        return value

    def read_collation(self, connection: sa.Connection, relation: Relation, column: Column) -> str | None:
        """Return NOCASE, RTRIM or BINARY, found by comparing texts as the column does: the catalog does not show it."""
        values = sa.select(relation.clause.c[column.name].label("k")).where(sa.false())
        for text, other, collation in (("A", "a", "NOCASE"), ("a ", "a", "RTRIM")):
            list_ = values.union_all(sa.select(sa.literal(text))).subquery()
            if connection.execute(sa.select(sa.literal(1)).where(list_.c.k == other)).first() is not None:
                return collation
        return "BINARY"

    def tie_breaker(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any] | None:  # noqa: ARG002
        """Return the bytes of the value."""
        return sa.collate(expression, "BINARY")

    def converter(self, column: Column) -> Callable[[Raw], Value]:
        """Return `to_value`, except for declared decimals and booleans, which SQLite stores as integers or floats."""
        if column.kind is Kind.BOOLEAN:
            return lambda raw: bool(raw) if raw in (0, 1) else to_value(raw)
        if column.kind is Kind.DECIMAL:
            scale = getattr(column.type, "scale", None)
            unit = None if scale is None else Decimal(1).scaleb(-scale)
            return lambda raw: _to_decimal(raw, unit)
        return to_value

    @contextmanager
    def one_moment(self, connection: sa.Connection) -> Iterator[None]:
        """Read in one transaction."""
        driver: Any = connection.connection.dbapi_connection
        if driver.in_transaction:
            yield
            return
        connection.exec_driver_sql("begin")
        try:
            yield
        finally:
            connection.exec_driver_sql("rollback")

    def parse_start(self, column: Column, text: str, sample: Raw) -> Raw:
        """Return a start in the form in which the column's values are stored."""
        is_number = isinstance(sample, int | float) or (
            sample is None and column.kind in (Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT)
        )
        if is_number:
            return _parse_number(text)
        if column.kind in (Kind.TIME, Kind.DATE):
            parse_instant(text)
        return _write_like(text, sample)

    def read_clock(self, connection: sa.Connection) -> datetime:
        """Return the time of this machine's clock, which is also the database's."""
        text = connection.exec_driver_sql("select strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')").scalar_one()
        return datetime.fromisoformat(text)

    def read_database(self, connection: sa.Connection) -> str:
        """Return the path of the file."""
        path = connection.exec_driver_sql("select file from pragma_database_list where name = 'main'").scalar()
        return str(path or "")

    def read_identity(self, connection: sa.Connection, stream: Stream) -> int | None:  # noqa: ARG002
        """Return None, because SQLite assigns the numbers of deleted last rows again."""
        return None

    def is_read_only_copy(self, connection: sa.Connection) -> bool:  # noqa: ARG002
        """Return False, because a file is not a copy of a database elsewhere."""
        return False

    def earliest(self, column: Column) -> str:  # noqa: ARG002
        """Return the first time of the calendar."""
        return "0001-01-01"

    def lock_wait(self, seconds: float, *, is_limit: bool) -> str:  # noqa: ARG002
        """Return the statement that sets how long the connection waits for the file."""
        return f"PRAGMA busy_timeout = {round(seconds * 1000)}"

    def measure_text(self, column: Column, text: str) -> int:  # noqa: ARG002
        """Return the number of characters."""
        return len(text)

    def is_row_data_error(self, error: BaseException) -> bool:
        """Tell whether a text is not UTF-8, or too large for the driver."""
        if isinstance(error, exc.DBAPIError):
            return isinstance(error, exc.DataError) or "Could not decode to UTF-8" in str(error.orig)
        return isinstance(error, ValueError | ArithmeticError)


def _read_names(connection: sa.Connection, query: str) -> list[str]:
    with connection.exec_driver_sql(query) as result:
        return [entry[0] for entry in result.cursor.description or ()] if result.cursor else []


def _to_decimal(raw: Raw, unit: Decimal | None) -> Value:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return to_value(raw)
    to_value(raw)
    number = Decimal(repr(raw))
    if unit is None:
        return number
    try:
        padded = number.quantize(unit)
    except DecimalException:
        return number
    return padded if padded == number else number


def _parse_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number, and the cursor column holds numbers") from None
    to_value(number)
    return number


def _write_like(text: str, sample: Raw) -> str:
    """Return a time with the T or the space that stored times have, because SQLite compares them as text."""
    try:
        like, wanted = parse_instant(str(sample)), parse_instant(text)
    except ValueError:
        return text
    if not (like.separator and wanted.separator):
        return text
    return text.replace(wanted.separator, like.separator, 1)
