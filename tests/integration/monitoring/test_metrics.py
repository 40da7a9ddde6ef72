"""Metrics: every name has its values, counters never fall, and a scrape reads indexes and kept counts alone."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncctl.console.metrics_text import to_metrics_text
from syncctl.core.metric_table import METRICS, Samples
from syncctl.core.time_zone import HOUR, floor_hour
from syncctl.ledger.alerts import AlertKey
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.reports import HourCounts
from syncctl.pipeline.monitoring.metrics import read_ledger_metrics
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.reporting.roll_up import roll_up
from tests.harness.http_partner import RowPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed
from tests.integration.ledger.test_ledger_indexes import make_records

PLAN = StreamPlan(partner="default", max_in_flight=8, written_columns=("sent_at",))
ELSEWHERE = {
    "syncctl_build_info",
    "syncctl_ledger_up",
    "syncctl_redis_up",
    "syncctl_scrape_duration_seconds",
    "syncctl_queue_messages",
}
"""The metrics that do not come from the ledger."""
NOW = floor_hour(datetime.now(UTC))

Values = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(ledger: Ledger) -> Values:
    """Return the values as Prometheus reads them, by name and labels."""
    samples = Samples()
    read_ledger_metrics(ledger, {"orders": PLAN}, samples)
    text, _ = to_metrics_text(samples)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values[f"syncctl_{name}", tuple(sorted(labels.items()))]


def update(ledger: Ledger) -> None:
    roll_up(ledger=ledger)
    ledger.totals.update(frozen_until=ledger.reports.frozen_until())


def test_every_metric_has_values_and_these_are_what_happened(testbed: Testbed, source_db: SourceDb) -> None:
    ledger = testbed.ledger
    source_db.create_orders(20)
    testbed.poll()
    answers = {1: 422, 2: 503, 3: 429}
    with RowPartner(lambda number: answers.get(number, 200)) as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        testbed.deliver()
    ledger.heartbeats.record_worker("celery@one", {"slots": 3})
    ledger.heartbeats.record_beat({})
    ledger.maintenance.note_done("roll_up")
    key, since = AlertKey(rule="paused", partner="default"), ledger.streams.server_time()
    ledger.alerts.fire(key, None, value=7200.0, threshold=3600.0, since=since, detail="it is paused", channels=())
    update(ledger)
    values = scrape(ledger)
    families = {name for name, _ in values}
    for name, metric in METRICS.items():
        shown = f"{name}_count" if metric.kind == "histogram" else name
        assert (shown in families) == (name not in ELSEWHERE), name
    assert value(values, "records_logged_total", stream="orders") == 20
    assert value(values, "records_finished_total", stream="orders", state="delivered") == 17
    assert value(values, "records", stream="orders", state="failed") == 1
    assert value(values, "records", stream="orders", state="retrying") == 2
    for outcome, count in {"accepted": 17, "http_4xx": 1, "http_5xx": 1, "http_429": 1, "no_answer": 0}.items():
        assert value(values, "attempts_total", stream="orders", outcome=outcome) == count
    assert value(values, "attempt_duration_seconds_count", stream="orders") == 20
    assert value(values, "attempt_duration_seconds_bucket", stream="orders", le="+Inf") == 20
    assert value(values, "attempt_duration_seconds_bucket", stream="orders", le="60.0") == 20
    assert 0 < value(values, "attempt_duration_seconds_sum", stream="orders") < 60 * 20
    assert value(values, "delivery_duration_seconds_count", stream="orders") == 17
    assert value(values, "polls_total", stream="orders") == 1
    assert value(values, "worker_slots") == 3
    assert value(values, "alerts_firing", rule="paused", stream="", partner="default", source="") == 1
    assert value(values, "permits_limit", partner="default") == 8
    assert value(values, "circuit_state", stream="orders", state="closed") == 1


def test_what_the_settings_no_longer_name_has_counters_and_no_gauge_that_stays(ledger: Ledger) -> None:
    ledger.streams.pause("removed", who="ann", reason="stock-taking")
    ledger.partners.pause("gone", who="ann", reason="stock-taking")
    values = scrape(ledger)
    assert value(values, "stream_paused", stream="orders") == 0
    for labels in ({"stream": "removed"}, {"partner": "gone"}):
        names = {name for name, labelled in values if set(labels.items()) <= set(labelled)}
        assert {METRICS[name].kind for name in names if name in METRICS} <= {"counter"}, names
    assert value(values, "records_logged_total", stream="removed") == 0
    assert value(values, "polls_total", stream="removed") == 0


def store(ledger: Ledger, ago: int, *, frozen_until: datetime, **counts: Any) -> None:
    """Store an hour as a roll-up does."""
    hour = HourCounts(stream="orders", window_start=NOW - ago * HOUR, **counts)
    ledger.reports.store([hour], frozen_until=frozen_until)
    ledger.totals.update(frozen_until=frozen_until)


def test_frozen_hours_are_added_once_and_open_ones_are_replaced(ledger: Ledger, database: Any) -> None:
    store(ledger, 2, frozen_until=NOW - HOUR, logged=10, latency={"30": 10}, outcomes={"accepted": 10})
    store(ledger, 1, frozen_until=NOW - HOUR, logged=3, latency={"30": 2, "-3": 1})
    store(ledger, 1, frozen_until=NOW, logged=5, latency={"30": 4, "-3": 1})
    # Whatever became of hours that were added: none of them is read again.
    database.reports.delete_many({"window_start": {"$lt": NOW}})
    for _ in range(2):
        store(ledger, 0, frozen_until=NOW, logged=1)
        totals = ledger.totals.load()["orders"]
        assert (totals.counts["logged"], totals.latency, totals.outcomes) == (
            16, {"30": 14, "-3": 1}, {"accepted": 10},
        )  # fmt: skip


def test_a_counter_never_falls(ledger: Ledger) -> None:
    """A run of refusals is taken back, and the roll-up of its open hour counts it no longer."""
    store(ledger, 0, frozen_until=NOW, failed=20, delivery={"5": 7})
    store(ledger, 0, frozen_until=NOW, failed=1, delivery={"5": 6, "6": 1})
    totals = ledger.totals.load()["orders"]
    assert (totals.counts["failed"], totals.delivery) == (20, {"5": 7, "6": 1})
    store(ledger, 0, frozen_until=NOW + HOUR, failed=1)
    assert ledger.totals.load()["orders"].counts["failed"] == 20


def test_two_that_add_up_at_once_add_an_hour_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    store(ledger, 3, frozen_until=NOW - 2 * HOUR, logged=1)
    stored = ledger.totals._store

    def store_after_another(*args: Any) -> None:
        monkeypatch.setattr(ledger.totals, "_store", stored)
        ledger.totals.update(frozen_until=NOW)
        stored(*args)

    monkeypatch.setattr(ledger.totals, "_store", store_after_another)
    store(ledger, 2, frozen_until=NOW, logged=4)
    store(ledger, 1, frozen_until=NOW, logged=0)
    assert ledger.totals.load()["orders"].counts["logged"] == 5


@pytest.fixture
def plans(ledger: Ledger, database: Any) -> list[Mapping[str, Any]]:
    """What MongoDB did for one scrape."""
    database.records.insert_many(make_records())
    database.reports.insert_many(
        {"_id": f"{n}", "stream": "orders", "window_start": NOW - n * HOUR, "logged": 1, "frozen": True}
        for n in range(1000)
    )
    ledger.totals.update(frozen_until=NOW)
    database.command("profile", 2)
    scrape(ledger)
    database.command("profile", 0)
    return list(database["system.profile"].find({"op": {"$in": ["query", "command"]}}))


def test_a_scrape_reads_indexes_and_kept_counts_alone(plans: list[Mapping[str, Any]]) -> None:
    of_records = [plan for plan in plans if plan["ns"].endswith(".records")]
    assert len(of_records) >= 7
    for plan in of_records:
        assert "COLLSCAN" not in plan["planSummary"]
        # A count touches the index alone, of the 1,500 records only those that are counted; ten are retries in flight.
        assert plan["docsExamined"] <= 10, plan["command"]
        assert plan["keysExamined"] <= 310, plan["command"]
    # However many hours there are: one document of totals for each stream.
    assert not [plan for plan in plans if plan["ns"].endswith(".reports")]


def test_a_large_backlog_is_counted_up_to_a_number(ledger: Ledger, database: Any) -> None:
    database.records.insert_many(make_records())
    counts = ledger.records.count_unfinished(["orders", "unknown"], at_most=4)
    assert not any(counts["unknown"].values())
    assert counts["orders"] == {"pending": 4, "retrying": 4, "sending": 4, "failed": 4}


def test_a_time_limit_ends_all_statements_together(ledger: Ledger) -> None:
    from syncctl.errors import ServiceUnavailable

    with pytest.raises(ServiceUnavailable), ledger.limit_time(timedelta(microseconds=1).total_seconds()):
        scrape(ledger)
