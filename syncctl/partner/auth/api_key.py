"""api_key: a fixed value in a header or query parameter."""

from syncctl.core.redaction import REDACTED
from syncctl.partner.auth.base import Auth, AuthHeaders, Values
from syncctl.partner.call import Call


class ApiKey(Auth):
    """A fixed key."""

    kind = "api_key"
    needs = ("name", "value")
    takes = ("in",)

    def sign(self, call: Call) -> AuthHeaders:  # noqa: ARG002
        """Return the key in its header or parameter."""
        return self._place(self.values["value"])

    def show(self) -> AuthHeaders:
        """Return the header or parameter without the key."""
        return self._place(REDACTED)

    def _place(self, value: str) -> AuthHeaders:
        placed = {self.values["name"]: value}
        return AuthHeaders(query=placed) if self.values.get("in") == "query" else AuthHeaders(headers=placed)

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return the key."""
        return {values["value"]} if "value" in values else set()
