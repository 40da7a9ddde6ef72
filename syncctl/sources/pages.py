"""Pages of rows: one short statement each, no transaction left open, one bad row at a time."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import True_

from syncctl.core.column_masks import Mask, mask_value
from syncctl.core.rows import Row, Value
from syncctl.core.stream import SCANS, Mode, Stream
from syncctl.errors import SourceError
from syncctl.sources.columns import choose_columns, describe_mask
from syncctl.sources.dialect import Dialect
from syncctl.sources.instants import add_offset, load_zone
from syncctl.sources.keyset import Keyset
from syncctl.sources.layout import Layout
from syncctl.sources.positions import Position, Raw, tag, to_raw
from syncctl.sources.tables import Column, Kind, Relation, escape_colons

Converter = Callable[[Raw], Value]
Where = Sequence[sa.ColumnElement[bool]]
UNSPOKEN = "its own words are left out, for they may hold what is masked"
_LABEL = re.compile(r"'c(\d+)'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A row, its position, and whether it lies behind the mark that its page was asked about."""

    row: Row
    position: Position
    is_new: bool = True


class PageReader:
    """Reads rows of one relation in keyset order."""

    def __init__(self, relation: Relation, layout: Layout, dialect: Dialect, *, stream: Stream) -> None:
        self._stream = stream.name
        self._is_masked = bool(stream.mask)
        self._flavour = dialect
        self._mode: Mode = layout.mode
        chosen = choose_columns(stream, relation, layout)
        self._columns = chosen.read
        names = [column.name for column in chosen.read]
        plain = [relation.clause.c[name] for name in names]
        # Labels by number: a label of the column's own name would be what T-SQL's ORDER BY sorts by.
        self.shown = [
            dialect.shown(column, expression).label(f"c{index}")
            for index, (column, expression) in enumerate(zip(chosen.read, plain, strict=True))
        ]
        self.relation = relation.clause
        self._condition = [] if stream.where is None else [sa.text(f"({escape_colons(stream.where)}\n)")]
        self._order_at = [names.index(column.name) for column in layout.order]
        self._key_at = [names.index(column.name) for column in layout.key]
        self.keyset = Keyset(
            dialect=dialect,
            columns=layout.order,
            expressions=[plain[index] for index in self._order_at],
            skips_nulls=layout.mode not in SCANS,
        )
        self._by_key = Keyset(dialect=dialect, columns=layout.key, expressions=[plain[index] for index in self._key_at])
        self._payload_at = [index for index, name in enumerate(names) if name in chosen.sent]
        self._version_at = names.index(layout.cursor.name) if layout.mode == "flag" and layout.cursor else None
        self._converters = [dialect.converter(column) for column in chosen.read]
        senders = _choose_senders(stream, layout, chosen.read, self._converters)
        self._senders = [
            _hide(send, chosen.masks[name], stream.mask_secret) if name in chosen.masks else send
            for name, send in zip(names, senders, strict=True)
        ]
        self._refusal = chosen.refusal
        described = [*(name for name in names if name in chosen.sent), "", stream.timezone or "", chosen.refusal or ""]
        described += [
            f"{name}={describe_mask(mask, stream.mask_secret)}" for name, mask in sorted(chosen.masks.items())
        ]
        self.columns_fingerprint = hashlib.sha256("\x1f".join(described).encode("utf-8", "surrogatepass")).hexdigest()[
            :12
        ]

    def read(
        self, connection: sa.Connection, where: Where, limit: int, *, mark: Position | None = None
    ) -> tuple[list[Found], bool]:
        """Return at most `limit` rows, and whether there are more.

        Args:
            mark: The database says of each row whether it lies behind this position.

        Raises:
            SourceError: Two rows have the same cursor value and key.
        """
        try:
            raw = connection.execute(self.select(self.shown, where, limit + 1, mark)).all()
        except Exception as error:
            if not self._flavour.is_row_data_error(error):
                raise
            return self._read_one_by_one(connection, where, limit, mark)
        found = [self.make_found(each, is_new=mark is None or bool(each[-1])) for each in raw]
        self._check_distinct(found)
        return found[:limit], len(found) > limit

    def read_last(self, connection: sa.Connection) -> Position | None:
        """Return the position of the last row; None where there is no row."""
        shown = [self.shown[index] for index in self._order_at]
        statement = (
            sa.select(*shown)
            .select_from(self.relation)
            .where(self.keyset.after(Position()), *self._condition)
            .order_by(*self.keyset.order_by(descending=True))
            .limit(1)
        )
        raw = connection.execute(statement).first()
        return None if raw is None else self._make_position(raw)

    def read_sample(self, connection: sa.Connection) -> Raw:
        """Return any cursor value, None where there is none."""
        shown = self.shown[self._order_at[0]]
        statement = sa.select(shown).select_from(self.relation).where(self.keyset.expressions[0].is_not(None)).limit(1)
        return connection.execute(statement).scalar()

    def has_null_cursor(self, connection: sa.Connection) -> bool:
        """Say whether there are rows without a cursor value, which no poll sees."""
        if not self.keyset.columns[0].nullable:
            return False
        statement = (
            sa.select(sa.literal(1))
            .select_from(self.relation)
            .where(self.keyset.expressions[0].is_(None), *self._condition)
            .limit(1)
        )
        return connection.execute(statement).first() is not None

    def select(
        self, shown: Sequence[sa.ColumnElement[Any]], where: Where, limit: int, mark: Position | None
    ) -> sa.Select[Any]:
        columns = list(shown)
        if mark is not None:
            behind = self.keyset.after(mark)
            yes: sa.ColumnElement[Any] = sa.literal_column("1")
            # Of the beginning, it is true of every row; SQL Server takes no bare truth in a CASE.
            columns.append(yes if isinstance(behind, True_) else sa.case((behind, yes), else_=sa.literal_column("0")))
        statement = sa.select(*columns).select_from(self.relation).where(*where, *self._condition)
        return statement.order_by(*self.keyset.order_by()).limit(limit)

    def _read_one_by_one(
        self, connection: sa.Connection, where: Where, limit: int, mark: Position | None
    ) -> tuple[list[Found], bool]:
        """Read the positions first and then each row alone, so that a bad one stops no other.

        Rows that are gone by the second look make a page shorter, and do not end it.
        """
        ordering = [self.shown[index] for index in self._order_at]
        found: list[Found] = []
        more = True
        while more and not found:
            positions = connection.execute(self.select(ordering, where, limit + 1, mark)).all()
            more = len(positions) > limit
            for each in positions[:limit]:
                is_new = mark is None or bool(each[-1])
                found += self.read_at(connection, tuple(each[: len(ordering)]), is_new=is_new)
            if more:
                where = [*where, self.keyset.after(self._make_position(positions[limit - 1]))]
        self._check_distinct(found)
        return found, more

    def read_at(self, connection: sa.Connection, values: Sequence[Raw], *, is_new: bool = True) -> list[Found]:
        """Read the row at a position alone; nothing where it is gone, or has moved on and comes again behind.

        Args:
            values: Of the columns that the stream is ordered by.
        """
        statement = sa.select(*self.shown).select_from(self.relation).where(self.keyset.at(values), *self._condition)
        try:
            rows = connection.execute(statement).all()
        except Exception as error:
            if not self._flavour.is_row_data_error(error):
                raise
            return [self._make_unreadable(values, is_new=is_new, error=error)]
        return [self.make_found(raw, is_new=is_new) for raw in rows]

    def find(self, connection: sa.Connection, keys: Sequence[Mapping[str, Value]]) -> list[Found]:
        """Return the rows that have one of these keys now.

        Raises:
            ValueError: A key value cannot be one of its column.
        """
        conditions = [
            self._by_key.at([to_raw(column, key[column.name]) for column in self._by_key.columns]) for key in keys
        ]
        statement = sa.select(*self.shown).select_from(self.relation).where(sa.or_(*conditions), *self._condition)
        return [self.make_found(raw) for raw in connection.execute(statement).all()]

    def count(self, connection: sa.Connection, where: Where) -> int:
        """Return how many rows there are of a condition."""
        statement = sa.select(sa.func.count()).select_from(self.relation).where(*where, *self._condition)
        return int(connection.execute(statement).scalar_one())

    def _make_position(self, values: Sequence[Raw]) -> Position:
        return Position(value=values[0], key=tuple(values[1 : len(self._order_at)]))

    def make_found(self, raw: Sequence[Raw], *, is_new: bool = True) -> Found:
        """Return a row from the values of `shown`."""
        key, key_error = self._convert(raw, self._key_at, self._converters)
        payload, payload_error = self._convert(raw, self._payload_at, self._senders)
        error = key_error or payload_error or self._refusal
        position = self._make_position([raw[index] for index in self._order_at])
        row = self._make_row(key, None if error else payload, position, error, nameless=key_error is not None)
        if self._version_at is not None:
            row = replace(row, acknowledge=tag(raw[self._version_at]))
        return Found(row=row, position=position, is_new=is_new)

    def make_deleted(self, values: Sequence[Raw]) -> Row:
        """Return the row that says that the one with this key is gone."""
        raw: list[Raw] = [None] * len(self._columns)
        for index, value in zip(self._key_at, values, strict=True):
            raw[index] = value
        key, error = self._convert(raw, self._key_at, self._converters)
        return Row(key=key, payload=None, op="delete", at=Position(value=values[0]).text, error=error)

    def _make_unreadable(self, values: Sequence[Raw], *, is_new: bool, error: Exception) -> Found:
        raw: list[Raw] = [None] * len(self._columns)
        for index, value in zip(self._order_at, values, strict=True):
            raw[index] = value
        key, key_error = self._convert(raw, self._key_at, self._converters)
        reason = UNSPOKEN if self._is_masked else " ".join(str(getattr(error, "orig", None) or error).split())
        reason = _LABEL.sub(lambda match: f"'{self._columns[int(match[1])].name}'", reason)
        position = self._make_position(values)
        error_text = key_error or f"the database could not read the row: {reason}"
        row = self._make_row(key, None, position, error_text, nameless=key_error is not None)
        return Found(row=row, position=position, is_new=is_new)

    def _make_row(
        self,
        key: dict[str, Value],
        payload: dict[str, Value] | None,
        position: Position,
        error: str | None,
        *,
        nameless: bool,
    ) -> Row:
        version = position.text if self._mode == "rowversion" else None
        return Row(key=key, payload=payload, version=version, at=position.text, error=error, nameless=nameless)

    def _convert(
        self, raw: Sequence[Raw], indexes: Sequence[int], converters: Sequence[Converter]
    ) -> tuple[dict[str, Value], str | None]:
        """Return the values of columns; one that JSON has no form for stands as its text, and the reason is told."""
        values: dict[str, Value] = {}
        problem = None
        for index in indexes:
            name = self._columns[index].name
            try:
                values[name] = converters[index](raw[index])
            except ValueError as error:
                values[name] = _stand_in(raw[index])
                problem = problem or f"column {name}: {error}"
        return values, problem

    def _check_distinct(self, found: Sequence[Found]) -> None:
        """Refuse a key that tells two rows not apart: a page that ends between them would lose the second."""
        for before, each in pairwise(found):
            if before.position == each.position:
                named = ", ".join(f"{name}={value}" for name, value in each.row.key.items())
                raise SourceError(
                    f"stream {self._stream} cannot be read without losing rows",
                    why=f"two rows have the key {named} and the same cursor value {each.position.text}",
                    hint=f"name columns in streams.{self._stream}.key that tell all rows apart",
                )


