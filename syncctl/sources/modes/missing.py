"""Which numbers of a column no row has, as the database itself counts them."""

from typing import Any

import sqlalchemy as sa

from syncctl.sources.modes.gaps import GAPS_AT_MOST
from syncctl.sources.modes.reading import Reading

Stretch = tuple[int, int]
"""A number that a row has, or where the search began, and the next one that a row has: those between are missing."""


def find_stretches(reading: Reading, before: int, last: int, *, step: int) -> list[Stretch]:
    """Return where numbers are missing in the cursor column, behind `before` and up to `last`, in ascending order.

    All rows count, those that the stream's `where` leaves out too: they are there, and no longer to come.

    Args:
        step: Numbers that are no more than this apart have none missing between them.

    Returns:
        The highest ones; one more than can be remembered, where there are more.
    """
    column, bound = reading.pages.keyset.expressions[0], reading.opened.dialect.bound
    cursor = reading.pages.keyset.columns[0]
    previous: sa.ColumnElement[Any] = sa.func.coalesce(sa.func.lag(column).over(order_by=column), bound(cursor, before))
    numbers = (
        sa.select(previous.label("previous"), column.label("number"))
        .select_from(reading.pages.relation)
        .where(column > bound(cursor, before), column <= bound(cursor, last))
        .subquery("numbers")
    )
    statement = (
        sa.select(numbers.c.previous, numbers.c.number)
        .where(numbers.c.number - numbers.c.previous > step)
        .order_by(numbers.c.number.desc())
        .limit(GAPS_AT_MOST + 1)
    )
    found = reading.ask(lambda connection: connection.execute(statement).all())
    return [(int(previous), int(number)) for previous, number in reversed(found)]
