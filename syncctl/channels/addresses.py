"""The addresses of channels: the rules for the URL of a mail server, and the secrets in the URL of a webhook."""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from syncctl.core.redaction import spell_secret
from syncctl.partner.address import check_host_and_port, split_url

_MAIL_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[A-Za-z0-9._-]+")
_PORTS = {"smtp": 587, "smtps": 465}
LONGER_THAN_WORDS = 16
_COMMON_WORD = re.compile(
    r"(?:web)?hooks?(?:b\d)?|services|workflows?|triggers?|manual|paths|invoke|run|api|rest|v\d{1,2}|alerts?|incoming"
    r"|integrations?|messages?|channels?|notify|events?|plugins|teams|slack|(?:19|20)\d\d-\d\d-\d\d(?:-preview)?",
    re.IGNORECASE,
)
"""The parts of addresses that are not secret, according to the documentation of such services."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MailServer:
    """A mail server, and the login there."""

    host: str
    port: int
    #: Whether to use TLS from the first byte; if not, STARTTLS.
    is_tls: bool
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Host and port, as people write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_mail_url(url: str) -> MailServer:
    """Return the mail server of a URL.

    Raises:
        ValueError: it is not the URL of a mail server; the error does not show it.
    """
    parts: SplitResult = split_url(url)
    if parts.scheme not in _PORTS:
        raise ValueError("must begin with smtp:// or smtps://, as in smtp://user:password@mail.example:587")
    check_host_and_port(parts)
    if parts.netloc.count("@") > 1:
        raise ValueError("has an @ in its user or password; percent-encode it as %40")
    if parts.path.strip("/") or parts.query:
        raise ValueError("must end with the port, as in smtp://user:password@mail.example:587")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise ValueError("needs both a user and a password, or neither")
    return MailServer(
        host=parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        is_tls=parts.scheme == "smtps",
        user=user,
        password=password,
    )


def check_mail_address(text: str) -> str:
    """Return an e-mail address.

    Raises:
        ValueError: the text is not an e-mail address.
    """
    if _MAIL_ADDRESS.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is not an e-mail address; write it alone, as in oncall@example.com")
    return text.strip()


def spell_webhook_secrets(url: str) -> set[str]:
    """Return the secrets to mask in every text about a webhook: its URL, and the parts that cannot be another name."""
    return {form for secret in list_webhook_secrets(url) if _looks_secret(secret) for form in spell_secret(secret)}


def list_webhook_secrets(url: str) -> set[str]:
    """Return all parts of a webhook's URL that may be secret, however short: all but its host and common words."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    values = [value or name for name, _, value in (pair.partition("=") for pair in parts.query.split("&"))]
    pieces = {form for piece in [*parts.path.split("/"), *values] for form in (piece, unquote(piece))}
    secrets = {piece for piece in pieces if piece and not _COMMON_WORD.fullmatch(piece)}
    return {url} | secrets | ({target} if secrets else set())


def _looks_secret(text: str) -> bool:
    """Tell whether a text looks secret, unlike the name of a stream or a partner at the end of `/alerts/orders`."""
    return len(text) >= LONGER_THAN_WORDS or any(map(str.isdigit, text))
