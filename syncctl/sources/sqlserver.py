"""Microsoft SQL Server: types, exact reading, comparison in the column's own type, rowversions."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mssql

from syncctl.core.rows import Value
from syncctl.core.stream import Stream
from syncctl.core.values import shorten_single, to_value
from syncctl.errors import SourceError
from syncctl.sources.changes import ChangeFeed, SqlServerChanges
from syncctl.sources.dialect import IsolationLevel, ReadCeiling
from syncctl.sources.instants import Instant, fit_fraction, join_with_t, parse_instant
from syncctl.sources.permissions import advise_grant, quote_name
from syncctl.sources.positions import Raw, show
from syncctl.sources.sqlserver_types import KINDS, Json
from syncctl.sources.statements import check_subquery
from syncctl.sources.tables import Column, Kind, split_name, strip_query

T = TypeVar("T", int, float, Decimal)

_DESCRIBE = sa.text(
    "SELECT name, COALESCE(system_type_name, user_type_name) AS type_name, is_nullable, collation_name, error_message"
    " FROM sys.dm_exec_describe_first_result_set(:statement, NULL, 0)"
    " WHERE is_hidden = 0 OR error_message IS NOT NULL ORDER BY column_ordinal"
).bindparams(sa.bindparam("statement", type_=sa.UnicodeText()))


# A readable secondary and a standby of log shipping take no writes. A database that was set read-only takes none
# either, and is no copy of anything.
_IS_COPY = (
    "SELECT 1 FROM sys.databases WHERE database_id = DB_ID() AND (is_in_standby = 1 OR"
    " (is_read_only = 0 AND CAST(DATABASEPROPERTYEX(DB_NAME(), 'Updateability') AS NVARCHAR(20)) = N'READ_ONLY'))"
)


def read_min_active_rowversion(connection: sa.Connection) -> bytes:
    """Return the rowversion below which every transaction has ended (in a statement of its own, before the page)."""
    return bytes(connection.exec_driver_sql("SELECT MIN_ACTIVE_ROWVERSION()").scalar_one())


class SqlServerDialect:
    """Times are read as text with all their digits; parameters are cast to the type of their column."""

    read_ceiling: ReadCeiling | None = staticmethod(read_min_active_rowversion)
    changes: ChangeFeed | None = SqlServerChanges()
    transaction_level: IsolationLevel = "READ COMMITTED"

    def column(self, reflected: dict[str, Any]) -> Column:
        """Return a column as the catalog declares it."""
        column = _make_column(reflected["name"], reflected["type"], nullable=reflected["nullable"])
        identity = reflected.get("identity")
        if not identity:
            return column
        return replace(column, seed=int(identity.get("start", 1)), increment=int(identity.get("increment", 1)))

    def query_columns(self, connection: sa.Connection, stream: Stream) -> tuple[Column, ...]:
        """Ask the server to describe a query; it compiles it and does not run it."""
        check_subquery(stream)
        rows = connection.execute(_DESCRIBE, {"statement": strip_query(stream.query or "")}).all()
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
        """Return times as text: the driver's own types drop the seventh digit.

        Style 121 writes each digit of `datetime2` and `datetimeoffset`, where 126 leaves zeros out; 126 is the one that
        `datetime` and `smalldatetime` are read back from alike in every language.
        """
        if isinstance(column.type, Json):
            return sa.cast(expression, sa.NVARCHAR())
        match column.kind:
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

        Else SQL Server would convert the column: it would compare `datetime` in another precision and `varchar` in
        another sort order than it was read in, and use no index.
        """
        declared = column.type
        match column.kind:
            case Kind.TIME if declared is not None:
                return sa.cast(sa.literal(join_with_t(show(raw)[1]), sa.Unicode()), declared)
            case Kind.DATE | Kind.CLOCK | Kind.GUID if declared is not None:
                return sa.cast(sa.literal(show(raw)[1], sa.Unicode()), declared)
            case Kind.DECIMAL if declared is not None:
                return sa.cast(sa.literal(f"{Decimal(raw):f}", sa.Unicode()), declared)
            case Kind.FLOAT if isinstance(declared, mssql.REAL):
                return sa.cast(sa.literal(raw, sa.Float()), declared)
            case Kind.ROWVERSION:
                return sa.cast(sa.literal(bytes(raw), sa.LargeBinary()), mssql.BINARY(8))
            case Kind.BINARY if declared is not None:
                return sa.cast(sa.literal(bytes(raw), sa.LargeBinary()), declared)
            case Kind.TEXT if isinstance(declared, sa.String):
                return _bind_text(raw, declared)
            case Kind.INTEGER:
                return sa.literal(raw, sa.BigInteger())
        return sa.literal(raw)

    def converter(self, column: Column) -> Callable[[Raw], Value]:
        """Return `to_value`, but for what SQL Server, or its driver, writes in another form than JSON's."""
        match column.kind:
            case Kind.ROWVERSION:
                return lambda raw: None if raw is None else show(bytes(raw))[1]
            case Kind.GUID:
                return lambda raw: None if raw is None else str(raw).lower()
            case Kind.TIME:
                digits = _count_digits(column)
                return lambda raw: None if raw is None else fit_fraction(join_with_t(str(raw)), digits)
            case Kind.FLOAT if isinstance(column.type, mssql.REAL):
                return lambda raw: None if raw is None else shorten_single(raw)
        return to_value

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

    def read_identity(self, connection: sa.Connection, stream: Stream) -> int | None:
        """Return IDENT_CURRENT, which a TRUNCATE or a new table sets back."""
        if stream.table is None:
            return None
        name = quote_name(*split_name(stream.table))
        found = connection.execute(sa.select(sa.func.ident_current(sa.literal(name, sa.Unicode())))).scalar()
        return None if found is None else int(found)

    def is_read_only_copy(self, connection: sa.Connection) -> bool:
        """Say whether the database takes no writes here although nobody has set it read-only."""
        return connection.exec_driver_sql(_IS_COPY).scalar() is not None

    def earliest(self, column: Column) -> str:
        """Return the first time of `datetime` and `smalldatetime`, which begin late."""
        if isinstance(column.type, mssql.SMALLDATETIME):
            return "1900-01-01"
        return "1753-01-01" if isinstance(column.type, mssql.DATETIME) else "0001-01-01"

    def is_row_data_error(self, error: BaseException) -> bool:
        """Say whether an error is about a row's content: SQLSTATE class 22, or what the driver cannot convert."""
        if isinstance(error, exc.DBAPIError):
            state = str(error.orig.args[0]) if error.orig is not None and error.orig.args else ""
            return isinstance(error, exc.DataError) or state.startswith("22") or state == "HY106"
        return isinstance(error, ValueError | ArithmeticError)


