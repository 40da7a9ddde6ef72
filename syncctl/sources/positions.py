"""Positions in a stream, and the cursor documents that keep them exact."""

import base64
import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from syncctl.core.rows import Cursor, Value
from syncctl.core.stream import Mode
from syncctl.errors import SourceError
from syncctl.sources.tables import Column, Kind

Raw = Any
"""A value as the driver returned it, or one that the driver takes back unchanged."""

BEGINNING = "beginning"
_LARGEST_ROWVERSION = 2**64 - 1

_READ: dict[str, Callable[[str], Raw]] = {
    "null": lambda _: None,
    "int": int,
    "decimal": Decimal,
    "float": float,
    "text": str,
    "hex": lambda text: bytes.fromhex(text.removeprefix("0x")),
}


def show(raw: Raw) -> tuple[str, str]:
    """Return the kind of a raw value and its exact text.

    Raises:
        ValueError: No position can be kept at a value of this type.
    """
    match raw:
        case None:
            return "null", ""
        case bool() | int():
            return "int", str(int(raw))
        case Decimal():
            return "decimal", str(raw)
        case float():
            return "float", repr(raw)
        case str() | uuid.UUID():
            return "text", str(raw)
        case bytes() | bytearray() | memoryview():
            return "hex", f"0x{bytes(raw).hex()}"
        case dt.datetime() | dt.date() | dt.time():
            return "text", raw.isoformat()
    raise ValueError(f"a {type(raw).__name__} cannot be a cursor or a key")


def tag(raw: Raw) -> str:
    """Return a raw value as text that keeps its type: `int:5`, `text:5`, `hex:0x05`."""
    return ":".join(show(raw))


def untag(text: str) -> Raw:
    """Return the raw value that `tag` was given."""
    kind, _, exact = text.partition(":")
    return _READ[kind](exact)


def to_raw(column: Column, value: Value) -> Raw:
    """Return a key's value in the form in which the database compares it with the column.

    Raises:
        ValueError: It cannot be one of the column.
    """
    if value is None:
        return None
    match column.kind:
        case Kind.BINARY:
            return base64.b64decode(str(value), validate=True)
        case Kind.ROWVERSION:
            return parse_rowversion(str(value))
    return value


def parse_rowversion(text: str) -> bytes:
    """Return the eight bytes of `0x00000000000007D1`; leading zeros may be left out.

    Raises:
        ValueError: It is no such number.
    """
    try:
        number = int(text, 16) if text.lower().startswith("0x") else -1
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST_ROWVERSION:
        raise ValueError(f"{text!r} is not a rowversion; write it like 0x00000000000007D1")
    return number.to_bytes(8, "big")


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place between two rows.

    With a `key`: right after the row that has this cursor value and this key (its columns beside the cursor column).
    Without: right before the first row of this cursor value; before all rows where the value is None too.
    """

    value: Raw = None
    key: tuple[Raw, ...] | None = None

    @property
    def text(self) -> str:
        """The cursor value for people, with all its digits."""
        return BEGINNING if self.value is None else show(self.value)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bookmark:
    """What a cursor document says.

    `floor` is where the stream started: a lookback never reaches before it.
    """

    mode: Mode
    column: str
    position: Position
    floor: Position | None = None

    def to_cursor(self) -> Cursor:
        """Return the JSON-safe document."""
        document = {"mode": self.mode, "column": self.column, **_write(self.position)}
        return document if self.floor is None else {**document, "floor": _write(self.floor)}


def read_cursor(cursor: Cursor, *, stream: str, mode: Mode, column: str, ties: int) -> Bookmark:
    """Return what a cursor document says, for a stream that is read by `column` and has `ties` key columns beside it.

    Raises:
        SourceError: The document belongs to another mode, cursor column or key.
    """
    position, floor = _read(cursor, stream), cursor.get("floor")
    if cursor.get("mode") != mode or cursor.get("column") != column:
        raise _changed(stream, f"it was read by {cursor.get('column')} ({cursor.get('mode')}), now {column} ({mode})")
    if position.key is not None and len(position.key) != ties:
        raise _changed(stream, "its key has another number of columns now")
    return Bookmark(mode=mode, column=column, position=position, floor=_read(floor, stream) if floor else None)


def _write(position: Position) -> dict[str, Any]:
    kind = "null" if position.value is None else show(position.value)[0]
    key = None if position.key is None else [tag(each) for each in position.key]
    return {"at": position.text, "kind": kind, "key": key}


def _read(document: Mapping[str, Any], stream: str) -> Position:
    try:
        key = document["key"]
        return Position(
            value=_READ[document["kind"]](document["at"]),
            key=None if key is None else tuple(untag(each) for each in key),
        )
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise SourceError(
            f"the cursor of {stream} cannot be read",
            why=f"it is not a cursor of this version ({error!r})",
            hint="upgrade syncctl on all machines to one version",
        ) from error


def _changed(stream: str, why: str) -> SourceError:
    return SourceError(
        f"the cursor of {stream} does not fit the stream any more",
        why=why,
        hint=f"put streams.{stream} back; or read it anew, without what has not changed: "
        f"syncctl rewind {stream} --to beginning",
    )
