"""Statements that change rows of a source: all in one transaction, or if that fails, each in its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from syncctl.errors import SourceError

T = TypeVar("T")
R = TypeVar("R")


def run_together_or_alone(
    rows: Sequence[T],
    run: Callable[[Sequence[T]], list[R]],
    fail: Callable[[T, SourceError], R],
    *,
    gives_up: Callable[[Sequence[R]], bool] = lambda _: False,
) -> list[R]:
    """Run the statements of rows in one transaction; if one fails, run each in its own.

    Args:
        run: Runs the statements of some rows in one transaction.
        fail: Returns the result of a row whose statement fails alone.
        gives_up: Called with the results of the rows that ran alone so far; if true, the others get no result.
    """
    try:
        return run(rows)
    except SourceError as error:
        if len(rows) == 1:
            return [fail(rows[0], error)]
    results: list[R] = []
    for row in rows:
        results += run_together_or_alone([row], run, fail)
        if gives_up(results):
            break
    return results


@contextmanager
def count_changes(connection: sa.Connection) -> Iterator[list[int]]:
    """Yield a list that receives how many rows each step of a statement changes, if the database reports it.

    A procedure, a trigger or several statements return several results, and an error in a later one is only reported
    when that result is asked for (ODBC, "SQLMoreResults"). A query in the block would lose its rows.
    """
    counts: list[int] = []

    def drain(_: sa.Connection, cursor: Any, *__: Any) -> None:
        while True:
            if cursor.rowcount >= 0:
                counts.append(int(cursor.rowcount))
            if not (hasattr(cursor, "nextset") and cursor.nextset()):
                return

    sa.event.listen(connection, "after_cursor_execute", drain)
    try:
        yield counts
    finally:
        sa.event.remove(connection, "after_cursor_execute", drain)
