"""Authentication at a partner: one file per kind, and the list of kinds."""

from syncctl.core.redaction import Redact
from syncctl.core.stream import Partner
from syncctl.partner.auth.api_key import ApiKey
from syncctl.partner.auth.base import Auth, AuthError, AuthHeaders
from syncctl.partner.auth.basic import Basic
from syncctl.partner.auth.bearer import Bearer
from syncctl.partner.auth.oauth2 import OAuth2
from syncctl.partner.auth.shared_token import TokenCache
from syncctl.partner.auth.webhook_signature import WebhookSignature

__all__ = ["KINDS", "Auth", "AuthError", "AuthHeaders", "TokenCache", "make_auth"]

KINDS: dict[str, type[Auth]] = {kind.kind: kind for kind in (Bearer, ApiKey, Basic, OAuth2, WebhookSignature, Auth)}


def make_auth(partner: Partner, redact: Redact, token_cache: TokenCache | None = None) -> Auth:
    """Return the auth of a partner."""
    return KINDS[partner.auth.kind](partner, redact, token_cache)
