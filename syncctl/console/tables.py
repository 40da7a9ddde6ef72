"""Tables: drawn by rich for a person, plain text that is never truncated for a pipe, CSV for a spreadsheet."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from syncctl.console.documents import format_time
from syncctl.core.safe_text import make_safe_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns and rows. A column whose cells are all numbers is aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    #: Pairs of a column and the colour of its cells that are neither empty nor zero.
    styles: tuple[tuple[str, str], ...] = ()

    def cells(self) -> list[list[str]]:
        """Return the rows as cells of one line of text."""
        return [[format_cell(value) for value in row] for row in self.rows]

    def is_numeric(self, column: int) -> bool:
        """Tell whether a column has only numbers and gaps, and at least one number."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(value, int | float | Decimal) for value in values)


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 record` or `2,000 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return re.sub(r":00\.000Z$", "Z", format_time(value))
    if isinstance(value, float):
        return f"{value:.1f}"
    return make_safe_line(str(value).replace("\t", " "))


def to_plain(table: Table) -> str:
    """Return the table as aligned text, two spaces between columns, nothing truncated."""
    body = table.cells()
    lines = [[name.upper() for name in table.columns], *body]
    widths = [max(_width(line[at]) for line in lines) for at in range(len(table.columns))]
    numeric = [table.is_numeric(at) for at in range(len(table.columns))]
    text = [_join(line, widths, numeric) for line in lines]
    return "\n".join([table.title, *text] if table.title else text)


def to_rich(table: Table) -> Any:
    """Return the table for rich to draw; long cells wrap, so that an id can still be copied."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=table.title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    styles = dict(table.styles)
    for at, name in enumerate(table.columns):
        drawn.add_column(
            name,
            justify="right" if table.is_numeric(at) else "left",
            overflow="fold",
            no_wrap=any(isinstance(row[at], datetime) for row in table.rows),
        )
    for row, cells in zip(table.rows, table.cells(), strict=True):
        drawn.add_row(
            *(
                Text(cell, style=styles.get(name, "") if value else "")
                for name, value, cell in zip(table.columns, row, cells, strict=True)
            )
        )
    return drawn


def to_csv_header(columns: Sequence[str]) -> str:
    """Return the header line of CSV (RFC 4180)."""
    return to_csv_lines([columns])


def to_csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return lines of CSV (RFC 4180); a gap is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    for row in rows:
        writer.writerow(["" if value is None else _csv_field(value) for value in row])
    return buffer.getvalue()


def _csv_field(value: Any) -> str:
    """Return a field; text that a spreadsheet would run as a formula gets a leading quote (OWASP, CSV injection)."""
    if isinstance(value, datetime):
        return format_time(value)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    marks = sum(unicodedata.combining(letter) > 0 for letter in text)
    return len(text) + wide - marks


def _join(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = []
    for text, width, right in zip(line, widths, numeric, strict=True):
        gap = " " * (width - _width(text))
        cells.append(gap + text if right else text + gap)
    return "  ".join(cells).rstrip()
