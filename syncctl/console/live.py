"""A picture on a terminal that is redrawn in place, with as few bytes as possible."""

from collections.abc import Callable, Sequence
from typing import Self, TextIO

from syncctl.console.lines import Line, draw_line
from syncctl.console.terminal import decide_colour, measure_terminal

_OWN_SCREEN, _FORMER_SCREEN = "\x1b[?1049h\x1b[?7l\x1b[H\x1b[2J", "\x1b[?7h\x1b[?1049l"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"

_PLAIN = str.maketrans("…─━▶▁▂▃▄▅▆▇█", "~-=>_.:-=+*#")
"""The replacements for a terminal whose encoding lacks these characters."""

Draw = Callable[[int, int], Sequence[Line]]
"""Takes the columns and lines of the terminal, and returns the lines of a picture that fits."""


class LivePicture:
    """A picture made of lines. Only changed lines are written; after a resize, all of them are.

    Args:
        stream: The terminal.
        has_own_screen: Whether the picture takes the terminal's alternate screen, and restores the former one at the
            end. If not, it stands below the last output, and stays.
    """

    def __init__(self, stream: TextIO, *, has_own_screen: bool) -> None:
        self._stream = stream
        self._has_own_screen = has_own_screen
        self._is_open = False
        self._shown: list[str] = []
        self._size = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_resized(self) -> bool:
        """Whether the terminal has another size than the picture."""
        return self._is_open and measure_terminal(self._stream) != self._size

    def draw(self, draw: Draw) -> None:
        """Draw the picture in place of the previous one."""
        size = measure_terminal(self._stream)
        width, height = size
        colour = decide_colour(self._stream)
        # Without its own screen, a picture needs one line below it for the cursor.
        lines = draw(width, height if self._has_own_screen else height - 1)
        drawn = [draw_line(line, width=width, colour=colour) for line in lines]
        text = self._begin(size)
        text += self._draw_on_screen(drawn) if self._has_own_screen else self._draw_below(drawn)
        self._shown, self._size = drawn, size
        self._write(text)

    def close(self) -> None:
        """Restore the terminal. Safe to repeat."""
        if self._is_open:
            self._is_open = False
            self._write((_FORMER_SCREEN if self._has_own_screen else "") + _SHOW_CURSOR)
            self._shown, self._size = [], (0, 0)

    def _begin(self, size: tuple[int, int]) -> str:
        """Return the text to write before the lines, if this is the first picture or the first of this size."""
        if not self._is_open:
            self._is_open = True
            return _HIDE_CURSOR + (_OWN_SCREEN if self._has_own_screen else "")
        if size == self._size:
            return ""
        above = len(self._shown)
        self._shown = []
        if self._has_own_screen:
            return "\x1b[H\x1b[2J"
        return (f"\x1b[{above}A" if above else "") + f"\r{_CLEAR_BELOW}"

    def _draw_on_screen(self, lines: Sequence[str]) -> str:
        # Clear each line before writing it; clearing after a line as wide as the terminal would erase its last letter.
        text = ""
        for at in range(max(len(lines), len(self._shown))):
            line = lines[at] if at < len(lines) else ""
            if at >= len(self._shown) or line != self._shown[at]:
                text += f"\x1b[{at + 1};1H{_CLEAR_LINE}{line}"
        return text

    def _draw_below(self, lines: Sequence[str]) -> str:
        text = f"\x1b[{len(self._shown)}A\r" if self._shown else ""
        for at, line in enumerate(lines):
            is_same = at < len(self._shown) and line == self._shown[at]
            text += "\n" if is_same else f"{_CLEAR_LINE}{line}\n"
        return text + (_CLEAR_BELOW if len(lines) < len(self._shown) else "")

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        if not encoding.lower().startswith("utf"):
            text = text.translate(_PLAIN)
        self._stream.write(text.encode(encoding, errors="replace").decode(encoding))
        self._stream.flush()
