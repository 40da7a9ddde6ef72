"""The channels of alerts, as the pipeline gets them from the settings, and the possible results of a message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WebhookFormat = Literal["json", "teams"]

SendOutcome = Literal["accepted", "unavailable", "ambiguous", "misconfigured", "rejected"]
"""`unavailable`: the channel did not accept the message, but may later. `ambiguous`: it may have accepted it.
`misconfigured`: it accepts no message with these settings. `rejected`: it will never accept this message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SendResult:
    """The result of sending one message."""

    outcome: SendOutcome
    #: What went wrong, in one line without a secret; None if the message was accepted.
    error: str | None = None
    #: The recipients that did not get an accepted message, each with the server's reply.
    refused: Mapping[str, str] = field(default_factory=dict)


ACCEPTED = SendResult(outcome="accepted")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookTarget:
    """The webhook that alerts are posted to."""

    #: A secret: anyone who knows it can post there.
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
    """The mail server, sender and recipients of alerts."""

    #: smtp:// or smtps://; may hold a password.
    url: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    ca: str = ""
    timeout_seconds: float = 10.0
