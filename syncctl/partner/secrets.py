"""A partner's secrets, in every form in which they are sent (invariant 10)."""

from collections.abc import Mapping

from syncctl.core.stream import Partner
from syncctl.partner.auth import KINDS
from syncctl.partner.proxy import spell_proxy_secrets

SHORTEST_SECRET = 6
"""Shorter header values ("2", "gzip") are not secrets; redacting them would make responses unreadable."""


def collect_secrets(partner: Partner) -> frozenset[str]:
    """Return credentials, the passwords of the proxy and of the client key, and the values of the partner's headers."""
    secrets = KINDS[partner.auth.kind].spell_secrets(partner.auth.values)
    secrets |= spell_proxy_secrets(partner.proxy) | {partner.tls.client_key_password}
    return frozenset(filter(None, secrets)) | spell_header_secrets(partner.headers)


def spell_header_secrets(headers: Mapping[str, str]) -> frozenset[str]:
    """Return the values of headers; for `Authorization` headers, also the part after the scheme."""
    secrets = set()
    for name, value in headers.items():
        secrets.add(value.strip())
        if name.lower() in {"authorization", "proxy-authorization"}:
            secrets.update(value.split()[1:])
    return frozenset(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)
