"""The abilities of the terminal behind each stream: colour and redrawing."""

import os
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether this stream is an open terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def decide_colour(stream: TextIO | None) -> bool:
    """Decide whether to use colour: by NO_COLOR, FORCE_COLOR, TERM=dumb, then by whether the stream is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    return os.environ.get("TERM") != "dumb" and is_terminal(stream)


def can_redraw(stream: TextIO | None) -> bool:
    """Tell whether lines on this stream can be overwritten, as progress needs."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def measure_terminal(stream: TextIO | None) -> tuple[int, int]:
    """Return columns and lines of the terminal behind a stream; 80 and 24 where they are not known."""
    try:
        size = os.get_terminal_size(stream.fileno() if stream is not None else 1)
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24


def paint(text: str, style: str, *, colour: bool) -> str:
    """Return the text in a style such as `red` or `bold cyan`, unchanged without colour."""
    return f"\x1b[{';'.join(_CODES[part] for part in style.split())}m{text}\x1b[0m" if colour and style else text
