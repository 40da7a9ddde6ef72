"""Reading a partner's answer: capped, and turned into one line for people where it is a refusal."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import simplejson

from syncctl.core.conditions import parse_condition
from syncctl.core.redaction import Redact, clean_text

BODY_AT_MOST_BYTES = 64 * 1024
RESULT_AT_MOST_BYTES = 4 * 1024
"""What the answer to a call of many rows may say of each."""
RESULTS_AT_MOST_BYTES = 16 * 1024 * 1024
EXCERPT_AT_MOST = 500
MESSAGE_AT_MOST = 200

# Where APIs keep what they have to say, RFC 9457 (problem details) and OAuth among them.
_TELLING = (
    "message",
    "error_description",
    "detail",
    "error_message",
    "msg",
    "reason",
    "description",
    "title",
    "error",
)
_TITLE = re.compile(r"<title[^>]*>([^<]*)</title>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A partner's answer as far as it was read; `error` is why it could not be read to its end.

    `is_capped`: it is longer than what was read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    error: Exception | None = None
    is_capped: bool = False


def read_answer(raw: Any, status: int, at_most: int = BODY_AT_MOST_BYTES) -> Answer:
    """Read a body up to the cap; its connection goes back to the pool at its end, and is closed otherwise."""
    body = bytearray()
    error: Exception | None = None
    try:
        while len(body) <= at_most:
            piece = raw.read1(at_most + 1 - len(body), decode_content=False)
            if not piece:
                break
            body += piece
            if raw.length_remaining == 0:
                break
    except Exception as cause:  # noqa: BLE001 - whatever cut it off, the status is known
        error = cause
    is_capped = len(body) > at_most
    if error is not None or is_capped:
        raw.close()
    return Answer(status=status, headers=raw.headers, body=bytes(body[:at_most]), error=error, is_capped=is_capped)


def says_accepted(answer: Answer, condition: str | None) -> bool | None:
    """Tell whether a 2xx is meant: where the stream asks for it, its JSON must say so. A 409 is meant as it is.

    Returns:
        None where the answer could not be read to its end: what it would have said is not known.
    """
    if condition is None or not 200 <= answer.status <= 299:
        return True
    try:
        return parse_condition(condition).holds(simplejson.loads(answer.body))
    except (ValueError, RecursionError):
        return None if answer.error is not None or answer.is_capped else False


def make_excerpt(answer: Answer, redact: Redact) -> str:
    """Return the beginning of the body as safe text; secrets go first, so that none is cut in half."""
    if not answer.body:
        return ""
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        return f"({clean_text(redact(encoding))[:20]}-encoded, {len(answer.body)} bytes)"
    return clean_text(redact(answer.body.decode("utf-8", "replace")))[:EXCERPT_AT_MOST]


def describe_refusal(answer: Answer, excerpt: str, redact: Redact) -> str:
    """Return one line that says what the partner refused, in its own words where it has any."""
    if 300 <= answer.status <= 399:
        return f"HTTP {answer.status}: points to {_find_target(answer, redact)}; redirects are never followed"
    message = clean_text(redact(find_message(answer.body) or "")) or excerpt
    return f"HTTP {answer.status}: {message[:MESSAGE_AT_MOST]}" if message else f"HTTP {answer.status}"


def _find_target(answer: Answer, redact: Redact) -> str:
    """Return the host alone: the rest of a Location may hold a session or a token."""
    location = answer.headers.get("Location")
    if not location:
        return "nowhere"
    try:
        host = urlsplit(location).hostname
    except ValueError:
        return "an address that cannot be read"
    return clean_text(redact(host))[:100] if host else "the same host"


def find_message(body: bytes) -> str | None:
    """Return what a body says in words, where it says it under a telling name."""
    if body[:1] in {b"{", b"["}:
        try:
            return next(_walk_messages(simplejson.loads(body), 0), None)
        except (ValueError, RecursionError):
            return None
    if body[:1] == b"<":
        title = _TITLE.search(body[:4096].decode("utf-8", "replace"))
        return title[1].strip() if title else None
    return None


def _walk_messages(value: object, depth: int) -> Iterator[str]:
    """Yield texts under telling names, outer ones first within each branch."""
    if depth > 4:
        return
    if isinstance(value, dict):
        for name in _TELLING:
            if isinstance(value.get(name), str) and value[name].strip():
                yield value[name]
        for name in ("error", "errors", "message", "detail", "details"):
            yield from _walk_messages(value.get(name), depth + 1)
    elif isinstance(value, list):
        for each in value[:3]:
            if isinstance(each, str) and depth > 0 and each.strip():
                yield each
            else:
                yield from _walk_messages(each, depth + 1)
