"""A token endpoint, and a partner that accepts only its newest token."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from syncctl.core.stream import Credentials
from tests.harness.hostile_partner import HostilePartner, Peer

CLIENT_SECRET = "cl1ent/s+cret"


class TokenDesk:
    """Issues numbered tokens; its partner accepts the newest one, and answers 401 to all others.

    Args:
        answer: Sends an answer in place of a token, such as `lambda peer: peer.answer("503 Later")`.
        expires_in: The `expires_in` of each token; None leaves it out.
        unwanted: Whether the partner refuses every token.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Peer], None] | None = None,
        expires_in: object = 3600,
        unwanted: bool = False,
    ) -> None:
        self.answer = answer
        self.expires_in = expires_in
        self.unwanted = unwanted
        self.given = 0
        self.good = ""
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.endpoint = self._stack.enter_context(HostilePartner(self._give))
        self.partner = self._stack.enter_context(HostilePartner(self._take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def auth(self, **changes: str) -> Credentials:
        """Return the credentials for this desk."""
        url = f"{self.endpoint.url}/oauth2/token"
        values = {"token_url": url, "client_id": "sync ctl", "client_secret": CLIENT_SECRET, **changes}
        return Credentials(kind="oauth2", values=values)

    def revoke(self) -> None:
        """Make the partner refuse every token that was issued so far."""
        self.good = ""

    @property
    def tokens_used(self) -> list[str]:
        """The tokens of the partner's calls, in their order."""
        lines = (line for request in self.partner.requests for line in request.decode("latin-1").split("\r\n"))
        return [line.partition(": Bearer ")[2] for line in lines if line.startswith("Authorization: ")]

    @property
    def forms(self) -> list[dict[str, str]]:
        """The forms that the token endpoint received."""
        return [dict(parse_qsl(request.partition(b"\r\n\r\n")[2].decode())) for request in self.endpoint.requests]

    def _give(self, peer: Peer) -> None:
        while peer.read_request():
            if self.answer is not None:
                self.answer(peer)
                continue
            with self._lock:
                self.given += 1
                self.good = f"t0ken-{self.given}-abcdef"
                document: dict[str, Any] = {"access_token": self.good, "token_type": "bearer"}
            if self.expires_in is not None:
                document["expires_in"] = self.expires_in
            peer.answer("200 OK", json.dumps(document).encode())

    def _take(self, peer: Peer) -> None:
        while request := peer.read_request():
            if self.good and not self.unwanted and f"Bearer {self.good}\r\n".encode() in request:
                peer.answer("200 OK")
            else:
                peer.answer("401 Unauthorized", json.dumps({"message": request.decode("latin-1")}).encode())
