"""A client's token in the cache that all processes share, sealed with a key derived from the client's secret."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from syncctl.errors import ServiceUnavailable
from syncctl.logs import get_logger

log = get_logger(__name__)

CLAIM_SECONDS = 10.0
"""How long only one process may fetch the next token; if that process dies, the others wait this long."""
AVOIDED_SECONDS = 10.0
"""How long calls do without a cache that could not be reached, instead of waiting for it again and again."""


class TokenCache(Protocol):
    """Sealed texts that all processes share (broker/token_cache.py); it never sees a secret.

    Every method raises ServiceUnavailable when the cache cannot be reached.
    """

    def read(self, name: str) -> tuple[bytes, float] | None:
        """Return the text under a name and the seconds until it expires."""

    def write(self, name: str, text: bytes, *, seconds: float) -> None:
        """Keep a text under a name until it expires."""

    def claim(self, name: str, *, seconds: float) -> str | None:
        """Return a claim to fetch the next text; None while another process holds it."""

    def release(self, name: str, claim: str) -> None:
        """Release a claim."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedToken:
    """A token that this process or another one fetched."""

    text: str = field(repr=False)
    #: The token's whole lifetime.
    seconds: float
    #: The rest of its lifetime.
    left_seconds: float
    #: Whether it was fetched because the previous token was refused.
    replaces: bool


class NoSharedToken:
    """Stands in for a token cache in a process that has none, so that the process keeps its tokens to itself."""

    def is_away(self) -> bool:
        """Tell whether there is a cache that could not be reached recently."""
        return False

    def read(self, *, insist: bool = False) -> CachedToken | None:
        """Find no token."""
        del insist
        return None

    def write(self, token: CachedToken) -> None:
        """Keep nothing."""
        del token

    def claim(self) -> str | None:
        """Let this process fetch a token."""
        return ""

    def release(self, claim: str) -> None:
        """Do nothing."""
        del claim


class SharedToken(NoSharedToken):
    """The token of one client in a token cache. While the cache cannot be reached, this process works without it.

    Args:
        values: The settings of the auth: the token's name and the key that seals it are derived from them.
    """

    def __init__(self, token_cache: TokenCache, values: Mapping[str, str]) -> None:
        # This takes long to import, and only a worker needs it.
        from cryptography.fernet import Fernet, InvalidToken

        name, key = derive_name_and_key(values)
        self._cache = token_cache
        self._name = f"token:{name}"
        self._fernet = Fernet(key)
        self._unreadable = InvalidToken
        self._away_until = float("-inf")

    def read(self, *, insist: bool = False) -> CachedToken | None:
        """Return the shared token; with `insist` also ask a cache that could not be reached recently."""
        if self.is_away() and not insist:
            return None
        try:
            cached = self._cache.read(self._name)
        except ServiceUnavailable as error:
            self._avoid(error)
            return None
        if cached is None:
            return None
        sealed, left_seconds = cached
        try:
            document = json.loads(self._fernet.decrypt(sealed))
            return CachedToken(left_seconds=left_seconds, **document)
        except (self._unreadable, ValueError, TypeError):
            log.warning("auth.shared_token_unreadable")
            return None

    def write(self, token: CachedToken) -> None:
        """Share a token for the rest of its lifetime."""
        if self.is_away() or token.left_seconds <= 0:
            return
        document = {"text": token.text, "seconds": token.seconds, "replaces": token.replaces}
        sealed = self._fernet.encrypt(json.dumps(document).encode("ascii"))
        try:
            self._cache.write(self._name, sealed, seconds=token.left_seconds)
        except ServiceUnavailable as error:
            self._avoid(error)

    def claim(self) -> str | None:
        """Return a claim to fetch the next token; None while another process holds it."""
        if self.is_away():
            return ""
        try:
            return self._cache.claim(self._name, seconds=CLAIM_SECONDS)
        except ServiceUnavailable as error:
            self._avoid(error)
            return ""

    def release(self, claim: str) -> None:
        """Let other processes fetch a token."""
        if not claim or self.is_away():
            return
        try:
            self._cache.release(self._name, claim)
        except ServiceUnavailable as error:
            self._avoid(error)

    def is_away(self) -> bool:
        """Tell whether the cache could not be reached recently."""
        return time.monotonic() < self._away_until

    def _avoid(self, error: ServiceUnavailable) -> None:
        self._away_until = time.monotonic() + AVOIDED_SECONDS
        log.warning("auth.token_not_shared", error=str(error))


def derive_name_and_key(values: Mapping[str, str]) -> tuple[str, bytes]:
    """Return the name under which a client's token is stored, and the key that seals it.

    HKDF (RFC 5869) over the client's secret, bound to all other settings that distinguish one token from another.
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
