"""Alerts: measure the rules, begin and end alerts, and list them. Each change puts its messages into the ledger."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from syncctl.core.alert_rules import ENDS_BELOW, RULES
from syncctl.core.safe_text import clean_text
from syncctl.core.time_zone import HOUR, floor_hour
from syncctl.errors import SyncctlError
from syncctl.ledger.alerts import FIRING, RESOLVED, AlertKey
from syncctl.ledger.heartbeats import ALIVE_SECONDS
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger
from syncctl.pipeline.monitoring.alert_measures import MEASURES, SILENCED_BY, AlertFacts, Held, Measurement
from syncctl.pipeline.monitoring.obstacles import StreamPlan

log = get_logger(__name__)

COSTLY_EVERY_SECONDS = 60.0
DETAIL_AT_MOST = 300
SHOWN_AFTER_END = timedelta(hours=24)

Doc = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertPlan:
    """The settings of alerts."""

    #: The thresholds of the rules that are on: seconds, or a share.
    thresholds: Mapping[str, float]
    #: How often the message of a firing alert is repeated; 0 for never.
    repeat_seconds: float = 0.0
    #: `failed_share`: the fewest finished records that are judged.
    minimum_records: int = 20
    #: The names of the channels through which messages are sent.
    channels: tuple[str, ...] = ()
    streams: Mapping[str, StreamPlan]

    @property
    def fingerprint(self) -> str:
        """Return a fingerprint that differs between processes that would begin or end different alerts.

        The plan has no secret.
        """
        told = [sorted(self.thresholds.items()), sorted(self.streams.items(), key=itemgetter(0)), sorted(self.channels)]
        text = repr([*told, self.repeat_seconds, self.minimum_records])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One alert, as `syncctl alerts --json` prints it."""

    rule: str
    #: If stream, partner and source are all None, the alert is about the project.
    stream: str | None
    partner: str | None
    source: str | None
    #: `firing`, or `resolved` for a day after its end.
    state: str
    #: When the condition began.
    since: datetime
    fired_at: datetime
    resolved_at: datetime | None
    #: The last value: seconds, or a share.
    value: float
    threshold: float
    #: `seconds` or `share`.
    unit: str
    detail: str
    last_sent_at: datetime | None
    #: Messages that no channel has taken yet.
    unsent: int

    @property
    def subject(self) -> str:
        """The stream, the partner or the source that the alert is about; otherwise the project."""
        return AlertKey(rule=self.rule, stream=self.stream, partner=self.partner, source=self.source).subject


def read_alerts(ledger: Ledger, *, resolved_too: bool = False) -> tuple[Alert, ...]:
    """Return the firing alerts, the newest first; then, if asked for, those that ended within the last 24 hours."""
    alerts = [alert for alert in ledger.alerts.load_all().values() if alert.get("state") in (FIRING, RESOLVED)]
    firing = sorted((alert for alert in alerts if alert["state"] == FIRING), key=lambda alert: alert["fired_at"])
    shown = firing[::-1]
    if resolved_too:
        since = ledger.streams.server_time() - SHOWN_AFTER_END
        ended = [alert for alert in alerts if alert["state"] == RESOLVED and alert["resolved_at"] > since]
        shown += sorted(ended, key=lambda alert: alert["resolved_at"], reverse=True)
    return tuple(_read_alert(alert) for alert in shown)


def _read_alert(document: Doc) -> Alert:
    names = ("state", "since", "fired_at", "value", "threshold", "detail")
    rule = RULES.get(document["rule"])
    return Alert(
        rule=document["rule"],
        stream=document["stream"],
        partner=document["partner"],
        source=document.get("source"),
        **{name: document[name] for name in names},
        resolved_at=document.get("resolved_at"),
        unit=rule.unit if rule else "seconds",
        last_sent_at=document.get("last_sent_at"),
        unsent=len(document.get("outbox", ())),
    )


