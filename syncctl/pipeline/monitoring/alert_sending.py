"""Send the messages of alerts. A channel that is down delays nothing else: it rests, longer after each failed try.

One process at a time sends through a channel. If it dies after sending and before noting that, the message is sent once
more later. A message that a channel does not take does not delay messages of other alerts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from syncctl.channels.alert_text import TEST, AlertText
from syncctl.core.alert_channels import SendOutcome, SendResult
from syncctl.core.clock import boot_time
from syncctl.ledger.alerts import AlertKey, AlertMessage
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import new_token
from syncctl.logs import get_logger

log = get_logger(__name__)

LEASE_SECONDS = 120.0
SENDS_FOR_SECONDS = 20.0
"""No message begins later in a round than this; the next round sends the rest."""
FIRST_REST_SECONDS = 15.0
LONGEST_REST_SECONDS = 300.0
AMBIGUOUS_WAITS_SECONDS = (15.0, 60.0, 240.0, 960.0)
"""The waits between tries of a message that the channel may have taken; after the last one the message is given up."""
GIVEN_UP_AFTER = timedelta(hours=24)
GIVEN_UP_SHOWN = timedelta(hours=24)


class Channel(Protocol):
    """A way to send messages to people."""

    name: str

    def send(self, text: AlertText) -> SendResult:
        """Send a message; return the result."""

    def close(self) -> None:
        """Close open connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The results of the messages of one round."""

    #: How many messages were taken.
    messages: int = 0
    #: The last error of each channel that had one.
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelTest:
    """The result of one test message."""

    channel: str
    ok: bool
    detail: str
    duration_ms: float


def send_messages(*, ledger: Ledger, channels: Sequence[Channel], project: str, partners: Mapping[str, str]) -> Sent:
    """Send waiting messages, the oldest first, through each channel that does not rest. Safe to repeat, or run twice.

    Args:
        partners: The partner of each stream.
    """
    sent, errors = 0, {}
    # Most of the time nothing waits: that costs one read.
    waiting = {message.channel for message in ledger.alerts.list_messages()}
    for name in waiting - {channel.name for channel in channels}:
        _expire_messages(ledger, name)
    for channel in channels:
        if channel.name not in waiting:
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
    """Send until the channel needs a rest; return how many messages were taken, and the last error."""
    sent, error, started = 0, None, boot_time()
    now = ledger.streams.server_time()
    waiting: set[str] = set()
    # Read again: messages that another process has sent by now are gone.
    for message in ledger.alerts.list_messages(channel.name):
        if now - message.at > GIVEN_UP_AFTER:
            _give_up_expired(ledger, message)
            continue
        # The messages of one alert keep their order.
        if message.key.id in waiting or (message.next_at is not None and message.next_at > now):
            waiting.add(message.key.id)
            continue
        if boot_time() - started > SENDS_FOR_SECONDS:
            break
        text = AlertText(message=message, project=project, partner=partners.get(message.key.stream or ""))
        result = channel.send(text)
        if result.error is None:
            ledger.alerts.note_sent(message)
            ledger.alerts.note_channel(channel.name, None, refused=result.refused)
            for recipient, reply in result.refused.items():
                log.warning("alert.recipient_refused", channel=channel.name, recipient=recipient, error=reply)
            sent += 1
            continue
        error = result.error
        waiting.add(message.key.id)
        wait_seconds = decide_wait(result.outcome, tries=message.tries, ambiguous=message.ambiguous)
        if wait_seconds is None:
            _give_up(ledger, message, error, tries=message.tries + 1)
        else:
            is_ambiguous = result.outcome == "ambiguous"
            ledger.alerts.note_try(message, is_ambiguous=is_ambiguous, wait_seconds=wait_seconds)
        failures = ledger.alerts.load_channels().get(channel.name, {}).get("failures", 0)
        rest_seconds = decide_rest(result.outcome, failures=failures)
        ledger.alerts.note_channel(channel.name, error, rest_seconds=rest_seconds)
        if rest_seconds:
            break
    return sent, error


def decide_wait(outcome: SendOutcome, *, tries: int, ambiguous: int) -> float | None:
    """Return how many seconds a message waits after a failed try; None to give it up.

    Args:
        tries: How often the message was tried before.
        ambiguous: How many of those tries may have reached people.
    """
    match outcome:
        case "rejected":
            return None
        case "ambiguous":
            return AMBIGUOUS_WAITS_SECONDS[ambiguous] if ambiguous < len(AMBIGUOUS_WAITS_SECONDS) else None
        case "misconfigured":
            return _double(tries)
    return 0.0


def decide_rest(outcome: SendOutcome, *, failures: int) -> float:
    """Return how many seconds a channel rests after a message that it did not take.

    Args:
        failures: How many messages it failed to take before this one, since it last took one.
    """
    if outcome == "unavailable":
        return _double(failures)
    # Whether the channel takes a message is found out for each by itself; if the channel hangs, that takes long.
    return FIRST_REST_SECONDS if outcome == "ambiguous" else 0.0


def _double(times: int) -> float:
    return float(min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS * 2 ** min(times, 10)))


def _expire_messages(ledger: Ledger, channel: str) -> None:
    """Give up the expired messages of a channel that this process lacks: no process may have it any more."""
    now = ledger.streams.server_time()
    if all(now - message.at <= GIVEN_UP_AFTER for message in ledger.alerts.list_messages(channel)):
        return
    if not ledger.alerts.acquire_channel(channel, seconds=LEASE_SECONDS):
        return
    try:
        for message in ledger.alerts.list_messages(channel):
            if now - message.at > GIVEN_UP_AFTER:
                _give_up_expired(ledger, message)
    finally:
        ledger.alerts.release_channel(channel)


def _give_up_expired(ledger: Ledger, message: AlertMessage) -> None:
    known = ledger.alerts.load_channels().get(message.channel, {}).get("error") or "nothing could send it"
    _give_up(ledger, message, f"not taken within {GIVEN_UP_AFTER.days * 24} hours: {known}", tries=message.tries)


def _give_up(ledger: Ledger, message: AlertMessage, reason: str, *, tries: int) -> None:
    ledger.alerts.give_up(message, reason)
    about = message.key.to_document()
    log.warning("alert.given_up", channel=message.channel, **about, state=message.state, tries=tries, error=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """The last message of a channel that was given up, as `syncctl alerts --json` prints it."""

    at: datetime
    rule: str
    stream: str | None
    partner: str | None
    #: Missing in documents of earlier versions.
    source: str | None = None
    #: `firing` or `resolved`.
    state: str
    reason: str

    @property
    def line(self) -> str:
        """The message that was given up and why, in one line."""
        subject = AlertKey(rule=self.rule, stream=self.stream, partner=self.partner, source=self.source).subject
        return f"{self.rule} ({subject}), {self.state}, was given up: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelState:
    """Whether a channel takes messages, as `syncctl alerts --json` prints it."""

    channel: str
    last_sent_at: datetime | None
    #: Since when it has taken no message; None if it took the last one.
    failing_since: datetime | None
    error: str | None
    next_try_at: datetime | None
    #: The recipients who did not get the last message that was taken, each with the server's reply.
    refused_recipients: tuple[Mapping[str, str], ...] = ()
    #: The last message given up within the last 24 hours; None if there is none.
    given_up: GivenUp | None = None


def read_channels(ledger: Ledger, names: Sequence[str]) -> list[ChannelState]:
    """Return the state of channels."""
    known, now = ledger.alerts.load_channels(), ledger.streams.server_time()
    return [_read_channel(name, known.get(name, {}), now) for name in names]


def _read_channel(name: str, document: Mapping[str, Any], now: datetime) -> ChannelState:
    given_up = document.get("given_up")
    if given_up is not None and now - given_up["at"] > GIVEN_UP_SHOWN:
        given_up = None
    return ChannelState(
        channel=name,
        **{key: document.get(key) for key in ("last_sent_at", "failing_since", "error")},
        next_try_at=document.get("next_at"),
        refused_recipients=tuple(document.get("refused", ())),
        given_up=None if given_up is None else GivenUp(**given_up),
    )


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
    """Send a test message, and note the result.

    Args:
        ledger: The ledger in which the result is noted; None if it cannot be reached.
    """
    started = boot_time()
    result = channel.send(make_test_text(project))
    duration_ms = round((boot_time() - started) * 1000, 1)
    if ledger is not None:
        ledger.alerts.note_channel(channel.name, result.error, refused=result.refused)
        if result.error is None:
            ledger.alerts.forget_given_up(channel.name)
    refused = [f"{recipient} was refused: {reply}" for recipient, reply in result.refused.items()]
    detail = result.error or "; ".join(["the message was taken", *refused])
    is_ok = result.error is None and not refused
    return ChannelTest(channel=channel.name, ok=is_ok, detail=detail, duration_ms=duration_ms)
