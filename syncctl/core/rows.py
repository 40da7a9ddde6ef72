"""Rows and pages of exact values, which a source hands to a poll."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from syncctl.core.json_text import JsonText

Value = None | bool | int | float | str | Decimal | JsonText | list["Value"] | dict[str, "Value"]
"""A value on its way to JSON. Times, dates, GUIDs and rowversions are text, binary is base64 text.

Lists and objects are rows of other tables that belong to the row; a JSON document that a column holds is a `JsonText`.
"""

Cursor = Mapping[str, Any]
"""How far a stream has been read: a JSON-safe document that only the reader of its mode understands.

It always has `mode` and `at` (text for people, exact: an integer, an ISO time with all its digits, or 0x-hex)."""

Operation = Literal["upsert", "delete"]


@dataclass(kw_only=True, slots=True)  # one for each row that is read: frozen, it costs twice as much
class Row:
    """One source row as it was read."""

    key: Mapping[str, Value]
    #: None for a delete, and for a row that could not be read or encoded.
    payload: Mapping[str, Value] | None
    #: The version that the source itself keeps (rowversion as 0x-hex); None if only the content shows a change.
    version: str | None = None
    #: The columns of the payload whose changes are ignored.
    unnoticed: Collection[str] = ()
    #: The row's cursor value.
    at: str = ""
    op: Operation = "upsert"
    #: Why the row could not be read or encoded.
    error: str | None = None
    #: Mode flag: the version that was read, in the form in which the source takes it back.
    acknowledge: str | None = None
    #: Its key holds a NULL, or a value without a JSON form, so that no row can be looked up by it.
    nameless: bool = False
    #: It lies before the cursor, and is read once more because rows may have been committed late there.
    again: bool = False
    #: Its time is ahead of the source's clock, and every poll reads it until the clock has reached that time.
    ahead: bool = False

    @property
    def content(self) -> Mapping[str, Value] | None:
        """The values whose changes are noticed."""
        if self.payload is None:
            return None
        return {name: value for name, value in self.payload.items() if name not in self.unnoticed}


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A remark for the operator about a stream that continues."""

    #: One line.
    text: str
    #: What to do about it, in one line; empty if the text says it.
    hint: str = ""

    @property
    def line(self) -> str:
        """The text and what to do about it, in one line."""
        return f"{self.text}; {self.hint}" if self.hint else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Rows in cursor order. A page without rows only moves the cursor."""

    rows: tuple[Row, ...]
    #: The cursor after the last row; never before the cursor that the page was read from.
    cursor: Cursor
    #: Notes for an operator, one line each.
    notes: tuple[str, ...] = ()
    #: It ends a round: every row before the cursor that a later round can read again was read in this one.
    ends_round: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """A row of a full scan."""

    row: Row
    #: It lies after the cursor, so that the next poll will find it.
    is_ahead: bool
