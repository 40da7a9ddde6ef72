"""Maintenance: records of dead workers come back, held ones are released, and a worker is woken for due ones."""

from typing import Any

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.pipeline.maintenance import maintenance
from tests.harness.testbed import ListReader, Testbed, claim_records, version_row


def log(testbed: Testbed, *numbers: int, content: str = "a") -> None:
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def test_records_whose_lease_ran_out_come_back_and_go_out_again(testbed: Testbed) -> None:
    log(testbed, *range(1, 8))
    testbed.change_stream(batch_size=3)
    testbed.take_all()
    done = testbed.maintain()
    assert (done.returned, done.dispatched) == (0, 0)
    testbed.let_leases_expire()
    done = testbed.maintain(wake=lambda: 1)
    assert (done.stream, done.returned, done.dispatched) == ("orders", 7, 1)
    assert testbed.database.batches.count_documents({}) == 0
    assert testbed.deliver() == {"delivered": 7}


def test_more_expired_leases_than_one_look_takes_come_back(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "BATCHES_AT_ONCE", 2)
    testbed.change_stream(batch_size=1)
    log(testbed, *range(1, 6))
    testbed.take_all()
    testbed.let_leases_expire()
    assert testbed.maintain().returned == 5


def test_the_call_of_a_dead_worker_is_unsettled_before_a_newer_version_may_go(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 5: it may have been sent, and land late."""
    log(testbed, 1)
    claim_records(testbed.ledger, [testbed.record(1)["_id"]], begun=True)
    testbed.let_leases_expire()
    seen: list[Any] = []
    rescue = testbed.ledger.lease_rescue
    return_lost = rescue.return_lost

    def watch(*args: Any, **options: Any) -> int:
        seen.extend(testbed.database.keys.find_one().get("unsettled", []))
        return return_lost(*args, **options)

    monkeypatch.setattr(rescue, "return_lost", watch)
    assert testbed.rescue() == 1
    (record,) = testbed.records()
    assert [each["call"] for each in seen] == [record["_id"]]
    assert record["state"] == "pending"
    # The call ends a deadline after the lease, when the record is due, and may take effect for another one.
    timeout_seconds = testbed.partner.timeout_seconds
    assert 0.5 < (seen[0]["until"] - record["due_at"]).total_seconds() / timeout_seconds <= 1
    log(testbed, 1, content="b")
    testbed.deliver()
    assert [each["state"] for each in testbed.records()] == ["pending", "pending"]
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.deliver()
    assert [each["state"] for each in testbed.records()] == ["superseded", "delivered"]


def test_a_record_whose_call_did_not_begin_leaves_nothing_unsettled(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.take()
    testbed.let_leases_expire()
    assert testbed.maintain().returned == 1
    assert "unsettled" not in testbed.database.keys.find_one()


@pytest.mark.parametrize("changes", [{"order": "none"}, {"append_only": True}])
def test_without_an_order_no_call_is_waited_for(testbed: Testbed, changes: dict[str, Any]) -> None:
    testbed.change_stream(**changes)
    log(testbed, 1)
    claim_records(testbed.ledger, [testbed.record(1)["_id"]], begun=True)
    testbed.let_leases_expire()
    assert testbed.maintain().returned == 1
    assert testbed.database.keys.count_documents({"unsettled": {"$exists": True}}) == 0


def test_a_process_that_stood_still_while_it_took_records_strands_none(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch was brought back, empty, and forgotten before it went on; then it dies."""
    log(testbed, 1, 2)
    before = testbed.records()
    claim = testbed.ledger.batches._claim

    def claim_late(*args: Any, **options: Any) -> None:
        testbed.let_leases_expire()
        assert testbed.rescue() == 0
        assert testbed.database.batches.count_documents({}) == 0
        claim(*args, **options)

    monkeypatch.setattr(testbed.ledger.batches, "_claim", claim_late)
    assert testbed.take_rows() == [1, 2]
    monkeypatch.undo()
    assert testbed.take_rows() == []
    assert testbed.maintain().returned == 2
    for then, now in zip(before, testbed.records(), strict=True):
        assert {name: now[name] for name in then} == then
    assert testbed.deliver() == {"delivered": 2}


def test_records_of_a_batch_that_goes_on_are_not_taken_for_stranded(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    testbed.change_stream(batch_size=1)
    testbed.take_all()
    testbed.database.batches.delete_one({"ids": testbed.record(1)["_id"]})
    assert testbed.maintain().returned == 1
    assert testbed.states() == {1: ["pending"], 2: ["sending"]}


def test_without_redis_expired_leases_still_come_back(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.take()
    testbed.let_leases_expire()

    def wake() -> int:
        raise ServiceUnavailable("cannot reach Redis", service="redis")

    with pytest.raises(ServiceUnavailable):
        testbed.maintain(wake=wake)
    assert testbed.record(1)["state"] == "pending"
