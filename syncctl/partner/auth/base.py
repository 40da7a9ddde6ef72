"""What every auth kind is: it adds headers or query parameters to a call, and to nothing else of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from syncctl.core.stream import Partner
from syncctl.partner.auth.shared_token import TokenCache
from syncctl.partner.call import Call

Values = Mapping[str, str]
"""The kind's settings by key: those of `partners.NAME.auth` that are set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthHeaders:
    """What a call carries to prove who sends it. The bytes and the `Idempotency-Key` are out of its reach.

    `secrets` are those that were made for this call, or lately: `spell_secrets` knows the lasting ones.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


class AuthTrouble(Exception):
    """A call that cannot be signed now: nothing was sent.

    Args:
        text: One line for people; never holds a secret.
        status: 401 where our credentials were refused, None where asking again may help.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class Auth:
    """No auth, and the seam for all others; safe to use from many threads, and after a fork.

    Args:
        redact: Takes every secret of the partner out of a text.
        token cache: Where other processes find what this one was given, for kinds that are given something.

    Raises:
        ConfigurationError: a value that no call could be made with.
    """

    kind: ClassVar[str] = "none"
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, partner: Partner, redact: Callable[[str], str], token_cache: TokenCache | None = None) -> None:
        self.partner = partner
        self.redact = redact
        self.token_cache = token_cache
        self.values: Values = partner.auth.values

    def sign(self, call: Call) -> AuthHeaders:
        """Return what this call carries, made right before it is sent, within the deadline of `call_deadline`.

        Raises:
            AuthTrouble: there is nothing to sign with now.
        """
        del call
        return self.show()

    def refused(self, auth_headers: AuthHeaders) -> bool:
        """Hear that the partner answered 401; tell whether other auth headers are worth one more call."""
        del auth_headers
        return False

    def show(self) -> AuthHeaders:
        """Return the same with stars in place of secrets, made without asking anybody."""
        return AuthHeaders()

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return what must never be shown, in every form that travels."""
        del values
        return set()
