"""A partner's response: read up to a cap, and described in one line if it is a refusal."""

import codecs
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import simplejson

from syncctl.core.answer_conditions import parse_condition
from syncctl.core.outcome import Verdict
from syncctl.core.redaction import Redact
from syncctl.core.safe_text import clean_text

BODY_AT_MOST_BYTES = 64 * 1024
RESULT_AT_MOST_BYTES = 4 * 1024
"""How many bytes each row adds to the cap of a bulk call's response."""
RESULTS_AT_MOST_BYTES = 16 * 1024 * 1024
EXCERPT_AT_MOST = 500
MESSAGE_AT_MOST = 200
VALUE_AT_MOST = 60
CODING_AT_MOST = 20
MEMBERS_AT_MOST = 16
"""The most members of a gzip body: each starts a new stream, so many small ones would cost more than they contain."""
_GZIP = b"\x1f\x8b"

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
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_CODECS = re.compile(
    r"utf-(8|16|16-[bl]e|32|32-[bl]e)|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_(jp|kr)|gb(2312|k|18030)|big5"
)
"""Python's names of the encodings that APIs use; other codecs are slow, or are not text encodings."""
_JSON_IN_UTF_16 = {b"{\0": "utf-16-le", b"[\0": "utf-16-le", b"\0{": "utf-16-be", b"\0[": "utf-16-be"}
_TITLE = re.compile(r"<title[^>]*>([^<]*)</title>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A partner's response as far as it was read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: Why it could not be read to its end.
    error: Exception | None = None
    #: Whether the body is longer than the cap.
    is_capped: bool = False
    #: The coding of a body that was not unpacked, such as gzip or br; empty if the body is plain.
    coding: str = ""


class Unpacked(NamedTuple):
    """A body without its unrequested compression."""

    body: bytes
    #: The coding that could not be removed.
    coding: str = ""
    #: Whether the compressed data is cut off.
    is_broken: bool = False


def unpack_body(body: bytes, coding: str, *, at_most: int) -> Unpacked:
    """Return a body without its unrequested compression.

    Args:
        coding: The header `Content-Encoding`; a body that is plain in spite of it stays unchanged.
        at_most: The cap in bytes; at most one byte more is unpacked, however large the body is (invariant 14).
    """
    name = clean_text(coding).strip().lower().removeprefix("x-")
    if body.startswith(_GZIP):
        name, options = "gzip", [zlib.MAX_WBITS + 16]
    elif name == "deflate":
        # Some servers leave out zlib's header.
        options = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
    else:
        is_plain = name in {"", "identity", "gzip"} or body[:1] in {b"{", b"["}
        return Unpacked(body, "" if is_plain else name[:CODING_AT_MOST])
    for bits in options:
        with suppress(zlib.error):
            unpacked = _inflate(body, bits, at_most)
            if unpacked.body or not unpacked.is_broken:
                return unpacked
    return Unpacked(body, name)


def _inflate(body: bytes, bits: int, at_most: int) -> Unpacked:
    """Return the unpacked members of a body, joined; bytes after the last member are padding."""
    unpacked = b""
    for _ in range(MEMBERS_AT_MOST):
        inflater = zlib.decompressobj(bits)
        unpacked += inflater.decompress(body, at_most + 1 - len(unpacked))
        body = inflater.unused_data
        if len(unpacked) > at_most:
            return Unpacked(unpacked)
        if not body.startswith(_GZIP):
            return Unpacked(unpacked, is_broken=not inflater.eof)
    return Unpacked(unpacked, is_broken=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The judgement of a 2xx response's JSON by a stream's conditions."""

    verdict: Verdict
    #: The reason, if the verdict is not an acceptance.
    why: str = ""


def judge_json(
    response: Response, *, accepted_when: str | None, rejected_when: str | None, redact: Redact
) -> Judgement:
    """Judge a 2xx response by a stream's conditions.

    A response that meets `rejected_when` is a refusal; one that does not meet `accepted_when` is not an acceptance yet.
    If the response cannot be read, the partner may have the record.
    """
    if accepted_when is None and rejected_when is None:
        return Judgement(verdict=Verdict.ACCEPTED)
    try:
        document = read_json(response)
    except ValueError:
        return _judge_unreadable(response, accepted_when, rejected_when)
    if rejected_when is not None and parse_condition(rejected_when).holds(document):
        return Judgement(verdict=Verdict.REJECTED, why=f"its JSON meets {rejected_when}")
    if accepted_when is None or (condition := parse_condition(accepted_when)).holds(document):
        return Judgement(verdict=Verdict.ACCEPTED)
    there = clean_text(redact(condition.describe(document), is_cut=True))
    shown = f"{there[:VALUE_AT_MOST]}..." if len(there) > VALUE_AT_MOST else there
    return Judgement(verdict=Verdict.RETRY_LATER, why=f"its JSON does not meet {accepted_when}: it has {shown} there")


def _judge_unreadable(response: Response, accepted_when: str | None, rejected_when: str | None) -> Judgement:
    condition = accepted_when or rejected_when
    if response.coding:
        why = f"its answer is {response.coding}-encoded, which was not asked for; {condition} cannot be judged"
        return Judgement(verdict=Verdict.AMBIGUOUS, why=why)
    if response.error is not None or response.is_capped:
        return Judgement(verdict=Verdict.AMBIGUOUS, why=f"{condition} cannot be judged")
    if accepted_when is None:
        return Judgement(verdict=Verdict.ACCEPTED)
    return Judgement(verdict=Verdict.RETRY_LATER, why=f"its answer is not JSON, so it does not meet {accepted_when}")


def make_excerpt(response: Response, redact: Redact, *, is_refusal: bool) -> str:
    """Return the beginning of the body as safe text; secrets are replaced first, so that none is cut in half.

    Args:
        is_refusal: Whether the body may explain a refusal, even of a single row, or of a call with a 2xx.
    """
    if not response.body:
        return ""
    if response.coding:
        return f"({redact(response.coding)}-encoded, {len(response.body)} bytes)"
    # A server that repeats the call in its error may cut it off, and a secret with it.
    is_cut = is_refusal or not 200 <= response.status <= 299 or response.error is not None or response.is_capped
    return clean_text(redact(_decode(response), is_cut=is_cut))[:EXCERPT_AT_MOST]


def _decode(response: Response) -> str:
    """Return the body as text, in the encoding that its content type or its first bytes name, otherwise in UTF-8."""
    if response.body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = _JSON_IN_UTF_16.get(response.body[:2]) or _read_charset(response.headers.get("Content-Type", ""))
    return response.body.decode(encoding, "replace")


def _read_charset(content_type: str) -> str:
    named = _CHARSET.search(content_type)
    with suppress(LookupError):
        codec = codecs.lookup(named[1]).name if named else "utf-8"
        if _CODECS.fullmatch(codec):
            return codec
    return "utf-8"


def read_json(response: Response) -> Any:
    """Return the JSON of a body in any encoding; NaN and Infinity are allowed, because many servers write them.

    Raises:
        ValueError: The body is not JSON.
    """
    return _parse_json(_decode(response))


def read_exact_json(response: Response) -> Any:
    """Return the JSON of a body with all digits of its numbers.

    Raises:
        ValueError: The body is not JSON.
    """
    return _parse_json(_decode(response), use_decimal=True)


def _parse_json(text: str, *, use_decimal: bool = False) -> Any:
    try:
        return simplejson.loads(text, allow_nan=True, use_decimal=use_decimal)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def describe_refusal(response: Response, excerpt: str, redact: Redact) -> str:
    """Return one line about a refusal, in the partner's own words if it gives any."""
    if 300 <= response.status <= 399:
        target = _describe_redirect(response, redact)
        return f"HTTP {response.status}: points to {target}; redirects are never followed"
    message = clean_text(redact(find_message(_decode(response)) or "", is_cut=True)) or excerpt
    return f"HTTP {response.status}: {message[:MESSAGE_AT_MOST]}" if message else f"HTTP {response.status}"


def _describe_redirect(response: Response, redact: Redact) -> str:
    """Return only the host of a redirect: the rest of a Location may contain a session or a token."""
    location = response.headers.get("Location")
    if not location:
        return "nowhere"
    try:
        host = urlsplit(location).hostname
    except ValueError:
        return "an address that cannot be read"
    return clean_text(redact(host))[:100] if host else "the same host"


def find_message(text: str) -> str | None:
    """Return the explanation in the text of a body, if one of the usual fields or a title has it; otherwise None."""
    text = text.removeprefix("\ufeff")
    if text.startswith(("{", "[")):
        try:
            return next(_walk_messages(_parse_json(text), 0), None)
        except ValueError:
            return None
    if text.startswith("<"):
        title = _TITLE.search(text[:4096])
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
