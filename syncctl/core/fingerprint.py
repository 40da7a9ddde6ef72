"""Fingerprints of errors: errors that differ only in their values have the same one."""

import hashlib
import re
from collections.abc import Iterable

READ_AT_MOST = 2000
MESSAGE_AT_MOST = 300
COMPARED = 120
"""How many characters of a normalised message are compared. Where a longer one was cut depends on its values."""
_SHORTEST_OWN = 2

_DATE = r"(?<!\d)\d{4}-\d\d-\d\d"

_PLACEHOLDERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.ASCII), placeholder)
    for pattern, placeholder in (
        # Quotations first: all of their content is a value. An apostrophe within a word opens no quotation.
        (r'"(?:[^"\\]|\\.)*"', "<text>"),
        (r"(?<!\w)'(?:[^']|(?<=\w)'(?=\w))*'(?!\w)", "<text>"),
        (r"`[^`]*`", "<text>"),
        ("[\u201c\u201e][^\u201c\u201d]*[\u201c\u201d]", "<text>"),
        ("\u00ab[^\u00bb]*\u00bb", "<text>"),
        ("\u2018[^\u2019]*\u2019", "<text>"),
        # A message that was cut within a quotation.
        (r'(?<!\w)"[^"]*$', "<text>"),
        (r"[^\s@<>(),;:=]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", "<email>"),
        (r"(?<!\w)[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?!\w)", "<uuid>"),
        (
            _DATE + r"(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z\b|[+-]\d\d:?\d\d))?)?(?!\d)",
            "<time>",
        ),
        (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\b", "<time>"),
        (r"(?<!\d)\d\d:\d\d:\d\d(?:[.,]\d+)?(?!\d)", "<time>"),
        (r"(?<!\w)0[xX][0-9a-fA-F]+(?!\w)", "<hex>"),
        # Before the hexadecimal patterns, because 2e is hexadecimal too.
        (r"(?<![\w.+-])[+-]?\d+\.\d+[eE][+-]?\d+(?!\w)", "<n>"),
        # Codes in capitals, before the hexadecimal patterns: some of them have only hexadecimal letters by chance.
        (r"(?<!\w)(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z0-9]{8,}(?!\w)", "<id>"),
        # Eight digits or more, letters and numerals mixed, so that a word such as "deadbeef" stays a word.
        (r"(?<!\w)(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}(?!\w)", "<hex>"),
        # Generated codes: letters and numerals in turn.
        (r"(?<!\w)(?=[A-Za-z_]*\d+[A-Za-z_]+\d)[A-Za-z0-9_]{16,}(?!\w)", "<id>"),
        (r"(?:(?<!\w)[+-])?\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?", "<n>"),
        (r"\s+", " "),
    )
)


def _spell(text: str) -> str:
    """Return the pattern for a text of a key: one with digits matches in either case, a word only as it is written."""
    return f"(?i:{re.escape(text)})" if any(letter.isdigit() for letter in text) else re.escape(text)


def normalise(message: str, own: Iterable[object] = ()) -> str:
    """Return the message with placeholders for the parts that vary from row to row.

    Args:
        own: The values of the row's key; the texts among them are replaced too.
    """
    message = message[:READ_AT_MOST]
    texts = {value for value in own if isinstance(value, str) and len(value) >= _SHORTEST_OWN}
    if texts:
        spellings = "|".join(_spell(text) for text in sorted(texts, key=len, reverse=True))
        message = re.sub(rf"(?<!\w)(?:{spellings})(?!\w)", "<key>", message)
    for pattern, placeholder in _PLACEHOLDERS:
        message = pattern.sub(placeholder, message)
    return message.strip()[:MESSAGE_AT_MOST]


def fingerprint(status: int | None, message: str, own: Iterable[object] = ()) -> str:
    """Name an error by its HTTP status and normalised message: 12 hex digits, the same in every process."""
    text = f"{'' if status is None else status}\x1f{normalise(message, own)[:COMPARED]}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
