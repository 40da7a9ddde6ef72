"""TLS with a partner: the certificates that are trusted, and the one that we present."""

import ssl
from collections.abc import Iterable
from pathlib import Path

import certifi

from syncctl.core.files import read_file
from syncctl.core.stream import Partner
from syncctl.errors import ConfigurationError
from syncctl.logs import get_logger

log = get_logger(__name__)

_FILE_AT_MOST_BYTES = 16 * 1024 * 1024
_warned: set[str] = set()


def make_tls_context(partner: Partner) -> ssl.SSLContext:
    """Return the context for a partner's connections.

    If the partner has its own bundle, the context trusts only that; otherwise the authorities of the system (or of
    SSL_CERT_FILE) and of certifi.

    Raises:
        ConfigurationError: a file is missing, cannot be read, or does not contain what it should.
    """
    tls, prefix = partner.tls, partner.settings_key
    if tls.ca:
        path = _check_readable(f"{prefix}.ca", tls.ca)
        try:
            context = ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise _make_error(f"{prefix}.ca", "it holds no certificate in PEM form") from error
    else:
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
    if tls.client_cert:
        _load_client_certificate(context, partner)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_client_certificate(context: ssl.SSLContext, partner: Partner) -> None:
    tls, prefix = partner.tls, partner.settings_key
    certificate = _check_readable(f"{prefix}.client_cert", tls.client_cert)
    key = _check_readable(f"{prefix}.client_key", tls.client_key) if tls.client_key else None
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: tls.client_key_password)
    except (ssl.SSLError, ValueError) as error:
        why = "certificate and key do not belong together, are not in PEM form, or the key wants another password"
        raise _make_error(f"{prefix}.client_cert", why) from error


def _check_readable(key: str, file: str) -> str:
    path = Path(file).expanduser()
    try:
        read_file(path, at_most=_FILE_AT_MOST_BYTES)
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise _make_error(key, f"{file} cannot be read: {getattr(error, 'strerror', None) or 'no path'}") from error
    if not is_file:
        raise _make_error(key, f"{file} is not a file that can be read more than once")
    return str(path)


def _make_error(key: str, why: str) -> ConfigurationError:
    hint = f"set {key} to the path of a PEM file that this user may read"
    return ConfigurationError(f"{key} cannot be used", why=why, hint=hint)


def warn_unverified(partners: Iterable[Partner]) -> None:
    """Warn, once per process and partner, of disabled certificate checks: anyone can impersonate the partner."""
    for partner in partners:
        if not partner.tls.verify and partner.name not in _warned:
            _warned.add(partner.name)
            hint = f"set partners.{partner.name}.ca in place of verify = false"
            log.warning("partner.unverified", partner=partner.name, hint=hint)
