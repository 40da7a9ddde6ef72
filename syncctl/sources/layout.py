"""Which columns make the key, which the cursor, and in which mode a stream is read."""

from dataclasses import dataclass

from syncctl.core.spelling import suggest
from syncctl.core.stream import SCANS, Mode, Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.dialect import CURSOR_KINDS
from syncctl.sources.tables import Column, Kind, Relation, find_name, split_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a relation is read.

    `cursor` is the column that a stream is followed by; in mode flag the one that tells versions apart; else None.
    `ties` are the key's columns beside the cursor column: they order its equal values.
    """

    mode: Mode
    cursor: Column | None
    key: tuple[Column, ...]

    @property
    def ties(self) -> tuple[Column, ...]:
        """The key's columns beside the cursor column."""
        return tuple(column for column in self.key if column != self.cursor)

    @property
    def order(self) -> tuple[Column, ...]:
        """The columns that rows are ordered by: the key where a mode goes through all rows, else the cursor first."""
        return self.key if self.mode in SCANS or self.cursor is None else (self.cursor, *self.ties)

    @property
    def cursor_name(self) -> str:
        """What cursor documents call the column that is followed."""
        return self.order[0].name if self.cursor is None else self.cursor.name


def decide_layout(stream: Stream, relation: Relation, *, has_rowversions: bool, has_changes: bool = False) -> Layout:
    """Decide key, cursor and mode: what the stream says, else the safest that the table allows.

    Raises:
        ConfigurationError: The stream names a column that is not there, or leaves open what the table does not tell.
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
            hint=f'name the columns that tell its rows apart: streams.{stream.name}.key = ["id"]',
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
            "add one (ALTER TABLE ... ADD row_version rowversion), or set mode and cursor to what grows with each row",
        )
    if stream.query is None and len(key) == 1 and key[0].kind is Kind.INTEGER:
        return key[0]
    raise ConfigurationError(
        f"stream {stream.name} has no cursor",
        why=f"{relation.title} does not tell in which order its rows come",
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
            f"{function} answers for the database of the connection, and this table is in another",
            "configure that database as a source of its own, and leave its name out of the table",
        )


def _check_database(stream: Stream, *, has_rowversions: bool) -> None:
    if not has_rowversions:
        raise _wrong(stream, "mode", "only SQL Server has rowversions", 'set it to "increasing"')


def _find_column(stream: Stream, relation: Relation, name: str, setting: str) -> Column:
    names = [column.name for column in relation.columns]
    found = find_name(name, names)
    if found is None:
        raise _wrong(stream, setting, f"{relation.title} has no column {name}", suggest(name, names))
    column = relation.columns[names.index(found)]
    if column.kind is Kind.FORMLESS:
        hint = "name other columns, or read a query that casts it: cast(path as nvarchar(4000)) as path"
        raise _wrong(
            stream, setting, f"column {column.name} is of type {column.type}, which JSON has no form for", hint
        )
    return column


def _wrong(stream: Stream, setting: str, why: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"streams.{stream.name}.{setting} is wrong", why=why, hint=hint)
