"""The relation that a stream reads (a table, a view or a query) with its columns; splitting and quoting of names."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects.mssql.base import RESERVED_WORDS as SQLSERVER_WORDS
from sqlalchemy.dialects.sqlite.base import SQLiteIdentifierPreparer
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.cursors import hash_text
from syncctl.core.schema_changes import DeclaredRelation
from syncctl.core.spelling import suggest
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from syncctl.sources.dialect import Dialect

_PART = re.compile(r'\s*(?:\[((?:[^\]]|\]\])+)\]|"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|([^.\[\]"`]+?))\s*(\.|$)')
_PLAIN = re.compile(r"[^\W\d]\w*")
_RESERVED = frozenset(SQLSERVER_WORDS) | frozenset(SQLiteIdentifierPreparer.reserved_words) | {"try_convert", "within"}
_TOKEN = re.compile(
    r"""(?P<end>\s+|;|--[^\n]*|/\*.*?\*/)
    |'(?:[^']|'')*+'|"(?:[^"]|"")*+"|\[(?:[^\]]|\]\])*+\]|`[^`]*+`|[^\s;'"\[`/-]+|.""",
    re.VERBOSE | re.DOTALL,
)
ALIAS = "t"


class Kind(StrEnum):
    """The kind of a column's type, as far as syncctl treats types differently."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    TIME = "time"
    DATE = "date"
    CLOCK = "time of day"
    TEXT = "text"
    GUID = "GUID"
    BINARY = "binary"
    BOOLEAN = "boolean"
    JSON = "JSON"
    ROWVERSION = "rowversion"
    FORMLESS = "formless"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column."""

    name: str
    kind: Kind
    #: The type that the database declares; None if it declares none.
    type: sa.types.TypeEngine[Any] | None = None
    nullable: bool = True
    #: The first number of an identity; None if the column is not an identity.
    seed: int | None = None
    #: The step from one number of an identity to the next.
    increment: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A table, a view or a query that a stream reads."""

    #: Its name in messages: `table dbo.orders`, `the query`.
    title: str
    #: The FROM clause; it has an alias, so that its columns are always qualified.
    clause: FromClause
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    #: The full name of the table or view, with the schema in which the database finds it; None for a query.
    name: str | None = None


def split_name(text: str) -> tuple[str, ...]:
    """Split `dbo.orders`, `[sales].[order lines]` or `"a.b"` into its parts, without their quotes.

    Raises:
        ValueError: The text is not a table name.
    """
    parts: list[str] = []
    position = 0
    while position < len(text) or not parts:
        match = _PART.match(text, position)
        if match is None or (match[5] == "." and match.end() == len(text)):
            raise ValueError(f"{text!r} is not a table name; write orders, dbo.orders or [dbo].[order lines]")
        bracketed, quoted, ticked, plain = match.group(1, 2, 3, 4)
        parts.append(
            plain
            or (bracketed or "").replace("]]", "]")
            or (quoted or "").replace('""', '"')
            or (ticked or "").replace("``", "`")
        )
        position = match.end()
    return tuple(parts)


def bracket(name: str) -> str:
    """Return a name in brackets: `[orders]`, `[a]]b]`."""
    return f"[{name.replace(']', ']]')}]"


def quote_name(*parts: str) -> str:
    """Return a name for SQL and for a stream's `table`, with brackets where they are needed: `sales.[order lines]`."""
    return ".".join(
        part if _PLAIN.fullmatch(part) and part.lower() not in _RESERVED else bracket(part) for part in parts if part
    )


