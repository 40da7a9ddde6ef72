"""What the screen of `status --watch` shows: rates that the ledger keeps by minute, and what happened last."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.stream import BreakerRules
from syncctl.ledger.breakers import Tally
from syncctl.ledger.expressions import MINUTES_KEPT, SYNCCTL
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.pipeline.monitoring.watch import Event, read_activity
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that refuses some rows, and answers 500 to some calls."""
    with MockPartner(PartnerConfig(reject_rate=0.3, error_rate=0.3)) as server:
        yield server


def activity(ledger: Ledger, *troubled: str) -> Any:
    return read_activity(ledger=ledger, names=["orders"], troubled=troubled)


def test_a_poll_and_a_delivery_count_in_the_minute_in_which_they_happen(
    testbed: Testbed, source_db: SourceDb, database: Any
) -> None:
    source_db.create_orders(30)
    testbed.change_stream(page_size=10)
    assert testbed.poll().logged == 30
    assert testbed.poll().logged == 0
    delivered = testbed.deliver()
    minutes = database.streams.find_one()["minutes"]
    assert sum(minute["logged"] for minute in minutes["logged"]) == 30
    assert sum(minute["accepted"] for minute in minutes["sent"]) == delivered["delivered"] > 0
    assert sum(minute["attempts"] for minute in minutes["sent"]) == sum(delivered.values()) == 30
    flow = activity(testbed.ledger).flows["orders"]
    # The present minute also has what the minute before it has left.
    assert flow.rates["logged_per_second"] > 0
    assert sum(flow.accepted) >= delivered["delivered"]


def test_only_the_last_minutes_are_kept(ledger: Ledger, database: Any) -> None:
    def report() -> None:
        ledger.breakers.report("orders", Tally(attempts=2, accepted=1), token="t", rules=BreakerRules())

    report()
    (first,) = database.streams.find_one()["minutes"]["sent"]
    older = [{**first, "at": first["at"] - timedelta(minutes=n)} for n in range(MINUTES_KEPT + 5, 0, -1)]
    database.streams.update_one({}, {"$set": {"minutes.sent": older}})
    report()
    kept = database.streams.find_one()["minutes"]["sent"]
    assert len(kept) == MINUTES_KEPT
    assert [minute["at"] for minute in kept] == sorted(minute["at"] for minute in kept)
    assert kept[-1]["attempts"] == 2
    report()
    assert [minute["attempts"] for minute in database.streams.find_one()["minutes"]["sent"]][-1] >= 2


def test_the_last_events_are_attempts_operators_actions_and_what_syncctl_paused(
    testbed: Testbed, source_db: SourceDb
) -> None:
    ledger = testbed.ledger
    source_db.create_orders(30)
    testbed.poll()
    counts = testbed.deliver()
    with ledger.audit.record(
        action="pause", who="ops@host", detail={"streams": ["orders"], "reason": "tests"}
    ) as entry:
        entry.begin()
    ledger.streams.pause("returns", who=SYNCCTL, reason="HTTP 410")
    down = Tally(calls=20, failures=20, reason="HTTP 503")
    ledger.breakers.report("returns", down, token="t", rules=BreakerRules())
    events = activity(ledger, "orders").events
    by_kind: dict[str, list[Event]] = {}
    for event in events:
        by_kind.setdefault(event.kind, []).append(event)
    assert [event.at for event in events] == sorted((event.at for event in events), reverse=True)
    assert len(by_kind["failed"]) == counts["failed"] > 0
    assert len(by_kind["retrying"]) == counts["retrying"] > 0
    assert by_kind["failed"][0].detail == "HTTP 422: this row is not valid"
    (pause,) = by_kind["pause"]
    assert (pause.subject, pause.detail) == ("orders", "by ops@host, tests")
    assert [(event.subject, event.detail) for event in by_kind["paused"]] == [("returns", "HTTP 410")]
    assert [(event.subject, event.detail) for event in by_kind["circuit open"]] == [("returns", "HTTP 503")]


def test_a_poll_that_failed_is_an_event(ledger: Ledger) -> None:
    ledger.streams.note_poll_error("orders", "the table is gone", hint="")
    (event,) = activity(ledger).events
    assert (event.kind, event.subject, event.detail, event.is_trouble) == (
        "poll failed", "orders", "the table is gone", True,
    )  # fmt: skip
