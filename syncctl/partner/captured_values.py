"""Capture: read the partner's own values of a row, such as its id, from an answer. None of them is trusted."""

import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

from syncctl.core.answer_conditions import Path, find_value, parse_path
from syncctl.core.outcome import GONE_STATUSES, Outcome, Verdict
from syncctl.core.redaction import Redact
from syncctl.core.remote_values import LENGTH_AT_MOST, parse_capture
from syncctl.core.rows import Value
from syncctl.partner.response import Response, read_exact_json

RESPONSE_AT_MOST_BYTES = 1024 * 1024
"""The largest answer from which values are captured: many partners answer with the whole object."""
_LOCATIONS = frozenset({"location", "content-location"})
"""Headers that contain an address whose last segment is the value."""
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of characters that no id contains: controls, half surrogate pairs, line and paragraph separators."""
_UNREAD: Any = object()


class NotCaptured(Exception):
    """A value is missing, or cannot be an id."""


class FoundSeveral(Exception):
    """A lookup found more than one object for a row."""


@dataclass(kw_only=True, slots=True)
class _Answer:
    """An answer in which values are looked up; its JSON is parsed once, when the first rule needs it."""

    response: Response | None
    document: Any = _UNREAD

    def find(self, rule: str, find_in: Callable[[Any, Path, str], Any]) -> Any:
        """Return the value at the place that a rule names.

        Args:
            find_in: Looks up a path in the JSON.

        Raises:
            NotCaptured: There is no value at that place.
        """
        kind, place = parse_capture(rule)
        if kind == "header":
            return _read_header(self.response, place)
        if self.document is _UNREAD:
            self.document = _read_document(self.response)
        return find_in(self.document, parse_path(place), rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """Reads remote values by the rules of a stream: name → `header:NAME`, or a path into the JSON of the answer."""

    rules: Mapping[str, str]
    redact: Redact

    def add_to(self, outcome: Outcome, response: Response) -> Outcome:
        """Return an accepted outcome with the values of its answer."""
        return self._read(outcome, response, _UNREAD)

    def add_result(self, outcome: Outcome, result: Any) -> Outcome:
        """Return an accepted outcome of one row with the values of its result in the answer to a bulk call."""
        return self._read(outcome, None, result)

    def _read(self, outcome: Outcome, response: Response | None, document: Any) -> Outcome:
        values: dict[str, Value] = {}
        problems: list[str] = []
        answer = _Answer(response=response, document=document)
        for name, rule in self.rules.items():
            try:
                values[name] = self.check(answer.find(rule, _find_captured))
            except NotCaptured as error:
                problems.append(f"{rule} {error}")
        return replace(outcome, captured=values, not_captured="; ".join(problems) or None)

    def check(self, value: Any) -> Value:
        """Return a value of an answer if it can be an id.

        Raises:
            NotCaptured: The value cannot be an id; the error does not show it.
        """
        if isinstance(value, float):
            value = Decimal(repr(value)) if math.isfinite(value) else None
        if value is None:
            raise NotCaptured("is null")
        if not isinstance(value, bool | int | Decimal | str):
            raise NotCaptured(f"is {'a list' if isinstance(value, list) else 'an object'}, not a single value")
        if isinstance(value, Decimal) and not (value.is_finite() and abs(value.adjusted()) <= LENGTH_AT_MOST):
            # Written out, 1E+999999999 would fill a worker's memory.
            raise NotCaptured("is a number that cannot be an id")
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


def make_failed_lookup(outcome: Outcome, error: str | None = None, *, is_final: bool = False) -> Outcome:
    """Return the outcome of a lookup that says nothing about the row; unless it is final, the lookup is repeated."""
    verdict = Verdict.REJECTED if is_final else Verdict.RETRY_LATER
    return replace(outcome, verdict=verdict, lookup="failed", error=f"lookup: {error or outcome.error or 'no answer'}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupReader:
    """Reads from an answer whether the partner has an object for a row.

    If that is in doubt, it says so: an object that is wrongly taken for missing would be created twice.
    """

    capture: Capture
    #: The names of the values without which the object cannot be addressed.
    needed: frozenset[str]
    #: Whether the lookup's path names the row, so that a 404 concerns the row. A 404 of a list says nothing about rows.
    names_row_in_path: bool

    def read(self, outcome: Outcome, response: Response) -> Outcome:
        """Return the outcome of a lookup by its answer."""
        if response.status in GONE_STATUSES and response.error is None:
            if self.names_row_in_path:
                return replace(outcome, verdict=Verdict.ACCEPTED, lookup="not found", error=None)
            return make_failed_lookup(outcome, is_final=True)
        if not 200 <= response.status <= 299:
            return make_failed_lookup(outcome, is_final=outcome.verdict is Verdict.REJECTED)
        if response.error is not None:
            return make_failed_lookup(outcome, "its answer broke off")
        return self._read_answer(outcome, response)

    def _read_answer(self, outcome: Outcome, response: Response) -> Outcome:
        values: dict[str, Value] = {}
        absent: list[str] = []
        answer = _Answer(response=response)
        for name, rule in self.capture.rules.items():
            try:
                value = answer.find(rule, _find_one)
            except NotCaptured as error:
                return make_failed_lookup(outcome, f"{rule} {error}")
            except FoundSeveral as error:
                return make_failed_lookup(outcome, str(error), is_final=True)
            if value is None:
                absent.append(rule)
                continue
            try:
                values[name] = self.capture.check(value)
            except NotCaptured as error:
                return make_failed_lookup(outcome, f"{rule} {error}", is_final=True)
        if not values:
            return replace(outcome, lookup="not found")
        if missing := sorted(self.needed & self.capture.rules.keys() - values.keys()):
            what = f"it found an object without remote.{missing[0]}"
            return make_failed_lookup(outcome, what, is_final=True)
        not_captured = "; ".join(f"{rule} is not in the answer" for rule in absent) or None
        return replace(outcome, lookup="found", captured=values, not_captured=not_captured)


def _find_captured(document: Any, path: Path, rule: str) -> Any:  # noqa: ARG001 - as `_find_one`
    value, exists = find_value(document, path)
    if not exists:
        raise NotCaptured("is not in the answer")
    return value


def _find_one(document: Any, path: Path, rule: str) -> Any:
    """Return the value at a path; None if the answer says that there is no object: null, or an empty list or object.

    Raises:
        NotCaptured: The answer has no such path, and does not say that there is no object.
        FoundSeveral: There are several objects.
    """
    for step in path:
        if document is None or document in ([], {}):
            return None
        if isinstance(step, int) and isinstance(document, list):
            if len(document) > 1:
                raise FoundSeveral(f"it found {len(document)} objects at {rule}")
            document = document[step] if step < len(document) else None
        elif isinstance(step, str) and isinstance(document, dict) and step in document:
            document = document[step]
        else:
            raise NotCaptured("is not in the answer, and nothing says that there is no object")
    return None if document in ([], {}) else document


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
