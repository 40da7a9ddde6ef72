"""How a partner knows us: one file for each kind, and this list of them."""

from collections.abc import Callable

from syncctl.core.stream import Partner
from syncctl.partner.auth.api_key import ApiKey
from syncctl.partner.auth.base import Auth, AuthTrouble, Proof
from syncctl.partner.auth.basic import Basic
from syncctl.partner.auth.bearer import Bearer
from syncctl.partner.auth.oauth2 import OAuth2
from syncctl.partner.auth.shelf import Shelf
from syncctl.partner.auth.webhook import WebhookSignature

__all__ = ["KINDS", "Auth", "AuthTrouble", "Proof", "Shelf", "make_auth"]

KINDS: dict[str, type[Auth]] = {each.kind: each for each in (Bearer, ApiKey, Basic, OAuth2, WebhookSignature, Auth)}


def make_auth(partner: Partner, redact: Callable[[str], str], shelf: Shelf | None = None) -> Auth:
    """Return the auth of a partner."""
    return KINDS[partner.auth.kind](partner, redact, shelf)
