"""Fingerprints: errors that differ only in their values are one error."""

import hashlib
import re

READ_AT_MOST = 2000
MESSAGE_AT_MOST = 300

_DATE = r"(?<!\d)\d{4}-\d\d-\d\d"

_PLACEHOLDERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.ASCII), placeholder)
    for pattern, placeholder in (
        # Quoted first: whatever a quotation holds is a value. An apostrophe within a word opens nothing.
        (r'"[^"]*"', "<text>"),
        (r"(?<!\w)'[^']*'(?!\w)", "<text>"),
        (r"`[^`]*`", "<text>"),
        (r"(?<!\w)[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?!\w)", "<uuid>"),
        (
            _DATE + r"(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z\b|[+-]\d\d:?\d\d))?)?(?!\d)",
            "<time>",
        ),
        (r"(?<!\d)\d\d:\d\d:\d\d(?:[.,]\d+)?(?!\d)", "<time>"),
        (r"(?<!\w)0[xX][0-9a-fA-F]+(?!\w)", "<hex>"),
        # Eight digits or more, letters and numerals mixed, so that a word such as "deadbeef" stays a word.
        (r"(?<!\w)(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}(?!\w)", "<hex>"),
        (r"(?:(?<!\w)[+-])?\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?", "<n>"),
        (r"\s+", " "),
    )
)


def normalise(message: str) -> str:
    """Return the message with what varies from row to row replaced by placeholders."""
    message = message[:READ_AT_MOST]
    for pattern, placeholder in _PLACEHOLDERS:
        message = pattern.sub(placeholder, message)
    return message.strip()[:MESSAGE_AT_MOST]


def fingerprint(status: int | None, message: str) -> str:
    """Name an error by its HTTP status and normalised message: 12 hex digits, the same in every process."""
    text = f"{'' if status is None else status}\x1f{normalise(message)}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
