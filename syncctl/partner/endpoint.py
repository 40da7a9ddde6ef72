"""Where a call goes: the partner's base URL and the stream's path with its placeholders."""

import hashlib
import re
from decimal import Decimal
from urllib.parse import SplitResult, quote, urlsplit

from syncctl.core.records import Record
from syncctl.core.rows import Value
from syncctl.core.stream import Partner, Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import ENCODING_VERSION

METHODS = ("POST", "PUT", "PATCH", "DELETE")

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_KEPT_IN_PATH = "/%:@!$&'()*+,;=~-._?"


class Endpoint:
    """The address of a stream's calls.

    Raises:
        ConfigurationError: a URL, method or path that no call could be made with.
    """

    def __init__(self, partner: Partner, stream: Stream) -> None:
        self.base = split_base_url(partner)
        self._decimals = stream.decimals
        self.method = stream.method.upper()
        if self.method not in METHODS:
            raise ConfigurationError(
                f"streams.{stream.name}.endpoint has the method {stream.method!r}",
                why=f"a stream is written with one of {', '.join(METHODS)}",
                hint='write for example endpoint = "POST /orders"',
            )
        self.template = "/" + stream.path.lstrip("/")
        self._check_template(stream)
        self._base_path = quote(self.base.path.rstrip("/"), safe=_KEPT_IN_PATH)
        # Odd places hold placeholders, even ones fixed text.
        parts = _PLACEHOLDER.split(self.template)
        self._fixed = [quote(part, safe=_KEPT_IN_PATH) for part in parts[::2]]
        self.columns = tuple(parts[1::2])

    def _check_template(self, stream: Stream) -> None:
        rest = _PLACEHOLDER.sub("x", self.template)
        why = ""
        if "{" in rest or "}" in rest:
            why = "its braces do not pair up"
        elif "#" in rest:
            why = "a fragment (#) is never sent to a server"
        elif any(part in {".", ".."} for part in rest.partition("?")[0].split("/")):
            why = "servers resolve . and .. segments, so the call would go elsewhere"
        if why:
            raise ConfigurationError(
                f"streams.{stream.name}.endpoint has the path {stream.path!r}",
                why=why,
                hint='write for example endpoint = "PUT /orders/{id}"',
            )

    @property
    def root(self) -> str:
        """The target of a call to the base URL itself."""
        return self._base_path or "/"

    @property
    def mapping_hash(self) -> str:
        """Name everything that shapes a call for the same record; holds no secret (12 hex digits)."""
        parts = [str(ENCODING_VERSION), self.method, self._base_path, self.template]
        if self._decimals != "number":
            parts.append(f"decimals={self._decimals}")
        return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def fill(self, record: Record) -> str:
        """Return the target for a record: the path under the base URL, each value URL-encoded as one piece.

        Raises:
            Unsendable: a placeholder without a value, or a value that would change the path's shape.
        """
        if not self.columns:
            return self._base_path + self._fixed[0]
        pieces = [self._fixed[0]]
        for column, fixed in zip(self.columns, self._fixed[1:], strict=True):
            pieces += (_quote_value(column, _find_value(column, record)), fixed)
        target = "".join(pieces)
        # Servers, and proxies before them, resolve these segments even in their encoded form.
        for segment in target.partition("?")[0].split("/"):
            if segment in {".", ".."}:
                raise Unsendable(f"the path {self.template} would hold the segment {segment!r}")
        return self._base_path + target


def split_base_url(partner: Partner) -> SplitResult:
    """Return the parts of a partner's URL.

    Raises:
        ConfigurationError: not an http(s) URL, or one that holds what belongs elsewhere; never shows it.
    """
    key = f"partners.{partner.name}.url"
    hint = f"set {key} to a form such as https://api.partner.example/v1"
    try:
        base = urlsplit(partner.url)
        port = base.port
    except ValueError as error:
        raise ConfigurationError(f"{key} is not a URL", why="its host or port is wrong", hint=hint) from error
    what = why = ""
    if base.scheme not in {"http", "https"} or not base.hostname or port == 0:
        what, why = f"{key} is not an http or https URL", "its scheme or its host is missing"
    elif base.username is not None or base.password is not None:
        what, why = f"{key} holds credentials", "they would show wherever the URL is shown"
        hint = f"use partners.{partner.name}.auth, or a header"
    elif base.query or base.fragment:
        what, why = f"{key} has a query or a fragment", "the stream's path follows it"
        hint = "put a key into the partner's auth, and the rest of the query into the stream's endpoint"
    elif any(part in {".", ".."} for part in base.path.split("/")):
        what, why = f"{key} has . or .. segments", "servers resolve them"
    if what:
        raise ConfigurationError(what, why=why, hint=hint)
    return base


def _find_value(column: str, record: Record) -> Value:
    if record.payload is not None and column in record.payload:
        value = record.payload[column]
    elif column in record.key:
        value = record.key[column]
    else:
        raise Unsendable(f"the path needs column {column}, which the row does not have")
    if value is None:
        raise Unsendable(f"the path needs column {column}, which is NULL in this row")
    return value


def _quote_value(column: str, value: Value) -> str:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, Decimal):
        text = format(value, "f")
    else:
        text = str(value)
    if not text:
        raise Unsendable(f"the path needs column {column}, which is empty in this row")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        reason = f"column {column} holds half a surrogate pair, which a URL has no form for"
        raise Unsendable(reason) from error
