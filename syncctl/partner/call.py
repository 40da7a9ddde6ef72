"""A call: the HTTP request for one record, or for many."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from syncctl.partner.auth.base import AuthHeaders


class Unsendable(Exception):
    """A record cannot be turned into a call; it fails without one (invariant 9).

    Args:
        reason: One line for people; never contains a secret.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One HTTP request, ready to be sent."""

    method: str
    #: The whole URL; a secret once it is signed.
    url: str = field(repr=False)
    #: Path and query as they are sent; a secret once it is signed.
    target: str = field(repr=False)
    #: Whether its target addresses one row, so that it is not combined with others and its body is not a list.
    goes_alone: bool = False
    #: The headers; they contain secrets.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def add_auth_headers(call: Call, auth_headers: "AuthHeaders") -> Call:
    """Return a call signed by an auth kind; its body and its `Idempotency-Key` stay as they are (invariant 7)."""
    target, url = call.target, call.url
    if auth_headers.query:
        added = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='*')}" for name, value in auth_headers.query.items()
        )
        mark = "&" if "?" in target else "?"
        target, url = f"{target}{mark}{added}", f"{url}{mark}{added}"
    return replace(call, target=target, url=url, headers={**call.headers, **auth_headers.headers})
