"""alerts: whether an alert fires, and whether the channels take messages."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncctl.core.alert_rules import format_threshold, format_value
from syncctl.core.durations import format_age
from syncctl.doctor.check import Finding, Unit, failed, passed, skipped, warned
from syncctl.pipeline.monitoring.alert_sending import read_channels
from syncctl.pipeline.monitoring.alerts import read_alerts
from syncctl.wiring.alerts import list_channel_names, open_channels

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services


def list_units(services: "Services") -> Sequence[Unit]:
    """Return the check of the firing alerts, and one check for each channel."""
    units = [Unit(name="alerts", look=lambda: check_firing(services), needs=("mongodb",))]
    for name in list_channel_names(services.settings):
        units.append(
            Unit(name=f"alerts {name}", look=lambda name=name: check_channel(services, name), needs=("mongodb",))  # type: ignore[misc]
        )
    return units


def check_firing(services: "Services") -> Finding:
    """Report which alerts fire."""
    settings = services.settings
    if not settings.alerts.list_thresholds():
        return skipped("every rule is off")
    firing = read_alerts(services.ledger)
    lines = [
        f"{alert.rule} ({alert.subject}): {format_value(alert.rule, alert.value)}, threshold "
        f"{format_threshold(alert.rule, alert.threshold)}: {alert.detail}"
        for alert in firing
    ]
    hints = ["see: syncctl alerts; what to do about each rule: docs/runbook.md"] if firing else []
    holds, *others = services.ledger.alerts.load_plans() or [{}]
    if others:
        lines.append(_describe_others(holds, others))
        hints.append("bring [alerts] and [streams] to one version on all machines, and restart the others")
    if lines:
        return warned("\n".join(lines), "; ".join(hints))
    if not list_channel_names(settings):
        return passed("no alert fires; nothing would be sent, because [alerts] has neither webhook nor smtp")
    return passed("no alert fires")


def _describe_others(holds: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    names, verb = " and ".join(str(other["process"]) for other in others), "run" if len(others) > 1 else "runs"
    return (
        f"{names} (machine:pid) {verb} with other settings of alerts or streams than {holds['process']}, "
        "which started last: its settings apply"
    )


def check_channel(services: "Services", name: str) -> Finding:
    """Check whether a channel took the last message; sends none."""
    broken = {channel.name: getattr(channel, "error", None) for channel in open_channels(services.settings)}
    if error := broken.get(name):
        return failed(error, "correct [alerts], then run: syncctl alerts test")
    if name not in broken:
        return warned(
            "its variable is not set here, so its messages wait for a process that has it", "see: syncctl config"
        )
    (channel,) = read_channels(services.ledger, [name])
    now = services.ledger.streams.server_time()
    given_up = [f"{channel.given_up.line} {_age(now, channel.given_up.at)} ago"] if channel.given_up else []
    if channel.error:
        since = _age(now, channel.failing_since or now)
        return failed(
            "\n".join([f"it has taken nothing for {since}: {channel.error}", *given_up]),
            "correct [alerts], then run: syncctl alerts test",
        )
    refused = [f"{refusal['recipient']} was refused: {refusal['reply']}" for refusal in channel.refused_recipients]
    if refused or given_up:
        hint = "correct alerts.email_to, restart the workers, then run: syncctl alerts test"
        return warned(
            "\n".join([*refused, *given_up]), hint if refused else "see: syncctl alerts; then run: syncctl alerts test"
        )
    if channel.last_sent_at is None:
        return passed("nothing has been sent through it yet; to try it, run: syncctl alerts test")
    return passed(f"it took its last message {_age(now, channel.last_sent_at)} ago")


def _age(now: datetime, at: datetime) -> str:
    return format_age(max((now - at).total_seconds(), 0.0))
