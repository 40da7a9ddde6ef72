"""Ids of records as an operator writes them: in full, the beginning of one, or an `Idempotency-Key`."""

import re
from collections.abc import Iterable

from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger

# A record that was sent under another Idempotency-Key carries a number behind its id there.
_FULL = re.compile(r"(.+-[0-9a-f]{32})(?:-\d+)?")
_BEGINNING = re.compile(r"(.+)-[0-9a-f]{1,31}")
_SHOWN_AT_MOST = 10


def complete_id(ledger: Ledger, text: str) -> str:
    """Return the id of the one record that a text names; a text that names none is returned unchanged.

    Raises:
        UsageError: Several ids begin with the text.
    """
    if full := _FULL.fullmatch(text):
        return full[1]
    beginning = _BEGINNING.fullmatch(text)
    if beginning is None:
        return text
    ids = ledger.records.find_beginning(text, stream=beginning[1], limit=_SHOWN_AT_MOST + 1)
    if len(ids) > 1:
        more = ", ..." if len(ids) > _SHOWN_AT_MOST else ""
        raise UsageError(
            f"{text} is ambiguous: several ids begin with it",
            why=", ".join(ids[:_SHOWN_AT_MOST]) + more,
            hint="give more of its digits",
        )
    return ids[0] if ids else text


def complete_ids(ledger: Ledger, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the ids that texts name, each once and in their order.

    Raises:
        UsageError: Several ids begin with one of them.
    """
    return tuple(dict.fromkeys(complete_id(ledger, text) for text in texts))
