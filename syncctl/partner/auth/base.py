"""The base class of the auth kinds: each adds headers or query parameters to a call, and changes nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from syncctl.core.redaction import Redact
from syncctl.core.stream import Partner
from syncctl.partner.auth.shared_token import TokenCache
from syncctl.partner.call import Call

Values = Mapping[str, str]
"""The settings of an auth kind by key: those in `partners.NAME.auth` that are set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthHeaders:
    """The headers and query parameters that authenticate a call."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Secrets made for this call, or recently (a token, a signature); `spell_secrets` returns the permanent ones.
    secrets: tuple[str, ...] = field(default=(), repr=False)


class AuthError(Exception):
    """A call that cannot be signed now; it was not sent.

    Args:
        text: One line for people; never contains a secret.
        status: 401 if our credentials were refused; None if another attempt may help.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class Auth:
    """No auth, and the base of the other kinds; safe to use from many threads, and after a fork.

    Args:
        redact: Replaces every secret of the partner in a text.
        token_cache: Shares tokens between processes, for kinds that fetch them.

    Raises:
        ConfigurationError: a value with which no call could be made.
    """

    kind: ClassVar[str] = "none"
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    waits: ClassVar[bool] = False
    """Whether signing, or handling a refusal, may block; it is then done in a thread."""

    def __init__(self, partner: Partner, redact: Redact, token_cache: TokenCache | None = None) -> None:
        self.partner = partner
        self.redact = redact
        self.token_cache = token_cache
        self.values: Values = partner.auth.values

    def sign(self, call: Call) -> AuthHeaders:
        """Authenticate a call, right before it is sent and within the deadline of `call_deadline`.

        Raises:
            AuthError: the call cannot be authenticated now.
        """
        del call
        return self.show()

    def may_wait(self) -> bool:
        """Tell whether signing the next call may block."""
        return self.waits

    def refused(self, auth_headers: AuthHeaders) -> bool:
        """Take note of a 401 response to a call; tell whether one more call with other auth headers makes sense."""
        del auth_headers
        return False

    def show(self) -> AuthHeaders:
        """Return the auth headers for display, with secrets replaced and without a call to any server."""
        return AuthHeaders()

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return the permanent secrets, in every form in which they are sent."""
        del values
        return set()
