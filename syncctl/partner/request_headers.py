"""HTTP headers of a call: rules for names and values, the headers of every call, and a stream's own headers."""

import re
from collections.abc import Iterable, Mapping, Sequence

from syncctl import __version__
from syncctl.core.records import Record
from syncctl.core.stream import Decimals, Partner
from syncctl.errors import ConfigurationError
from syncctl.partner.auth import Auth
from syncctl.partner.call import Unsendable

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_SET_BY_SYNCCTL = frozenset(
    {"idempotency-key", "syncctl-attempt", "content-length", "transfer-encoding", "connection", "host"}
)
"""Headers that neither a partner nor a stream may set."""
_NOT_OF_A_STREAM = _SET_BY_SYNCCTL | {
    "authorization", "content-encoding", "content-type", "cookie", "date", "expect", "keep-alive", "te", "trailer",
    "upgrade", "webhook-id", "webhook-signature", "webhook-timestamp",
}  # fmt: skip
_REPLACEABLE = {"accept", "user-agent"}
"""Headers of every call that a stream may replace."""
_SECRET = re.compile(
    r"auth|cookie|credential|passw|secret|signature|token|api-?key|access-?key|subscription-?key", re.IGNORECASE
)


def is_header_name(text: str) -> bool:
    """Tell whether HTTP allows a name (RFC 9110, 5.6.2)."""
    return _NAME.fullmatch(text) is not None


def is_header_value(text: str) -> bool:
    """Tell whether a value can be sent as it is: printable ASCII, so that no line break splits it into two headers."""
    return _VALUE.fullmatch(text) is not None


def is_reserved(name: str) -> bool:
    """Tell whether only syncctl or the partner's auth sets a header, never a stream."""
    return name.lower() in _NOT_OF_A_STREAM or name.lower().startswith("proxy-")


def looks_secret(name: str) -> bool:
    """Tell whether a header's name says that its value is a secret."""
    return _SECRET.search(name) is not None


def make_common_headers(partner: Partner) -> dict[str, str]:
    """Return the headers of every call to a partner; the partner's own replace the defaults of the same name.

    Raises:
        ConfigurationError: HTTP does not allow a header, or syncctl sets it. The error never shows a value.
    """
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, */*;q=0.5",
        "User-Agent": f"syncctl/{__version__}",
    }
    defaults = {name.lower(): name for name in headers}
    for name, value in partner.headers.items():
        key = f"partners.{partner.name}.headers.{name}"
        check_header(key, name, value)
        _check_not_reserved(key, name)
        headers.pop(defaults.get(name.lower(), ""), None)
        headers[name] = value
    return headers


def check_auth_headers(partner: Partner, auth: Auth) -> None:
    """Check that the headers of the partner's auth can be sent, and contradict no other header.

    Raises:
        ConfigurationError: a header cannot be sent, or contradicts another. The error never shows a value.
    """
    prefix = f"partners.{partner.name}"
    own = {name.lower(): name for name in partner.headers}
    for name in auth.show().headers:
        if name.lower() in own:
            key = f"{prefix}.headers.{own[name.lower()]}"
            why = "two values would contradict each other"
            hint = f'remove it, or set {prefix}.auth type = "none"'
            raise ConfigurationError(f"{key} is set by auth", why=why, hint=hint)
        _check_not_reserved(f"{prefix}.auth.name", name)
        check_header(f"{prefix}.auth.name", name, "x")
    for key, value in partner.auth.values.items():
        if key in {"token", "value"} and not auth.show().query:
            check_header(f"{prefix}.auth.{key}", "x", value)


def _check_not_reserved(key: str, name: str) -> None:
    if name.lower() in _SET_BY_SYNCCTL:
        why = "two values would contradict each other"
        raise ConfigurationError(f"{key} is a header that syncctl sets", why=why, hint="remove it")


def check_header(key: str, name: str, value: str) -> None:
    """Check that HTTP allows a header.

    Raises:
        ConfigurationError: HTTP does not allow the header. The error never shows the value.
    """
    if is_header_name(name) and is_header_value(value):
        return
    raise ConfigurationError(
        f"{key} cannot be sent as a header",
        why="it is empty, or holds a line break, a character beyond ASCII, or a blank at an end",
        hint="look for a line break or a blank at the end of the value, or of the file it comes from",
    )


class HeaderTemplates:
    """The headers that a stream adds to its calls, as templates; values in them cannot add another header."""

    def __init__(self, templates: Mapping[str, str], decimals: Decimals, remote: Sequence[str] = ()) -> None:
        # This imports Jinja2, which a stream without templates does not need.
        from syncctl.partner.request.template import TextTemplate

        self._templates = {
            name: TextTemplate(source, title=f"header {name}", decimals=decimals, remote=remote)
            for name, source in templates.items()
        }

    @property
    def remote_names(self) -> frozenset[str] | None:
        """The names of the partner's values in these headers; None if they may contain any."""
        names = [template.remote_names for template in self._templates.values()]
        return None if None in names else frozenset[str]().union(*filter(None, names))

    def refuse_duplicates(self, taken: Iterable[str], *, key: str) -> None:
        """Refuse a header that every call already has.

        Raises:
            ConfigurationError: two values of a header would contradict each other.
        """
        others = {name.lower() for name in taken} - _REPLACEABLE
        for name in self._templates:
            if name.lower() in others:
                why = "the partner's settings set it for all of its streams"
                raise ConfigurationError(f"{key}.{name} is set already", why=why, hint="remove one of the two")

    def render(self, record: Record) -> dict[str, str]:
        """Return the headers of a record, without those whose text is empty.

        Raises:
            Unsendable: a header cannot contain a value.
        """
        headers = {}
        for name, template in self._templates.items():
            text = template.render(record).strip(" ")
            if not text:
                continue
            if not is_header_value(text):
                raise Unsendable(f"header {name} would hold a line break or a character beyond ASCII")
            headers[name] = text
        return headers
