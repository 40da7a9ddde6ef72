"""Addresses: the rules for a partner's URL, its token endpoint and its proxy, and for the endpoint of a stream.

Settings are checked with the functions with which the client reads the same values.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from syncctl.errors import ConfigurationError

T = TypeVar("T")

METHODS = ("POST", "PUT", "PATCH", "DELETE")
# Only the name of a column may contain blanks.
_ENDPOINT = re.compile(rf"({'|'.join(METHODS)})[ \t]+(/(?:[^\s{{]|\{{[^{{}}\r\n]*+)*)", re.IGNORECASE)
_LOOKUP_ENDPOINT = re.compile(r"GET[ \t]+(/(?:[^\s{]|\{[^{}\r\n]*+)*)", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{[^{}/]+\}")
_SEPARATORS = re.compile(r"[/\\\\?#]")
_SLASHES = re.compile(r"[/\\]")
_ORDINARY = re.compile(r"[A-Za-z0-9_:-]+(?:\.[A-Za-z0-9_:-]+)*")
_DROPPED = ("Cc", "Cf", "Zl", "Zp")
_UNICODE_ESCAPE = re.compile(r"%u([0-9A-Fa-f]{4})")
_OVERLONG = re.compile(rb"[\xc0\xc1].|\xe0..|\xf0.{3}|\xf8.{4}|\xfc.{5}", re.DOTALL)
_CUT = re.compile(r"[;\s\x00-\x1f\x7f-\x9f]")
"""Characters at which servers end a segment early: before parameters, at a blank of a request line, at a NUL."""
_LOOK_ALIKES = str.maketrans({
    "\u3002": ".", "\u2215": "/", "\u2044": "/", "\u29f8": "/", "\u2216": "\\", "\u29f5": "\\", "\u29f9": "\\",
    "\u00a5": "\\", "\u20a9": "\\",
})  # fmt: skip
"""Characters that servers fold into dots and slashes, in addition to those that NFKC folds."""
_READINGS_AT_MOST = 32
_ENCODE = "percent-encode special characters of user and password"


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        ValueError: the text is not a URL, or has a #. The error does not show the URL, which may contain a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.hostname
    except ValueError:
        raise ValueError(f"is not a URL; {_ENCODE}") from None
    if parts.fragment:
        raise ValueError(f"has a # in it; {_ENCODE}")
    return parts


def check_host_and_port(parts: SplitResult) -> None:
    """Check that a URL leads to a server.

    Raises:
        ValueError: the URL has no host, or no port that can be used.
    """
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"has a port that is not a number up to 65535; {_ENCODE}") from None
    if not parts.hostname:
        raise ValueError("has no host")
    if port == 0:
        raise ValueError("has port 0")


def parse_base_url(url: str) -> SplitResult:
    """Return the parts of a partner's URL.

    Raises:
        ValueError: no call can be made with the URL; the error does not show it.
    """
    parts = _parse_web_url(url, "remove them and set auth")
    if parts.query:
        raise ValueError(
            'has a query; put a key into auth (type = "api_key", in = "query"), and the rest into the path of each '
            "endpoint"
        )
    if find_dot_segment(parts.path) is not None:
        raise ValueError("has a . or .. in its path, which servers resolve; write the path that is meant")
    return parts


def parse_token_url(url: str) -> SplitResult:
    """Return the parts of a token endpoint's URL.

    Raises:
        ValueError: no call can be made with the URL; the error does not show it.
    """
    return _parse_web_url(url, "set client_id and client_secret")


def parse_webhook_url(url: str) -> SplitResult:
    """Return the parts of the URL to which alerts are posted.

    Raises:
        ValueError: no call can be made with the URL; the error does not show it.
    """
    return _parse_web_url(url, "put what identifies you into its path or query")


def parse_proxy_url(url: str) -> SplitResult:
    """Return the parts of a proxy's URL.

    Raises:
        ValueError: it is not the URL of an HTTP proxy; the error does not show it.
    """
    parts = split_url(url)
    if parts.scheme != "http":
        raise ValueError("must begin with http://, as in http://user:password@proxy.example:3128")
    check_host_and_port(parts)
    if parts.path.strip("/") or parts.query:
        raise ValueError("must end with the port, as in http://user:password@proxy.example:3128")
    return parts


def _parse_web_url(url: str, advice: str) -> SplitResult:
    parts = split_url(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https:// or http://")
    check_host_and_port(parts)
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"contains a user or a password; {advice}")
    return parts


def parse_endpoint(text: str) -> tuple[str, str]:
    """Return (method, path) of `POST /orders` or `PUT /orders/{id}`.

    Raises:
        ValueError: the text has another form; the error shows the allowed one.
    """
    match = _ENDPOINT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'{text!r} is not an endpoint; write POST, PUT, PATCH or DELETE and a path, as in "POST /orders"'
        )
    check_path(match[2])
    return match[1].upper(), match[2]


def parse_lookup_endpoint(text: str) -> tuple[str, str]:
    """Return (method, path) of `GET /orders?ref={id}`.

    Raises:
        ValueError: the text has another form; the error shows the allowed one.
    """
    match = _LOOKUP_ENDPOINT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a lookup; write GET and a path, as in "GET /orders?ref={{id}}"')
    check_path(match[1])
    return "GET", match[1]


def check_path(path: str) -> None:
    """Check the path of an endpoint.

    Raises:
        ValueError: servers would not read the path as it is written.
    """
    if set("{}") & set(_PLACEHOLDER.sub("", path)):
        raise ValueError(f'{path!r} has an unpaired brace; write a column as in "PUT /orders/{{id}}"')
    if find_dot_segment(path.partition("?")[0]) is not None:
        raise ValueError(f"{path!r} has a segment . or .., which servers resolve; write the path that is meant")
    if "#" in path:
        raise ValueError(f"{path!r} has a #, and the text after it is never sent; remove it, or write %23")


def find_dot_segment(path: str) -> str | None:
    """Return the segment `.` or `..` that a server may see in a path, however it is written; None if there is none.

    Servers, and proxies before them, decode a path, some of them more than once, and then resolve such segments: nginx
    reads `/orders/..%2Fadmin` as `/admin`. Slashes of both kinds, encoded or not, therefore separate segments here; and
    a segment is recognized despite overlong UTF-8, `%u002e`, characters that are folded into dots, slashes and percent
    signs, `;parameters`, control characters and blanks.
    """
    if path.isascii() and "." not in path and "%" not in path:
        return None
    readings = _list_readings(path)
    if readings is None:
        return "%2e"
    segments = (segment for reading in readings for segment in _SEPARATORS.split(reading))
    return next((dots for segment in segments if (dots := _cut(segment)) in (".", "..")), None)


def count_empty_segments(path: str) -> int:
    """Return how many segments of a path a server may see as empty, however the slashes are written.

    Servers decode a path and then merge slashes: nginx reads `/orders/%2F4712` as `/orders/4712`, and `/orders/%2F` as
    `/orders/`. A segment of only blanks, control characters or `;parameters` is empty too: Tomcat reads `/orders/;x` as
    `/orders/`.
    """
    if _ORDINARY.fullmatch(path):
        return 0
    readings = _list_readings(path) or ()
    return max(
        (sum(not segment.partition(";")[0].strip() for segment in _SLASHES.split(reading)) for reading in readings),
        default=1,
    )


def _list_readings(path: str) -> list[str] | None:
    """Return the ways in which servers may read a path: as it is, decoded once or more often, folded before or after.

    Returns:
        None if there are too many readings: no ordinary path is encoded that often.
    """
    readings = [path]
    for reading in readings:
        if len(readings) > _READINGS_AT_MOST:
            return None
        others = dict.fromkeys((_fold(reading), _decode(reading), _decode(reading, is_lenient=True)))
        readings += [other for other in others if other not in readings]
    return readings


def _cut(segment: str) -> str:
    return _CUT.split(segment.lstrip(), maxsplit=1)[0]


def _fold(text: str) -> str:
    """Return a text with look-alikes replaced by the dots and slashes for which servers take them, without characters
    that servers drop."""
    folded = unicodedata.normalize("NFKC", text.translate(_LOOK_ALIKES)).translate(_LOOK_ALIKES)
    if folded.isprintable():
        return folded
    return "".join(char for char in folded if char.isprintable() or unicodedata.category(char) not in _DROPPED)


def _decode(text: str, *, is_lenient: bool = False) -> str:
    """Return a text with its percent-encoding, and `%u002e`, decoded once; if lenient, overlong UTF-8 too."""
    text = _UNICODE_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    content = unquote_to_bytes(text.encode("utf-8", "surrogatepass"))
    if is_lenient:
        content = _OVERLONG.sub(_shorten_overlong, content)
    return content.decode("utf-8", "replace")


def _shorten_overlong(match: re.Match[bytes]) -> bytes:
    """Return the ASCII character that an overlong sequence encodes; any other sequence unchanged.

    This works like a decoder that takes six bits of each byte after the first and ignores its other bits: `%c0%2e` is a
    dot.
    """
    first, *rest = match[0]
    code = first & (0xFF >> (len(match[0]) + 1))
    for byte in rest:
        code = code << 6 | byte & 0x3F
    return bytes((code,)) if code < 0x80 else match[0]


def read_setting(key: str, text: str, parse: Callable[[str], T]) -> T:
    """Return the result of reading a setting with one of these functions.

    Raises:
        ConfigurationError: the function raised a ValueError; this error names the setting and does not show a URL.
    """
    try:
        return parse(text)
    except ValueError as error:
        what, _, hint = str(error).partition("; ")
        why = "no call can be made with it"
        raise ConfigurationError(f"{key} {what}", why=why, hint=hint or f"correct {key}") from None
