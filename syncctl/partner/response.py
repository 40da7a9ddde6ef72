"""A partner's response: read up to a cap, and described in one line where it is a refusal."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import simplejson

from syncctl.core.conditions import parse_condition
from syncctl.core.redaction import Redact, clean_text

BODY_AT_MOST_BYTES = 64 * 1024
RESULT_AT_MOST_BYTES = 4 * 1024
"""The share of each row in the response to a bulk call."""
RESULTS_AT_MOST_BYTES = 16 * 1024 * 1024
EXCERPT_AT_MOST = 500
MESSAGE_AT_MOST = 200

# The fields in which APIs explain a refusal, among them those of RFC 9457 (problem details) and OAuth.
_MESSAGE_FIELDS = (
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
class Response:
    """A partner's response as far as it was read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: Why it could not be read to its end.
    error: Exception | None = None
    #: It is longer than the cap.
    is_capped: bool = False


def is_accepted(response: Response, condition: str | None) -> bool | None:
    """Tell whether a 2xx is an acceptance: if the stream has a condition (`accepted_when`), its JSON must meet it.

    Returns:
        None where the response could not be read to its end, so that the condition is not known.
    """
    if condition is None or not 200 <= response.status <= 299:
        return True
    try:
        return parse_condition(condition).holds(simplejson.loads(response.body))
    except (ValueError, RecursionError):
        return None if response.error is not None or response.is_capped else False


def make_excerpt(response: Response, redact: Redact) -> str:
    """Return the beginning of the body as safe text; secrets are replaced first, so that none is cut in half."""
    if not response.body:
        return ""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        return f"({clean_text(redact(encoding))[:20]}-encoded, {len(response.body)} bytes)"
    return clean_text(redact(response.body.decode("utf-8", "replace")))[:EXCERPT_AT_MOST]


def describe_refusal(response: Response, excerpt: str, redact: Redact) -> str:
    """Return one line about a refusal, in the partner's own words where it has any."""
    if 300 <= response.status <= 399:
        target = _describe_redirect(response, redact)
        return f"HTTP {response.status}: points to {target}; redirects are never followed"
    message = clean_text(redact(find_message(response.body) or "")) or excerpt
    return f"HTTP {response.status}: {message[:MESSAGE_AT_MOST]}" if message else f"HTTP {response.status}"


def _describe_redirect(response: Response, redact: Redact) -> str:
    """Return the host alone: the rest of a Location may hold a session or a token."""
    location = response.headers.get("Location")
    if not location:
        return "nowhere"
    try:
        host = urlsplit(location).hostname
    except ValueError:
        return "an address that cannot be read"
    return clean_text(redact(host))[:100] if host else "the same host"


def find_message(body: bytes) -> str | None:
    """Return the explanation in a body, where one of the usual fields or a title holds it."""
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
    """Yield explanations, outer ones first within each branch."""
    if depth > 4:
        return
    if isinstance(value, dict):
        for name in _MESSAGE_FIELDS:
            if isinstance(value.get(name), str) and value[name].strip():
                yield value[name]
        for name in ("error", "errors", "message", "detail", "details"):
            yield from _walk_messages(value.get(name), depth + 1)
    elif isinstance(value, list):
        for item in value[:3]:
            if isinstance(item, str) and depth > 0 and item.strip():
                yield item
            else:
                yield from _walk_messages(item, depth + 1)
