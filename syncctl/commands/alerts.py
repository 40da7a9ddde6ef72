"""`syncctl alerts`, `alerts check`, `alerts test`: list alerts, check the rules from cron, and test the channels."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.console import format_count, out
from syncctl.core.alert_rules import format_threshold, format_value
from syncctl.core.durations import format_age
from syncctl.errors import ExitCode, TroubleFound

if TYPE_CHECKING:
    from syncctl.pipeline.monitoring.alerts import Alert
    from syncctl.wiring.connections import Connections

_COLUMNS = ("state", "rule", "subject", "since", "value", "threshold", "sent", "detail")
_SHORT_COLUMNS = ("state", "rule", "subject", "since", "value", "threshold", "sent")

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def list_alerts(ctx: typer.Context, as_json: AsJson = False) -> ExitCode | None:
    """Show which alerts fire, and which ended within the last 24 hours.

    Workers and Beat measure the rules of [alerts] all the time, and send each alert when it begins, at intervals while
    it fires, and when it ends. Changes nothing.

    Examples:
      syncctl alerts
      syncctl alerts --json
      syncctl alerts check      measure now; exit code 1 if an alert fires
      syncctl alerts test       send a test message through each channel
    """
    if ctx.invoked_subcommand is not None:
        return None
    with open_session(ctx) as connections:
        _show(connections, as_json=as_json, resolved_too=True)
    return ExitCode.DONE


@app.command(short_help="Measure every rule now, and send the alerts that begin or end; for cron")
def check(ctx: typer.Context, as_json: AsJson = False) -> ExitCode:
    """Measure every rule now, send the alerts that begin or end, and show those that fire; exit code 1 if one does.

    Run it from cron, which notices when neither a worker nor Beat is left. A message that a worker or Beat has sent is
    not sent again.

    Examples:
      syncctl alerts check
      syncctl alerts check --json
    """
    with open_session(ctx, acts=True) as connections:
        from syncctl.wiring.alerts import check_alerts

        with out.progress("measuring the rules, and sending"):
            sent, measured = check_alerts(connections)
        firing = _show(connections, as_json=as_json, resolved_too=False)
    if sent.messages:
        out.say(f"sent {format_count(sent.messages, 'message')}")
    if not measured:
        out.warn(
            "workers or Beat run with other settings of alerts, and the result above follows those settings; "
            "restart them after a change"
        )
    return ExitCode.TROUBLE if firing else ExitCode.DONE


@app.command("test", short_help="Send a test message through each channel")
def try_channels(ctx: typer.Context, as_json: AsJson = False) -> ExitCode:
    """Send a test message through each channel, and show the answers; exit code 1 if a channel did not take it.

    Examples:
      syncctl alerts test
      syncctl alerts test --json
    """
    with open_session(ctx) as connections:
        from syncctl.wiring import alerts as wiring

        with out.progress("sending test messages"):
            results = wiring.try_channels(connections)
    if as_json:
        out.print_json({"channels": results})
    else:
        rows = [("ok" if result.ok else "failed", result.channel, result.detail) for result in results]
        out.table(("result", "channel", "detail"), rows, prose=("detail",))
    failed = [result.channel for result in results if not result.ok]
    if failed:
        raise TroubleFound(
            f"{' and '.join(failed)} did not take the test message",
            why="see above",
            hint="correct [alerts], then run: syncctl alerts test",
        )
    return ExitCode.DONE


def _show(connections: "Connections", *, as_json: bool, resolved_too: bool) -> int:
    """Show alerts and the channels that fail; return how many alerts fire."""
    from syncctl.pipeline.monitoring.alert_sending import read_channels
    from syncctl.pipeline.monitoring.alerts import read_alerts
    from syncctl.wiring.alerts import list_channel_names

    listed = read_alerts(connections.prepared_ledger, resolved_too=resolved_too)
    channels = read_channels(connections.ledger, list_channel_names(connections.settings))
    firing = sum(alert.state == "firing" for alert in listed)
    if as_json:
        out.print_json({"alerts": listed, "channels": channels})
        return firing
    if listed:
        _show_table(listed)
    else:
        out.show("no alert fires")
    for channel in channels:
        if channel.error:
            out.warn(f"{channel.channel} has taken nothing for {_age(channel.failing_since)}: {channel.error}")
        for refused in channel.refused_recipients:
            out.warn(f"{channel.channel}: {refused['recipient']} was refused: {refused['reply']}")
        if channel.given_up:
            out.warn(f"{channel.channel}: {channel.given_up.line} {_age(channel.given_up.at)} ago")
    if not channels:
        out.say("no channel is set, so nothing is sent; set alerts.webhook or alerts.smtp: see docs/alerts.md")
    return firing


def _show_table(listed: "Sequence[Alert]") -> None:
    rows = [_describe(alert) for alert in listed]
    columns = _SHORT_COLUMNS if out.is_watched() else _COLUMNS
    out.table(columns, [[row[name] for name in columns] for row in rows], state="red")
    if out.is_watched():
        for alert in listed:
            if alert.state == "firing":
                out.show_sentence(f"{alert.rule} ({alert.subject}): {alert.detail}", indent=2)


def _describe(alert: "Alert") -> Mapping[str, Any]:
    sent = f"{_age(alert.last_sent_at)} ago" if alert.last_sent_at else "never"
    waiting = f", {alert.unsent} waiting" if alert.unsent else ""
    return {
        "state": alert.state,
        "rule": alert.rule,
        "subject": alert.subject,
        "since": f"{alert.since:%m-%d %H:%MZ}" if out.is_watched() else f"{alert.since:%Y-%m-%d %H:%M:%SZ}",
        "value": format_value(alert.rule, alert.value),
        "threshold": format_threshold(alert.rule, alert.threshold),
        "sent": sent + waiting,
        "detail": alert.detail,
    }


def _age(at: datetime | None) -> str:
    return format_age(max((datetime.now(UTC) - at).total_seconds(), 0.0)) if at else "a while"
