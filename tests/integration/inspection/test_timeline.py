"""The story of a row: found, logged, attempts, replays, discards, newer versions, and what the source was told."""

from syncctl.local.mock_partner import MockPartner
from syncctl.pipeline.inspection.show import find_versions
from syncctl.pipeline.inspection.timeline import TimelineEvent, build_timeline
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


def tell(testbed: Testbed) -> list[TimelineEvent]:
    return build_timeline(testbed.ledger, find_versions(testbed.ledger, "orders", {"id": 1}))


def test_the_events_of_all_versions_come_in_the_order_of_time(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner
) -> None:
    testbed.change_stream(write_back={"note": "state"}, mode="increasing", cursor="updated_at")
    source_db.create_orders(1)
    testbed.poll()
    testbed.deliver()
    testbed.poll()
    (first,) = find_versions(testbed.ledger, "orders", {"id": 1})
    testbed.ledger.operations.replay([first["_id"]], states=["delivered"], who="ops@host")
    source_db.execute("update orders set amount = 99, updated_at = '2026-01-02' where id = 1")
    testbed.poll()
    testbed.deliver()
    second, _ = find_versions(testbed.ledger, "orders", {"id": 1})
    testbed.ledger.operations.discard([second["_id"]], states=["delivered"], who="ops@host", reason="tests")
    events = tell(testbed)
    told = [(event.event, event.record == second["_id"]) for event in events]
    assert told == [
        ("found", False), ("logged", False), ("attempt", False), ("written_back", False), ("replayed", False),
        ("found", True), ("logged", True), ("superseded", False), ("attempt", True), ("discarded", True),
    ]  # fmt: skip
    by_name = {(event.event, event.record == second["_id"]): event for event in events}
    attempt = by_name["attempt", True]
    assert (attempt.attempt, attempt.outcome, attempt.state, attempt.status) == (1, "accepted", "delivered", 200)
    assert attempt.excerpt == '{"status":"ok"}'
    assert by_name["superseded", False].by == second["_id"]
    assert (by_name["replayed", False].by, by_name["replayed", False].detail) == ("ops@host", "was delivered")
    assert by_name["discarded", True].detail == "tests, was delivered"
    assert by_name["found", True].detail == "by a poll that read 1 row and logged 1"
    assert [event.at for event in events] == sorted(event.at for event in events if event.at is not None)


def test_events_that_are_only_counted_are_told_as_a_number(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    testbed.poll()
    (record,) = find_versions(testbed.ledger, "orders", {"id": 1})
    record["earlier"] = [{"event": {}, "count": 7}, {"event": {}, "count": 5}]
    events = build_timeline(testbed.ledger, [record])
    assert [event.detail for event in events if event.event == "earlier"] == [
        "12 events that are counted, and not kept in full"
    ]
