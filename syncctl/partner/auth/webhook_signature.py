"""hmac: each call is signed by Standard Webhooks (https://www.standardwebhooks.com, "Signature scheme").

The id is the `Idempotency-Key`, which stays the same; the timestamp is that of the attempt. Neither is part of the
body, so the bytes under a key stay the same (invariant 7). While keys rotate, each call has a signature by either key.
"""

import hmac
import time
from base64 import b64decode, b64encode

from syncctl.core.redaction import REDACTED, Redact
from syncctl.core.stream import Partner
from syncctl.errors import ConfigurationError
from syncctl.partner.auth.base import Auth, AuthHeaders, Values
from syncctl.partner.auth.shared_token import TokenCache
from syncctl.partner.call import Call

_PREFIX = "whsec_"
_KEYS = ("secret", "previous_secret")

read_time = time.time


def decode_secret(secret: str) -> bytes:
    """Return the bytes of a key: the text after `whsec_`, decoded from base64; without that prefix, the text itself.

    Raises:
        ValueError: the part after `whsec_` is not base64, or empty.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode("utf-8", "surrogatepass")
    encoded = secret.removeprefix(_PREFIX)
    key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    if not key:
        raise ValueError("nothing follows whsec_")
    return key


class WebhookSignature(Auth):
    """Signatures with one key, or with two while the keys rotate."""

    kind = "hmac"
    needs = ("secret",)
    takes = ("previous_secret",)

    def __init__(self, partner: Partner, redact: Redact, token_cache: TokenCache | None = None) -> None:
        super().__init__(partner, redact, token_cache)
        self._keys = [self._read_key(name) for name in _KEYS if name in self.values]

    def _read_key(self, name: str) -> bytes:
        try:
            return decode_secret(self.values[name])
        except ValueError:
            raise ConfigurationError(
                f"partners.{self.partner.name}.auth.{name} is not a key",
                why="the part after whsec_ must be base64",
                hint="copy the whole key as the partner shows it",
            ) from None

    def sign(self, call: Call) -> AuthHeaders:
        """Return id, time and signatures; a call without an `Idempotency-Key` (a probe) is not signed."""
        message_id = call.headers.get("Idempotency-Key")
        if message_id is None:
            return AuthHeaders()
        timestamp = str(int(read_time()))
        content = f"{message_id}.{timestamp}.".encode("ascii") + call.body
        signatures = [b64encode(hmac.digest(key, content, "sha256")).decode("ascii") for key in self._keys]
        return AuthHeaders(
            headers={
                "webhook-id": message_id,
                "webhook-timestamp": timestamp,
                "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
            },
            secrets=tuple(signatures),
        )

    def show(self) -> AuthHeaders:
        """Return the headers without time and signature."""
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        return AuthHeaders(headers=dict.fromkeys(names, REDACTED))

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return the keys as they are configured, without the prefix, and decoded if the result is text."""
        spellings = set()
        for secret in (values[name] for name in _KEYS if name in values):
            spellings |= {secret, secret.removeprefix(_PREFIX)}
            try:
                spellings.add(decode_secret(secret).decode("utf-8"))
            except ValueError:
                continue
        return spellings
