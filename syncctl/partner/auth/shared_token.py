"""One token for all processes and machines: sealed with a key that only those have who know the client's secret."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from syncctl.errors import ServiceUnavailable
from syncctl.logs import get_logger

log = get_logger(__name__)

CLAIM_SECONDS = 10.0
"""How long one process alone may ask for the next token; one that died in between holds others up so long."""
LEFT_ALONE_SECONDS = 10.0
"""How long a token cache that could not be reached is done without: a call is not to wait for it again and again."""


class TokenCache(Protocol):
    """Where all processes find what is kept under a name for a while (broker/token_cache.py). It never sees a secret.

    Each raises ServiceUnavailable when it cannot be reached.
    """

    def read(self, name: str) -> tuple[bytes, float] | None:
        """Return what is kept under a name and for how many seconds still."""

    def write(self, name: str, text: bytes, *, seconds: float) -> None:
        """Keep a text under a name for a while."""

    def claim(self, name: str, *, seconds: float) -> str | None:
        """Return the right to make what is kept next; None while another has it."""

    def release(self, name: str, claim: str) -> None:
        """Give that right back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A token that another process may have asked for.

    `seconds` is its whole life, `left_seconds` what is left of it. `replaces`: it was asked for because the one before
    was refused.
    """

    text: str = field(repr=False)
    seconds: float
    left_seconds: float
    replaces: bool


class Unshared:
    """No token cache: this process has its tokens for itself."""

    def is_away(self) -> bool:
        """Say whether there is a token cache that could not be reached just now."""
        return False

    def read(self, *, insist: bool = False) -> Shared | None:
        """Find nothing."""
        del insist
        return None

    def write(self, token: Shared) -> None:
        """Keep nothing."""
        del token

    def claim(self) -> str | None:
        """Let this process ask for a token."""
        return ""

    def release(self, claim: str) -> None:
        """Give back what nobody else asks for."""
        del claim


class SharedToken(Unshared):
    """The token of one client on a token_cache. Where that cannot be reached, this process goes on for itself.

    Args:
        values: The kind's settings: together they are the name, and the secret among them makes the key.
    """

    def __init__(self, token_cache: TokenCache, values: Mapping[str, str]) -> None:
        # Takes long to import, and only a worker needs it.
        from cryptography.fernet import Fernet, InvalidToken

        name, key = derive_name_and_key(values)
        self._shelf = token_cache
        self._name = f"token:{name}"
        self._fernet = Fernet(key)
        self._unreadable = InvalidToken
        self._away_until = float("-inf")

    def read(self, *, insist: bool = False) -> Shared | None:
        """Return the token that all share now; with `insist`, ask also a token cache that was away just now."""
        if self.is_away() and not insist:
            return None
        try:
            found = self._shelf.read(self._name)
        except ServiceUnavailable as error:
            self._leave_alone(error)
            return None
        if found is None:
            return None
        sealed, left_seconds = found
        try:
            document = json.loads(self._fernet.decrypt(sealed))
            return Shared(left_seconds=left_seconds, **document)
        except (self._unreadable, ValueError, TypeError):
            log.warning("auth.shared_token_unreadable")
            return None

    def write(self, token: Shared) -> None:
        """Let all share a token for what is left of its life."""
        if self.is_away() or token.left_seconds <= 0:
            return
        document = {"text": token.text, "seconds": token.seconds, "replaces": token.replaces}
        sealed = self._fernet.encrypt(json.dumps(document).encode("ascii"))
        try:
            self._shelf.write(self._name, sealed, seconds=token.left_seconds)
        except ServiceUnavailable as error:
            self._leave_alone(error)

    def claim(self) -> str | None:
        """Return the right to ask for the next token; None while another process asks."""
        if self.is_away():
            return ""
        try:
            return self._shelf.claim(self._name, seconds=CLAIM_SECONDS)
        except ServiceUnavailable as error:
            self._leave_alone(error)
            return ""

    def release(self, claim: str) -> None:
        """Let others ask."""
        if not claim or self.is_away():
            return
        try:
            self._shelf.release(self._name, claim)
        except ServiceUnavailable as error:
            self._leave_alone(error)

    def is_away(self) -> bool:
        """Say whether it could not be reached just now."""
        return time.monotonic() < self._away_until

    def _leave_alone(self, error: ServiceUnavailable) -> None:
        self._away_until = time.monotonic() + LEFT_ALONE_SECONDS
        log.warning("auth.token_not_shared", error=str(error))


def derive_name_and_key(values: Mapping[str, str]) -> tuple[str, bytes]:
    """Return what a client's token is kept under, and the key that it is sealed with.

    HKDF (RFC 5869) over the client's secret, bound to everything else that tells one token from another.
    """
    from base64 import urlsafe_b64encode

    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    others = sorted((name, value) for name, value in values.items() if name != "client_secret")
    derived = HKDF(
        algorithm=SHA256(),
        length=48,
        salt=b"syncctl oauth2 token",
        info=json.dumps(others).encode("ascii"),
    ).derive(values["client_secret"].encode("utf-8", "surrogatepass"))
    return derived[:16].hex(), urlsafe_b64encode(derived[16:])
