"""A call: one record, turned into the request that is sent for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    `target` is the path (and query) as it goes over the wire; `headers` holds the partner's secrets.
    """

    method: str
    url: str = field(repr=False)
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
