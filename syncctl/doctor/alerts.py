"""alerts: whether something fires, and whether the channels take messages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from syncctl.core.alert_rules import format_threshold, format_value
from syncctl.core.durations import format_age
from syncctl.doctor.check import Finding, Unit, failed, passed, skipped, warned
from syncctl.pipeline.alerts import read_alerts
from syncctl.wiring.alerts import list_channel_names, open_channels

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services


def list_units(services: "Services") -> Sequence[Unit]:
    """Return the check of what fires, and one for each channel."""
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
    if firing:
        lines = [
            f"{alert.rule} ({alert.subject}): {format_value(alert.rule, alert.value)}, threshold "
            f"{format_threshold(alert.rule, alert.threshold)}: {alert.detail}"
            for alert in firing
        ]
        return warned("\n".join(lines), "see: syncctl alerts; what to do about each rule: docs/runbook.md")
    if not list_channel_names(settings):
        return passed("none fires; nothing would be sent, because [alerts] has neither webhook nor smtp")
    return passed("none fires")


def check_channel(services: "Services", name: str) -> Finding:
    """Check whether a channel took the last message; sends none."""
    broken = {channel.name: getattr(channel, "error", None) for channel in open_channels(services.settings)}
    if error := broken.get(name):
        return failed(error, "correct [alerts], then run: syncctl alerts test")
    if name not in broken:
        return warned(
            "its variable is not set here, so its messages wait for a process that has it", "see: syncctl config"
        )
    known = services.ledger.alerts.load_channels().get(name, {})
    now = services.ledger.streams.server_time()
    if known.get("error"):
        since = format_age((now - known["failing_since"]).total_seconds())
        return failed(
            f"it has taken nothing for {since}: {known['error']}", "correct [alerts], then run: syncctl alerts test"
        )
    if known.get("last_sent_at") is None:
        return passed("nothing was sent through it yet; syncctl alerts test does")
    return passed(f"it took its last message {format_age((now - known['last_sent_at']).total_seconds())} ago")
