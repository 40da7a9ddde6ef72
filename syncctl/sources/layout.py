"""The layout of a stream: its key, its cursor column and its mode, and warnings about changes that it does not find."""

from dataclasses import dataclass

from syncctl.core.spelling import suggest
from syncctl.core.stream import SCANS, Mode, Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import Column, Kind, Relation, find_name, split_name
from syncctl.sources.change_time_names import may_be_change_time

CURSOR_KINDS = frozenset({Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT, Kind.TIME, Kind.DATE, Kind.TEXT, Kind.OTHER})
"""The kinds of columns that mode increasing can follow; OTHER means that the database does not state the type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a relation is read."""

    mode: Mode
    #: The column that the stream follows; in mode flag, the column that distinguishes versions; None in other modes.
    cursor: Column | None
    key: tuple[Column, ...]

    @property
    def ties(self) -> tuple[Column, ...]:
        """The key's columns beside the cursor column: they order equal cursor values."""
        return tuple(column for column in self.key if column != self.cursor)

    @property
    def order(self) -> tuple[Column, ...]:
        """The columns by which rows are ordered: the key in a mode that reads all rows, otherwise the cursor first."""
        return self.key if self.mode in SCANS or self.cursor is None else (self.cursor, *self.ties)

    @property
    def is_numbered(self) -> bool:
        """Whether the cursor is a number that the database itself assigns, one for each row."""
        cursor = self.cursor
        if cursor is None or self.mode != "increasing":
            return False
        return cursor.seed is not None or (cursor.kind is Kind.INTEGER and self.key == (cursor,))

    @property
    def cursor_name(self) -> str:
        """The name of the followed column in cursor documents."""
        return self.order[0].name if self.cursor is None else self.cursor.name


def decide_layout(stream: Stream, relation: Relation, *, has_rowversions: bool, has_changes: bool = False) -> Layout:
    """Decide key, cursor and mode: as the stream sets them, otherwise the safest that the table allows.

    Raises:
        ConfigurationError: The stream names a column that does not exist, or leaves out a setting that is needed.
    """
    key = _decide_key(stream, relation)
    if stream.mode == "change_tracking" and not has_changes:
        raise _wrong(stream, "mode", "only SQL Server tracks changes", 'set it to "increasing" or "snapshot"')
    if stream.mode == "change_tracking":
        _check_own_database(stream, "CHANGE_TRACKING_CURRENT_VERSION()")
    if stream.mode in SCANS:
        return Layout(mode=stream.mode, cursor=_find_version(stream, relation), key=key)
    cursor = _decide_cursor(stream, relation, key, has_rowversions=has_rowversions)
    mode = stream.mode or ("rowversion" if cursor.kind is Kind.ROWVERSION else "increasing")
    if mode == "rowversion":
        _check_rowversion(stream, cursor, has_rowversions=has_rowversions)
    elif cursor.kind is Kind.ROWVERSION:
        raise _wrong(
            stream,
            "mode",
            f"{cursor.name} is a rowversion, and rows of open transactions would be lost in mode increasing",
            'set it to "rowversion"',
        )
    elif cursor.kind not in CURSOR_KINDS:
        raise _wrong(
            stream,
            "cursor",
            f"{cursor.name} is a {cursor.kind} column, and its values do not grow with each new row",
            "name an integer, a decimal, a time or a text column",
        )
    elif cursor.increment <= 0:
        raise _wrong(
            stream,
            "cursor",
            f"{cursor.name} is an identity that counts down, and its values do not grow with each new row",
            'name another column, or set mode to "snapshot"',
        )
    return Layout(mode=mode, cursor=cursor, key=key)


def _decide_key(stream: Stream, relation: Relation) -> tuple[Column, ...]:
    wanted = stream.key or relation.primary_key
    if not wanted:
        raise ConfigurationError(
            f"stream {stream.name} has no key",
            why=f"{relation.title} has no primary key" if stream.query is None else "a query has no primary key",
            hint=f'name the columns that identify its rows: streams.{stream.name}.key = ["id"]',
        )
    key = tuple(_find_column(stream, relation, name, "key") for name in wanted)
    if len(set(key)) < len(key):
        raise _wrong(stream, "key", "it names a column twice", "name each column once")
    return key


def _find_version(stream: Stream, relation: Relation) -> Column | None:
    if stream.mode != "flag" or stream.cursor is None:
        return None
    return _find_column(stream, relation, stream.cursor, "cursor")


