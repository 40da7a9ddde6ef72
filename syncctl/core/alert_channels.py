"""The channels of alerts, as the pipeline gets them from the settings."""

from dataclasses import dataclass, field
from typing import Literal

WebhookFormat = Literal["json", "teams"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookTarget:
    """Where alerts are posted to."""

    #: A secret: whoever knows it can post there.
    url: str = field(repr=False)
    format: WebhookFormat = "json"
    #: The PEM file of the only certificate authorities to trust; empty: those of the system.
    ca: str = ""
    #: The URL of an HTTP proxy; may hold a password.
    proxy: str = field(default="", repr=False)
    #: The deadline of one message.
    timeout_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MailTarget:
    """Where alerts are mailed to."""

    #: smtp:// or smtps://; may hold a password.
    url: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    ca: str = ""
    timeout_seconds: float = 10.0
