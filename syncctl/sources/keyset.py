"""Keyset paging: what comes after a position, in an order without gaps or doubles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from syncctl.sources.dialect import Dialect
from syncctl.sources.positions import Position, Raw
from syncctl.sources.tables import Column


@dataclass(frozen=True, kw_only=True)
class Keyset:
    """The order of a stream, in the database's own order: its cursor column, then its key's others; or its key alone.

    `skips_nulls`: the first column is a cursor, and a row without a cursor value has no place in the order.
    """

    dialect: Dialect
    columns: Sequence[Column]
    expressions: Sequence[sa.ColumnElement[Any]]
    skips_nulls: bool = True

    def order_by(self, *, descending: bool = False) -> list[sa.UnaryExpression[Any] | sa.ColumnElement[Any]]:
        """Return what a page is ordered by."""
        return [each.desc() if descending else each for each in self.expressions]

    def after(self, position: Position) -> sa.ColumnElement[bool]:
        """Return what is true of the rows behind a position, and of no row before it."""
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
        # Implied by what follows; without it SQL Server would not seek in an index.
        return sa.and_(self.from_value(position.value), sa.or_(*steps))

    def from_value(self, value: Raw) -> sa.ColumnElement[bool]:
        """Return what is true of the rows of this cursor value and of all behind them."""
        return self.expressions[0] >= self.dialect.bound(self.columns[0], value)

    def below(self, value: Raw) -> sa.ColumnElement[bool]:
        """Return what is true of the rows before this cursor value."""
        return self.expressions[0] < self.dialect.bound(self.columns[0], value)

    def at(self, values: Sequence[Raw]) -> sa.ColumnElement[bool]:
        """Return what is true of the row with these values alone."""
        return sa.and_(*(self._equals(index, value) for index, value in enumerate(values)))

    def _equals(self, index: int, value: Raw) -> sa.ColumnElement[bool]:
        expression = self.expressions[index]
        return expression.is_(None) if value is None else expression == self.dialect.bound(self.columns[index], value)

    def _exceeds(self, index: int, value: Raw) -> sa.ColumnElement[bool]:
        # Both databases order NULL before everything else.
        expression = self.expressions[index]
        return expression.is_not(None) if value is None else expression > self.dialect.bound(self.columns[index], value)
