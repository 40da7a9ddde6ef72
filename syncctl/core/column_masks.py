"""Column masks: the replacements that are sent for values that must not leave the source."""

import hashlib
import hmac
from typing import Literal, get_args

from syncctl.core.rows import Value

Mask = Literal["drop", "hash", "last4"]
MASKS: tuple[Mask, ...] = get_args(Mask)
HIDDEN = "****"
"""Replaces a masked value in a record; stored and sent, so it never changes."""
_SHOWN = 4
_SHOWN_FROM = 8
"""The last characters are shown only of a text that is at least twice as long."""


def mask_value(value: Value, mask: Mask, secret: str) -> Value:
    """Return the replacement that is sent for a value; NULL stays NULL.

    Args:
        secret: The key of the hashes; without a key, an identity number could be found by trying all numbers.
    """
    if value is None:
        return None
    text = _spell(value)
    if mask == "hash":
        return hmac.new(_to_bytes(secret), _to_bytes(text), hashlib.sha256).hexdigest()
    shown = "".join(text.split())
    if mask == "last4" and len(shown) >= _SHOWN_FROM:
        return HIDDEN + shown[-_SHOWN:]
    return HIDDEN


def _spell(value: Value) -> str:
    """Return a value as JSON writes it, without the quotes of a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
