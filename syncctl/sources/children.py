"""The children of rows: rows of other tables that belong to them, read in one statement for many parents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import sqlalchemy as sa

from syncctl.core.rows import Row, Value
from syncctl.core.schema_changes import name_column
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import (
    Column,
    Kind,
)
from syncctl.sources.child_relation import ChildRelation, Pair, choose_type, find_column, list_parent_columns
from syncctl.sources.column_choice import Columns, choose_child_columns
from syncctl.sources.cursor import Raw
from syncctl.sources.dialect import Dialect

VALUES_AT_MOST = 2000
"""The number of values in one statement; SQL Server accepts 2,100."""
FETCHED_AT_ONCE = 500
BYTES_ALONE = 16 * 1024 * 1024
"""The most bytes of children of a row read alone, if a page's limit is smaller: the ledger stores no larger row."""
BYTES_PER_VALUE = 16
_NUMBER, _RANK = "syncctl_n", "syncctl_r"


class TooManyBytesError(Exception):
    """The children of these rows are larger than a page may be."""


@dataclass(slots=True)
class Budget:
    """How many bytes of children may still be read."""

    left: int

    def spend(self, raw_rows: Sequence[Sequence[Raw]]) -> None:
        """Subtract the size of rows.

        Raises:
            TooManyBytesError: There is no room for the rows.
        """
        sizes = [len(value) for raw in raw_rows for value in raw if type(value) is str or type(value) is bytes]
        self.left -= sum(sizes) + BYTES_PER_VALUE * len(raw_rows) * (len(raw_rows[0]) if raw_rows else 0)
        if self.left < 0:
            raise TooManyBytesError


@dataclass(slots=True)
class Found:
    """The rows of one child that belong to one parent."""

    value: Any
    #: Why the rows cannot be sent.
    error: str | None = None


