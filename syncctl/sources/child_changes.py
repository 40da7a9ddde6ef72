"""Children that change: the rows to which they belong are read again, even if the rows themselves have not changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from syncctl.core.cursors import hash_text
from syncctl.core.ids import canonical_text
from syncctl.core.rows import Cursor, Page, Row
from syncctl.core.stream import CHANGE_TRACKING, Mode
from syncctl.sources.catalog.relation import Column, Kind, Relation, find_name
from syncctl.sources.child_relation import ChildRelation, Pair, choose_type
from syncctl.sources.cursor import Position, Raw, to_raw
from syncctl.sources.instants import is_instant
from syncctl.sources.layout import decide_layout
from syncctl.sources.modes import MODES
from syncctl.sources.open_stream import OpenStream
from syncctl.sources.pages import Key, PageReader, Where

PARENTS_AT_ONCE = 500
"""The number of values in one statement; SQLite accepts an expression of a thousand levels."""
CHANGES_AT_ONCE = 1000
"""The smallest number of changes in a page: they are small, and many of them may concern one row."""
OF = "of"
"""The field of a child's cursor with the hash of the child's settings to which the cursor applies."""

_Values = tuple[Raw, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One step from the rows of a child to the rows of its parent."""

    #: For each column of the parent, its expression, and the column in whose type its values are compared.
    columns: tuple[tuple[sa.ColumnElement[Any], Column], ...]
    #: The expressions to select from the parent, for the step above it.
    shown: tuple[sa.ColumnElement[Any], ...]
    relation: sa.FromClause
    where: Where


