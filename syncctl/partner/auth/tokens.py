"""Tokens in the memory of this process, shared by all its threads; written nowhere."""

import os
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

from syncctl.partner.auth.base import AuthTrouble
from syncctl.partner.deadline import seconds_until, trip

RENEWED_BEFORE_SECONDS = 60.0
RENEWED_AT_SHARE = 0.8
"""Of a token that does not last five minutes; a longer one is renewed a minute before its end."""
ASKED_AGAIN_AFTER_SECONDS = 10.0
"""When a renewal failed and the old token still holds."""
REFUSED_AGAIN_AFTER_SECONDS = 60.0
"""How long a token that replaced a refused one is not replaced for being refused too: it is not the token, then."""

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
    renew_at: float = float("-inf")
    ends_at: float = float("-inf")


class TokenStore:
    """The token of one client at one token endpoint."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = _Held()
        self._replacing = False
        self._replaced_at = float("-inf")

    def take(self, fetch: Callable[[], Token]) -> str:
        """Return a token that is good now; where it ends soon one thread asks for the next, the others go on.

        Raises:
            AuthTrouble: there is none, and none could be had before `trip` ends.
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
            return self._lock.acquire(timeout=seconds_until(trip.ends_at))
        except TimeoutError:
            return False

    def _renew(self, fetch: Callable[[], Token]) -> str:
        held, asked_at = self._held, read_clock()
        if asked_at < held.renew_at:
            return held.text  # another thread was faster
        try:
            fresh = fetch()
        except AuthTrouble:
            if asked_at >= held.ends_at:
                raise
            self._held = replace(held, renew_at=asked_at + ASKED_AGAIN_AFTER_SECONDS)
            return held.text
        if self._replacing:
            self._replacing, self._replaced_at = False, asked_at
        lasts = max(fresh.seconds * RENEWED_AT_SHARE, fresh.seconds - RENEWED_BEFORE_SECONDS)
        self._held = _Held(text=fresh.text, renew_at=asked_at + lasts, ends_at=asked_at + fresh.seconds)
        return fresh.text

    def drop(self, token: str) -> bool:
        """Let go of a token that was refused; tell whether another one is there, or may be asked for."""
        if not self._wait():
            return False
        try:
            if token != self._held.text:
                return True
            if read_clock() - self._replaced_at < REFUSED_AGAIN_AFTER_SECONDS:
                return False
            self._replacing, self._held = True, _Held(text=token)
            return True
        finally:
            self._lock.release()


_stores: dict[Hashable, TokenStore] = {}
_stores_lock = threading.Lock()


def find_store(identity: Hashable) -> TokenStore:
    """Return the one store of a client in this process."""
    with _stores_lock:
        return _stores.setdefault(identity, TokenStore())


def _forget_stores() -> None:
    """Begin anew in a forked child, where a lock may be held by a thread that is not there."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_forget_stores)
