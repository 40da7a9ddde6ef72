"""Lines of a screen: parts of text, each with a style, cut to a width and never wrapped."""

import unicodedata
from collections.abc import Iterable, Sequence

from syncctl.console.terminal import paint
from syncctl.core.safe_text import make_safe_line

Part = tuple[str, str]
"""A text and the name of its style; the empty style is plain."""
Line = Sequence[Part]
GAP = "…"


def measure(text: str) -> int:
    """Return how many columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if _is_mark(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _is_mark(letter: str) -> bool:
    """Tell whether a character combines with the one before it, as accents and the vowels of Thai do."""
    return unicodedata.category(letter) in ("Mn", "Me")


def cut_end(text: str, width: int) -> str:
    """Return the text with its control characters escaped, and with its end cut off if it is too wide."""
    text = make_safe_line(text)
    if measure(text) <= width:
        return text
    kept = text[: max(width - 1, 0)]
    while kept and measure(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}{GAP}" if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """Return the text, with its middle cut out if it is too wide: names and cursors differ at both ends.

    Control characters are escaped first, so that the text is as wide on the screen as it was measured.
    """
    text = make_safe_line(text)
    if measure(text) <= width:
        return text
    if width <= 3:
        return cut_end(text, width)
    begin, end = text[: width // 2], text[-((width - 1) // 2) :]
    while begin and measure(begin) + measure(end) + 1 > width:
        begin = begin[:-1]
        if measure(begin) + measure(end) + 1 > width:
            end = end[1:]
    while end and _is_mark(end[0]):
        end = end[1:]
    return f"{begin}{GAP}{end}"


def wrap(text: str, width: int, *, cuts: bool = True) -> list[str]:
    """Return the text in lines of at most this width, broken at blanks.

    Args:
        cuts: Whether to cut a wider word in its middle; if not, it is left whole.
    """
    lines = [""]
    for word in text.split():
        shown = cut_middle(word, width) if cuts else word
        if lines[-1] and measure(lines[-1]) + 1 + measure(shown) > width:
            lines.append(shown)
        else:
            lines[-1] += f" {shown}" if lines[-1] else shown
    return lines


def fold(text: str, width: int) -> list[str]:
    """Return the whole text in lines of at most this width, broken anywhere."""
    lines = [""]
    for letter in text:
        if lines[-1] and measure(lines[-1]) + measure(letter) > width:
            lines.append("")
        lines[-1] += letter
    return lines


def fill(text: str, width: int, *, right: bool = False) -> str:
    """Return the text in exactly this width: padded, or with its middle cut out if it is too wide."""
    cut = cut_middle(text, width)
    gap = " " * (width - measure(cut))
    return gap + cut if right else cut + gap


def draw_line(line: Line, *, width: int | None, colour: bool) -> str:
    """Return a line as text for a terminal; text beyond the width is cut off.

    Text from elsewhere cannot control the terminal, because its control characters are escaped.
    """
    safe = [(make_safe_line(text), style) for text, style in line]
    if width is not None and sum(measure(text) for text, _ in safe) > width:
        safe = list(_cut(safe, width))
    while safe and not safe[-1][0].strip():
        safe.pop()
    return "".join(paint(text, style, colour=colour and bool(style)) for text, style in safe).rstrip(" ")


def _cut(line: Iterable[Part], width: int) -> Iterable[Part]:
    left = width
    parts = list(line)
    for at, (text, style) in enumerate(parts):
        has_more = any(later for later, _ in parts[at + 1 :])
        size = measure(text)
        if size < left or (size == left and not has_more):
            yield text, style
            left -= size
            continue
        yield cut_end(f"{text}{GAP}" if size == left else text, left), style
        return