def _make_column(name: str, declared: Any, *, nullable: bool) -> Column:
    kind = next((kind for parent, kind in KINDS if isinstance(declared, parent)), Kind.OTHER)
    return Column(name=name, kind=kind, type=declared, nullable=nullable)


def make_type(declaration: str, collation: str | None = None) -> sa.types.TypeEngine[Any]:
    """Return the type that SQL Server writes as `datetime2(7)`, `decimal(10,2)` or `nvarchar(max)`."""
    name, _, rest = declaration.rstrip(")").partition("(")
    found: Any = mssql.base.ischema_names.get(name.strip())
    made: sa.types.TypeEngine[Any]
    sizes = [int(each) for each in rest.split(",") if each.strip().isdigit()]
    if found is None:
        made = sa.types.NullType()
    elif issubclass(found, sa.String):
        made = found(sizes[0] if sizes else None, collation=collation)
    elif issubclass(found, mssql.TIME | mssql.DATETIME2 | mssql.DATETIMEOFFSET):
        made = found(precision=sizes[0] if sizes else None)
    else:
        made = found(*sizes)
    return made


def _is_old(column: Column) -> bool:
    return isinstance(column.type, mssql.DATETIME | mssql.SMALLDATETIME)


def _count_digits(column: Column) -> int | None:
    """Return how many digits of a second a type has, None where its declaration is not known."""
    if isinstance(column.type, mssql.SMALLDATETIME):
        return 0
    if isinstance(column.type, mssql.DATETIME):
        return 3
    digits: int | None = getattr(column.type, "precision", None)
    return digits


def _convert(target: str, expression: sa.ColumnElement[Any], style: int) -> sa.ColumnElement[Any]:
    return sa.func.convert(sa.literal_column(target), expression, sa.literal_column(str(style)))


def _bind_text(raw: Raw, declared: sa.String) -> sa.ColumnElement[Any]:
    """Cast to the column's text type; its collation goes inside, because CAST takes none."""
    bare = type(declared)(declared.length)
    parameter: sa.ColumnElement[Any] = sa.literal(raw, sa.Unicode())
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
    """Write a time so that SQL Server reads it alike in every language and date format."""
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
