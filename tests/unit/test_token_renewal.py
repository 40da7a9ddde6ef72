"""A refused token: whether the partner has refused our credentials, or cannot tell."""

import pytest

from syncctl.partner.auth.base import AuthError
from syncctl.partner.auth.shared_token import NoSharedToken
from syncctl.partner.auth.token_renewal import Token, TokenStore
from syncctl.partner.call_deadline import call_deadline


class UnreachableCache(NoSharedToken):
    def is_away(self) -> bool:
        return True


def take(store: TokenStore, text: str) -> str:
    return store.take(lambda: Token(text=text, seconds=3600.0))


def test_a_second_refusal_means_wrong_credentials() -> None:
    call_deadline.begin(5.0)
    store = TokenStore(NoSharedToken())
    take(store, "first")
    assert store.drop("first")
    take(store, "second")
    assert not store.drop("second")


def test_without_a_shared_cache_a_refused_token_may_have_been_replaced_by_another_process() -> None:
    call_deadline.begin(5.0)
    store = TokenStore(UnreachableCache())
    take(store, "first")
    assert store.drop("first")
    take(store, "second")
    with pytest.raises(AuthError, match="without Redis no token can be shared"):
        store.drop("second")


def test_a_token_endpoint_that_hangs_is_not_a_refusal() -> None:
    store = TokenStore(NoSharedToken())
    call_deadline.begin(5.0)
    take(store, "first")
    call_deadline.begin(0.05)
    with store._lock, pytest.raises(AuthError, match="still waits for the next one"):
        store.drop("first")
