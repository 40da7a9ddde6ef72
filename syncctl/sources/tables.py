"""What a stream reads: a table, a view or a query, with its columns."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.spelling import suggest
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError, SourceError

_PART = re.compile(r'\s*(?:\[((?:[^\]]|\]\])+)\]|"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|([^.\[\]"`]+?))\s*(\.|$)')
ALIAS = "t"


class Kind(StrEnum):
    """What syncctl must know of a column's type."""

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
    ROWVERSION = "rowversion"
    FORMLESS = "formless"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column. `type` is how the database declares it, None where it does not.

    `seed` and `increment` are those of an identity: its first number, and the step to the next. No seed: no identity.
    """

    name: str
    kind: Kind
    type: sa.types.TypeEngine[Any] | None = None
    nullable: bool = True
    seed: int | None = None
    increment: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """What is read. `clause` is aliased, so that its columns are always qualified; `primary_key` may be empty."""

    title: str
    clause: FromClause
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()


def split_name(text: str) -> tuple[str, ...]:
    """Split `dbo.orders`, `[sales].[order lines]` or `"a.b"` into its parts, without their quotes.

    Raises:
        ValueError: It is no table name.
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


def find_name(wanted: str, names: Sequence[str]) -> str | None:
    """Return the name that is meant: the same, or else the only one that differs in case alone."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None


def make_schema(parts: Sequence[str]) -> str | None:
    """Return the schema as SQLAlchemy takes it: `dbo`, or `erp.dbo` for a schema of another database."""
    if not parts:
        return None
    if len(parts) == 1:
        needs_quote = re.search(r"[.\[\]]", parts[0]) is not None
        return sa.sql.quoted_name(parts[0], quote=True) if needs_quote else parts[0]
    return ".".join(f"[{part}]" if "." in part else part for part in parts)


def reflect_table(connection: sa.Connection, stream: Stream) -> tuple[str, str | None, list[Any], list[str]]:
    """Find a stream's table and return its name, schema, columns (as SQLAlchemy reflects them) and primary key.

    Raises:
        ConfigurationError: The name is none.
        SourceError: There is no such table.
    """
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
    found = _reflect(inspector, name, schema)
    if found is None:
        names = _list_tables(inspector, schema)
        alike = find_name(name, names)
        found = _reflect(inspector, alike, schema) if alike else None
        if found is None or alike is None:
            raise _missing_table(stream, name, names or _list_tables(inspector, None))
        name = alike
    return name, schema, *found


def _reflect(inspector: sa.Inspector, name: str, schema: str | None) -> tuple[list[Any], list[str]] | None:
    with warnings.catch_warnings():
        # A column of a type that SQLAlchemy does not know (geography) is read all the same.
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


def describe_query(stream: Stream, columns: Sequence[Column]) -> Relation:
    """Return what a stream's query gives, as a subquery that can be filtered and ordered.

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
    text = sa.text(escape_colons(strip_query(stream.query)) + "\n")
    clause = text.columns(*(sa.column(name) for name in names)).subquery(ALIAS)
    return Relation(title="the query", clause=clause, columns=tuple(columns))


def strip_query(query: str) -> str:
    """Return a query without what may not stand in a subquery: the semicolon at its end."""
    return query.strip().removesuffix(";").rstrip()


def escape_colons(query: str) -> str:
    """Return a query that `sa.text` renders verbatim: a colon in it is no parameter."""
    return query.replace(":", r"\:")