class ChildFollower:
    """Follows one child with its own cursor, by the rules of a mode, and reads the rows that its changes concern.

    Args:
        chain: The children above it, and then the child itself: `lines`, `taxes`.
    """

    def __init__(self, opened: OpenStream, chain: Sequence[ChildRelation]) -> None:
        self._opened = opened
        described = chain[-1]
        self.path = described.path
        self._described = described
        self._dialect = opened.source.dialect
        self._child = _open_child(opened, described)
        self._mode = MODES[self._child.layout.mode](self._child)
        self._steps = [self._make_step(chain, depth) for depth in range(len(chain) - 1, 0, -1)]
        self._last = tuple(self._compare(pair, chain[0].relation, opened.relation) for pair in chain[0].pairs)
        self._of = self._describe()

    @property
    def layout_mode(self) -> Mode:
        """The mode in which the child is followed."""
        return self._child.layout.mode

    @property
    def sees_deletes(self) -> bool:
        """Whether a deleted child shows to which row it belonged."""
        key = {column.name for column in self._child.layout.key}
        return self.layout_mode == "change_tracking" and {pair.child.name for pair in self._described.pairs} <= key

    def start(self) -> Cursor:
        """Return the cursor after all present changes."""
        return self._name(self._mode.parse_cursor("now"))

    def parse(self, text: str) -> Cursor | None:
        """Return the cursor at a value of the stream's cursor; None if it is not a place among the child's changes."""
        parent, child = self._opened.layout, self._child.layout
        if parent.mode != child.mode:
            return None
        if child.mode == "increasing" and not (is_instant(text) and is_instant(self._read_sample())):
            # Numbers of two tables have nothing in common.
            return None
        try:
            return self._name(self._mode.parse_cursor(text))
        except ValueError:
            return None

    def _read_sample(self) -> Raw:
        return self._opened.run(self._child.pages.read_sample)

    def _name(self, cursor: Cursor) -> Cursor:
        """Return a cursor that states to which child settings it applies.

        It has no floor: a change that was committed late is also looked for before the cursor's start, because a row
        that was read in the meantime lacks it.
        """
        return {**{name: value for name, value in cursor.items() if name != "floor"}, OF: self._of}

    def fits(self, cursor: Cursor | None) -> bool:
        """Tell whether a cursor is a place among the changes of this child with its present settings."""
        return cursor is not None and cursor.get(OF) == self._of

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the rows whose children have changed since a cursor, and the child's cursor after them.

        A change may concern more rows than fit in a page; the cursor moves with the last of them.
        """
        known = cursor
        values: dict[str, _Values] = {}
        for page in self._mode.pages(cursor):
            notes = tuple(f"{self.path}: {note}" for note in page.notes)
            moved = {**page.cursor, OF: self._of}
            values |= self._find_values(page.rows)
            # Many changes may concern few rows: each row is read once for many pages of changes.
            if len(values) >= PARENTS_AT_ONCE or notes:
                yield from self._read_rows(values, known)
                yield Page(rows=(), cursor=moved, notes=notes)
                known, values = moved, {}
            cursor = moved
        yield from self._read_rows(values, known)
        yield Page(rows=(), cursor=cursor)

    def find_ahead(self, cursor: Cursor) -> Iterator[list[Key]]:
        """Yield the keys of rows whose children have changed since a cursor, even above the ceiling of a poll."""
        if self.layout_mode == "change_tracking":
            changes: Iterator[Sequence[Row]] = (page.rows for page in self._mode.pages(cursor))
        else:
            changes = ([scanned.row for scanned in page] for page in self._mode.scan(cursor, since=cursor))
        pages = self._opened.pages
        for rows in changes:
            for condition in self._list_conditions(list(self._find_values(rows).values())):
                yield self._opened.run(lambda connection, where=condition: pages.find_keys_where(connection, where))  # type: ignore[misc]

    def warnings(self) -> tuple[str, ...]:
        """Return warnings for the operator, one line each."""
        texts = self._mode.warnings()
        if self.layout_mode == "change_tracking" and not self.sees_deletes:
            on = ", ".join(pair.child.name for pair in self._described.pairs)
            why = f"because the primary key of the table does not include {on}"
            texts = (*texts, f"if one of them is deleted or moved, the row to which it belonged is not found, {why}")
        elif self.layout_mode != "change_tracking" and self._opened.run(self._child.pages.has_null_cursor):
            name = self._child.layout.cursor_name
            texts = (*texts, f"changes of rows without a value in {name} are not found: set it in each row")
        return tuple(f"{self.path}: {text}" for text in texts)

    def _read_rows(self, values: Mapping[str, _Values], cursor: Cursor) -> Iterator[Page]:
        """Yield the stream's rows that belong to children with these values of `on`, page by page."""
        keyset = self._opened.pages.keyset
        for condition in self._list_conditions(list(values.values())):
            position, more = Position(), True
            while more:
                rows, more = self._opened.read([keyset.after(position), condition])
                if not rows:
                    break
                position = rows[-1].position
                yield Page(rows=tuple(replace(positioned.row, again=True) for positioned in rows), cursor=cursor)

    def _list_conditions(self, values: Sequence[_Values]) -> Iterator[sa.ColumnElement[bool]]:
        """Yield conditions for the stream's rows that belong to children with these values of `on`."""
        for step in self._steps:
            values = self._climb(step, values)
        size = max(1, PARENTS_AT_ONCE // len(self._last))
        for start in range(0, len(values), size):
            yield self._have_one_of(self._last, values[start : start + size])

    def _find_values(self, changes: Sequence[Row]) -> dict[str, _Values]:
        """Return the values of `on` in changed rows, each once; a deleted row may lack them."""
        values: dict[str, _Values] = {}
        for row in changes:
            columns = {**(row.payload or {}), **row.key}
            try:
                named = {pair.child.name: columns[pair.child.name] for pair in self._described.pairs}
            except KeyError:
                continue
            if None not in named.values():
                text = canonical_text(named)
                if text not in values:
                    values[text] = tuple(to_raw(pair.child, named[pair.child.name]) for pair in self._described.pairs)
        return values

    def _climb(self, step: _Step, values: Sequence[_Values]) -> list[_Values]:
        """Return the values of `on` of the parents of rows with these values."""
        parents: dict[_Values, None] = {}
        size = max(1, PARENTS_AT_ONCE // len(step.columns))
        for start in range(0, len(values), size):
            condition = self._have_one_of(step.columns, values[start : start + size])
            statement = sa.select(*step.shown).distinct().select_from(step.relation).where(condition, *step.where)
            rows = self._opened.run(lambda connection, asked=statement: connection.execute(asked).all())  # type: ignore[misc]
            parents.update(dict.fromkeys(tuple(row) for row in rows if None not in tuple(row)))
        return list(parents)

    def _have_one_of(
        self, columns: Sequence[tuple[sa.ColumnElement[Any], Column]], values: Sequence[_Values]
    ) -> sa.ColumnElement[bool]:
        return sa.or_(
            *(
                sa.and_(
                    *(
                        expression == self._dialect.bound(column, raw)
                        for (expression, column), raw in zip(columns, row_values, strict=True)
                    )
                )
                for row_values in values
            )
        )

    def _make_step(self, chain: Sequence[ChildRelation], depth: int) -> _Step:
        """Return the step from the child at this depth to the one above it."""
        above = chain[depth - 1]
        clause = above.relation.clause
        return _Step(
            columns=tuple(self._compare(pair, chain[depth].relation, above.relation) for pair in chain[depth].pairs),
            shown=tuple(
                self._dialect.shown(pair.child, clause.c[pair.child.name]).label(f"c{index}")
                for index, pair in enumerate(above.pairs)
            ),
            relation=clause,
            where=above.make_condition(),
        )

    def _compare(self, pair: Pair, child: Relation, parent: Relation) -> tuple[sa.ColumnElement[Any], Column]:
        """Return the expression with which a child's value is compared, and the column whose type it has there.

        The comparison uses the child's collation, so it finds at least the rows for which the child is read.
        """
        expression: sa.ColumnElement[Any] = parent.clause.c[pair.parent.name]

        def read(relation: Relation, column: Column) -> str | None:
            return self._opened.run(lambda connection: self._dialect.read_collation(connection, relation, column))

        ours, theirs = read(child, pair.child), read(parent, pair.parent)
        if ours is not None and theirs is not None and ours != theirs:
            expression = sa.collate(expression, ours)
        return expression, choose_type(Pair(child=pair.parent, parent=pair.child))

    def _describe(self) -> str:
        """Return a short hash of the settings to which a cursor of this child applies."""
        stream, layout = self._child.stream, self._child.layout
        on = [(pair.child.name, pair.parent.name) for pair in self._described.pairs]
        parts = (layout.mode, layout.cursor_name, [column.name for column in layout.key], on)
        origin = (self._described.relation.name or "").casefold(), stream.query, self._described.stream.where
        return hash_text(repr((parts, origin)))


def _open_child(opened: OpenStream, described: ChildRelation) -> OpenStream:
    """Return a child as its own open stream, which reads only the columns that say to which rows its rows belong."""
    child, relation = described.child, described.relation
    on = tuple(pair.child.name for pair in described.pairs)
    is_tracked = child.cursor == CHANGE_TRACKING
    stream = replace(
        described.stream,
        mode=_decide_mode(opened, described),
        cursor=None if is_tracked else child.cursor,
        # Child rows with the same cursor value and the same values of `on` belong to one row, which is read once.
        key=() if relation.primary_key else on,
        columns=on,
        exclude=(),
        mask={},
        # A child that no longer meets the condition has also changed the contents of its row.
        where=None,
        json_columns=(),
        timezone=None if any(pair.child.kind is Kind.TIME for pair in described.pairs) else opened.stream.timezone,
        children=(),
        page_size=max(opened.stream.page_size, CHANGES_AT_ONCE),
    )
    layout = decide_layout(
        stream,
        relation,
        has_rowversions=opened.read_ceiling is not None,
        has_changes=opened.changes is not None,
    )
    return OpenStream(
        stream=stream,
        source=opened.source,
        relation=relation,
        layout=layout,
        pages=PageReader(relation, layout, opened.source.dialect, stream=stream, is_distinct=False),
        read_ceiling=opened.read_ceiling,
        changes=opened.changes,
        has_masks=opened.has_masks,
    )


def _decide_mode(opened: OpenStream, described: ChildRelation) -> Mode | None:
    child = described.child
    if child.cursor == CHANGE_TRACKING:
        return "change_tracking"
    columns = described.relation.columns
    name = find_name(child.cursor or "", [column.name for column in columns])
    kind = next((column.kind for column in columns if column.name == name), None)
    return "rowversion" if kind is Kind.BINARY and opened.layout.mode == "rowversion" else None
