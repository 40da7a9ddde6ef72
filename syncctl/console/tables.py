"""Tables: fitted to a terminal for a person, as uncut plain text for a pipe."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from syncctl.console.json_documents import format_time
from syncctl.console.lines import Line, Part, fill, fold, measure, wrap
from syncctl.core.safe_text import make_safe_line

_GAP = 2
_TEXT_AT_LEAST = 12
"""The narrowest width at which cut names can still be told apart."""
_PART_OF_AN_ID = 3
"""An id is not cut if it takes at most the width of the terminal divided by this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns and rows. A column whose cells are all numbers is aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    #: Pairs of a column and the colour of its cells that are neither empty nor zero.
    styles: tuple[tuple[str, str], ...] = ()
    #: Columns of sentences or lists, which are wrapped at their blanks; all other text is cut in its middle.
    prose: Sequence[str] = ()
    #: Columns of values that are shown in full, broken anywhere.
    folded: Sequence[str] = ()
    #: Columns of ids, which are copied from the screen: cut only if they leave little room for others.
    whole: Sequence[str] = ()

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
    return make_safe_line(str(value))


def to_plain(table: Table) -> str:
    """Return the table as aligned text, two spaces between columns, nothing truncated."""
    body = table.cells()
    lines = [[name.upper() for name in table.columns], *body]
    widths = [max(measure(line[at]) for line in lines) for at in range(len(table.columns))]
    numeric = [table.is_numeric(at) for at in range(len(table.columns))]
    text = [_join(line, widths, numeric) for line in lines]
    return "\n".join([table.title, *text] if table.title else text)


def to_lines(table: Table, width: int) -> list[Line]:
    """Return the table as lines that are no wider than a terminal.

    If it is too wide, prose is wrapped at its blanks, and names, keys and cursors are cut in their middle. If that is
    not enough, columns without any value are left out, and the last columns continue below, next to the first column.
    """
    headers = [name.split() or [""] for name in table.columns]
    cells = [[_format_watched(value) for value in row] for row in table.rows]
    columns = list(range(len(table.columns)))
    natural = [max(measure(table.columns[at]), *(measure(row[at]) for row in cells), 0) for at in columns]
    least = [_find_least(table, at, natural[at], headers[at], cells, width) for at in columns]
    lines: list[Line] = [[(table.title, "bold")]] if table.title else []
    if sum(least) + _GAP * (len(columns) - 1) > width:
        columns = [at for at in columns if at == 0 or any(row[at] is not None for row in table.rows)]
    for number, shown in enumerate(_spread(columns, least, width)):
        sizes = _fit([natural[at] for at in shown], [least[at] for at in shown], width)
        lines += [[]] if number else []
        lines += _draw(table, shown, sizes, headers, cells)
    return lines


def _format_watched(value: Any) -> str:
    """Return a value as a person needs it: times without their milliseconds."""
    return re.sub(r"\.\d{3}Z$", "Z", format_time(value)) if isinstance(value, datetime) else format_cell(value)


def _find_least(
    table: Table, at: int, natural: int, header: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> int:
    """Return the least width of a column: numbers and times are never cut, nor are ids that leave room for others."""
    is_text = any(isinstance(row[at], str) for row in table.rows)
    is_whole = not is_text or (table.columns[at] in table.whole and natural <= width // _PART_OF_AN_ID)
    content = max((measure(row[at]) for row in cells), default=0)
    return max(content if is_whole else min(content, _TEXT_AT_LEAST), *(measure(word) for word in header))


def _spread(columns: Sequence[int], least: Sequence[int], width: int) -> list[list[int]]:
    """Return lists of columns that stand side by side; the first column is in each list."""
    shown = [[0]]
    for at in columns[1:]:
        taken = sum(least[column] + _GAP for column in shown[-1])
        if taken + least[at] > width and len(shown[-1]) > 1:
            shown.append([0])
        shown[-1].append(at)
    return shown


def _fit(natural: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return the widths of columns: the widest are narrowed first, none below its least width."""
    sizes = [max(size, minimum) for size, minimum in zip(natural, least, strict=True)]
    over = sum(sizes) + _GAP * (len(sizes) - 1) - width
    while over > 0 and any(size > minimum for size, minimum in zip(sizes, least, strict=True)):
        widest = max(range(len(sizes)), key=lambda at: (sizes[at] > least[at], sizes[at]))
        lower = max([least[widest], *(size for size in sizes if size < sizes[widest])])
        taken = min(over, max(sizes[widest] - lower, 1))
        sizes[widest] -= taken
        over -= taken
    return sizes


def _draw(
    table: Table,
    shown: Sequence[int],
    sizes: Sequence[int],
    headers: Sequence[Sequence[str]],
    cells: Sequence[Sequence[str]],
) -> list[Line]:
    """Return the lines of the columns that stand side by side."""
    styles = dict(table.styles)
    right = [table.is_numeric(at) for at in shown]

    def put(texts: Sequence[Sequence[str]], painted: Sequence[str], *, is_header: bool = False) -> Iterable[Line]:
        height = max(len(text) for text in texts)
        for number in range(height):
            line: list[Part] = []
            for text, style, size, is_right in zip(texts, painted, sizes, right, strict=True):
                row = number - (height - len(text) if is_header else 0)
                part = fill(text[row] if 0 <= row < len(text) else "", size, right=is_right)
                line += [(part, style), (" " * _GAP, "")]
            yield line[:-1]

    header = [wrap(" ".join(headers[at]), size) for at, size in zip(shown, sizes, strict=True)]
    lines = list(put(header, ["bold"] * len(shown), is_header=True))
    for row, values in zip(cells, table.rows, strict=True):
        texts = [_break(table, at, row[at], size) for at, size in zip(shown, sizes, strict=True)]
        painted = [styles.get(table.columns[at], "") if values[at] else "" for at in shown]
        lines += put(texts, painted)
    return lines


def _break(table: Table, at: int, text: str, width: int) -> list[str]:
    """Return the lines of a cell."""
    if measure(text) > width and table.columns[at] in table.prose:
        return wrap(text, width)
    return fold(text, width) if table.columns[at] in table.folded else [text]


def _join(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = []
    for text, width, right in zip(line, widths, numeric, strict=True):
        gap = " " * (width - measure(text))
        cells.append(gap + text if right else text + gap)
    return "  ".join(cells).rstrip()
