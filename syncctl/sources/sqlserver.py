"""Microsoft SQL Server: types, exact reading, comparison in the column's own type, rowversions."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mssql
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.rows import Value
from syncctl.core.stream import Stream
from syncctl.core.values import shorten_single, to_value
from syncctl.errors import ConfigurationError, SourceError
from syncctl.sources.catalog.relation import Column, Kind, Relation, quote_name, split_name, strip_statement
from syncctl.sources.catalog.sqlserver_catalog import DATABASE_IDENTITY, DESCRIBE_QUERY, ROLE
from syncctl.sources.catalog.sqlserver_types import KINDS, make_type
from syncctl.sources.cursor import Raw, to_text
from syncctl.sources.dialect import IsolationLevel, ReadCeiling
from syncctl.sources.driver_errors import advise_grant, read_diagnostic
from syncctl.sources.instants import Instant, fit_fraction, join_with_t, parse_instant

T = TypeVar("T", int, float, Decimal)

_QUERY_PART = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\[(?:[^\]]|\]\])*\]|[()]|[^\W\d][\w@#$]*", re.DOTALL
)


def read_min_active_rowversion(connection: sa.Connection) -> bytes:
    """Return the rowversion below which every transaction has ended (in a separate statement, before the page)."""
    return bytes(connection.exec_driver_sql("SELECT MIN_ACTIVE_ROWVERSION()").scalar_one())


class SqlServerDialect:
    """The dialect of SQL Server: times are read as text with all digits; parameters are cast to the column's type."""

    read_ceiling: ReadCeiling | None = staticmethod(read_min_active_rowversion)
    transaction_level: IsolationLevel = "READ COMMITTED"
    has_change_tracking = True

    def column(self, reflected: dict[str, Any]) -> Column:
        """Return a column as the catalog declares it."""
        column = _make_column(reflected["name"], reflected["type"], nullable=reflected["nullable"])
        identity = reflected.get("identity")
        if not identity:
            return column
        return replace(column, seed=int(identity.get("start", 1)), increment=int(identity.get("increment", 1)))

    def query_columns(self, connection: sa.Connection, stream: Stream) -> tuple[Column, ...]:
        """Ask the server to describe a query, which it compiles but does not run."""
        check_subquery(stream)
        statement = sa.text(DESCRIBE_QUERY).bindparams(sa.bindparam("statement", type_=sa.UnicodeText()))
        rows = connection.execute(statement, {"statement": strip_statement(stream.query or "")}).all()
        problem = next((row.error_message for row in rows if row.error_message), None)
        if problem is not None:
            raise SourceError(
                f"stream {stream.name} cannot be read",
                why=f"SQL Server refuses its query: {problem}",
                hint=advise_grant(problem, "")
                if "permission" in problem.lower()
                else f"correct streams.{stream.name}.query",
            )
        return tuple(
            _make_column(
                row.name or "",
                make_type(row.type_name or "", row.collation_name),
                nullable=bool(row.is_nullable),
            )
            for row in rows
        )

    def shown(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return times as text, because the driver's own types drop the seventh digit.

        Style 121 writes every digit of `datetime2` and `datetimeoffset`, while style 126 drops zeros. Only style 126 is
        read back as `datetime` and `smalldatetime` in the same way in every language.
        """
        match column.kind:
            case Kind.JSON:
                return sa.cast(expression, sa.NVARCHAR())
            case Kind.TIME if _is_old(column):
                return _convert("VARCHAR(33)", expression, 126)
            case Kind.TIME:
                return _convert("VARCHAR(34)", expression, 121)
            case Kind.DATE:
                return _convert("VARCHAR(10)", expression, 23)
            case Kind.CLOCK:
                return _convert("VARCHAR(16)", expression, 121)
        return expression

    def bound(self, column: Column, raw: Raw) -> sa.ColumnElement[Any]:
        """Return a parameter cast to the column's type.

        Without the cast, SQL Server would convert the column instead: it would compare `datetime` in another precision
        and `varchar` in another sort order than those in which they were read, and use no index.
        """
        value = self.parameter(column, raw)
        return _cast_parameter(column, lambda kind: sa.literal(value, kind))

    def parameter(self, column: Column, raw: Raw) -> Raw:
        """Return a value as text if the driver's own type would lose some of its digits."""
        is_declared = column.type is not None
        match column.kind:
            case Kind.TIME if is_declared:
                return join_with_t(to_text(raw))
            case Kind.DATE | Kind.CLOCK | Kind.GUID if is_declared:
                return to_text(raw)
            case Kind.DECIMAL if is_declared:
                return f"{Decimal(raw):f}"
            case Kind.ROWVERSION:
                return bytes(raw)
            case Kind.BINARY if is_declared:
                return bytes(raw)
        return raw

    def listed(self, column: Column, name: str) -> sa.ColumnElement[Any]:
        """Return a parameter cast to the column's type; an integer may be larger than the column's type allows."""
        parameter = _cast_parameter(column, lambda kind: sa.bindparam(name, type_=kind))
        match column.kind:
            case Kind.INTEGER:
                return sa.cast(parameter, sa.BigInteger())
            case Kind.BOOLEAN:
                return sa.cast(parameter, mssql.BIT())
            case Kind.FLOAT if not isinstance(column.type, mssql.REAL):
                return sa.cast(parameter, sa.Float(53))
        return parameter

    def join_list(self, values: sa.Values) -> FromClause:
        """Return a derived table."""
        return values

    def matched(self, column: Column, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return the value in the column's collation, because values of different collations cannot be compared."""
        collation = getattr(column.type, "collation", None)
        return sa.collate(value, collation) if collation else value

    def read_collation(self, connection: sa.Connection, relation: Relation, column: Column) -> str | None:  # noqa: ARG002
        """Return the declared collation."""
        return getattr(column.type, "collation", None) if column.kind is Kind.TEXT else None

    def tie_breaker(self, column: Column, expression: sa.ColumnElement[Any]) -> sa.ColumnElement[Any] | None:
        """Return the bytes of a text, and the offset of a time; types such as `xml` and `json` have no order."""
        match column.kind:
            case Kind.OTHER | Kind.FORMLESS | Kind.JSON:
                return None
            case Kind.TEXT:
                return sa.cast(sa.cast(expression, mssql.NVARCHAR()), mssql.VARBINARY("max"))  # type: ignore[no-untyped-call]
            case Kind.TIME:
                return self.shown(column, expression)
        return expression

    def converter(self, column: Column) -> Callable[[Raw], Value]:
        """Return `to_value`, except for types that SQL Server or its driver does not write as JSON needs them."""
        match column.kind:
            case Kind.ROWVERSION:
                return lambda raw: None if raw is None else to_text(bytes(raw))
            case Kind.GUID:
                return lambda raw: None if raw is None else str(raw).lower()
            case Kind.TIME:
                digits = _count_digits(column)
                return lambda raw: None if raw is None else fit_fraction(join_with_t(str(raw)), digits)
            case Kind.FLOAT if isinstance(column.type, mssql.REAL):
                return lambda raw: None if raw is None else shorten_single(raw)
        return to_value

    def one_moment(self, connection: sa.Connection) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: without snapshot isolation, which mode change_tracking uses, a transaction would hold locks."""
        return nullcontext()

    def parse_start(self, column: Column, text: str, sample: Raw) -> Raw:  # noqa: ARG002
        """Return a start as a value of the column's type."""
        match column.kind:
            case Kind.INTEGER:
                number = _parse(int, text, "an integer")
                if not -(2**63) <= number < 2**63:
                    raise ValueError(f"{text!r} is beyond what a bigint holds")
                return number
            case Kind.DECIMAL:
                return _parse(Decimal, text, "a decimal number")
            case Kind.FLOAT:
                return _parse(float, text, "a number")
            case Kind.TIME | Kind.DATE:
                return _parse_time(column, text)
        return text

    def read_clock(self, connection: sa.Connection) -> datetime:
        """Return SYSUTCDATETIME(), to the microsecond."""
        text = connection.exec_driver_sql("SELECT CONVERT(VARCHAR(33), SYSUTCDATETIME(), 126)").scalar_one()
        instant = parse_instant(text)
        return instant.moment.replace(microsecond=int(f"{instant.fraction:0<6}"[:6]), tzinfo=UTC)

    def read_database(self, connection: sa.Connection) -> str:
        """Return the database's name and its id."""
        row = connection.exec_driver_sql(DATABASE_IDENTITY).first()
        return "" if row is None else f"{row.name} ({str(row.id).lower()})"

    def read_identity(self, connection: sa.Connection, stream: Stream) -> int | None:
        """Return IDENT_CURRENT, which a TRUNCATE or a new table resets."""
        if stream.table is None:
            return None
        name = quote_name(*split_name(stream.table))
        number = connection.execute(sa.select(sa.func.ident_current(sa.literal(name, sa.Unicode())))).scalar()
        return None if number is None else int(number)

    def is_read_only_copy(self, connection: sa.Connection) -> bool:
        """Tell whether the database accepts no writes here although it was not set read-only."""
        return bool(connection.exec_driver_sql(ROLE).one().is_secondary)

    def earliest(self, column: Column) -> str:
        """Return the earliest time of the column's type: `datetime` and `smalldatetime` begin late."""
        if isinstance(column.type, mssql.SMALLDATETIME):
            return "1900-01-01"
        return "1753-01-01" if isinstance(column.type, mssql.DATETIME) else "0001-01-01"

    def lock_wait(self, seconds: float, *, is_limit: bool) -> str:
        """Return the statement that sets how long the session waits for a lock: usually until the query's timeout."""
        return f"SET LOCK_TIMEOUT {round(seconds * 1000) if is_limit else -1}"

    def measure_text(self, column: Column, text: str) -> int:
        """Return the number of UTF-16 units, or for a varchar the most bytes that it may need."""
        if isinstance(column.type, sa.Unicode | sa.UnicodeText | sa.NCHAR | sa.NVARCHAR):
            return len(text.encode("utf-16-le", "surrogatepass")) // 2
        return len(text.encode("utf-8", "surrogatepass"))

    def is_row_data_error(self, error: BaseException) -> bool:
        """Tell whether an error concerns a row's content, or a value that the driver refuses."""
        if isinstance(error, exc.DBAPIError):
            diagnostic = None if error.orig is None else read_diagnostic(error.orig)
            return isinstance(error, exc.DataError) or (diagnostic is not None and diagnostic.is_row_content)
        return isinstance(error, ValueError | ArithmeticError)


def check_subquery(stream: Stream) -> None:
    """Refuse a query that cannot be a subquery, because SQL Server's own message would not explain why.

    Raises:
        ConfigurationError: The query begins with WITH, or orders its rows.
    """
    words = list_words(stream.query or "")
    if words[:1] == ["with"]:
        raise ConfigurationError(
            f"streams.{stream.name}.query is wrong",
            why="it begins with WITH, which SQL Server does not accept in a subquery",
            hint=f"make a view of it (CREATE VIEW ... AS WITH ...), and set streams.{stream.name}.table to the view",
        )
    # With TOP or OFFSET, the order decides which rows are returned, and SQL Server accepts it.
    if ("order", "by") in pairwise(words) and not {"top", "offset"} & set(words):
        raise ConfigurationError(
            f"streams.{stream.name}.query is wrong",
            why="it has an ORDER BY, but its rows are read in the order of the stream's cursor and key",
            hint="leave the ORDER BY out",
        )


def list_words(query: str) -> list[str]:
    """Return the keywords and bare names of a query in lower case, without strings, comments and parentheses."""
    words, depth = [], 0
    for part in _QUERY_PART.findall(query):
        if part in "()":
            depth += 1 if part == "(" else -1
        elif depth == 0 and (part[0].isalpha() or part[0] == "_"):
            words.append(part.lower())
    return words


def _make_column(name: str, declared: Any, *, nullable: bool) -> Column:
    kind = next((kind for parent, kind in KINDS if isinstance(declared, parent)), Kind.OTHER)
    return Column(name=name, kind=kind, type=declared, nullable=nullable)


def _is_old(column: Column) -> bool:
    return isinstance(column.type, mssql.DATETIME | mssql.SMALLDATETIME)


def _count_digits(column: Column) -> int | None:
    """Return how many fractional digits of a second a type has; None if its declaration is not known."""
    if isinstance(column.type, mssql.SMALLDATETIME):
        return 0
    if isinstance(column.type, mssql.DATETIME):
        return 3
    digits: int | None = getattr(column.type, "precision", None)
    return digits


def _convert(target: str, expression: sa.ColumnElement[Any], style: int) -> sa.ColumnElement[Any]:
    return sa.func.convert(sa.literal_column(target), expression, sa.literal_column(str(style)))


def _cast_parameter(column: Column, make: Callable[[Any], sa.ColumnElement[Any]]) -> sa.ColumnElement[Any]:
    """Return a parameter that is cast to a column's type if the driver's own type would be a different one.

    Args:
        make: Returns the parameter with the given SQLAlchemy type, or with the value's own type if given None.
    """
    declared = column.type
    match column.kind:
        case Kind.TIME | Kind.DATE | Kind.CLOCK | Kind.GUID | Kind.DECIMAL if declared is not None:
            return sa.cast(make(sa.Unicode()), declared)
        case Kind.FLOAT if isinstance(declared, mssql.REAL):
            return sa.cast(make(sa.Float()), declared)
        case Kind.ROWVERSION:
            return sa.cast(make(sa.LargeBinary()), mssql.BINARY(8))
        case Kind.BINARY if declared is not None:
            return sa.cast(make(sa.LargeBinary()), declared)
        case Kind.TEXT if isinstance(declared, sa.String):
            return _cast_text(make(sa.Unicode()), declared)
        case Kind.INTEGER:
            return make(sa.BigInteger())
    return make(None)


def _cast_text(parameter: sa.ColumnElement[Any], declared: sa.String) -> sa.ColumnElement[Any]:
    """Cast to the column's text type; the collation is applied inside, because CAST does not accept one."""
    bare = type(declared)(declared.length)
    if declared.collation and not isinstance(declared, sa.Unicode):
        parameter = sa.collate(parameter, declared.collation)
    return sa.cast(parameter, bare)


def _parse(read: Callable[[str], T], text: str, form: str) -> T:
    try:
        number = read(text)
    except (ValueError, InvalidOperation):
        raise ValueError(f"{text!r} is not {form}") from None
    to_value(number)
    return number


def _parse_time(column: Column, text: str) -> str:
    """Return a time in the form that SQL Server reads in the same way in every language and date format."""
    given = parse_instant(text)
    if column.kind is Kind.DATE:
        return given.moment.date().isoformat()
    keeps_offset = isinstance(column.type, mssql.DATETIMEOFFSET)
    if given.offset and not keeps_offset:
        raise ValueError(f"{text!r} has an offset, and the cursor column has none")
    digits = _count_digits(column)
    offset = given.offset.strip()
    if offset not in ("", "Z") and ":" not in offset:
        offset = f"{offset[:3]}:{offset[3:]}"
    return str(
        Instant(
            moment=given.moment,
            separator="T",
            has_seconds=True,
            fraction=given.fraction[: 7 if digits is None else digits],
            offset=offset,
        )
    )