class ChildReader:
    """Reads one child, and the children of its rows."""

    def __init__(self, described: ChildRelation, dialect: Dialect, *, is_masked: bool) -> None:
        child, stream, relation = described.child, described.stream, described.relation
        self.name = child.name
        self._path = described.path
        self._title = described.path.replace("/", ".")
        self._setting = f"streams.{stream.name}"
        self._child = child
        self._pairs = described.pairs
        self._dialect = dialect
        self._is_masked = is_masked
        self._columns = choose_child_columns(
            stream,
            relation,
            dialect,
            on=[pair.child.name for pair in described.pairs],
            parent_of=list_parent_columns(described.children),
        )
        check_names(stream, self._columns, described.children)
        names = [column.name for column in self._columns.read]
        self._values = [
            (index, name, self._columns.payload_converters[index])
            for index, name in enumerate(names)
            if name in self._columns.sent
        ]
        self._relation = relation
        self._condition = described.make_condition()
        self._order = self._decide_order(described)
        self._at_once = VALUES_AT_MOST // len(described.pairs)
        self._statements: dict[tuple[int, bool], tuple[str, list[str]]] = {}
        self._list_as = [choose_type(pair) for pair in described.pairs]
        self._children = [ChildReader(inner, dialect, is_masked=is_masked) for inner in described.children]
        self._keys_of_children = [find_key(inner, self._columns) for inner in described.children]
        self.max_rows = 1 if child.one else child.max_rows

    @property
    def fingerprint(self) -> str:
        """A text that changes when the form of the child's data changes."""
        inner = ",".join(child.fingerprint for child in self._children)
        return f"{self.name}:{'one' if self._child.one else 'all'}:{self._columns.fingerprint}({inner})"

    @property
    def sent_columns(self) -> frozenset[str]:
        """The columns in the payload, including those of its children, each with the names of the children above it."""
        own = {name_column(self._path, name) for name in self._columns.sent}
        return frozenset(own.union(*(child.sent_columns for child in self._children)))

    def read(self, connection: sa.Connection, keys: Sequence[tuple[Raw, ...]], budget: Budget) -> list[Found]:
        """Return the rows that belong to parents with these values of `on`, in the order of the parents.

        Raises:
            TooManyBytesError: The rows are larger than the budget.
        """
        nothing = Found(None if self._child.one else [])
        wanted = list(dict.fromkeys(key for key in keys if None not in key))
        by_key: dict[tuple[Raw, ...], Found] = {}
        for start in range(0, len(wanted), self._at_once):
            batch = wanted[start : start + self._at_once]
            by_key.update(zip(batch, self._read_by_halves(connection, batch, budget), strict=True))
        return [by_key.get(key, nothing) for key in keys]

    def _read_by_halves(
        self, connection: sa.Connection, keys: Sequence[tuple[Raw, ...]], budget: Budget
    ) -> list[Found]:
        """Read the children of all parents together; if one is unreadable, halve the parents until its own is alone."""
        left = budget.left
        try:
            return self._read_together(connection, keys, budget)
        except Exception as error:
            if not self._dialect.is_row_data_error(error):
                raise
            budget.left = left
            if len(keys) == 1:
                why = self._columns.explain(error, is_masked=self._is_masked)
                return [Found(None, f"the database could not read its {self._title}: {why}")]
        middle = len(keys) // 2
        return [
            *self._read_by_halves(connection, keys[:middle], budget),
            *self._read_by_halves(connection, keys[middle:], budget),
        ]

    def _read_together(self, connection: sa.Connection, keys: Sequence[tuple[Raw, ...]], budget: Budget) -> list[Found]:
        raw_rows = self._fetch(connection, keys, budget)
        values = self._convert_all(raw_rows)
        children: list[Found] = []
        ends = list(accumulate(_count_numbers(raw_rows, len(keys))))
        bounds = list(pairwise([0, *ends]))
        for start, end in bounds:
            if end - start > self.max_rows:
                children.append(Found(None, self._refuse_many()))
            elif values is None:
                children.append(self._convert(raw_rows[start:end]))
            else:
                children.append(Found(values[start:end]))
        for reader, at in zip(self._children, self._keys_of_children, strict=True):
            self._attach_child(connection, reader, at, [raw_rows[start:end] for start, end in bounds], children, budget)
        if self._child.one:
            for child in children:
                child.value = child.value[0] if child.value else None
        return children

    def _attach_child(
        self,
        connection: sa.Connection,
        reader: "ChildReader",
        at: Sequence[int],
        raw_rows: Sequence[Sequence[Sequence[Raw]]],
        children: Sequence[Found],
        budget: Budget,
    ) -> None:
        good = [number for number, child in enumerate(children) if child.error is None]
        keys = [tuple(raw[1 + index] for index in at) for number in good for raw in raw_rows[number]]
        inner = iter(reader.read(connection, keys, budget))
        for number in good:
            for value, below in zip(children[number].value, inner, strict=False):
                value[reader.name] = below.value
                children[number].error = children[number].error or below.error

    def _fetch(self, connection: sa.Connection, keys: Sequence[tuple[Raw, ...]], budget: Budget) -> list[Sequence[Raw]]:
        """Return the rows of some parents, each preceded by the number of its parent.

        Numbering the rows of each parent would double the database's work, so that is done only if a parent has too
        many rows.
        """
        rows: list[Sequence[Raw]] = []
        too_many = self.max_rows + FETCHED_AT_ONCE
        for batch in self._run(connection, keys, is_bounded=False):
            budget.spend(batch)
            rows += batch
            number = rows[-1][0]
            if len(rows) > too_many and rows[-1 - too_many][0] == number:
                break
        else:
            return rows
        while rows and rows[-1][0] == number:
            rows.pop()
        for batch in self._run(connection, keys[number:], is_bounded=True):
            budget.spend(batch)
            rows += [(number + raw[0], *raw[1:]) for raw in batch]
        return rows

    def _run(
        self, connection: sa.Connection, keys: Sequence[tuple[Raw, ...]], *, is_bounded: bool
    ) -> Iterator[Sequence[Sequence[Raw]]]:
        size = min(self._at_once, 1 << (len(keys) - 1).bit_length())
        kind = (size, is_bounded)
        if kind not in self._statements:
            self._statements[kind] = self._compile(connection, size, is_bounded=is_bounded)
        text, names = self._statements[kind]
        values = {
            f"k{number}_{index}": self._dialect.parameter(column, raw)
            for number, key in enumerate(keys)
            for index, (column, raw) in enumerate(zip(self._list_as, key, strict=True))
        }
        # Parameters that are not needed are NULL, which equals nothing.
        with connection.exec_driver_sql(text, tuple(values.get(name) for name in names)) as result:
            while rows := result.fetchmany(FETCHED_AT_ONCE):
                yield rows

    def _convert_all(self, raw_rows: Sequence[Sequence[Raw]]) -> list[dict[str, Value]] | None:
        """Return the values of all rows, converted column by column in half the time; None if a value is bad."""
        if self._columns.refusal and raw_rows:
            return None
        columns = list(zip(*raw_rows, strict=True))
        try:
            converted = [list(map(convert, columns[1 + index])) for index, _, convert in self._values if columns]
        except ValueError:
            return None
        if not converted:
            return [{} for _ in raw_rows]
        names = [name for _, name, _ in self._values]
        return [dict(zip(names, values, strict=True)) for values in zip(*converted, strict=True)]

    def _convert(self, raw_rows: Sequence[Sequence[Raw]]) -> Found:
        """Return the values of one parent's rows, or why the parent cannot be sent."""
        if self._columns.refusal and raw_rows:
            return Found(None, f"{self._title}: {self._columns.refusal}")
        columns = self._values
        try:
            return Found([{name: convert(raw[1 + index]) for index, name, convert in columns} for raw in raw_rows])
        except ValueError:
            pass
        for raw in raw_rows:
            for index, name, convert in columns:
                try:
                    convert(raw[1 + index])
                except ValueError as error:
                    return Found(None, f"column {self._title}.{name}: {error}")
        raise AssertionError("one of the values has no form")

    def _refuse_many(self) -> str:
        if self._child.one:
            return f"{self._title}: more than one row belongs to it, and {self._setting}.one allows a single one"
        return f"{self._title}: more than {self.max_rows:,} rows belong to it ({self._setting}.max_rows)"

    def _decide_order(self, described: ChildRelation) -> list[sa.ColumnElement[Any]]:
        """Return the order of a parent's rows: first by `sort`, then by columns that make the order unambiguous."""
        relation = described.relation
        columns = [find_column(described.stream, relation, name, "sort") for name in described.child.sort]
        sort = list(dict.fromkeys(columns))
        names = {column.name for column in sort}
        order: list[sa.ColumnElement[Any]] = [relation.clause.c[column.name] for column in sort]
        by_name = {column.name: column for column in relation.columns}
        ties = [by_name[name] for name in relation.primary_key if name in by_name]
        if ties:
            return [*order, *(relation.clause.c[column.name] for column in ties if column.name not in names)]
        read = {column.name for column in self._columns.read}
        for column in relation.columns:
            if column.name in read:
                expression = relation.clause.c[column.name]
                breaker = self._dialect.tie_breaker(column, expression)
                # SQL Server refuses to order by the same column twice.
                if breaker is not None and not (breaker is expression and column.name in names):
                    order.append(breaker)
        return order

    def _match(self, pair: Pair, listed_as: Column, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        is_text = pair.child.kind is Kind.TEXT and listed_as.kind is Kind.TEXT
        return self._dialect.matched(pair.child, value) if is_text else value

    def _compile(self, connection: sa.Connection, size: int, *, is_bounded: bool) -> tuple[str, list[str]]:
        """Return the statement for this number of parents, and the names of its parameters in their order.

        Args:
            is_bounded: Whether it returns at most one row more of each parent than may be sent.
        """
        dialect, clause = self._dialect, self._relation.clause
        columns: list[sa.ColumnClause[Any]] = [
            sa.column(_NUMBER),
            *(sa.column(f"syncctl_k{index}") for index in range(len(self._pairs))),
        ]
        rows = [
            (
                sa.literal_column(str(number)),
                *(dialect.listed(column, f"k{number}_{index}") for index, column in enumerate(self._list_as)),
            )
            for number in range(size)
        ]
        parents = dialect.join_list(sa.values(*columns, name="syncctl_v").data(rows))
        matches = [
            clause.c[pair.child.name] == self._match(pair, self._list_as[index], parents.c[f"syncctl_k{index}"])
            for index, pair in enumerate(self._pairs)
        ]
        number = parents.c[_NUMBER]
        shown = [
            dialect.shown(column, clause.c[column.name]).label(f"c{index}")
            for index, column in enumerate(self._columns.read)
        ]
        origin = parents.join(clause, sa.and_(*matches))
        statement = sa.select(number.label(_NUMBER), *shown).select_from(origin).where(*self._condition)
        if is_bounded:
            # The window must have an order; if none is needed, the parent's number serves.
            rank = sa.func.row_number().over(partition_by=number, order_by=self._order or [number]).label(_RANK)
            ranked = statement.add_columns(rank).subquery("syncctl_c")
            statement = (
                sa.select(ranked.c[_NUMBER], *(ranked.c[f"c{index}"] for index in range(len(shown))))
                .where(ranked.c[_RANK] <= sa.literal_column(str(self.max_rows + 1)))
                .order_by(ranked.c[_NUMBER], ranked.c[_RANK])
            )
        else:
            statement = statement.order_by(number, *self._order)
        compiled = statement.compile(dialect=connection.dialect)
        return compiled.string, list(compiled.positiontup or ())


def _count_numbers(rows: Sequence[Sequence[Raw]], size: int) -> list[int]:
    """Return how many rows each parent has."""
    counts = [0] * size
    for raw in rows:
        counts[raw[0]] += 1
    return counts


def find_key(child: ChildRelation, columns: Columns) -> tuple[int, ...]:
    """Return the positions of a parent's values of `on` among its columns."""
    names = [column.name for column in columns.read]
    return tuple(names.index(pair.parent.name) for pair in child.pairs)


def check_names(stream: Stream, columns: Columns, children: Sequence[ChildRelation]) -> None:
    """Refuse a child that has the name of a column.

    Raises:
        ConfigurationError: Both would be sent under one name.
    """
    for described in children:
        if described.child.name in columns.sent:
            raise ConfigurationError(
                f"streams.{described.stream.name} cannot be sent under its name",
                why=f"the row has a column {described.child.name} too",
                hint=f"give the child another name, or leave the column out with streams.{stream.name}.exclude",
            )


@dataclass
class Children:
    """Attaches all children of a stream to the rows of a page."""

    readers: Sequence[ChildReader]
    #: For each reader, the positions of its parent's values in a row.
    keys_at: Sequence[tuple[int, ...]]
    page_bytes: int
    #: How many rows a page may hold, judged by earlier pages; None for as many as are asked for.
    fitting: int | None = field(default=None, init=False)

    @property
    def fingerprint(self) -> str:
        """A text that changes when the form of the children's data changes."""
        return ";".join(reader.fingerprint for reader in self.readers)

    @property
    def sent_columns(self) -> frozenset[str]:
        """The columns in the payload, each with the names of the children above it."""
        return frozenset().union(*(reader.sent_columns for reader in self.readers))

    def attach(self, connection: sa.Connection, rows: Sequence[Row], raw_rows: Sequence[Sequence[Raw] | None]) -> int:
        """Attach children to as many of the first rows as `page_bytes` allows; return how many rows these are."""
        count = len(rows)
        while count:
            budget = Budget(self.page_bytes if count > 1 else max(self.page_bytes, BYTES_ALONE))
            try:
                self._attach_all(connection, rows[:count], raw_rows[:count], budget)
            except TooManyBytesError:
                if count == 1:
                    fail(rows[0], f"its children have more than {max(self.page_bytes, BYTES_ALONE):,} bytes")
                else:
                    count = self.fitting = max(1, count // 4)
                    continue
            if self.fitting is not None and count >= self.fitting and budget.left > self.page_bytes // 2:
                self.fitting = min(2 * self.fitting, 2**31)
            break
        return count

    def _attach_all(
        self, connection: sa.Connection, rows: Sequence[Row], raw_rows: Sequence[Sequence[Raw] | None], budget: Budget
    ) -> None:
        readable = [
            (number, raw)
            for number, (row, raw) in enumerate(zip(rows, raw_rows, strict=True))
            if row.payload is not None and raw is not None
        ]
        budget.spend([raw for _, raw in readable])
        by_reader: list[list[Found]] = []
        for reader, at in zip(self.readers, self.keys_at, strict=True):
            keys = [tuple(raw[index] for index in at) for _, raw in readable]
            by_reader.append(reader.read(connection, keys, budget))
        for (number, _), *children in zip(readable, *by_reader, strict=True):
            row = rows[number]
            error = next((child.error for child in children if child.error is not None), None)
            named: dict[str, Value] = {
                reader.name: child.value for reader, child in zip(self.readers, children, strict=True)
            }
            if error is not None:
                fail(row, error)
            else:
                row.payload = {**(row.payload or {}), **named}


def fail(row: Row, error: str) -> None:
    """Mark a row as one that cannot be sent."""
    row.payload, row.error = None, error


def make_children(
    described: Sequence[ChildRelation], columns: Columns, dialect: Dialect, *, stream: Stream, is_masked: bool
) -> Children | None:
    """Return an object that attaches the children of a stream; None if it has no children."""
    if not described:
        return None
    check_names(stream, columns, described)
    return Children(
        readers=[ChildReader(child, dialect, is_masked=is_masked) for child in described],
        keys_at=[find_key(child, columns) for child in described],
        page_bytes=stream.page_bytes,
    )
