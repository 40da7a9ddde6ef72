"""The statements of mode flag: they tell the source what became of a row, in the version that was read."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError, SourceError
from syncctl.sources.layout import Layout
from syncctl.sources.modes.reading import Reading
from syncctl.sources.positions import Raw, to_raw, untag
from syncctl.sources.tables import Column, find_name


def acknowledge(reading: Reading, rows: Sequence[Acknowledgement]) -> list[Acknowledged]:
    """Run the statements in one transaction; where one fails, each in a transaction of its own. Safe to repeat.

    Raises:
        ServiceUnavailable: The source cannot be reached: which of the rows were told of is not known.
    """
    stream, dialect = reading.stream, reading.opened.dialect
    columns = _parameters(reading.layout)
    texts = {"delivered": stream.acknowledge, "failed": stream.acknowledge_failed}

    def run(connection: sa.Connection) -> list[Acknowledged]:
        connection = connection.execution_options(isolation_level=dialect.transaction_level)
        counts = _count_all(connection)
        done = []
        for each in rows:
            counts.clear()
            text = texts[each.ending]
            if text is not None:
                connection.execute(*_bind(text, columns, each))
            done.append(Acknowledged(id=each.id, rows=0 if text is None else max(counts, default=None)))
        connection.commit()
        return done

    try:
        return reading.ask(run)
    except SourceError as error:
        if len(rows) == 1:
            return [Acknowledged(id=rows[0].id, error=error.why or str(error))]
    return [done for each in rows for done in acknowledge(reading, [each])]


def _count_all(connection: sa.Connection) -> list[int]:
    """Return a list that takes how many rows each step of a statement has changed, as far as the database tells.

    A procedure, a trigger or several statements give several results, and what goes wrong in a later one is only told
    when that is asked for (ODBC, "SQLMoreResults").
    """
    counts: list[int] = []

    def drain(_: sa.Connection, cursor: Any, *__: Any) -> None:
        while True:
            if cursor.rowcount >= 0:
                counts.append(int(cursor.rowcount))
            if not (hasattr(cursor, "nextset") and cursor.nextset()):
                return

    sa.event.listen(connection, "after_cursor_execute", drain)
    return counts


def check_statements(stream: Stream, layout: Layout) -> None:
    """Refuse statements that could wipe out a later edit, or touch other rows.

    Raises:
        ConfigurationError: A statement does not name each key column and the version as parameters, or names another.
    """
    for setting, text in (("acknowledge", stream.acknowledge), ("acknowledge_failed", stream.acknowledge_failed)):
        if text is None:
            continue
        wanted = _parameters(layout)
        named = set(sa.text(text).compile().params)
        missing = [name for name in wanted if find_name(name, sorted(named)) is None]
        unknown = [name for name in sorted(named) if find_name(name, list(wanted)) is None]
        if not missing and not unknown:
            continue
        why = (
            f"it does not test {', '.join(f':{name}' for name in missing)}, so it could wipe out a later edit"
            if missing
            else f":{unknown[0]} is neither in the key nor the cursor"
        )
        odd = next((name for name in wanted if not name.isidentifier()), None)
        hint = "end it with: where " + " and ".join(f"{name} = :{name}" for name in wanted)
        if odd is not None:
            hint = f'no parameter can be named {odd}; read a query that names it anew: query = "select [{odd}] as ..."'
        raise ConfigurationError(f"streams.{stream.name}.{setting} is wrong", why=why, hint=hint)


def _parameters(layout: Layout) -> dict[str, Column]:
    columns = [*layout.key, *([layout.cursor] if layout.cursor else [])]
    return {column.name: column for column in columns}


def _bind(text: str, columns: Mapping[str, Column], each: Acknowledgement) -> tuple[sa.TextClause, dict[str, Raw]]:
    """Return a statement and its values; the database reads each as a value of the column that it stands beside."""
    statement = sa.text(text)
    raw: dict[str, Raw] = {}
    for name in statement.compile().params:
        column = columns[find_name(name, list(columns)) or name]
        raw[name] = to_raw(column, each.key[column.name]) if column.name in each.key else untag(each.version)
    types = {name: sa.LargeBinary() for name, value in raw.items() if isinstance(value, bytes)}
    return statement.bindparams(*(sa.bindparam(name, type_=kind) for name, kind in types.items())), raw
