"""bearer: a token that does not change, as `Authorization: Bearer`."""

from syncctl.core.redaction import REDACTED
from syncctl.partner.auth.base import Auth, AuthHeaders, Values
from syncctl.partner.call import Call


class Bearer(Auth):
    """A fixed token."""

    kind = "bearer"
    takes = ("token",)

    def sign(self, call: Call) -> AuthHeaders:  # noqa: ARG002
        """Return the token's header."""
        return AuthHeaders(headers={"Authorization": f"Bearer {self.values['token']}"})

    def show(self) -> AuthHeaders:
        """Return the header without the token."""
        return AuthHeaders(headers={"Authorization": f"Bearer {REDACTED}"})

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return the token."""
        return {values["token"]} if "token" in values else set()
