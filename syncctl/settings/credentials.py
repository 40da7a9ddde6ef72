"""What of the settings is secret, and how a partner's auth is read and checked."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from syncctl.core.redaction import find_secrets, spell_secret
from syncctl.core.stream import Credentials, Tls
from syncctl.partner.auth import KINDS
from syncctl.partner.proxy import spell_proxy_secrets
from syncctl.partner.secrets import spell_header_secrets
from syncctl.settings.fields import Kind, find_kind
from syncctl.settings.problems import Problem
from syncctl.settings.schema_paths import Path, list_fields, read_key
from syncctl.settings.sections import AuthSettings, PartnerSettings

if TYPE_CHECKING:
    from syncctl.settings.layers import Layers

_TELLING = ("auth", "token", "secret", "key", "password", "cookie", "signature", "credential", "session")


def is_credential(path: Path) -> bool:
    """Tell whether a secret stands at a path: it is never shown, and never written out in syncctl.toml."""
    match path:
        case ("partner_token",) | ("mask_secret",):
            return True
        case ("partners", _, "auth", key):
            fields = list_fields(AuthSettings)
        case ("partners", _, "headers", name):
            return any(word in name.lower() for word in _TELLING)
        case ("partners", _, key):
            fields = list_fields(PartnerSettings)
        case _:
            return False
    return key in fields and key != "headers" and find_kind(fields[key].metadata) is Kind.CREDENTIAL


def to_credentials(auth: AuthSettings, token: str | None) -> Credentials:
    """Return the credentials of a partner.

    Args:
        token: The one of kind bearer, its own or the shared one; None sends nothing.
    """
    kind = KINDS[auth.type]
    values = {key: read_key(auth, key) for key in (*kind.needs, *kind.takes)}
    if "token" in values:
        values["token"] = token
    found = {key: value for key, value in values.items() if value is not None}
    return Credentials(kind=auth.type, values=found) if found else Credentials()


def to_tls(partner: PartnerSettings) -> Tls:
    """Return whom a partner's connections trust, and who we are on them."""
    return Tls(
        ca=partner.ca or "",
        client_cert=partner.client_cert or "",
        client_key=partner.client_key or "",
        client_key_password=partner.client_key_password or "",
        verify=partner.verify,
    )


def list_missing(auth: AuthSettings, name: str) -> Iterator[Path]:
    """Yield the keys that the auth kind needs and that are not set."""
    for key in KINDS[auth.type].needs:
        if read_key(auth, key) is None:
            yield ("partners", name, "auth", key)


def spell_partner_secrets(name: str, partner: PartnerSettings) -> set[str]:
    """Return the secrets of a partner's settings in every spelling they may come back in."""
    auth = partner.auth
    texts = [read_key(auth, key) for key in list_fields(AuthSettings) if is_credential(("partners", name, "auth", key))]
    texts += [partner.client_key_password]
    texts += spell_header_secrets(partner.headers)
    values = {key: read_key(auth, key) for key in list_fields(AuthSettings) if read_key(auth, key) is not None}
    found = KINDS[auth.type].spell_secrets(values)
    if partner.proxy:
        found |= spell_proxy_secrets(partner.proxy) | find_secrets(partner.proxy)
    for text in texts:
        found |= spell_secret(text) if text else set()
    return found


def check_partner(name: str, partner: Mapping[str, Any], layers: "Layers") -> Iterator[Problem]:
    """Yield what of a partner's settings contradicts itself. Reads the plain values."""
    for path, text in (*_check_auth(name, partner.get("auth")), *_check_tls(name, partner)):
        yield Problem(key=".".join(path), origin=layers.find_nearest_origin(path), text=text)


def _check_auth(name: str, auth: object) -> Iterator[tuple[Path, str]]:
    if not isinstance(auth, Mapping):
        return
    kind = str(auth.get("type", "bearer")).lower()
    if kind not in KINDS:
        return
    used = {"type", *KINDS[kind].needs, *KINDS[kind].takes}
    for key, value in auth.items():
        if key in used or key not in list_fields(AuthSettings) or value in (None, ""):
            continue
        owners = [each.kind for each in KINDS.values() if key in (*each.needs, *each.takes)]
        if kind == "none" and key == "token":
            continue  # "none" puts a token aside without taking it away
        yield ("partners", name, "auth", key), f'is for type {owners[0]}; set type = "{owners[0]}" or leave it out'


def _check_tls(name: str, partner: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    if partner.get("client_key") and not partner.get("client_cert"):
        yield ("partners", name, "client_cert"), "is required beside client_key; set it to the certificate's PEM file"
    if partner.get("client_key_password") and not partner.get("client_cert"):
        yield ("partners", name, "client_cert"), "is required beside client_key_password; set it to its PEM file"
    if partner.get("ca") and str(partner.get("verify", True)).lower() in {"false", "0", "no", "off"}:
        yield ("partners", name, "verify"), "is false beside ca, which then has no say; leave one of the two out"
