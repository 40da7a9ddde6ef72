"""Pages of rows in keyset order: each is one short statement, leaves no transaction open, and isolates bad rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.elements import True_

from syncctl.core.cursors import hash_text
from syncctl.core.ids import key_id
from syncctl.core.rows import Row, Value
from syncctl.core.stream import SCANS, Stream, has_masks
from syncctl.errors import SourceError
from syncctl.sources.catalog.relation import Kind, Relation, escape_colons, strip_statement
from syncctl.sources.child_relation import ChildRelation, list_parent_columns
from syncctl.sources.children import make_children
from syncctl.sources.column_choice import Converter, choose_columns
from syncctl.sources.cursor import Position, Raw, tag, to_raw
from syncctl.sources.dialect import Dialect
from syncctl.sources.keyset import Keyset
from syncctl.sources.layout import Layout

T = TypeVar("T")
K = TypeVar("K")
Key = Mapping[str, Value]
Where = Sequence[sa.ColumnElement[bool]]

FETCHED_AT_ONCE = 50


@dataclass(kw_only=True, slots=True)  # one for each row that is read: frozen, it costs twice as much
class PositionedRow:
    """A row with its position in the order of the stream."""

    row: Row
    position: Position
    #: Whether it comes after the position `new_after` with which its page was read.
    is_new: bool = True


class PageReader:
    """Reads rows of one relation in keyset order.

    Args:
        is_distinct: Whether two rows with the same position are refused; if not, they are treated as one row.
    """

    def __init__(
        self,
        relation: Relation,
        layout: Layout,
        dialect: Dialect,
        *,
        stream: Stream,
        children: Sequence[ChildRelation] = (),
        is_distinct: bool = True,
    ) -> None:
        self._is_distinct = is_distinct
        self._stream = stream.name
        self._page_bytes = stream.page_bytes
        self._is_masked = has_masks(stream)
        self._dialect = dialect
        self._mode = layout.mode
        columns = choose_columns(stream, relation, layout, dialect, parent_of=list_parent_columns(children))
        self._columns = columns
        self._children = make_children(children, columns, dialect, stream=stream, is_masked=self._is_masked)
        #: The columns in the payload; columns of a child have its name in front: `lines.quantity`.
        self.sent_columns = columns.sent
        self.columns_fingerprint = columns.fingerprint
        if self._children is not None:
            self.sent_columns |= self._children.sent_columns
            self.columns_fingerprint = hash_text(f"{columns.fingerprint};{self._children.fingerprint}")[:12]
        names = [column.name for column in columns.read]
        plain = [relation.clause.c[name] for name in names]
        # Labels are numbers: if a label were the column's own name, T-SQL's ORDER BY would sort by the label.
        self.shown = [
            dialect.shown(column, expression).label(f"c{index}")
            for index, (column, expression) in enumerate(zip(columns.read, plain, strict=True))
        ]
        self.relation = relation.clause
        self._condition = [] if stream.where is None else [sa.text(f"({escape_colons(strip_statement(stream.where))})")]
        self._order_at = [names.index(column.name) for column in layout.order]
        self._key_at = [names.index(column.name) for column in layout.key]
        # A primary key is unique by the database's own comparison. A key that the settings name may not be.
        ordered_by = {column.name for column in layout.order}
        is_unique = bool(relation.primary_key) and ordered_by.issuperset(relation.primary_key)
        has_text = any(column.kind in (Kind.TEXT, Kind.OTHER) for column in layout.order)
        self._has_inexact_order = has_text and is_distinct and not is_unique
        self.keyset = Keyset(
            dialect=dialect,
            columns=layout.order,
            expressions=[plain[index] for index in self._order_at],
            skips_nulls=layout.mode not in SCANS,
        )
        self._by_key = Keyset(dialect=dialect, columns=layout.key, expressions=[plain[index] for index in self._key_at])
        self._key = [(index, names[index], columns.converters[index]) for index in self._key_at]
        self._payload = [
            (index, name, columns.payload_converters[index]) for index, name in enumerate(names) if name in columns.sent
        ]
        self._unnoticed = columns.unnoticed
        self._version_at = names.index(layout.cursor.name) if layout.mode == "flag" and layout.cursor else None

    def read(
        self, connection: sa.Connection, where: Where, limit: int, *, new_after: Position | None = None
    ) -> tuple[list[PositionedRow], bool]:
        """Return at most `limit` rows, or as many as `page_bytes` allows, and whether there are more.

        Args:
            new_after: The position after which a row is marked as new; the database compares.

        Raises:
            SourceError: Two rows have the same cursor value and key.
        """
        if self._children is None:
            return self._read(connection, where, limit, new_after)
        with self._dialect.one_moment(connection):
            return self._read(connection, where, min(limit, self._children.fitting or limit), new_after)

    def _read(
        self, connection: sa.Connection, where: Where, limit: int, new_after: Position | None
    ) -> tuple[list[PositionedRow], bool]:
        try:
            result = connection.execute(self.select(self.shown, where, limit + 1, new_after))
            raw_rows, is_cut = self._fetch(result)
        except Exception as error:
            if not self._dialect.is_row_data_error(error):
                raise
            return self._read_one_by_one(connection, where, limit, new_after)
        rows = [self.make_row(raw, is_new=new_after is None or bool(raw[-1])) for raw in raw_rows]
        self._check_distinct(rows)
        more = is_cut or len(rows) > limit
        complete = self.attach(connection, [row.row for row in rows[:limit]], raw_rows[:limit])
        more = more or complete < len(rows)
        page = rows[:complete]
        if more and self._may_have_twins(rows[complete - 1 : complete + 1]):
            page += self._read_twins(connection, where, page, new_after)
        return page, more

    def _may_have_twins(self, rows: Sequence[PositionedRow]) -> bool:
        """Tell whether the database may hold a row for equal to the next one: it compares texts in its own way.

        Args:
            rows: The row, and the next one if it is known.
        """
        last, *following = [(row.position.value, *(row.position.key or ())) for row in rows]
        if not self._has_inexact_order or not any(isinstance(value, str) for value in last):
            return False
        return not following or all(
            value == other or (isinstance(value, str) and isinstance(other, str))
            for value, other in zip(last, following[0], strict=True)
        )

    def _read_twins(
        self, connection: sa.Connection, where: Where, page: Sequence[PositionedRow], new_after: Position | None
    ) -> list[PositionedRow]:
        """Return the rows beyond a page that the database holds for equal to its last row, such as `a` after `A`.

        They do not come after the last row, so that no page would have them (invariant 12). Their keys are spelled in
        another way, and so they are other rows.

        Raises:
            SourceError: Two rows have the same cursor value and key.
        """
        last = page[-1].position
        values = (last.value, *(last.key or ()))
        statement = self._select(*self._mark_new(self.shown, new_after)).where(*where, self.keyset.at(values))
        try:
            raw_rows = connection.execute(statement).all()
        except Exception as error:
            if not self._dialect.is_row_data_error(error):
                raise
            pairs = self.read_bare_at(connection, values, is_new=page[-1].is_new)
        else:
            pairs = [(self.make_row(raw, is_new=new_after is None or bool(raw[-1])), raw) for raw in raw_rows]
        self._check_distinct(sorted((row for row, _ in pairs), key=lambda row: repr(row.position)))
        here = [row.position for row in page[-len(pairs) :]]
        beyond = [(row, raw) for row, raw in pairs if row.position not in here]
        self.attach_all(connection, [row.row for row, _ in beyond], [raw for _, raw in beyond])
        return [row for row, _ in beyond]

    def _fetch(self, result: "sa.CursorResult[Any]") -> tuple[list[Sequence[Raw]], bool]:
        """Return the rows of a page, and whether it was cut because its rows are large (invariant 11)."""
        rows: list[Sequence[Raw]] = []
        size = 0
        while batch := result.fetchmany(FETCHED_AT_ONCE):
            for raw in batch:
                if rows and size > self._page_bytes:
                    result.close()
                    return rows, True
                rows.append(raw)
                for value in raw:
                    if type(value) is str or type(value) is bytes:
                        size += len(value)
        return rows, False

    def read_last(self, connection: sa.Connection) -> Position | None:
        """Return the position of the last row; None if there is no row."""
        shown = [self.shown[index] for index in self._order_at]
        statement = (
            self._select(*shown).where(self.keyset.after(Position())).order_by(*self.keyset.order_by(descending=True))
        )
        raw = connection.execute(statement.limit(1)).first()
        return None if raw is None else self._make_position(raw)

    def read_sample(self, connection: sa.Connection) -> Raw:
        """Return any cursor value; None if there is none."""
        shown = self.shown[self._order_at[0]]
        statement = sa.select(shown).select_from(self.relation).where(self.keyset.expressions[0].is_not(None)).limit(1)
        return connection.execute(statement).scalar()

    def has_null_cursor(self, connection: sa.Connection) -> bool:
        """Tell whether there are rows without a cursor value, which no poll reads."""
        if not self.keyset.columns[0].nullable:
            return False
        statement = self._select(sa.literal(1)).where(self.keyset.expressions[0].is_(None)).limit(1)
        return connection.execute(statement).first() is not None

    def select(
        self, shown: Sequence[sa.ColumnElement[Any]], where: Where, limit: int, new_after: Position | None
    ) -> sa.Select[Any]:
        """Return the statement of a page."""
        columns = self._mark_new(shown, new_after)
        return self._select(*columns).where(*where).order_by(*self.keyset.order_by()).limit(limit)

    def _mark_new(
        self, shown: Sequence[sa.ColumnElement[Any]], new_after: Position | None
    ) -> list[sa.ColumnElement[Any]]:
        """Return columns with one more that says whether a row comes after a position, if there is one."""
        if new_after is None:
            return list(shown)
        after = self.keyset.after(new_after)
        yes: sa.ColumnElement[Any] = sa.literal_column("1")
        # Every row comes after the beginning; SQL Server does not accept a bare truth value in a CASE.
        is_new = yes if isinstance(after, True_) else sa.case((after, yes), else_=sa.literal_column("0"))
        return [*shown, is_new]

    def _select(self, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        """Return a statement for the rows that meet the stream's condition."""
        return sa.select(*columns).select_from(self.relation).where(*self._condition)

    def _read_one_by_one(
        self, connection: sa.Connection, where: Where, limit: int, new_after: Position | None
    ) -> tuple[list[PositionedRow], bool]:
        """Read the positions first and then each row alone, so that a bad row does not stop the others (invariant 9).

        Rows that are gone by then make the page shorter, but do not end the reading.
        """
        ordering = [self.shown[index] for index in self._order_at]
        rows: list[PositionedRow] = []
        more = True
        while more and not rows:
            positions = connection.execute(self.select(ordering, where, limit + 1, new_after)).all()
            more = len(positions) > limit
            for raw in positions[:limit]:
                is_new = new_after is None or bool(raw[-1])
                rows += self.read_at(connection, tuple(raw[: len(ordering)]), is_new=is_new)
            if more:
                where = [*where, self.keyset.after(self._make_position(positions[limit - 1]))]
        self._check_distinct(rows)
        return rows, more

    def read_at(self, connection: sa.Connection, values: Sequence[Raw], *, is_new: bool = True) -> list[PositionedRow]:
        """Read only the row at a position; nothing if it is gone, or has moved and will be read later.

        Args:
            values: The row's values of the columns by which the stream is ordered.
        """
        rows = self.read_bare_at(connection, values, is_new=is_new)
        self.attach_all(connection, [row.row for row, _ in rows], [raw for _, raw in rows])
        return [row for row, _ in rows]

    def read_bare_at(
        self, connection: sa.Connection, values: Sequence[Raw], *, is_new: bool = True
    ) -> list[tuple[PositionedRow, Sequence[Raw] | None]]:
        """Read a row as `read_at` does, without its children; also return its raw values, if it could be read.

        If one of several rows that the database holds for equal cannot be read, none of them can.
        """
        try:
            raw_rows = connection.execute(self._select(*self.shown).where(self.keyset.at(values))).all()
        except Exception as error:
            if not self._dialect.is_row_data_error(error):
                raise
            places: Sequence[Sequence[Raw]] = [values]
            if self._has_inexact_order:
                ordering = [self.shown[index] for index in self._order_at]
                places = connection.execute(self._select(*ordering).where(self.keyset.at(values))).all()
            return [(self._make_unreadable(place, is_new=is_new, error=error), None) for place in places]
        return [(self.make_row(raw, is_new=is_new), raw) for raw in raw_rows]

    def attach(self, connection: sa.Connection, rows: Sequence[Row], raw_rows: Sequence[Sequence[Raw] | None]) -> int:
        """Attach children to as many of the first rows as `page_bytes` allows; return how many rows these are.

        Args:
            raw_rows: The raw values of each row; None for a deleted row, or one that could not be read.
        """
        return len(rows) if self._children is None else self._children.attach(connection, rows, raw_rows)

    def attach_all(
        self, connection: sa.Connection, rows: Sequence[Row], raw_rows: Sequence[Sequence[Raw] | None]
    ) -> None:
        """Attach the children of all rows, however large they are."""
        start = 0
        while start < len(rows):
            start += self.attach(connection, rows[start:], raw_rows[start:])

    def find(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Row]:
        """Return the rows that have one of these keys now; a row that cannot be read fails alone (invariant 9).

        Raises:
            ValueError: A key value is not valid for its column.
            KeyError: A key lacks a column.
        """
        if self._children is None:
            return self.find_bare(connection, keys)
        with self._dialect.one_moment(connection):
            pairs = self._find_raw(connection, keys)
            rows = [row for row, _ in pairs]
            self.attach_all(connection, rows, [raw for _, raw in pairs])
            return rows

    def find_bare(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Row]:
        """Return rows as `find` does, without their children."""
        return [row for row, _ in self._find_raw(connection, keys)]

    def _find_raw(self, connection: sa.Connection, keys: Sequence[Key]) -> list[tuple[Row, Sequence[Raw] | None]]:
        def find_together(batch: Sequence[Key]) -> list[tuple[Row, Sequence[Raw] | None]]:
            return [(self.make_row(raw).row, raw) for raw in self._select_by_key(connection, self.shown, batch)]

        def find_alone(key: Key) -> list[tuple[Row, Sequence[Raw] | None]]:
            ordering = [self.shown[index] for index in self._order_at]
            positions = self._select_by_key(connection, ordering, [key])
            pairs = [pair for values in positions for pair in self.read_bare_at(connection, tuple(values))]
            return [(positioned.row, raw) for positioned, raw in pairs]

        return self._find_by_halves(keys, find_together, find_alone)

    def find_keys(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Key]:
        """Return the keys of the rows that have one of these keys now, without reading any other column.

        Raises:
            ValueError: A key value is not valid for its column.
            KeyError: A key lacks a column.
        """
        shown = [self.shown[index] for index in self._key_at]

        def find_together(batch: Sequence[Key]) -> list[Key]:
            raw_rows = self._select_by_key(connection, shown, batch)
            return [self._convert_some(self._key_at, values)[0] for values in raw_rows]

        # A row that the database cannot return does exist.
        return self._find_by_halves(keys, find_together, lambda key: [key])

    def find_keys_where(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Key]:
        """Return the keys of the rows that meet a condition, without reading any other column."""
        raw_rows = connection.execute(self._select(*(self.shown[index] for index in self._key_at)).where(condition))
        return [self._convert_some(self._key_at, values)[0] for values in raw_rows]

    def find_numbers(self, connection: sa.Connection, numbers: Sequence[Raw]) -> list[Row]:
        """Return the rows that have one of these cursor values now, except those that cannot be read."""

        def find_together(batch: Sequence[Raw]) -> list[Row]:
            condition = sa.or_(*(self.keyset.at([number]) for number in batch))
            return [self.make_row(raw).row for raw in connection.execute(self._select(*self.shown).where(condition))]

        return self._find_by_halves(numbers, find_together, lambda _: [])

    def _select_by_key(
        self, connection: sa.Connection, shown: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]
    ) -> Sequence[sa.Row[Any]]:
        return connection.execute(self._select(*shown).where(self._have_one_of(keys))).all()

    def _have_one_of(self, keys: Sequence[Key]) -> sa.ColumnElement[bool]:
        """Return the condition for the rows that have one of these keys."""
        columns = self._by_key.columns
        return sa.or_(*(self._by_key.at([to_raw(column, key[column.name]) for column in columns]) for key in keys))

    def _find_by_halves(
        self,
        keys: Sequence[K],
        find_together: Callable[[Sequence[K]], list[T]],
        find_alone: Callable[[K], list[T]],
    ) -> list[T]:
        """Look up rows together; if one cannot be read, halve them until it is alone."""
        try:
            return find_together(keys)
        except Exception as error:
            if not self._dialect.is_row_data_error(error):
                raise
        if len(keys) == 1:
            return find_alone(keys[0])
        middle = len(keys) // 2
        return [
            *self._find_by_halves(keys[:middle], find_together, find_alone),
            *self._find_by_halves(keys[middle:], find_together, find_alone),
        ]

    def read_versions(self, connection: sa.Connection, keys: Sequence[Key]) -> dict[str, str]:
        """Return, by key id, the versions (`Row.acknowledge`) of the rows with these keys, flagged or not."""
        if self._version_at is None or not keys:
            return {}
        shown = [self.shown[index] for index in (*self._key_at, self._version_at)]
        statement = sa.select(*shown).select_from(self.relation).where(self._have_one_of(keys))
        raw_rows = connection.execute(statement).all()
        return {key_id(self._convert_some(self._key_at, raw[:-1])[0]): tag(raw[-1]) for raw in raw_rows}

    def count(self, connection: sa.Connection, where: Where) -> int:
        """Return how many rows meet a condition."""
        return int(connection.execute(self._select(sa.func.count()).where(*where)).scalar_one())

    def _make_position(self, values: Sequence[Raw]) -> Position:
        return Position(value=values[0], key=tuple(values[1 : len(self._order_at)]))

    def make_row(self, raw: Sequence[Raw], *, is_new: bool = True) -> PositionedRow:
        """Return a row from the values of `shown`."""
        position = self._make_position([raw[index] for index in self._order_at])
        key, key_error = self._convert(raw, self._key)
        payload, payload_error = self._convert(raw, self._payload)
        error = key_error or payload_error or self._columns.refusal
        row = Row(
            key=key,
            payload=None if error else payload,
            unnoticed=self._unnoticed,
            version=self._find_version(position),
            at=position.text,
            error=error,
            acknowledge=None if self._version_at is None else tag(raw[self._version_at]),
            nameless=key_error is not None,
        )
        return PositionedRow(row=row, position=position, is_new=is_new)

    def make_deleted(self, values: Sequence[Raw]) -> Row:
        """Return the row that represents a deleted row with this key."""
        key, error = self._convert_some(self._key_at, values)
        return Row(key=key, payload=None, op="delete", at=Position(value=values[0]).text, error=error)

    def _make_unreadable(self, values: Sequence[Raw], *, is_new: bool, error: Exception) -> PositionedRow:
        """Return a row for a position whose row cannot be read; its error is the database's message."""
        position = self._make_position(values)
        key, key_error = self._convert_some(self._order_at, values)
        reason = self._columns.explain(error, is_masked=self._is_masked)
        row = Row(
            key=key,
            payload=None,
            version=self._find_version(position),
            at=position.text,
            error=key_error or f"the database could not read the row: {reason}",
            nameless=key_error is not None,
        )
        return PositionedRow(row=row, position=position, is_new=is_new)

    def _find_version(self, position: Position) -> str | None:
        """Return the version that the source keeps; a row with children has none, because these change without it."""
        return position.text if self._mode == "rowversion" and self._children is None else None

    def _convert_some(self, indexes: Sequence[int], values: Sequence[Raw]) -> tuple[dict[str, Value], str | None]:
        """Return the key from the values of some columns."""
        raw: list[Raw] = [None] * len(self._columns.read)
        for index, value in zip(indexes, values, strict=True):
            raw[index] = value
        return self._convert(raw, self._key)

    def _convert(
        self, raw: Sequence[Raw], columns: Sequence[tuple[int, str, Converter]]
    ) -> tuple[dict[str, Value], str | None]:
        """Return the values of columns, and an error if one of them has no JSON form; its text then replaces it."""
        try:
            return {name: convert(raw[index]) for index, name, convert in columns}, None
        except ValueError:
            pass
        values: dict[str, Value] = {}
        problem = None
        for index, name, convert in columns:
            try:
                values[name] = convert(raw[index])
            except ValueError as error:
                values[name] = _describe_value(raw[index])
                problem = problem or f"column {name}: {error}"
        return values, problem

    def _check_distinct(self, rows: Sequence[PositionedRow]) -> None:
        """Refuse a key that does not distinguish two rows: a page that ends between them would lose the second row."""
        for before, row in pairwise(rows) if self._is_distinct else ():
            if before.position == row.position:
                named = ", ".join(f"{name}={value}" for name, value in row.row.key.items())
                raise SourceError(
                    f"stream {self._stream} cannot be read without losing rows",
                    why=f"two rows have the key {named} and the same cursor value {row.position.text}",
                    hint=f"add columns to streams.{self._stream}.key until it identifies each row",
                )


def _describe_value(raw: Raw) -> str:
    """Return a text for a key value that has no JSON form."""
    try:
        return tag(raw).encode("utf-8", "backslashreplace").decode()
    except ValueError:
        return f"a {type(raw).__name__}"
