"""The headers of every call to a partner, and what may not be said twice."""

import re

from syncctl import __version__
from syncctl.core.stream import Partner
from syncctl.errors import ConfigurationError
from syncctl.partner.auth import Auth

HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OUR_HEADERS = frozenset(
    {"idempotency-key", "syncctl-attempt", "content-length", "transfer-encoding", "connection", "host"}
)


def make_headers(partner: Partner) -> dict[str, str]:
    """Return what every call to a partner carries; the partner's own headers replace ours of the same name.

    Raises:
        ConfigurationError: a header that HTTP does not allow, or that is ours to set. Never shows a value.
    """
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, */*;q=0.5",
        "User-Agent": f"syncctl/{__version__}",
    }
    ours = {name.lower(): name for name in headers}
    for name, value in partner.headers.items():
        key = f"partners.{partner.name}.headers.{name}"
        check_header(key, name, value)
        _check_free(key, name)
        headers.pop(ours.get(name.lower(), ""), None)
        headers[name] = value
    return headers


def check_auth(partner: Partner, auth: Auth) -> None:
    """Check that what the auth kind adds can be sent, and contradicts no header.

    Raises:
        ConfigurationError: it cannot. Never shows a value.
    """
    prefix = f"partners.{partner.name}"
    own = {name.lower(): name for name in partner.headers}
    for name in auth.show().headers:
        if name.lower() in own:
            key = f"{prefix}.headers.{own[name.lower()]}"
            why = "two values would contradict each other"
            raise ConfigurationError(
                f"{key} is set by auth", why=why, hint=f'remove it, or set {prefix}.auth type = "none"'
            )
        _check_free(f"{prefix}.auth.name", name)
        check_header(f"{prefix}.auth.name", name, "x")
    for key, value in partner.auth.values.items():
        if key in {"token", "value"} and not auth.show().query:
            check_header(f"{prefix}.auth.{key}", "x", value)


def _check_free(key: str, name: str) -> None:
    if name.lower() in OUR_HEADERS:
        why = "two values would contradict each other"
        raise ConfigurationError(f"{key} is a header that syncctl sets", why=why, hint="remove it")


def check_header(key: str, name: str, value: str) -> None:
    """Check that HTTP allows a header.

    Raises:
        ConfigurationError: it does not. Never shows the value.
    """
    if _HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value):
        return
    raise ConfigurationError(
        f"{key} cannot be sent as a header",
        why="it is empty, or holds a line break, a character beyond ASCII, or a blank at an end",
        hint="look for a line break or a blank at the end of the value, or of the file it comes from",
    )
