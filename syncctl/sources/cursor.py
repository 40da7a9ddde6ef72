"""The cursor of a stream: positions between rows, and the JSON documents that store them exactly."""

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
from syncctl.sources.catalog.relation import Column, Kind

Raw = Any
"""A value in the form in which the driver returns it, or accepts it as a parameter."""

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


def type_and_text(raw: Raw) -> tuple[str, str]:
    """Return the type of a raw value and its exact text.

    Raises:
        ValueError: A cursor cannot hold a value of this type.
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


def to_text(raw: Raw) -> str:
    """Return a raw value as its exact text.

    Raises:
        ValueError: A cursor cannot hold a value of this type.
    """
    return type_and_text(raw)[1]


def tag(raw: Raw) -> str:
    """Return a raw value as text that keeps its type: `int:5`, `text:5`, `hex:0x05`."""
    return ":".join(type_and_text(raw))


def untag(text: str) -> Raw:
    """Return the raw value of a tagged text."""
    kind, _, exact = text.partition(":")
    return _READ[kind](exact)


def to_raw(column: Column, value: Value) -> Raw:
    """Return a key's value in the form in which the database compares it with the column.

    Raises:
        ValueError: The column cannot hold the value.
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
        ValueError: The text is not a rowversion.
    """
    try:
        number = int(text, 16) if text.lower().startswith("0x") else -1
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST_ROWVERSION:
        raise ValueError(f"{text!r} is not a rowversion; write it like 0x00000000000007D1")
    return number.to_bytes(8, "big")


@dataclass(kw_only=True, slots=True)  # one for each row that is read: frozen, it costs twice as much
class Position:
    """A place between two rows.

    With a `key`, it is right after the row with this cursor value and this key (its columns beside the cursor column).
    Without a key, it is right before the first row with this cursor value, or before all rows if the value is None too.
    """

    value: Raw = None
    key: tuple[Raw, ...] | None = None

    @property
    def text(self) -> str:
        """The cursor value for display, with all its digits."""
        return BEGINNING if self.value is None else to_text(self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class CursorState:
    """The values of a cursor document."""

    mode: Mode
    column: str
    position: Position
    #: Where the stream started: a lookback never reaches further back.
    floor: Position | None = None

    def to_document(self) -> Cursor:
        """Return the JSON-safe document."""
        document = {"mode": self.mode, "column": self.column, **write_position(self.position)}
        return document if self.floor is None else {**document, "floor": write_position(self.floor)}


def read_cursor(
    cursor: Cursor, *, stream: str, mode: Mode, column: str, ties: int, holds_text: bool = False
) -> CursorState:
    """Return the values of a cursor document.

    Args:
        column: The present cursor column of the stream.
        ties: How many key columns the stream now has beside the cursor column.
        holds_text: Whether the cursor column is now declared as text.

    Raises:
        SourceError: The document belongs to another mode, cursor column or key, or is a number where there is text now.
    """
    position, floor = read_position(cursor, stream), cursor.get("floor")
    if cursor.get("mode") != mode or cursor.get("column") != column:
        raise _changed(stream, f"it was read by {cursor.get('column')} ({cursor.get('mode')}), now {column} ({mode})")
    if position.key is not None and len(position.key) != ties:
        raise _changed(stream, "its key has another number of columns now")
    if holds_text and isinstance(position.value, int | float | Decimal):
        # As text, 10 comes before 9: rows after the cursor would be passed over (invariant 12).
        raise _changed(
            stream, f"it is the number {position.text}, and {column} holds text now, which sorts differently"
        )
    return CursorState(
        mode=mode, column=column, position=position, floor=read_position(floor, stream) if floor else None
    )


def write_position(position: Position) -> dict[str, Any]:
    """Return a position's JSON-safe document."""
    kind = "null" if position.value is None else type_and_text(position.value)[0]
    key = None if position.key is None else [tag(value) for value in position.key]
    return {"at": position.text, "kind": kind, "key": key}


def read_position(document: Mapping[str, Any], stream: str) -> Position:
    """Return the position in a document.

    Raises:
        SourceError: The document does not contain a position.
    """
    try:
        key = document["key"]
        return Position(
            value=_READ[document["kind"]](document["at"]),
            key=None if key is None else tuple(untag(text) for text in key),
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
        hint=f"undo the change of streams.{stream}; or read the table again, which does not send unchanged rows: "
        f"syncctl rewind {stream.partition('.')[0]} --to beginning",
    )
