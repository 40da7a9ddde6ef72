"""CSV for a spreadsheet (RFC 4180)."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from syncctl.console.json_documents import format_time


def to_csv_header(columns: Sequence[str]) -> str:
    """Return the header line of CSV (RFC 4180)."""
    return to_csv_lines([columns])


def to_csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return lines of CSV (RFC 4180); a gap is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    for row in rows:
        writer.writerow(["" if value is None else _to_field(value) for value in row])
    return buffer.getvalue()


def _to_field(value: Any) -> str:
    """Return a field; text that a spreadsheet would run as a formula gets a leading quote (OWASP, CSV injection)."""
    if isinstance(value, datetime):
        return format_time(value)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
