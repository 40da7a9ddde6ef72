"""An installation with hundreds of streams: what is asked of MongoDB grows with those that have something to tell."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.metric_table import Samples
from syncctl.core.states import State
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.monitoring.alerts import AlertPlan, evaluate_alerts
from syncctl.pipeline.monitoring.metrics import read_ledger_metrics
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import read_status
from tests.harness.passing_time import PAST
from tests.harness.testbed import claim_records, new_record

MANY = 60
BUSY = "orders"
STREAMS = {name: StreamPlan(partner="default") for name in (*(f"s{number}" for number in range(MANY - 1)), BUSY)}
ALERTS = AlertPlan(
    thresholds={"backlog_age": 60.0, "obstacle": 60.0, "circuit_open": 60.0}, channels=("webhook",), streams=STREAMS
)


def watch(ledger: Ledger) -> None:
    ledger.alerts.note_watched()
    evaluate_alerts(ledger=ledger, plan=ALERTS, costly=True)


READERS: Mapping[str, Callable[[Ledger], Any]] = {
    "status": lambda ledger: read_status(ledger=ledger, configured=STREAMS, messages=0),
    "metrics": lambda ledger: read_ledger_metrics(ledger, STREAMS, Samples()),
    "alerts": watch,
}


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    """One stream has records in every state, the others have none."""
    ledger.records.log([new_record(number) for number in range(8)], PAST)
    claim_records(ledger, [f"orders-{number}" for number in range(3)])
    ledger.operations.discard(["orders-4"], states=[State.PENDING.value], who="me", reason="why")
    return ledger


@pytest.mark.parametrize("name", READERS)
def test_streams_that_have_no_records_are_asked_about_together(busy: Ledger, database: Any, name: str) -> None:
    database.command("profile", 2)
    READERS[name](busy)
    database.command("profile", 0)
    asked = list(database["system.profile"].find({"op": {"$in": ["query", "command"]}}))
    of_records = [question for question in asked if question["ns"] == f"{database.name}.records"]
    assert of_records
    assert len(asked) < MANY
    for question in of_records:
        assert "COLLSCAN" not in question["planSummary"]
        # An index has one place to look at for each stream, and one more to find the next.
        assert question.get("keysExamined", 0) <= 2 * MANY
        assert question.get("docsExamined", 0) <= 10


def test_each_stream_has_its_own_counts(busy: Ledger) -> None:
    found = {stream["stream"]: stream for stream in read_status(ledger=busy, configured=STREAMS, messages=0).streams}
    assert list(found) == list(STREAMS)
    counts = found[BUSY]["counts"]
    assert {state: count for state, count in counts.items() if count} == {"pending": 4, "sending": 3, "discarded": 1}
    assert found[BUSY]["oldest_due_seconds"] > timedelta(minutes=1).total_seconds()
    assert not any(any(stream["counts"].values()) for name, stream in found.items() if name != BUSY)
    assert found["s8"]["oldest_due_seconds"] is None


def test_a_stream_with_thousands_of_outcomes_that_its_source_lacks_is_found_with_one_look(
    busy: Ledger, database: Any
) -> None:
    told = {"stream": BUSY, "state": State.DELIVERED.value, "acknowledge": {"version": "1"}}
    database.records.insert_many({"_id": f"told-{number}", "key_id": f"{number}", **told} for number in range(1000))
    database.command("profile", 2)
    assert busy.acknowledgements.find_streams(STREAMS) == [BUSY]
    database.command("profile", 0)
    asked = list(database["system.profile"].find({"ns": f"{database.name}.records"}))
    assert len(asked) == 2
    assert all(question["docsExamined"] <= 1 for question in asked)
