"""Text from elsewhere, made safe to show or keep: it cannot control a terminal, nor look like other text."""

import json
import re

# Controls, line and paragraph separators, and characters that are invisible or change the direction of text.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e007f"
)
_UNSEEN_RUNS = re.compile(f"[{_UNSEEN}]+")
_UNSEEN_BUT_LAYOUT = re.compile(rf"(?![\t\n])[{_UNSEEN}]")


def clean_text(text: str) -> str:
    """Return one line: each run of unseen characters becomes one blank, and half surrogate pairs are replaced."""
    return _UNSEEN_RUNS.sub(" ", text.encode("utf-8", "replace").decode()).strip()


def make_safe_line(text: str) -> str:
    """Return one line: all unseen characters escaped, line ends and tabs too."""
    return make_safe(text).replace("\n", "\\n").replace("\t", "\\t")


def make_safe_json(text: str) -> str:
    """Return a JSON document with unseen characters in its strings as the escapes of JSON."""
    return _UNSEEN_BUT_LAYOUT.sub(lambda match: json.dumps(match[0])[1:-1], text)


def make_safe(text: str) -> str:
    """Return the text with unseen characters as `\\xNN` or `\\uNNNN`; line ends and tabs stay."""
    return _UNSEEN_BUT_LAYOUT.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def has_surrogate(text: str) -> bool:
    """Tell whether a text has half of a surrogate pair: a byte of an argument or variable that is not valid UTF-8."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
