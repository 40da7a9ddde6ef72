"""The children of a stream as the database describes them, and the columns that link their rows to their parents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from syncctl.core.schema_changes import DeclaredRelation
from syncctl.core.spelling import suggest
from syncctl.core.stream import Child, Mode, Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import (
    Column,
    Kind,
    Relation,
    declare_relation,
    describe_relation,
    escape_colons,
    find_name,
    strip_statement,
)
from syncctl.sources.dialect import Dialect


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two columns with equal values: one of a child, and one of its parent."""

    child: Column
    parent: Column


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildRelation:
    """A child, and the relation that it reads."""

    child: Child
    #: The child as its own stream, named as in the settings: `orders.children.lines`.
    stream: Stream
    relation: Relation
    pairs: tuple[Pair, ...]
    children: "tuple[ChildRelation, ...]"

    @property
    def path(self) -> str:
        """Its name and those of the children above it: `lines/taxes`."""
        return "/".join(self.stream.name.split(".children.")[1:])

    def make_condition(self) -> list[sa.ColumnElement[bool]]:
        """Return the child's `where` as a condition, if it has one."""
        where = self.stream.where
        return [] if where is None else [sa.text(f"({escape_colons(strip_statement(where))})")]  # type: ignore[list-item]

    @property
    def parent_columns(self) -> frozenset[str]:
        """The columns of its parent by which child rows belong to a row."""
        return frozenset(pair.parent.name for pair in self.pairs)


def describe_children(
    connection: sa.Connection, stream: Stream, relation: Relation, dialect: Dialect
) -> tuple[ChildRelation, ...]:
    """Return the relations that the children of a stream read, including children of children.

    Raises:
        ConfigurationError: A child names a column that does not exist, or has the name of a column of the row.
        SourceError: The child's table does not exist, or the database refuses its query.
    """
    described = []
    for child in stream.children:
        inner = _make_stream(stream, child)
        inner_relation = describe_relation(connection, inner, dialect)
        described.append(
            ChildRelation(
                child=child,
                stream=inner,
                relation=inner_relation,
                pairs=tuple(
                    Pair(
                        child=find_column(inner, inner_relation, column, "on"),
                        parent=find_column(inner, relation, parent, "on"),
                    )
                    for column, parent in child.on
                ),
                children=describe_children(connection, inner, inner_relation, dialect),
            )
        )
    return tuple(described)


def declare_children(children: Sequence[ChildRelation], connection: sa.Connection) -> Iterator[DeclaredRelation]:
    """Yield the children of a stream, including children of children, with the types that the database declares."""
    for child in children:
        yield declare_relation(child.path, child.stream, child.relation, connection)
        yield from declare_children(child.children, connection)


def list_parent_columns(children: Sequence[ChildRelation]) -> frozenset[str]:
    """Return the columns of a relation by which its children belong to its rows."""
    return frozenset(name for child in children for name in child.parent_columns)


def _make_stream(stream: Stream, child: Child) -> Stream:
    return Stream(
        name=f"{stream.name}.children.{child.name}",
        source=stream.source,
        partner=stream.partner,
        table=child.table,
        query=child.query,
        cursor=child.cursor,
        columns=child.columns,
        exclude=child.exclude,
        where=child.where,
        mask=child.mask,
        json_columns=child.json_columns,
        mask_secret=stream.mask_secret,
        timezone=stream.timezone,
        children=child.children,
        lookback_seconds=stream.lookback_seconds,
        gap_timeout_seconds=stream.gap_timeout_seconds,
        page_size=stream.page_size,
        page_bytes=stream.page_bytes,
        retry=stream.retry,
    )


def find_column(stream: Stream, relation: Relation, name: str, setting: str) -> Column:
    names = [column.name for column in relation.columns]
    spelled = find_name(name, names)
    column = None if spelled is None else relation.columns[names.index(spelled)]
    if column is None:
        why, hint = f"{relation.title} has no column {name}", suggest(name, names)
    elif column.kind in (Kind.FORMLESS, Kind.JSON, Kind.OTHER) and column.type is not None:
        why, hint = f"{column.name} is of type {column.type}, whose values cannot be compared", "name another column"
    else:
        return column
    raise ConfigurationError(f"streams.{stream.name}.{setting} is wrong", why=why, hint=hint)


def choose_type(pair: Pair) -> Column:
    """Return the column in whose type the values of a list are compared.

    This is the child's column, so that an index on it is used, or the parent's if the child's type could lose part of a
    value.
    """
    child, parent = pair.child, pair.parent
    if child.kind is not parent.kind or child.type is None or parent.type is None:
        return child if child.kind is parent.kind else parent
    if type(child.type) is not type(parent.type) and not (child.kind is Kind.INTEGER or _is_wider(child, parent)):
        return parent
    return child if _has_room(child.type, parent.type) else parent


def _is_wider(child: Column, parent: Column) -> bool:
    """Tell whether a text column of the child can contain every character of its parent's column."""
    return child.kind is Kind.TEXT and (isinstance(child.type, sa.Unicode) or not isinstance(parent.type, sa.Unicode))


def _has_room(child: Any, parent: Any) -> bool:
    for name in ("length", "precision", "scale"):
        ours, theirs = getattr(child, name, None), getattr(parent, name, None)
        if ours is not None and (theirs is None or ours < theirs):
            return False
    digits = [(kind.precision or 0) - (kind.scale or 0) for kind in (child, parent) if isinstance(kind, sa.Numeric)]
    return len(digits) < 2 or digits[0] >= digits[1]


def list_chains(
    children: Sequence[ChildRelation], above: tuple[ChildRelation, ...] = ()
) -> Iterator[tuple[ChildRelation, ...]]:
    """Yield, for each child at every depth, the children above it and then the child itself."""
    for child in children:
        chain = (*above, child)
        yield chain
        yield from list_chains(child.children, chain)


def advise_children(stream: Stream, mode: Mode, children: Sequence[ChildRelation]) -> tuple[str, ...]:
    """Return a warning for each child whose changes are not found unless its row changes too."""
    if mode in ("snapshot", "flag") or stream.append_only:
        return ()
    unfollowed = [chain[-1] for chain in list_chains(children) if not chain[-1].child.cursor]
    return tuple(
        f"a change of {child.path} alone is not found; set streams.{child.stream.name}.cursor to a column that every"
        " change moves forward"
        for child in unfollowed
    )
