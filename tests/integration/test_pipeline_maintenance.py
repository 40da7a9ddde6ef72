"""maintenance: records of dead workers come back, and records whose message was lost are queued again."""

from typing import Any

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.pipeline import maintenance
from tests.harness.testbed import ListReader, Testbed, claim_records, version_row


def log(testbed: Testbed, *numbers: int, content: str = "a") -> None:
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def test_records_whose_lease_ran_out_come_back_and_go_out_again(testbed: Testbed) -> None:
    log(testbed, *range(1, 8))
    testbed.change_stream(batch_size=3)
    testbed.dispatch()
    ids = testbed.messages[0][1]
    testbed.ledger.delivery_states.claim(
        "orders", ids, batch=testbed.messages[0][0], mapping_hash="m", seconds=60, worker="w"
    )
    assert testbed.maintain().returned == 0
    testbed.expire_leases()
    testbed.messages.clear()
    done = testbed.maintain(dispatch=testbed.dispatch)
    assert (done.stream, done.returned, done.forgotten, done.dispatched) == ("orders", 7, 0, 7)


def test_more_expired_leases_than_one_read_takes_come_back(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "RECORDS_AT_ONCE", 2)
    log(testbed, *range(1, 6))
    testbed.dispatch()
    testbed.expire_leases()
    assert testbed.maintain().returned == 5


def test_the_call_of_a_dead_worker_is_unsettled_before_a_newer_version_may_go(testbed: Testbed) -> None:
    """Invariant 5: it may have been sent, and arrive late."""
    log(testbed, 1)
    claim_records(testbed.ledger, [testbed.record(1)["_id"]])
    testbed.expire_leases()
    seen: list[Any] = []
    bring_back = testbed.ledger.lease_rescue.bring_back

    class WatchedRescue:
        def __getattr__(self, name: str) -> Any:
            return getattr(testbed.ledger.lease_rescue, name)

        def bring_back(self, *args: Any, **kwargs: Any) -> int:
            seen.extend(testbed.database.keys.find_one().get("unsettled", []))
            return bring_back(*args, **kwargs)

    class WatchedLedger:
        lease_rescue = WatchedRescue()
        keys = testbed.ledger.keys

    maintenance.return_expired_leases(ledger=WatchedLedger(), stream=testbed.stream, settle_seconds=30)  # type: ignore[arg-type]
    assert [each["call"] for each in seen] == [testbed.record(1)["_id"]]
    assert testbed.record(1)["state"] == "pending"
    log(testbed, 1, content="b")
    testbed.deliver()
    assert [each["state"] for each in testbed.records()] == ["superseded", "pending"]
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.deliver()
    assert [each["state"] for each in testbed.records()] == ["superseded", "delivered"]


def test_a_record_that_was_only_queued_leaves_nothing_unsettled(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.dispatch()
    testbed.expire_leases()
    testbed.maintain()
    assert "unsettled" not in testbed.database.keys.find_one()


@pytest.mark.parametrize("changes", [{"order": "none"}, {"append_only": True}])
def test_without_an_order_no_call_is_waited_for(testbed: Testbed, changes: dict[str, Any]) -> None:
    testbed.change_stream(**changes)
    log(testbed, 1)
    claim_records(testbed.ledger, [testbed.record(1)["_id"]])
    testbed.expire_leases()
    assert testbed.maintain().returned == 1
    assert testbed.database.keys.count_documents({"unsettled": {"$exists": True}}) == 0


def test_messages_that_redis_has_lost_are_sent_anew(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: Redis was flushed; the records do not wait for their leases."""
    monkeypatch.setattr(maintenance, "FORGOTTEN_AFTER_SECONDS", 0.0)
    log(testbed, 1, 2, 3)
    before = testbed.records()
    testbed.dispatch()
    testbed.messages.clear()
    done = testbed.maintain(messages_waiting=lambda: 1)
    assert (done.forgotten, done.returned) == (0, 0)
    done = testbed.maintain()
    assert (done.forgotten, done.returned) == (3, 0)
    assert testbed.records() == before
    assert testbed.dispatch() == 3


def test_a_record_that_was_queued_just_now_is_not_taken_for_lost(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.dispatch()
    testbed.messages.clear()
    assert testbed.maintain().forgotten == 0


def test_a_record_in_sending_is_never_taken_for_lost(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "FORGOTTEN_AFTER_SECONDS", 0.0)
    log(testbed, 1)
    claim_records(testbed.ledger, [testbed.record(1)["_id"]])
    assert testbed.maintain().forgotten == 0


def test_without_redis_expired_leases_still_come_back(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.dispatch()
    testbed.expire_leases()

    def dispatch() -> int:
        raise ServiceUnavailable("cannot reach Redis", service="redis")

    with pytest.raises(ServiceUnavailable):
        testbed.maintain(dispatch=dispatch)
    assert testbed.record(1)["state"] == "pending"
