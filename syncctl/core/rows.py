"""What a source hands to a poll: rows and pages of exact values."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

Value = None | bool | int | float | str | Decimal
"""A value on its way to JSON. Times, dates, GUIDs and rowversions are text, binary is base64 text."""

Cursor = Mapping[str, Any]
"""How far a stream has been read: a JSON-safe document that only the reader of its mode understands.

It always has `mode` and `at` (text for people, exact: an integer, an ISO time with all its digits, or 0x-hex)."""

Operation = Literal["upsert", "delete"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One source row as it was read.

    `version` is the version the source itself keeps (rowversion as 0x-hex), None where only the content tells.
    `payload` is None for a delete and for a row that could not be read or encoded; `error` then says why.
    `acknowledge` is, in mode flag, the version that was read, in the form in which the source takes it back.
    `nameless`: its key holds a NULL, or a value that JSON has no form for, so that nothing can be asked for by it.
    `again`: it lies before the cursor, and is read once more because something may have been committed late there.
    """

    key: Mapping[str, Value]
    payload: Mapping[str, Value] | None
    version: str | None = None
    at: str = ""
    op: Operation = "upsert"
    error: str | None = None
    acknowledge: str | None = None
    nameless: bool = False
    again: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Rows in cursor order, and the cursor behind the last of them (never before the cursor it was read from).

    `notes` are what an operator should know, one line each. A page without rows moves the cursor document alone.
    """

    rows: tuple[Row, ...]
    cursor: Cursor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """A row of a full scan; `is_ahead`: it lies behind the cursor, and the next poll will find it."""

    row: Row
    is_ahead: bool