def find_name(wanted: str, names: Sequence[str]) -> str | None:
    """Return the name that equals the wanted one, otherwise the only one that differs just in case, otherwise None."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None


def make_schema(parts: Sequence[str]) -> str | None:
    """Return the schema as SQLAlchemy expects it: `dbo`, or `erp.dbo` for a schema of another database."""
    if not parts:
        return None
    if len(parts) == 1:
        needs_quote = re.search(r"[.\[\]]", parts[0]) is not None
        return sa.sql.quoted_name(parts[0], quote=True) if needs_quote else parts[0]
    return ".".join(f"[{part}]" if "." in part else part for part in parts)


def describe_relation(connection: sa.Connection, stream: Stream, dialect: "Dialect") -> Relation:
    """Return the table, view or query of a stream, with its columns as the dialect types them.

    Raises:
        ConfigurationError: The table's name is not valid, or a column of the query has no unique name.
        SourceError: The table does not exist, or the database refuses the query.
    """
    if stream.query is not None:
        return describe_query(stream, dialect.query_columns(connection, stream))
    return _describe_table(connection, stream, dialect)


def _describe_table(connection: sa.Connection, stream: Stream, dialect: "Dialect") -> Relation:
    assert stream.table is not None  # noqa: S101
    try:
        *before, name = split_name(stream.table)
    except ValueError as error:
        raise ConfigurationError(
            f"streams.{stream.name}.table is wrong", why=str(error), hint="correct it in syncctl.toml"
        ) from None
    if len(before) > 2:
        raise ConfigurationError(
            f"streams.{stream.name}.table names another server",
            why="a table is read by one, two or three names: table, schema.table, database.schema.table",
            hint="make a view of it, or configure that server as a source of its own",
        )
    schema = make_schema(before)
    inspector = sa.inspect(connection)
    reflected = _reflect(inspector, name, schema)
    if reflected is None:
        names = _list_tables(inspector, schema)
        alike = find_name(name, names)
        reflected = _reflect(inspector, alike, schema) if alike else None
        if reflected is None or alike is None:
            raise _missing_table(stream, name, names or _list_tables(inspector, None))
        name = alike
    columns = tuple(dialect.column(column) for column in reflected[0])
    table = sa.table(name, *(sa.column(column.name) for column in columns), schema=schema)
    return Relation(
        title=f"table {stream.table}",
        clause=table.alias(ALIAS),
        columns=columns,
        primary_key=tuple(reflected[1]),
        name=quote_name(*(before or [inspector.default_schema_name or ""]), name),
    )


def _reflect(inspector: sa.Inspector, name: str, schema: str | None) -> tuple[list[Any], list[str]] | None:
    """Return the columns and the primary key of a table; None if it does not exist."""
    with warnings.catch_warnings():
        # A column of a type that SQLAlchemy does not know (geography) is read anyway.
        warnings.simplefilter("ignore", exc.SAWarning)
        try:
            columns = list(inspector.get_columns(name, schema))
            key = inspector.get_pk_constraint(name, schema).get("constrained_columns") or []
        except exc.NoSuchTableError:
            return None
        except exc.OperationalError as error:
            if "unknown database" in str(error.orig):
                return None
            raise
    return (columns, list(key)) if columns else None


def _list_tables(inspector: sa.Inspector, schema: str | None) -> list[str]:
    try:
        return sorted([*inspector.get_table_names(schema), *inspector.get_view_names(schema)])
    except exc.SQLAlchemyError:
        return []


def _missing_table(stream: Stream, name: str, names: Sequence[str]) -> SourceError:
    return SourceError(
        f"stream {stream.name} cannot be read",
        why=f"there is no table {stream.table}, or its login may not see it",
        hint=f"set streams.{stream.name}.table" + (f"; {suggest(name, names, at_most=10)}" if names else ""),
    )


def declare_relation(path: str, stream: Stream, relation: Relation, connection: sa.Connection) -> DeclaredRelation:
    """Return the relation that a stream or a child reads, with the types that the database declares.

    Args:
        path: The path of the child; empty for the stream itself.
    """
    # Another version of SQLAlchemy may write a type differently, which is not a change of the source.
    read = (relation.name and relation.name.casefold(), stream.query and " ".join(stream.query.split()), sa.__version__)
    columns = sorted((column.name, declare_type(column, connection.dialect)) for column in relation.columns)
    return DeclaredRelation(path=path, identity=hash_text(repr(read)), columns=tuple(columns))


def declare_type(column: Column, dialect: sa.Dialect) -> str:
    """Return the type of a column as people write it: `nvarchar(50)`; empty if the database declares none."""
    if column.type is None or isinstance(column.type, sa.types.NullType):
        return ""
    if column.kind is Kind.ROWVERSION:
        return "rowversion"
    text = column.type.compile(dialect=dialect).partition(" COLLATE ")[0]
    return text.lower().replace(", ", ",")


def describe_query(stream: Stream, columns: Sequence[Column]) -> Relation:
    """Return a stream's query as a subquery that can be filtered and ordered.

    Raises:
        ConfigurationError: A column has no name, or two have the same.
    """
    assert stream.query is not None  # noqa: S101
    names = [column.name for column in columns]
    folded = [name.casefold() for name in names]
    twice = sorted({name for name in names if folded.count(name.casefold()) > 1})
    if twice or not all(names):
        raise ConfigurationError(
            f"streams.{stream.name}.query is ambiguous",
            why=f"two columns are called {twice[0]}" if twice else f"column {names.index('') + 1} has no name",
            hint="give each column a name of its own: select o.id as order_id, ...",
        )
    text = sa.text(escape_colons(strip_statement(stream.query)))
    clause = text.columns(*(sa.column(name) for name in names)).subquery(ALIAS)
    return Relation(title="the query", clause=clause, columns=tuple(columns))


def strip_statement(text: str) -> str:
    """Return a query or a condition without the semicolons, comments and blanks at its end.

    A semicolon is not allowed where the text becomes part of a longer statement.
    """
    end = 0
    for token in _TOKEN.finditer(text):
        if token["end"] is None:
            end = token.end()
    return text[:end].lstrip()


def escape_colons(query: str) -> str:
    """Return a query with colons escaped, so that `sa.text` does not read them as parameters."""
    return query.replace(":", r"\:")