def evaluate_alerts(*, ledger: Ledger, plan: AlertPlan, costly: bool | None = None) -> list[AlertKey]:
    """Measure the rules, and begin and end alerts accordingly; return the alerts that began or ended.

    Safe to repeat, and for several processes at once: one of them makes the change, with its messages.

    Args:
        costly: Whether to measure costly rules too; None to measure them once a minute.
    """
    # Loaded before anything is measured: the revision then shows a change that another process makes in between.
    known = ledger.alerts.load_all()
    if costly is None:
        is_on = any(RULES[name].is_costly for name in plan.thresholds)
        costly = is_on and ledger.alerts.take_costly(seconds=COSTLY_EVERY_SECONDS)
    facts = _load_facts(ledger, plan, known)
    left_out = {name for name in plan.thresholds if RULES[name].is_costly and not costly}
    by_rule = _measure(facts, plan.thresholds.keys() & SILENCED_BY)
    for name, silenced in SILENCED_BY.items():
        # The others are left out for one more round, until the end of this outage is noted: their ages count from it.
        is_ending = name in plan.thresholds and "condition_since" in known.get(AlertKey(rule=name).id, {})
        if by_rule.get(name) or is_ending:
            left_out |= silenced
    by_rule |= _measure(facts, plan.thresholds.keys() - left_out - SILENCED_BY.keys())
    left_out |= plan.thresholds.keys() - by_rule.keys()
    everything = [measurement for measurements in by_rule.values() for measurement in measurements]
    ledger.alerts.note_held([measurement.key for measurement in everything if isinstance(measurement, Held)])
    measured = {measurement.key.id: measurement for measurement in everything if isinstance(measurement, Measurement)}
    changed = [
        measurement.key
        for alert_id, measurement in measured.items()
        if _judge(ledger, plan, facts, measurement, known.get(alert_id))
    ]
    for alert_id, alert in known.items():
        if alert_id not in measured and alert["rule"] not in left_out and _end(ledger, plan, alert):
            changed.append(AlertKey.read(alert))
    return changed


def _measure(facts: AlertFacts, names: Iterable[str]) -> dict[str, list[Measurement | Held]]:
    """Measure rules; a rule that meets a bug is missing in the result, and does not stop the others."""
    by_rule = {}
    for name in sorted(names):
        try:
            by_rule[name] = list(MEASURES[name](facts))
        except SyncctlError:
            raise
        except Exception:
            log.exception("alerts.rule_failed", rule=name)
    return by_rule


def _load_facts(ledger: Ledger, plan: AlertPlan, known: Mapping[str, Doc]) -> AlertFacts:
    now, watched_since = ledger.streams.server_time(), ledger.alerts.load_watched_since()
    begun = floor_hour(now)
    workers = ledger.heartbeats.load_workers(alive_seconds=24 * 3600.0)
    ats = [worker["at"] for worker in workers]
    return AlertFacts(
        ledger=ledger,
        now=now,
        plans=plan.streams,
        thresholds=plan.thresholds,
        minimum_records=plan.minimum_records,
        watched_since=watched_since or now,
        is_watched=watched_since is not None,
        known=known,
        documents=ledger.streams.load_all(),
        partners=ledger.partners.load_all(),
        alive_workers=sum((now - at).total_seconds() <= ALIVE_SECONDS for at in ats),
        newest_worker_at=max(ats, default=None),
        beat=ledger.heartbeats.load_beat(),
        hours=tuple(ledger.reports.load(begun - HOUR, begun + HOUR)) if "failed_share" in plan.thresholds else (),
    )


def _judge(ledger: Ledger, plan: AlertPlan, facts: AlertFacts, measurement: Measurement, known: Doc | None) -> bool:
    """Begin, keep, repeat or end the alert of one measurement; return whether it began or ended."""
    key = measurement.key
    threshold = facts.thresholds[key.rule]
    since = measurement.since or (known or {}).get("condition_since")
    if since and measurement.since is None and facts.is_watched and not facts.fires(key):
        since = max(since, facts.watched_since)
    age = max(0.0, (facts.now - since).total_seconds()) if since else 0.0
    value = age if RULES[key.rule].unit == "seconds" else measurement.share
    detail = clean_text(measurement.detail)[:DETAIL_AT_MOST]
    if known is not None and known.get("state") == FIRING:
        if value < ENDS_BELOW * threshold:
            return _end(ledger, plan, known, value=value, detail=detail)
        ledger.alerts.refresh(known, value=value, threshold=threshold, detail=detail)
        # An alert that began while no channel was set is sent once there is one.
        if plan.channels and (plan.repeat_seconds or known.get("notified_at") is None):
            known = {**known, "value": value, "threshold": threshold, "detail": detail}
            ledger.alerts.repeat(known, after_seconds=plan.repeat_seconds, channels=plan.channels)
        return False
    if value >= threshold and measurement.may_fire:
        return ledger.alerts.fire(
            key,
            known,
            value=value,
            threshold=threshold,
            since=since or facts.now,
            detail=detail,
            channels=plan.channels,
        )
    if measurement.since is None and not (known or {}).get("condition_since"):
        ledger.alerts.note_condition(key)
    return False


def _end(ledger: Ledger, plan: AlertPlan, alert: Doc, *, value: float | None = None, detail: str | None = None) -> bool:
    """End an alert whose condition no longer holds; return whether it was firing."""
    if alert.get("state") != FIRING:
        if alert.get("condition_since"):
            ledger.alerts.clear_condition(alert)
        return False
    return ledger.alerts.resolve(
        alert,
        value=alert["value"] if value is None else value,
        detail=alert["detail"] if detail is None else detail,
        channels=plan.channels,
    )
