"""A client's token: in the memory of this process for all its threads, and on a token cache for all processes."""

import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

from syncctl.partner.auth.base import AuthTrouble
from syncctl.partner.auth.shared_token import Shared, SharedToken, TokenCache, Unshared
from syncctl.partner.deadline import call_deadline, seconds_until

RENEWED_BEFORE_SECONDS = 60.0
RENEWED_AT_SHARE = 0.8
"""Of a token that does not last five minutes; a longer one is renewed a minute before its end."""
ASKED_AGAIN_AFTER_SECONDS = 10.0
"""When a renewal failed and the old token still holds."""
REFUSED_AGAIN_AFTER_SECONDS = 60.0
"""How long a token that replaced a refused one is not replaced for being refused too: it is not the token, then."""
LOOKED_EVERY_SECONDS = 0.05
"""While another process asks for the token."""

read_clock = time.monotonic


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token and how many seconds it lasts."""

    text: str = field(repr=False)
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """A token and its times by `read_clock`; replaced as a whole, so that no thread sees half of it."""

    text: str = field(default="", repr=False)
    asked_at: float = float("-inf")
    renew_at: float = float("-inf")
    ends_at: float = float("-inf")


def _hold(text: str, *, seconds: float, asked_at: float) -> _Held:
    lasts = max(seconds * RENEWED_AT_SHARE, seconds - RENEWED_BEFORE_SECONDS)
    return _Held(text=text, asked_at=asked_at, renew_at=asked_at + lasts, ends_at=asked_at + seconds)


class TokenStore:
    """The token of one client at one token endpoint.

    Args:
        shared: Where other processes find it, and this one theirs.
    """

    def __init__(self, shared: Unshared) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._held = _Held()
        self._replacing = False
        self._replaced_at = float("-inf")

    def take(self, fetch: Callable[[], Token]) -> str:
        """Return a token that is good now; where it ends soon one thread asks for the next, the others go on.

        Raises:
            AuthTrouble: there is none, and none could be had before `call_deadline` ends.
        """
        held, now = self._held, read_clock()
        if now < held.renew_at:
            return held.text
        still_good = now < held.ends_at
        if not (self._lock.acquire(blocking=False) if still_good else self._wait()):
            if still_good:
                return held.text
            raise AuthTrouble("no token in time: another call still waits for the token endpoint")
        try:
            return self._renew(fetch)
        finally:
            self._lock.release()

    def _wait(self) -> bool:
        """Wait for the lock as long as the call may last; return whether this thread has it."""
        try:
            return self._lock.acquire(timeout=seconds_until(call_deadline.ends_at))
        except TimeoutError:
            return False

    def _renew(self, fetch: Callable[[], Token]) -> str:
        """Return the next token: another's, or one that is asked for."""
        if read_clock() < self._held.renew_at:
            return self._held.text  # another thread was faster
        claim = self._claim()
        if claim is None:
            return self._held.text
        held, asked_at = self._held, read_clock()
        try:
            fresh = fetch()
        except AuthTrouble:
            if asked_at >= held.ends_at:
                raise
            self._held = replace(held, renew_at=asked_at + ASKED_AGAIN_AFTER_SECONDS)
            return held.text
        else:
            self._keep(fresh, asked_at)
            return fresh.text
        finally:
            self._shared.release(claim)

    def _claim(self) -> str | None:
        """Return the right to ask for a token; None where there is no need: another process did, or is about to.

        Raises:
            AuthTrouble: another process asks, and is not done before `call_deadline` ends.
        """
        while not self._adopt_fresh():
            claim = self._shared.claim()
            if claim is not None:
                if not self._adopt_fresh():
                    return claim
                # Who had the right until just now has used it.
                self._shared.release(claim)
                return None
            if read_clock() < self._held.ends_at:
                self._held = replace(self._held, renew_at=read_clock() + LOOKED_EVERY_SECONDS)
                return None
            try:
                time.sleep(min(LOOKED_EVERY_SECONDS, seconds_until(call_deadline.ends_at)))
            except TimeoutError:
                raise AuthTrouble("no token in time: another process still waits for the token endpoint") from None
        return None

    def _adopt_fresh(self) -> bool:
        self._adopt()
        return read_clock() < self._held.renew_at

    def _keep(self, fresh: Token, asked_at: float) -> None:
        if self._replacing:
            self._replaced_at = asked_at
        self._held = _hold(fresh.text, seconds=fresh.seconds, asked_at=asked_at)
        left_seconds = self._held.ends_at - read_clock()
        self._shared.write(
            Shared(text=fresh.text, seconds=fresh.seconds, left_seconds=left_seconds, replaces=self._replacing)
        )
        self._replacing = False

    def _adopt(self, *, insist: bool = False) -> bool:
        """Hold the token that all share, where it is newer than this one and still good; tell whether it is."""
        shared = self._shared.read(insist=insist)
        if shared is None:
            return False
        now = read_clock()
        found = _hold(shared.text, seconds=shared.seconds, asked_at=now - (shared.seconds - shared.left_seconds))
        if shared.replaces:
            self._replaced_at = max(self._replaced_at, found.asked_at)
        if shared.text == self._held.text or found.asked_at <= self._held.asked_at or now >= found.ends_at:
            return False
        self._held, self._replacing = found, False
        return True

    def drop(self, token: str) -> bool:
        """Let go of a token that was refused; tell whether another one is there, or may be asked for.

        Raises:
            AuthTrouble: that cannot be told: another call still waits for the token endpoint, or processes that cannot
                share a token may be replacing each other's.
        """
        if not self._wait():
            raise AuthTrouble("its token was refused, and another call still waits for the next one")
        try:
            if token != self._held.text or self._adopt(insist=True):
                return True
            if read_clock() - self._replaced_at < REFUSED_AGAIN_AFTER_SECONDS:
                if self._shared.is_away():
                    raise AuthTrouble("its token was refused again, and without Redis no token can be shared")
                return False
            self._replacing, self._held = True, _Held(text=token, asked_at=self._held.asked_at)
            return True
        finally:
            self._lock.release()


_stores: dict[Hashable, TokenStore] = {}
_stores_lock = threading.Lock()


def find_store(values: Mapping[str, str], token_cache: TokenCache | None = None) -> TokenStore:
    """Return the one store of a client in this process.

    Args:
        values: The settings of its auth: all of them tell one token from another.
        token cache: Where other processes find the token; without it this process has its own.
    """
    identity = (token_cache, *sorted(values.items()))
    with _stores_lock:
        if identity not in _stores:
            _stores[identity] = TokenStore(Unshared() if token_cache is None else SharedToken(token_cache, values))
        return _stores[identity]


def _forget_stores() -> None:
    """Begin anew in a forked child, where a lock may be held by a thread that is not there."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_forget_stores)
