"""Write-back: outcomes written into the rows of a table, by their key.

The rows of one transaction stay locked from their statements until its commit. So a caller can check right before the
commit that only it may write: any later writer finds the rows locked, and its write also comes later in the database.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mssql

from syncctl.core.remote_values import REMOTE
from syncctl.core.rows import Value
from syncctl.core.write_backs import WriteBack, Written
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError
from syncctl.sources.catalog.relation import Column, Kind, find_name, quote_name, split_name
from syncctl.sources.cursor import Raw, to_raw
from syncctl.sources.dialect import Dialect
from syncctl.sources.driver_errors import clean_reason, find_driver_error, grant, is_lock, is_permission
from syncctl.sources.instants import load_zone
from syncctl.sources.open_stream import OpenStream
from syncctl.sources.pages import Key
from syncctl.sources.row_updates import count_changes, run_together_or_alone

LOCK_SECONDS = 1.0
"""How long a statement waits for a row that another program has locked."""
ALONE_SECONDS = 3.0
"""How long rows are written one by one, each of which may wait for a lock, while the poll has rows to read."""
ALIKE = 3
"""If there are this many results, all the same failure, the cause is the statement and not the rows."""

_TEXTS = frozenset({Kind.TEXT, Kind.OTHER})
_FITTING: Mapping[str, frozenset[Kind]] = {
    "delivered_at": _TEXTS | {Kind.TIME, Kind.DATE},
    "error": _TEXTS,
    "record_id": _TEXTS,
    "state": _TEXTS,
}
_FITTING_REMOTE = _TEXTS | {
    Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT, Kind.GUID, Kind.BOOLEAN, Kind.TIME, Kind.DATE
}  # fmt: skip
_NEEDED = {"delivered_at": "a time or a text column"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statement:
    """The values of one row in the form of their columns."""

    row: WriteBack
    #: The values by column.
    raw: Mapping[str, Raw]


class RowWriter:
    """Writes outcomes into the rows of one stream.

    Raises:
        ConfigurationError: A column cannot hold the value that `write_back` gives it.
    """

    def __init__(self, opened: OpenStream) -> None:
        self._opened = opened
        stream, dialect = opened.stream, opened.source.dialect
        self._dialect: Dialect = dialect
        names = [column.name for column in opened.relation.columns]
        columns = dict(zip(names, opened.relation.columns, strict=True))
        # `choose_columns` has already refused columns that do not exist.
        self._columns = {columns[find_name(given, names) or given]: value for given, value in stream.write_back.items()}
        for column, value in self._columns.items():
            _check_column(opened, column, value)
        zone = None if stream.timezone is None else load_zone(stream.timezone, f"streams.{stream.name}.timezone")
        self._zone: ZoneInfo | None = zone
        # This is the table itself, of which the pages read an alias.
        self._table: sa.TableClause = opened.relation.clause.element  # type: ignore[attr-defined]

    def write(self, rows: Sequence[WriteBack], before_commit: Callable[[Sequence[WriteBack]], None]) -> list[Written]:
        """Write outcomes in one transaction; if one fails, each in its own. Safe to repeat.

        Args:
            before_commit: Called with the rows that have been written to, right before the commit; if it raises,
                nothing is written.

        Returns:
            One result for each row that was tried. If the first rows all fail in the same way, or if writing takes
            long, the others are left for later.

        Raises:
            ServiceUnavailable: The source cannot be reached; it is not known which rows were written.
        """
        results: list[Written] = []
        statements: list[_Statement] = []
        for row in rows:
            try:
                raw = {column.name: self._encode(column, name, row) for column, name in self._list_values(row)}
            except ValueError as error:
                results.append(Written(id=row.id, error=str(error)))
                continue
            if raw and None not in row.key.values():
                statements.append(_Statement(row=row, raw=raw))
            else:
                # A key with a NULL identifies no row.
                results.append(Written(id=row.id, rows=0))
        if not statements:
            return results
        return results + run_together_or_alone(
            statements,
            lambda batch: self._run(batch, before_commit),
            lambda statement, error: Written(id=statement.row.id, error=error.why or str(error)),
            gives_up=_GivesUp(),
        )

    def try_write(self) -> None:
        """Test an update that matches no row, and roll it back.

        Raises:
            SourceError: The columns cannot be written to, or the login may not write to them.
        """
        nothing = {column.name: sa.null() for column in self._columns}
        statement = sa.update(self._table).where(sa.literal_column("1") == sa.literal_column("0")).values(nothing)
        try:
            with self._opened.connect() as connection, _wait_briefly(connection, self._opened):
                connection.execution_options(isolation_level=self._dialect.transaction_level).execute(statement)
        except ServiceUnavailable as error:
            # A lock of another program says nothing about the login's rights.
            if not is_lock(error):
                raise
        except SourceError as error:
            table = quote_name(*split_name(self._opened.stream.table or ""))
            columns = ", ".join(quote_name(column.name) for column in self._columns)
            hint = f"correct streams.{self._opened.stream.name}.write_back, or the columns"
            if is_permission(error):
                right = grant("UPDATE", self._opened.source.address.user, on=f"{table} ({columns})")
                hint = f"let an administrator run: {right}"
            elif "readonly" in error.why:
                hint = "let the user that runs syncctl write to the file and to its directory"
            raise SourceError(error.what, why=error.why, hint=hint) from error

    def _list_values(self, row: WriteBack) -> Iterator[tuple[Column, str]]:
        return ((column, name) for column, name in self._columns.items() if name in row.values)

    def _encode(self, column: Column, name: str, row: WriteBack) -> Raw:
        try:
            return encode(self._dialect, column, name, row.values[name], self._zone)
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise ValueError(f"column {column.name} cannot hold {name}: {error}") from None

    def _run(
        self, statements: Sequence[_Statement], before_commit: Callable[[Sequence[WriteBack]], None]
    ) -> list[Written]:
        try:
            with self._opened.connect() as connection, _wait_briefly(connection, self._opened):
                return self._execute(connection, statements, before_commit)
        except ServiceUnavailable as error:
            if not is_lock(error):
                raise
            # Not the error's own reason: for SQLite, it names the time limit of a query, which does not apply here.
            reason = clean_reason(find_driver_error(error), self._opened.source.address)
            raise SourceError(error.what, why=f"another program holds the row: {reason}") from error

    def _execute(
        self,
        connection: sa.Connection,
        statements: Sequence[_Statement],
        before_commit: Callable[[Sequence[WriteBack]], None],
    ) -> list[Written]:
        connection = connection.execution_options(isolation_level=self._dialect.transaction_level)
        sample = self._find_contents(connection, statements[0].row.key)
        done = []
        with count_changes(connection) as counts:
            for statement in statements:
                counts.clear()
                try:
                    connection.execute(self.make_update(statement.row.key, statement.raw))
                except (ValueError, KeyError) as error:
                    raise SourceError(
                        "the row cannot be found", why=f"its key does not fit this table: {error}"
                    ) from error
                done.append(Written(id=statement.row.id, rows=max(counts, default=None)))
        self._check_unnoticed(sample, self._find_contents(connection, statements[0].row.key))
        before_commit([statement.row for statement in statements])
        connection.commit()
        return done

    def make_update(self, key: Key, raw: Mapping[str, Raw]) -> sa.Update:
        """Return the statement that writes values, by column, into the row with this key."""
        columns = {column.name: column for column in self._columns}
        values = {
            name: sa.null() if value is None else self._dialect.bound(columns[name], value)
            for name, value in raw.items()
        }
        where = [
            self._table.c[column.name] == self._dialect.bound(column, to_raw(column, key[column.name]))
            for column in self._opened.layout.key
        ]
        return sa.update(self._table).where(*where).values(values)

    def _find_contents(self, connection: sa.Connection, key: Key) -> list[Mapping[str, Value]]:
        """Return the contents by which a poll notices changes of the row; nothing if the row is never read again."""
        layout = self._opened.layout
        if layout.mode == "increasing" and layout.cursor in layout.key:
            return []
        try:
            rows = self._opened.pages.find_bare(connection, [key])
        except (ValueError, KeyError):
            return []
        return [row.content for row in rows if row.content is not None]

    def _check_unnoticed(self, before: Sequence[Mapping[str, Value]], after: Sequence[Mapping[str, Value]]) -> None:
        """Refuse a write that a poll would treat as a change: the row would be sent and written again for ever.

        Raises:
            SourceError: A trigger changes a column that is sent.
        """
        if len(before) != 1 or len(after) != 1:
            return
        changed = [name for name, value in after[0].items() if before[0].get(name) != value]
        if changed:
            named = ", ".join(changed)
            raise SourceError(
                "the write-back would send its row again",
                why=f"the write changes {named} too (by a trigger?), so that each write would send the row again; "
                f"exclude {named}, or let the trigger pass over updates of {', '.join(self._opened.stream.write_back)}",
            )


def _check_column(opened: OpenStream, column: Column, value: str) -> None:
    stream, layout = opened.stream, opened.layout
    why = hint = ""
    if column in (*layout.key, layout.cursor):
        why = f"{column.name} is in the {'key' if column in layout.key else 'cursor'}, and a write would move its row"
        hint = "write to another column"
    elif column.kind not in (_FITTING_REMOTE if value.startswith(REMOTE) else _FITTING[value]):
        why = f"{column.name} is a {column.kind} column, and cannot hold {value}"
        hint = f"write to {_NEEDED.get(value, 'a text column')}"
    elif value == "record_id" and _count_room(column) < len(stream.name) + 33:
        why = f"{column.name} holds {_count_room(column)} characters, and a record's id has {len(stream.name) + 33}"
        hint = "make the column longer"
    if why:
        raise ConfigurationError(f"streams.{stream.name}.write_back is wrong", why=why, hint=hint)


def _count_room(column: Column) -> float:
    """Return the declared length of a text column in characters; infinite if none is declared."""
    length = getattr(column.type, "length", None)
    return float("inf") if length is None else int(length)


def encode(dialect: Dialect, column: Column, name: str, value: Value | datetime, zone: ZoneInfo | None) -> Raw:
    """Return a value in the form of its column; an error text is cut to the column's length.

    Args:
        zone: The time zone of times without an offset; None for UTC.

    Raises:
        ValueError: The column cannot hold the value.
    """
    if value is None:
        return "" if name == "error" and not column.nullable else None
    if isinstance(value, datetime):
        return _encode_time(column, value, zone)
    text = _clean(value)
    match column.kind:
        case Kind.INTEGER:
            number = int(text)
            if not -(2**63) <= number < 2**63:
                raise ValueError("it has too many digits")
            return number
        case Kind.DECIMAL:
            return Decimal(text)
        case Kind.FLOAT:
            return float(text)
        case Kind.BOOLEAN:
            if text not in ("true", "false", "0", "1"):
                raise ValueError("it is neither true nor false")
            return text in ("true", "1")
        case Kind.TEXT | Kind.OTHER:
            return _fit(dialect, column, text, is_cut=name == "error")
    return text


def _clean(value: Value) -> str:
    """Return a value as text, without characters that no text column can hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, float) else str(value)
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _fit(dialect: Dialect, column: Column, text: str, *, is_cut: bool) -> str:
    room = _count_room(column)
    size = dialect.measure_text(column, text)
    if size <= room:
        return text
    if not is_cut:
        raise ValueError(f"it has {size} characters, and the column holds {int(room)}")
    # Every character needs at least one of the column's units.
    text = text[: int(room)]
    while dialect.measure_text(column, text) > room:
        text = text[:-1]
    return text


