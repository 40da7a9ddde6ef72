"""A client's token: kept in this process for all its threads, and shared with other processes through a cache."""

import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

from syncctl.partner.auth.base import AuthError
from syncctl.partner.auth.shared_token import CachedToken, NoSharedToken, SharedToken, TokenCache
from syncctl.partner.call_deadline import call_deadline, seconds_until

RENEWED_BEFORE_SECONDS = 60.0
RENEWED_AT_SHARE = 0.8
"""The share of its lifetime after which a token that lasts less than five minutes is renewed; a longer one is renewed a
minute before it expires."""
FETCHED_AGAIN_AFTER_SECONDS = 10.0
"""The wait after a failed renewal while the old token is still valid."""
REFUSED_AGAIN_AFTER_SECONDS = 60.0
"""If a token that replaced a refused one is also refused within this time, it is not replaced: the token is not the
problem."""
CHECKED_EVERY_SECONDS = 0.05
"""How often this process looks for the token while another process fetches it."""

read_clock = time.monotonic


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token and its lifetime."""

    text: str = field(repr=False)
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _HeldToken:
    """A token and its times by `read_clock`; replaced as a whole, so that no thread sees half of it."""

    text: str = field(default="", repr=False)
    fetched_at: float = float("-inf")
    renew_at: float = float("-inf")
    expires_at: float = float("-inf")


def _hold(text: str, *, seconds: float, fetched_at: float) -> _HeldToken:
    renewed_after = max(seconds * RENEWED_AT_SHARE, seconds - RENEWED_BEFORE_SECONDS)
    return _HeldToken(
        text=text, fetched_at=fetched_at, renew_at=fetched_at + renewed_after, expires_at=fetched_at + seconds
    )


class TokenStore:
    """The token of one client at one token endpoint.

    Args:
        shared: The token in the cache of all processes.
    """

    def __init__(self, shared: NoSharedToken) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._held = _HeldToken()
        self._replacing = False
        self._replaced_at = float("-inf")

    def has_fresh(self) -> bool:
        """Tell whether `take` would return at once."""
        return read_clock() < self._held.renew_at

    def take(self, fetch: Callable[[], Token]) -> str:
        """Return a valid token; if it expires soon, one thread fetches the next one while the others use it.

        Raises:
            AuthError: there is no token, and none could be fetched before `call_deadline` ends.
        """
        held, now = self._held, read_clock()
        if now < held.renew_at:
            return held.text
        is_valid = now < held.expires_at
        if not (self._lock.acquire(blocking=False) if is_valid else self._wait()):
            if is_valid:
                return held.text
            raise AuthError("no token in time: another call still waits for the token endpoint")
        try:
            return self._renew(fetch)
        finally:
            self._lock.release()

    def _wait(self) -> bool:
        """Wait for the lock until the call's deadline; return whether this thread has it."""
        try:
            return self._lock.acquire(timeout=seconds_until(call_deadline.ends_at))
        except TimeoutError:
            return False

    def _renew(self, fetch: Callable[[], Token]) -> str:
        """Return the next token, fetched by this process or by another."""
        if read_clock() < self._held.renew_at:
            return self._held.text  # another thread was faster
        claim = self._claim()
        if claim is None:
            return self._held.text
        held, fetched_at = self._held, read_clock()
        try:
            fresh = fetch()
        except AuthError:
            if fetched_at >= held.expires_at:
                raise
            self._held = replace(held, renew_at=fetched_at + FETCHED_AGAIN_AFTER_SECONDS)
            return held.text
        else:
            self._keep(fresh, fetched_at)
            return fresh.text
        finally:
            self._shared.release(claim)

    def _claim(self) -> str | None:
        """Return a claim to fetch a token; None if another process has fetched it, or is about to.

        Raises:
            AuthError: another process is fetching the token, and is not done before `call_deadline` ends.
        """
        while not self._adopt_fresh():
            claim = self._shared.claim()
            if claim is not None:
                if not self._adopt_fresh():
                    return claim
                # The process that held the claim until now has fetched the token.
                self._shared.release(claim)
                return None
            if read_clock() < self._held.expires_at:
                self._held = replace(self._held, renew_at=read_clock() + CHECKED_EVERY_SECONDS)
                return None
            try:
                time.sleep(min(CHECKED_EVERY_SECONDS, seconds_until(call_deadline.ends_at)))
            except TimeoutError:
                raise AuthError("no token in time: another process still waits for the token endpoint") from None
        return None

    def _adopt_fresh(self) -> bool:
        self._adopt()
        return read_clock() < self._held.renew_at

    def _keep(self, fresh: Token, fetched_at: float) -> None:
        if self._replacing:
            self._replaced_at = fetched_at
        self._held = _hold(fresh.text, seconds=fresh.seconds, fetched_at=fetched_at)
        left_seconds = self._held.expires_at - read_clock()
        self._shared.write(
            CachedToken(text=fresh.text, seconds=fresh.seconds, left_seconds=left_seconds, replaces=self._replacing)
        )
        self._replacing = False

    def _adopt(self, *, insist: bool = False) -> bool:
        """Use the shared token if it is newer than this one and still valid; tell whether it is."""
        shared = self._shared.read(insist=insist)
        if shared is None:
            return False
        now = read_clock()
        token = _hold(shared.text, seconds=shared.seconds, fetched_at=now - (shared.seconds - shared.left_seconds))
        if shared.replaces:
            self._replaced_at = max(self._replaced_at, token.fetched_at)
        if shared.text == self._held.text or token.fetched_at <= self._held.fetched_at or now >= token.expires_at:
            return False
        self._held, self._replacing = token, False
        return True

    def drop(self, token: str) -> bool:
        """Drop a token that was refused; tell whether there is another one, or one may be fetched.

        Raises:
            AuthError: neither is known: another call still waits for the token endpoint, or processes that cannot share
                a token may be replacing each other's tokens.
        """
        if not self._wait():
            raise AuthError("its token was refused, and another call still waits for the next one")
        try:
            if token != self._held.text or self._adopt(insist=True):
                return True
            if read_clock() - self._replaced_at < REFUSED_AGAIN_AFTER_SECONDS:
                if self._shared.is_away():
                    raise AuthError("its token was refused again, and without Redis no token can be shared")
                return False
            self._replacing, self._held = True, _HeldToken(text=token, fetched_at=self._held.fetched_at)
            return True
        finally:
            self._lock.release()


_stores: dict[Hashable, TokenStore] = {}
_stores_lock = threading.Lock()


def find_store(values: Mapping[str, str], token_cache: TokenCache | None = None) -> TokenStore:
    """Return the only token store of a client in this process.

    Args:
        values: The settings of its auth, which together distinguish one token from another.
        token_cache: Shares the token with other processes; without it this process fetches its own.
    """
    identity = (token_cache, *sorted(values.items()))
    with _stores_lock:
        if identity not in _stores:
            _stores[identity] = TokenStore(NoSharedToken() if token_cache is None else SharedToken(token_cache, values))
        return _stores[identity]


def _forget_stores() -> None:
    """Start afresh in a forked child, where a lock may be held by a thread that does not exist there."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_forget_stores)