def _choose_senders(
    stream: Stream, layout: Layout, columns: Sequence[Column], converters: Sequence[Converter]
) -> list[Converter]:
    """Return what makes the payload's values: times without an offset get one where the stream names their zone.

    A key stays as it is: the payload of an upsert, the path of its call and a later delete name the row alike.
    """
    if stream.timezone is None:
        return list(converters)
    zone = load_zone(stream.timezone, f"streams.{stream.name}.timezone")

    def localize(convert: Converter) -> Converter:
        def send(raw: Raw) -> Value:
            value = convert(raw)
            return add_offset(value, zone) if isinstance(value, str) else value

        return send

    return [
        localize(convert) if column.kind is Kind.TIME and column not in layout.key else convert
        for column, convert in zip(columns, converters, strict=True)
    ]


def _hide(convert: Converter, mask: Mask, secret: str) -> Converter:
    def send(raw: Raw) -> Value:
        try:
            value = convert(raw)
        except ValueError:
            raise ValueError("JSON has no form for its value, which is masked") from None
        return mask_value(value, mask, secret)

    return send


def _stand_in(raw: Raw) -> str:
    """Return a text for a key value that JSON has no form for."""
    try:
        return tag(raw).encode("utf-8", "backslashreplace").decode()
    except ValueError:
        return f"a {type(raw).__name__}"
