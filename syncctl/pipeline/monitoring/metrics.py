"""metrics: the values of one scrape, from indexes and stored counts: with millions of records they cost no more."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from syncctl.core.histogram import DELIVERY_BOUNDS_MS, LATENCY_BOUNDS_MS, accumulate, estimate_sum
from syncctl.core.metric_table import (
    ATTEMPT_OUTCOMES,
    CIRCUIT_STATES,
    FINISHED_STATES,
    Distribution,
    Samples,
)
from syncctl.core.states import BreakerState
from syncctl.ledger.holds import find_pause
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.partners import count_permits
from syncctl.ledger.polls import POLLS_PAUSED_FIELD
from syncctl.ledger.source_schemas import read_schema_changes
from syncctl.ledger.totals import StreamTotals
from syncctl.pipeline.monitoring.alerts import read_alerts
from syncctl.pipeline.monitoring.obstacles import StreamPlan

Doc = Mapping[str, Any]

COUNTED_AT_MOST = 2_000_000
"""The limit of a count of one stream's records in one state: a count reads some four million index entries a second."""


def read_ledger_metrics(ledger: Ledger, configured: Mapping[str, StreamPlan], samples: Samples) -> None:
    """Add the ledger's values of streams, partners, workers and Beat.

    A stream that the settings no longer name has only its counters: its gauges would never change.
    """
    now = ledger.streams.server_time()
    documents = ledger.streams.load_all()
    totals = ledger.totals.load()
    counts = ledger.records.count_unfinished(configured, at_most=COUNTED_AT_MOST)
    waiting = ledger.sequencing.count(configured)
    oldest = ledger.records.list_oldest_due(configured)
    for name in [*configured, *sorted(set(documents) - set(configured))]:
        document = documents.get(name, {})
        add_totals(samples, name, totals.get(name, StreamTotals()))
        samples.add("syncctl_polls_total", int(document.get("poll", {}).get("epoch", 0)), name)
        if (plan := configured.get(name)) is not None:
            for state, count in counts[name].items():
                samples.add("syncctl_records", count, name, state)
            samples.add("syncctl_records_held", waiting[name].held, name)
            samples.add("syncctl_oldest_due_age_seconds", _age(oldest.get(name), now), name)
            _add_gauges(samples, ledger, name, plan, document, now)
    _add_partners(samples, ledger, configured, now)
    for alert in read_alerts(ledger):
        samples.add("syncctl_alerts_firing", 1, alert.rule, alert.stream or "", alert.partner or "", alert.source or "")
    workers = ledger.heartbeats.load_workers()
    samples.add("syncctl_workers", len(workers))
    samples.add("syncctl_worker_slots", sum(int(worker.get("slots", 0)) for worker in workers))
    beat = ledger.heartbeats.load_beat()
    if beat is not None:
        samples.add("syncctl_beat_last_seen_timestamp_seconds", beat["at"].timestamp())
    for job, document in sorted(ledger.maintenance.load().items()):
        if document.get("done_at") is not None:
            samples.add("syncctl_maintenance_last_done_timestamp_seconds", document["done_at"].timestamp(), job)
    samples.add("syncctl_queue_dropped_total", int(ledger.project.load_dropped()["total"]))


def add_totals(samples: Samples, name: str, totals: StreamTotals) -> None:
    """Add the counters and histograms of one stream."""
    counts = totals.counts
    samples.add("syncctl_records_logged_total", counts.get("logged", 0), name)
    for state in FINISHED_STATES:
        samples.add("syncctl_records_finished_total", counts.get(state, 0), name, state)
    for outcome in ATTEMPT_OUTCOMES:
        samples.add("syncctl_attempts_total", totals.outcomes.get(outcome, 0), name, outcome)
    samples.add("syncctl_retries_total", counts.get("retries", 0), name)
    samples.add("syncctl_attempt_duration_seconds", _distribute(totals.latency, LATENCY_BOUNDS_MS), name)
    samples.add("syncctl_delivery_duration_seconds", _distribute(totals.delivery, DELIVERY_BOUNDS_MS), name)


def _distribute(stored: Mapping[str, int], bounds_ms: Sequence[float]) -> Distribution:
    buckets = {int(bucket): count for bucket, count in stored.items()}
    return Distribution(
        bounds=tuple(bound / 1000 for bound in bounds_ms),
        counts=tuple(accumulate(buckets, bounds_ms)),
        sum=estimate_sum(buckets) / 1000,
    )


def _add_gauges(samples: Samples, ledger: Ledger, name: str, plan: StreamPlan, document: Doc, now: datetime) -> None:
    health = document.get("health", {})
    if health.get("last_poll_at") is not None:
        samples.add("syncctl_last_poll_timestamp_seconds", health["last_poll_at"].timestamp(), name)
    samples.add("syncctl_poll_failed", int(health.get("error") is not None), name)
    samples.add("syncctl_schema_changes", len(read_schema_changes(document, now)), name)
    samples.add("syncctl_stream_paused", int(find_pause(document, now) is not None), name)
    samples.add("syncctl_polls_paused", int(find_pause(document, now, field=POLLS_PAUSED_FIELD) is not None), name)
    samples.add("syncctl_stream_quiet", int(plan.find_quiet_end(now) is not None), name)
    circuit = document.get("breaker", {}).get("state", BreakerState.CLOSED.value)
    for state in CIRCUIT_STATES:
        samples.add("syncctl_circuit_state", int(state == circuit), name, state)
    if plan.written_columns:
        lag = ledger.write_backs.read_lag(name)
        samples.add("syncctl_write_back_records", lag.records, name)
        samples.add("syncctl_write_back_age_seconds", _age(lag.oldest, now), name)


def _add_partners(samples: Samples, ledger: Ledger, configured: Mapping[str, StreamPlan], now: datetime) -> None:
    limits = {plan.partner: plan.max_in_flight for plan in configured.values()}
    known = ledger.partners.load_all()
    for partner, limit in sorted(limits.items()):
        document = known.get(partner, {})
        samples.add("syncctl_partner_paused", int(find_pause(document, now) is not None), partner)
        samples.add("syncctl_permits_in_use", count_permits(document, now), partner)
        if limit is not None:
            samples.add("syncctl_permits_limit", limit, partner)


def _age(at: datetime | None, now: datetime) -> float:
    return max((now - at).total_seconds(), 0.0) if at else 0.0