def _decide_cursor(stream: Stream, relation: Relation, key: tuple[Column, ...], *, has_rowversions: bool) -> Column:
    if stream.cursor is not None:
        return _find_column(stream, relation, stream.cursor, "cursor")
    if stream.mode != "increasing":
        versions = [column for column in relation.columns if column.kind is Kind.ROWVERSION]
        if versions:
            return versions[0]
    if stream.mode == "rowversion":
        _check_database(stream, has_rowversions=has_rowversions)
        raise _wrong(
            stream,
            "cursor",
            f"{relation.title} has no rowversion column",
            "add one (ALTER TABLE ... ADD row_version rowversion), or set cursor to a column that grows, and its mode",
        )
    if stream.query is None and len(key) == 1 and key[0].kind is Kind.INTEGER:
        return key[0]
    raise ConfigurationError(
        f"stream {stream.name} has no cursor",
        why=f"nothing in {relation.title} says in which order its rows come",
        hint=f'name the column that grows with each new or changed row: streams.{stream.name}.cursor = "updated_at"',
    )


def _check_rowversion(stream: Stream, cursor: Column, *, has_rowversions: bool) -> None:
    _check_database(stream, has_rowversions=has_rowversions)
    _check_own_database(stream, "MIN_ACTIVE_ROWVERSION()")
    if cursor.kind not in (Kind.ROWVERSION, Kind.BINARY):
        raise _wrong(
            stream,
            "cursor",
            f"{cursor.name} is a {cursor.kind} column, and mode rowversion follows a rowversion",
            'name the rowversion column, or set mode to "increasing"',
        )


def _check_own_database(stream: Stream, function: str) -> None:
    if stream.table is not None and len(split_name(stream.table)) > 2:
        raise _wrong(
            stream,
            "table",
            f"{function} answers for the database of the connection, but this table is in another",
            "configure that database as a source of its own, and leave its name out of the table",
        )


def _check_database(stream: Stream, *, has_rowversions: bool) -> None:
    if not has_rowversions:
        raise _wrong(stream, "mode", "only SQL Server has rowversions", 'set it to "increasing"')


def _find_column(stream: Stream, relation: Relation, name: str, setting: str) -> Column:
    names = [column.name for column in relation.columns]
    spelled = find_name(name, names)
    if spelled is None:
        raise _wrong(stream, setting, f"{relation.title} has no column {name}", suggest(name, names))
    column = relation.columns[names.index(spelled)]
    if column.kind is Kind.FORMLESS:
        hint = "name other columns, or read a query that casts it: cast(path as nvarchar(4000)) as path"
        raise _wrong(
            stream, setting, f"column {column.name} is of type {column.type}, which JSON cannot represent", hint
        )
    return column


def _wrong(stream: Stream, setting: str, why: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"streams.{stream.name}.{setting} is wrong", why=why, hint=hint)


def advise(stream: Stream, relation: Relation, layout: Layout, *, has_rowversions: bool) -> tuple[str, ...]:
    """Return a warning about changes that the layout does not find, or about deletes without an endpoint.

    A table without a better cursor is followed by its primary key, which finds only new rows. There is no warning if
    the stream names its cursor, or says that rows never change (`append_only`).
    """
    if layout.mode in ("change_tracking", "snapshot") and stream.sends_deletes and stream.delete_method is None:
        finding = f"finds deleted rows too, and sends only their key to {stream.method} {stream.path}"
        ways = 'delete_endpoint = "DELETE /.../{id}", or "none" to send no deletes'
        return (f"{finding}; in streams.{stream.name} set {ways}",)
    if stream.cursor is not None or stream.append_only or layout.mode != "increasing":
        return ()
    changed = next((column for column in relation.columns if may_be_change_time(column)), None)
    if changed is not None:
        way = f'cursor = "{changed.name}" if every change sets it'
    else:
        times = [column.name for column in relation.columns if column.kind in (Kind.TIME, Kind.DATE)]
        way = "cursor to a column that every change moves forward"
        way += f" (perhaps {' or '.join(times)})" if times else ""
        way += " (or add a rowversion column to the table)" if has_rowversions else ""
    ways = f"{way}, or append_only = true if rows never change"
    return (f"finds new rows only, no changed ones; in streams.{stream.name} set {ways}",)
