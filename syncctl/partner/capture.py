"""Capture: take the partner's own values of a row, such as its id, out of an answer. None of them is trusted."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

from syncctl.core.conditions import find_value, parse_path
from syncctl.core.outcome import Outcome
from syncctl.core.redaction import Redact
from syncctl.core.remote_values import LENGTH_AT_MOST, parse_capture
from syncctl.core.rows import Value
from syncctl.partner.response import Response, read_exact_json

RESPONSE_AT_MOST_BYTES = 1024 * 1024
"""Of an answer from which values are captured: many partners answer with the whole object."""
_LOCATIONS = frozenset({"location", "content-location"})
"""Headers that hold an address, whose last segment is the value."""
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of characters that no id holds: controls, half surrogate pairs, line and paragraph separators."""
_UNREAD: Any = object()


class NotCaptured(Exception):
    """A value that is not there, or that is no id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """Reads remote values by the rules of a stream: name → `header:NAME`, or a path into the JSON of the answer."""

    rules: Mapping[str, str]
    redact: Redact

    def add_to(self, outcome: Outcome, response: Response) -> Outcome:
        """Return an accepted outcome with the values of its answer."""
        return self._read(outcome, response, _UNREAD)

    def add_result(self, outcome: Outcome, result: Any) -> Outcome:
        """Return an accepted outcome of one row with the values of its result in the answer to a call of many."""
        return self._read(outcome, None, result)

    def _read(self, outcome: Outcome, response: Response | None, document: Any) -> Outcome:
        values: dict[str, Value] = {}
        problems: list[str] = []
        for name, rule in self.rules.items():
            kind, place = parse_capture(rule)
            try:
                if kind == "header":
                    found = _read_header(response, place)
                else:
                    if document is _UNREAD:
                        document = _read_document(response)
                    found, exists = find_value(document, parse_path(place))
                    if not exists:
                        raise NotCaptured("is not in the answer")
                values[name] = self.check(found)
            except NotCaptured as error:
                problems.append(f"{rule} {error}")
        return replace(outcome, captured=values, not_captured="; ".join(problems) or None)

    def check(self, value: Any) -> Value:
        """Return a value of an answer, if it can be an id.

        Raises:
            NotCaptured: It cannot; the text does not show it.
        """
        if isinstance(value, float):
            value = Decimal(repr(value)) if math.isfinite(value) else None
        if value is None:
            raise NotCaptured("is null")
        if not isinstance(value, bool | int | Decimal | str):
            raise NotCaptured(f"is {'a list' if isinstance(value, list) else 'an object'}, not a single value")
        text = str(value)
        if not text:
            raise NotCaptured("is empty")
        if len(text) > LENGTH_AT_MOST:
            raise NotCaptured(f"is longer than {LENGTH_AT_MOST} characters")
        if any(unicodedata.category(character) in _UNSEEN for character in text):
            raise NotCaptured("holds a control character")
        if self.redact(text, is_cut=False) != text:
            # Invariant 10.
            raise NotCaptured("holds a secret")
        return value


def _read_document(response: Response | None) -> Any:
    if response is None or not response.body:
        return None
    if response.is_capped:
        raise NotCaptured(f"is in an answer of more than {RESPONSE_AT_MOST_BYTES:,} bytes")
    try:
        return read_exact_json(response)
    except ValueError:
        raise NotCaptured("is not there: the answer is not JSON") from None


def _read_header(response: Response | None, name: str) -> str:
    text = None if response is None else response.headers.get(name)
    if text is None:
        raise NotCaptured("is not in the answer")
    if name.lower() not in _LOCATIONS:
        return text.strip()
    try:
        path = urlsplit(text.strip()).path
        return unquote(path.rstrip("/").rpartition("/")[2], errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise NotCaptured("is not an address") from None
