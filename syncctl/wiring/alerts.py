"""Alerts, from the settings to the pipeline: one round of the watch, a check by an operator, a test of the channels."""

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncctl.core.alert_channels import SendResult
from syncctl.core.redaction import redact
from syncctl.errors import ConfigurationError, ServiceUnavailable, UsageError
from syncctl.logs import get_logger
from syncctl.wiring.connections import Connections
from syncctl.wiring.use_cases import list_partners_of_streams, plan_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncctl.channels.alert_text import AlertText
    from syncctl.ledger.alerts import AlertKey
    from syncctl.ledger.ledger import Ledger
    from syncctl.pipeline.monitoring.alert_sending import Channel, ChannelTest, Sent
    from syncctl.pipeline.monitoring.alerts import AlertPlan
    from syncctl.settings import Settings

log = get_logger(__name__)

JOB = "alerts"
EVERY_SECONDS = 10.0
"""How often the rules are measured, by one process among all workers and Beats."""
LEASE_SECONDS = 60.0


@dataclass(kw_only=True, slots=True)
class BrokenChannel:
    """A channel that cannot be opened with its settings: each of its messages waits, and `doctor` shows why."""

    name: str
    error: str

    def send(self, text: "AlertText") -> SendResult:  # noqa: ARG002
        """Return why nothing can be sent."""
        return SendResult(outcome="misconfigured", error=self.error)

    def close(self) -> None:
        """Do nothing: there is no connection."""


def plan_alerts(settings: "Settings") -> "AlertPlan":
    """Return the plan of alerts that the settings describe."""
    from syncctl.pipeline.monitoring.alerts import AlertPlan

    alerts = settings.alerts
    return AlertPlan(
        thresholds=alerts.list_thresholds(),
        repeat_seconds=alerts.repeat_every,
        minimum_records=alerts.minimum_records,
        channels=list_channel_names(settings),
        streams={name: plan_stream(settings, name) for name in settings.stream_names},
    )


def list_channel_names(settings: "Settings") -> tuple[str, ...]:
    """Return the names of the channels that are set, even if their variable is missing: another process may have it."""
    channels = (("webhook", "webhook", settings.alerts.find_webhook()), ("email", "smtp", settings.alerts.find_mail()))
    return tuple(
        name
        for name, key, target in channels
        if target is not None or settings.layers.find_absent(("alerts", key)) is not None
    )


def open_channels(settings: "Settings") -> "Sequence[Channel]":
    """Return the channels that are set; each connects when it sends."""
    from syncctl.channels.mail import MailChannel
    from syncctl.channels.webhook import WebhookChannel

    channels: list[Channel] = []
    for name, kind, target in (
        ("webhook", WebhookChannel, settings.alerts.find_webhook()),
        ("email", MailChannel, settings.alerts.find_mail()),
    ):
        if target is None:
            continue
        try:
            channels.append(kind(target))  # type: ignore[arg-type]
        except ConfigurationError as error:
            channels.append(BrokenChannel(name=name, error=redact(str(error), settings.secrets())))
    return channels


def watch_alerts(connections: Connections) -> bool:
    """Measure the rules if that is due and no other process does, then send the waiting messages.

    Returns:
        False if a process that started later measures, with other settings of alerts.

    Raises:
        ServiceUnavailable: MongoDB is away.
    """
    from syncctl.pipeline.monitoring.alerts import evaluate_alerts

    ledger = connections.ledger
    # Also if another process measures, or died while it held the lease: this process watches.
    ledger.alerts.note_watched()
    plan = connections.alert_plan
    may_measure = ledger.alerts.claim_plan(
        plan.fingerprint, process=f"{socket.gethostname()}:{os.getpid()}", started_at=connections.opened_at
    )
    if may_measure and ledger.maintenance.acquire(JOB, seconds=LEASE_SECONDS):
        started = time.monotonic()
        try:
            changed = evaluate_alerts(ledger=ledger, plan=plan)
            if changed:
                _log_changes(ledger, changed)
        finally:
            # So that a ledger that answers slowly is left alone for most of the time.
            rest_seconds = max(EVERY_SECONDS, 9 * (time.monotonic() - started))
            ledger.maintenance.release(JOB, rest_seconds=rest_seconds)
    sent = send_alerts(connections)
    if sent.messages:
        log.info("alert.sent", messages=sent.messages)
    for channel, error in sent.errors.items():
        log.warning("alert.not_sent", channel=channel, error=error)
    return may_measure


def _log_changes(ledger: "Ledger", changed: "Sequence[AlertKey]") -> None:
    from syncctl.ledger.alerts import FIRING

    known = ledger.alerts.load_all()
    for key in changed:
        alert = known.get(key.id, {})
        facts = {**key.to_document(), "detail": alert.get("detail")}
        if alert.get("state") == FIRING:
            log.warning("alert.firing", **facts)
        else:
            log.info("alert.resolved", **facts)


def send_alerts(connections: Connections) -> "Sent":
    """Send the waiting messages; see `pipeline.monitoring.alert_sending.send_messages`."""
    from syncctl.pipeline.monitoring.alert_sending import send_messages

    settings = connections.settings
    return send_messages(
        ledger=connections.ledger,
        channels=connections.alert_channels,
        project=settings.project_name,
        partners=list_partners_of_streams(settings),
    )


def check_alerts(connections: Connections) -> "tuple[Sent, bool]":
    """Measure every rule now, and send the waiting messages.

    Returns:
        What was sent, and whether the rules were measured: not while workers or Beat measure with other settings.

    Raises:
        ServiceUnavailable: MongoDB is away.
    """
    from syncctl.pipeline.monitoring.alerts import evaluate_alerts

    ledger, plan = connections.prepared_ledger, connections.alert_plan
    watching = ledger.alerts.load_plans()
    measures = not watching or watching[0]["fingerprint"] == plan.fingerprint
    if measures:
        evaluate_alerts(ledger=ledger, plan=plan, costly=True)
    return send_alerts(connections), measures


def try_channels(connections: Connections) -> "list[ChannelTest]":
    """Send a test message through each channel, also where MongoDB is away.

    Raises:
        UsageError: No channel is set.
    """
    from syncctl.pipeline.monitoring.alert_sending import try_channel

    settings = connections.settings
    if not connections.alert_channels:
        raise UsageError(
            "no channel is set",
            why="[alerts] has neither webhook nor smtp",
            hint="set alerts.webhook or alerts.smtp in syncctl.toml; see docs/alerts.md",
        )
    try:
        ledger = connections.ledger
    except ServiceUnavailable:
        ledger = None
    return [
        try_channel(ledger=ledger, channel=channel, project=settings.project_name)
        for channel in connections.alert_channels
    ]
