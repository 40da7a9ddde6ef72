"""Mode flag: the rows that meet a condition, until a statement in the source acknowledges them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from syncctl.core.acknowledgements import Acknowledged, Acknowledgement
from syncctl.core.rows import Cursor, Page
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import Column, find_name, quote_name
from syncctl.sources.cursor import Raw, to_raw, untag
from syncctl.sources.layout import Layout
from syncctl.sources.modes.snapshot import KeyScan
from syncctl.sources.open_stream import OpenStream
from syncctl.sources.row_updates import count_changes, run_together_or_alone


class Flag(KeyScan):
    """Reads the rows that meet the condition round after round; the ledger recognises rows that wait for delivery.

    Raises:
        ConfigurationError: A statement could overwrite a later edit, or touch other rows.
    """

    def __init__(self, opened: OpenStream) -> None:
        super().__init__(opened)
        check_statements(opened.stream, opened.layout)

    def pages(self, cursor: Cursor) -> Iterator[Page]:
        """Yield the rest of this round, and then the start of the next."""
        last = cursor
        for page in self._walk_on(cursor):
            last = page.cursor
            yield page
        start = self.parse_cursor("beginning")
        if dict(last) != dict(start):
            yield Page(rows=(), cursor=start)


def acknowledge(
    opened: OpenStream, rows: Sequence[Acknowledgement], before_commit: Callable[[Sequence[Acknowledged]], None]
) -> list[Acknowledged]:
    """Run the statements in one transaction; if one fails, run each in its own. Safe to repeat.

    Args:
        before_commit: Called with the results of the statements that changed something, right before the commit.

    Raises:
        ServiceUnavailable: The source cannot be reached; it is not known which rows were acknowledged.
    """
    stream, dialect = opened.stream, opened.source.dialect
    columns = _list_parameters(opened.layout)
    statements = {"delivered": stream.acknowledge, "failed": stream.acknowledge_failed}

    def run(connection: sa.Connection, batch: Sequence[Acknowledgement]) -> list[Acknowledged]:
        connection = connection.execution_options(isolation_level=dialect.transaction_level)
        done = []
        with count_changes(connection) as counts:
            for row in batch:
                counts.clear()
                text = statements[row.ending]
                if text is not None:
                    connection.execute(*_bind(text, columns, row))
                done.append(Acknowledged(id=row.id, rows=0 if text is None else max(counts, default=None)))
        unchanged = [result for result in done if result.rows == 0]
        changed = [(row, result) for row, result in zip(batch, done, strict=True) if result.rows != 0]
        versions = opened.pages.read_versions(connection, [row.key for row, _ in changed])
        results = [replace(result, version_after=versions.get(row.key_id)) for row, result in changed]
        before_commit(results)
        connection.commit()
        return unchanged + results

    return run_together_or_alone(
        rows,
        lambda batch: opened.run(lambda connection: run(connection, batch)),
        lambda row, error: Acknowledged(id=row.id, error=error.why or str(error)),
    )


def check_statements(stream: Stream, layout: Layout) -> None:
    """Refuse statements that could overwrite a later edit, or touch other rows.

    Raises:
        ConfigurationError: A statement has no parameter for a key column or the version, or has one for another column.
    """
    for setting, text in (("acknowledge", stream.acknowledge), ("acknowledge_failed", stream.acknowledge_failed)):
        if text is None:
            continue
        wanted = _list_parameters(layout)
        named = set(sa.text(text).compile().params)
        missing = [name for name in wanted if find_name(name, sorted(named)) is None]
        unknown = [name for name in sorted(named) if find_name(name, list(wanted)) is None]
        if not missing and not unknown:
            continue
        why = (
            f"it does not test {', '.join(f':{name}' for name in missing)}, so it could overwrite a later edit"
            if missing
            else f":{unknown[0]} is neither in the key nor the cursor"
        )
        odd = next((name for name in wanted if not name.isidentifier()), None)
        hint = "end it with: where " + " and ".join(f"{quote_name(name)} = :{name}" for name in wanted)
        if odd is not None:
            hint = f'a parameter cannot be named {odd}; read a query that renames it: query = "select [{odd}] as ..."'
        raise ConfigurationError(f"streams.{stream.name}.{setting} is wrong", why=why, hint=hint)


def _list_parameters(layout: Layout) -> dict[str, Column]:
    columns = [*layout.key, *([layout.cursor] if layout.cursor else [])]
    return {column.name: column for column in columns}


def _bind(text: str, columns: Mapping[str, Column], row: Acknowledgement) -> tuple[sa.TextClause, dict[str, Raw]]:
    """Return a statement and its values; the database reads each as a value of the column with which it is compared."""
    statement = sa.text(text)
    raw: dict[str, Raw] = {}
    for name in statement.compile().params:
        column = columns[find_name(name, list(columns)) or name]
        raw[name] = to_raw(column, row.key[column.name]) if column.name in row.key else untag(row.version)
    types = {name: sa.LargeBinary() for name, value in raw.items() if isinstance(value, bytes)}
    return statement.bindparams(*(sa.bindparam(name, type_=kind) for name, kind in types.items())), raw
