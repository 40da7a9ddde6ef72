"""The sentences of `syncctl status`: obstacles of streams and partners, other problems, and the next steps."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncctl.console import format_count
from syncctl.core.alert_rules import format_value
from syncctl.core.durations import format_age

if TYPE_CHECKING:
    from syncctl.pipeline.monitoring.alerts import Alert
    from syncctl.pipeline.monitoring.status import Status

ALERTS_NAMED = 3
_SHOWN_APART = ("paused", "partner_paused", "polls_paused", "quiet_hours", "circuit_open", "unknown_keys")
"""The obstacles that `list_standstills` shows, so that `list_warnings` omits them."""


def describe_queue(queue: Mapping[str, Any]) -> str:
    """Return how many messages wait."""
    messages = queue["messages"]
    return "unknown: Redis cannot be used" if messages is None else format_count(messages, "message")


def describe_changed_files(names: Sequence[str]) -> str:
    """Return the warning of a display that read its settings before these files changed."""
    return f"this display has older settings than {' and '.join(names)}: start it again"


def list_standstills(current: "Status", now: datetime) -> Iterator[tuple[str, str]]:
    """Yield a label (`partner`, `stream` or `alerts`) and a line for each obstacle, and for the firing alerts."""
    for partner in current.partners:
        if partner["paused"] or partner["breaker"] != "closed":
            yield "partner", describe_partner(partner, now)
    down = {partner["partner"] for partner in current.partners if partner["paused"] or partner["breaker"] == "open"}
    for stream in current.streams:
        for line in describe_standstills(stream, now, is_partner_down=stream["partner"] in down):
            yield "stream", line
    if current.alerts:
        yield "alerts", f"{_describe_alerts(current.alerts)}; syncctl alerts"


def _describe_alerts(alerts: "Sequence[Alert]") -> str:
    named = [f"{alert.rule} ({alert.subject}) {format_value(alert.rule, alert.value)}" for alert in alerts]
    more = f", {len(named) - ALERTS_NAMED} more" if len(named) > ALERTS_NAMED else ""
    return f"{len(named)} firing: {', '.join(named[:ALERTS_NAMED])}{more}"


def describe_workers(current: "Status") -> str:
    """Return how many workers are alive, and their names."""
    names = [str(worker["worker"]) for worker in current.workers]
    return f"{len(names)}: {', '.join(names)}" if names else "none; run: syncctl worker"


def describe_standstills(stream: Mapping[str, Any], now: datetime, *, is_partner_down: bool) -> Iterator[str]:
    """Yield a line for each obstacle that holds a stream or some of its records."""
    name = stream["stream"]
    if stream["paused"]:
        yield f"{name} is {_describe_pause(stream, now)}; syncctl resume {name}"
    for obstacle in stream["obstacles"]:
        if obstacle["kind"] == "polls_paused":
            yield f"the polls of {name} are {obstacle['detail'].partition(' are ')[2]}; syncctl resume {name} --polls"
        if obstacle["kind"] == "quiet_hours":
            yield f"{name} is {obstacle['detail']}"
    if stream["breaker"] == "open" and not is_partner_down:
        reason, probe = stream["breaker_reason"], _describe_probe(stream, now)
        yield f"the endpoint of {name} is down (circuit open): {reason}; {probe}"
    if stream["awaiting_poll"]:
        count = format_count(stream["awaiting_poll"], "record")
        yield f"{count} of {name} wait for a poll that reads to the end; syncctl doctor streams"


def list_warnings(current: "Status", now: datetime) -> Iterator[str]:
    """Yield a line for each further problem that holds streams, or could."""
    queue, beat = current.queue, current.beat
    if queue["unserved"] and current.workers:
        unserved = ",".join(queue["unserved"])
        yield f"no worker serves {unserved}; run: syncctl worker --queues {unserved}"
    if queue["dropped_recently"]:
        count = format_count(queue["dropped"], "message")
        yield f"workers dropped {count} that are not this project's; syncctl doctor queue"
    for job in beat["overdue"]:
        at = job["last_done_at"]
        last = f"was last done {describe_age(at, now)}" if at else "was never done"
        yield f"{job['job']} {last}, although Beat asks for it; syncctl doctor beat workers"
    overdue = {job["job"] for job in beat["overdue"]}
    for job in beat["failing"]:
        if job["job"] not in overdue:
            yield f"{job['job']} failed when it was last tried: {job['error']}; syncctl doctor beat"
    stale = [str(worker["worker"]) for worker in current.workers if worker["settings_differ"]]
    for name in [*stale, *(["beat"] if beat["settings_differ"] and not beat["late"] else [])]:
        yield f"{name} runs with settings that differ from syncctl.toml: restart it"
    for channel in current.alert_channels:
        if channel.error:
            since = describe_age(channel.failing_since or now, now)
            yield f"alerts by {channel.channel}: none taken since {since}: {channel.error}; syncctl doctor alerts"
    others = [str(worker["worker"]) for worker in current.workers if worker["ledger_differs"]]
    for name in [*others, *(["beat"] if beat["ledger_differs"] and not beat["late"] else [])]:
        yield f"{name} knows another version of the ledger than this syncctl; syncctl doctor workers beat"
    for stream in current.streams:
        for obstacle in stream["obstacles"]:
            if obstacle["kind"] not in _SHOWN_APART:
                yield f"{stream['stream']}: {obstacle['detail']}; {obstacle['hint']}"


def list_steps(current: "Status") -> list[str]:
    """Return the commands to run next; later ones may depend on the first."""
    steps = [f"syncctl resume --partner {partner['partner']}" for partner in current.partners if partner["paused"]]
    paused = [stream["stream"] for stream in current.streams if stream["paused"]]
    steps += [f"syncctl resume {' '.join(paused)}"] if paused else []
    unpolled = [stream["stream"] for stream in current.streams if stream["polls_paused"] and not stream["paused"]]
    steps += [f"syncctl resume {' '.join(unpolled)} --polls"] if unpolled else []
    steps += ["syncctl failures"] if any(stream["counts"]["failed"] for stream in current.streams) else []
    return steps


def describe_partner(partner: Mapping[str, Any], now: datetime) -> str:
    name = partner["partner"]
    if partner["paused"]:
        return f"{name} is {_describe_pause(partner, now)}; syncctl resume --partner {name}"
    reason = f": {partner['breaker_reason']}" if partner["breaker_reason"] else ""
    if partner["breaker"] == "half_open":
        return f"{name} is recovering: circuit half-open, limited calls"
    return f"{name} is down (circuit open){reason}; {_describe_probe(partner, now)}"


def _describe_pause(paused: Mapping[str, Any], now: datetime) -> str:
    since = f" since {paused['paused_since']:%Y-%m-%d %H:%M:%SZ}" if paused.get("paused_since") else ""
    probe = ""
    if paused.get("pause_probe_at"):
        probe = f"; next probe in {format_age(max((paused['pause_probe_at'] - now).total_seconds(), 0.0))}"
    until = f" until {paused['paused_until']:%Y-%m-%d %H:%M:%SZ}" if paused.get("paused_until") else ""
    return f"paused{since}{until}: {paused['paused_reason'] or 'no reason given'}{probe}"


def _describe_probe(breaker: Mapping[str, Any], now: datetime) -> str:
    return f"next probe in {format_age(max((breaker['next_probe_at'] - now).total_seconds(), 0.0))}"


def describe_beat(beat: Mapping[str, Any], now: datetime) -> str:
    if beat["last_tick_at"] is None:
        return "never seen; run: syncctl beat"
    return describe_age(beat["last_tick_at"], now) + ("; it is late; run: syncctl beat" if beat["late"] else "")


def describe_age(at: datetime, now: datetime) -> str:
    return f"{format_age(max((now - at).total_seconds(), 0.0))} ago"
