"""A call: one record, turned into the request that is sent for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from syncctl.partner.auth.base import AuthHeaders


class Unsendable(Exception):
    """A record that cannot be turned into a call: it has failed without one.

    Args:
        reason: One line for people; never holds a secret.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One HTTP request, ready to be sent.

    `target` is the path (and query) as it goes over the wire; `headers` and, once it is signed, `target` hold secrets.
    """

    method: str
    url: str = field(repr=False)
    target: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def add_proof(call: Call, auth_headers: "AuthHeaders") -> Call:
    """Return a call with what an auth kind adds to it; its body and its `Idempotency-Key` stay as they are."""
    target, url = call.target, call.url
    if auth_headers.query:
        added = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='*')}" for name, value in auth_headers.query.items()
        )
        mark = "&" if "?" in target else "?"
        target, url = f"{target}{mark}{added}", f"{url}{mark}{added}"
    return replace(call, target=target, url=url, headers={**call.headers, **auth_headers.headers})