def _encode_time(column: Column, at: datetime, zone: ZoneInfo | None) -> str:
    local = at.astimezone(zone or UTC)
    text = local.isoformat(sep=" ", timespec="milliseconds")
    match column.kind:
        case Kind.DATE:
            return local.date().isoformat()
        case Kind.TIME if not isinstance(column.type, mssql.DATETIMEOFFSET):
            return local.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
        case Kind.TIME:
            return text
    text = text.replace(" ", "T")
    return f"{text.removesuffix('+00:00')}Z" if zone is None else text


class _GivesUp:
    """Decides by the results of rows written one by one whether the others are left for later."""

    def __init__(self) -> None:
        self._ends_at = time.monotonic() + ALONE_SECONDS

    def __call__(self, results: Sequence[Written]) -> bool:
        fail_alike = results[0].error is not None and len({result.error for result in results}) == 1
        return (len(results) >= ALIKE and fail_alike) or time.monotonic() > self._ends_at


@contextmanager
def _wait_briefly(connection: sa.Connection, opened: OpenStream) -> Iterator[None]:
    """Let the statements of the block wait only briefly for locks; roll back changes that are not committed."""
    dialect = opened.source.dialect
    connection.exec_driver_sql(dialect.lock_wait(LOCK_SECONDS, is_limit=True))
    connection.commit()
    try:
        yield
    finally:
        usual = dialect.lock_wait(opened.source.address.query_timeout_seconds, is_limit=False)
        try:
            connection.rollback()
            connection.exec_driver_sql(usual)
            connection.commit()
        except exc.SQLAlchemyError:
            # A connection with a limit that reading does not expect must not return to the pool.
            with suppress(exc.SQLAlchemyError):
                connection.invalidate()
