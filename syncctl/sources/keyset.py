"""The order in which a stream's rows are read, and the conditions for the rows after, before and at a place in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from syncctl.sources.catalog.relation import Column
from syncctl.sources.cursor import Position, Raw
from syncctl.sources.dialect import Dialect


@dataclass(frozen=True, kw_only=True)
class Keyset:
    """The order of a stream's rows in the database: by cursor column and the rest of the key, or by the key alone."""

    dialect: Dialect
    columns: Sequence[Column]
    expressions: Sequence[sa.ColumnElement[Any]]
    #: Whether the first column is a cursor; a row without a cursor value then has no place in the order.
    skips_nulls: bool = True

    def order_by(self, *, descending: bool = False) -> list[sa.UnaryExpression[Any] | sa.ColumnElement[Any]]:
        """Return the ORDER BY of a page."""
        return [expression.desc() if descending else expression for expression in self.expressions]

    def after(self, position: Position) -> sa.ColumnElement[bool]:
        """Return the condition for the rows after a position."""
        first = self.expressions[0]
        if position.key is None:
            if position.value is None:
                return first.is_not(None) if self.skips_nulls and self.columns[0].nullable else sa.true()
            return self.from_value(position.value)
        values = (position.value, *position.key)
        steps = []
        for depth in range(len(values)):
            equal = [self._equals(index, values[index]) for index in range(depth)]
            steps.append(sa.and_(*equal, self._exceeds(depth, values[depth])))
        if len(steps) == 1 or position.value is None:
            return sa.or_(*steps)
        # The second condition implies the first one, but without that SQL Server would not seek in an index.
        return sa.and_(self.from_value(position.value), sa.or_(*steps))

    def from_value(self, value: Raw) -> sa.ColumnElement[bool]:
        """Return the condition for the rows with this cursor value and all rows after them."""
        return self.expressions[0] >= self.dialect.bound(self.columns[0], value)

    def below(self, value: Raw) -> sa.ColumnElement[bool]:
        """Return the condition for the rows before this cursor value."""
        return self.expressions[0] < self.dialect.bound(self.columns[0], value)

    def at(self, values: Sequence[Raw]) -> sa.ColumnElement[bool]:
        """Return the condition for only the row with these values."""
        return sa.and_(*(self._equals(index, value) for index, value in enumerate(values)))

    def _equals(self, index: int, value: Raw) -> sa.ColumnElement[bool]:
        expression = self.expressions[index]
        return expression.is_(None) if value is None else expression == self.dialect.bound(self.columns[index], value)

    def _exceeds(self, index: int, value: Raw) -> sa.ColumnElement[bool]:
        # Both databases order NULL before all values.
        expression = self.expressions[index]
        return expression.is_not(None) if value is None else expression > self.dialect.bound(self.columns[index], value)
