"""The channels of alerts, as the pipeline gets them from the settings, and what can come of a message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WebhookFormat = Literal["json", "teams"]

SendOutcome = Literal["accepted", "unavailable", "ambiguous", "misconfigured", "rejected"]
"""`unavailable`: the channel took nothing, and may take it later. `ambiguous`: it may have taken the message.
`misconfigured`: it takes none with these settings. `rejected`: it will never take this message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SendResult:
    """What came of the sending of one message."""

    outcome: SendOutcome
    #: What went wrong, in one line without a secret; None if the message was accepted.
    error: str | None = None
    #: The recipients that did not get an accepted message, each with what the server said.
    refused: Mapping[str, str] = field(default_factory=dict)


ACCEPTED = SendResult(outcome="accepted")


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
