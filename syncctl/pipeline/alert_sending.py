"""Send the messages of alerts. A channel that is down holds nothing up: it rests, longer each time, and is tried again.

One process at a time sends through a channel. One that dies between the sending and the note sends once more later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from syncctl.channels.texts import TEST, AlertText
from syncctl.core.clock import boot_time
from syncctl.ledger.alerts import AlertKey, AlertMessage
from syncctl.ledger.client import new_token
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger

log = get_logger(__name__)

LEASE_SECONDS = 120.0
SENDS_FOR_SECONDS = 20.0
"""No message begins later in a round than this; the next round goes on."""
FIRST_REST_SECONDS = 15.0
LONGEST_REST_SECONDS = 300.0
GIVEN_UP_AFTER = timedelta(hours=24)


class Channel(Protocol):
    """A way to people."""

    name: str

    def send(self, text: AlertText) -> str | None:
        """Send a message; return what went wrong, None if it was taken."""

    def close(self) -> None:
        """Close what is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What came of the messages of one round."""

    messages: int = 0
    #: By channel, what went wrong.
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelTest:
    """What came of one test message."""

    channel: str
    ok: bool
    detail: str
    duration_ms: float


def send_messages(*, ledger: Ledger, channels: Sequence[Channel], project: str, partners: Mapping[str, str]) -> Sent:
    """Send what waits, through each channel that does not rest, oldest first. Safe to repeat and to double.

    Args:
        partners: The partner of each stream.
    """
    sent, errors = 0, {}
    for channel in channels:
        # Most of the time there is nothing: that costs one read.
        if not ledger.alerts.list_messages(channel.name):
            continue
        if not ledger.alerts.acquire_channel(channel.name, seconds=LEASE_SECONDS):
            continue
        try:
            taken, error = _send_through(ledger, channel, project, partners)
        finally:
            ledger.alerts.release_channel(channel.name)
        sent += taken
        if error is not None:
            errors[channel.name] = error
    return Sent(messages=sent, errors=errors)


def _send_through(
    ledger: Ledger, channel: Channel, project: str, partners: Mapping[str, str]
) -> tuple[int, str | None]:
    """Send until a message is not taken; return how many were, and why the last one was not."""
    sent, started = 0, boot_time()
    now = ledger.streams.server_time()
    # Read anew: what another process has sent by now is gone.
    for message in ledger.alerts.list_messages(channel.name):
        if now - message.at > GIVEN_UP_AFTER:
            ledger.alerts.drop(message)
            log.warning("alert.given_up", channel=channel.name, rule=message.key.rule, stream=message.key.stream)
            continue
        if boot_time() - started > SENDS_FOR_SECONDS:
            break
        text = AlertText(message=message, project=project, partner=partners.get(message.key.stream or ""))
        error = channel.send(text)
        if error is not None:
            failures = ledger.alerts.load_channels().get(channel.name, {}).get("failures", 0)
            rest_seconds = min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS * 2 ** min(failures, 10))
            ledger.alerts.note_channel(channel.name, error, rest_seconds=rest_seconds)
            return sent, error
        ledger.alerts.note_sent(message)
        ledger.alerts.note_channel(channel.name, None)
        sent += 1
    return sent, None


def make_test_text(project: str) -> AlertText:
    """Return a message that says that it is a test."""
    now = datetime.now(UTC)
    message = AlertMessage(
        id=new_token(),
        channel="",
        key=AlertKey(rule="test"),
        state=TEST,
        value=0.0,
        threshold=0.0,
        since=now,
        at=now,
        detail="a test of this channel: nothing is wrong",
        repeated=0,
    )
    return AlertText(message=message, project=project)


def try_channel(*, ledger: Ledger | None, channel: Channel, project: str) -> ChannelTest:
    """Send a test message, and note what came of it.

    Args:
        ledger: None if it cannot be reached: then nothing is noted.
    """
    started = boot_time()
    error = channel.send(make_test_text(project))
    duration_ms = round((boot_time() - started) * 1000, 1)
    if ledger is not None:
        ledger.alerts.note_channel(channel.name, error)
    detail = error or "the message was taken"
    return ChannelTest(channel=channel.name, ok=error is None, detail=detail, duration_ms=duration_ms)
