"""basic: user and password in `Authorization: Basic` (RFC 7617)."""

from base64 import b64encode

from syncctl.core.redaction import REDACTED, Redact
from syncctl.core.stream import Partner
from syncctl.errors import ConfigurationError
from syncctl.partner.auth.base import Auth, AuthHeaders, Values
from syncctl.partner.auth.shared_token import TokenCache
from syncctl.partner.call import Call


def encode_basic(user: str, password: str) -> str:
    """Return the value that follows `Basic` in the header."""
    return b64encode(f"{user}:{password}".encode("utf-8", "surrogatepass")).decode("ascii")


class Basic(Auth):
    """A user and a password."""

    kind = "basic"
    needs = ("user", "password")

    def __init__(self, partner: Partner, redact: Redact, token_cache: TokenCache | None = None) -> None:
        super().__init__(partner, redact, token_cache)
        if ":" in self.values["user"]:
            raise ConfigurationError(
                f"partners.{partner.name}.auth.user holds a colon",
                why="the password begins after the first colon",
                hint="ask the partner for another user name",
            )

    def sign(self, call: Call) -> AuthHeaders:  # noqa: ARG002
        """Return the header."""
        return AuthHeaders(
            headers={"Authorization": f"Basic {encode_basic(self.values['user'], self.values['password'])}"}
        )

    def show(self) -> AuthHeaders:
        """Return the header without user and password."""
        return AuthHeaders(headers={"Authorization": f"Basic {REDACTED}"})

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return the password, plain and as it is sent."""
        if "password" not in values:
            return set()
        return {values["password"], encode_basic(values.get("user", ""), values["password"])}
