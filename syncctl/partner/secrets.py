"""What of a partner is secret, in every form in which it travels."""

from collections.abc import Mapping

from syncctl.core.stream import Partner
from syncctl.partner.auth import KINDS
from syncctl.partner.proxy import spell_proxy_secrets

SHORTEST_SECRET = 6
"""Shorter header values ("2", "gzip") are no secrets, and would blank out half of what a partner says."""


def collect_secrets(partner: Partner) -> frozenset[str]:
    """Return what must never be shown: credentials, the proxy's and the key's password, the values of own headers."""
    secrets = KINDS[partner.auth.kind].spell_secrets(partner.auth.values)
    secrets |= spell_proxy_secrets(partner.proxy) | {partner.tls.client_key_password}
    return frozenset(filter(None, secrets)) | spell_header_secrets(partner.headers)


def spell_header_secrets(headers: Mapping[str, str]) -> frozenset[str]:
    """Return the values of headers, and what follows the scheme in those that hold credentials."""
    secrets = set()
    for name, value in headers.items():
        secrets.add(value.strip())
        if name.lower() in {"authorization", "proxy-authorization"}:
            secrets.update(value.split()[1:])
    return frozenset(each for each in secrets if len(each) >= SHORTEST_SECRET)
