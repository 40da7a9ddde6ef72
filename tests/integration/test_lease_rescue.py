"""Records of dead workers come back once; a record that keeps killing its workers does not."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.delivery_state import Claim, Transition
from syncctl.ledger.ledger import Ledger
from tests.harness.passing_time import PAST
from tests.harness.testbed import NASTY, claim_records, new_record, outcome


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """One claimed record."""
    ledger.records.log([new_record(1)], PAST)
    return claim_records(ledger, ["orders-1"], worker=NASTY)


def expire(database: Any) -> None:
    database.records.update_many({"in_flight": True}, {"$set": {"lease.until": PAST}})


def bring_back(ledger: Ledger, database: Any) -> int:
    expire(database)
    return ledger.lease_rescue.bring_back(ledger.lease_rescue.find_expired("orders", limit=10))


def test_a_lease_that_still_runs_is_left_alone(ledger: Ledger, claim: Claim) -> None:
    assert ledger.lease_rescue.find_expired("orders", limit=10) == []


def test_an_expired_lease_is_found_with_the_call_that_may_have_been_made(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    ledger.records.log([new_record(2)], PAST)
    ledger.delivery_states.queue(["orders-2"], batch="b", seconds=60, exclusive=True)
    expire(database)
    database.records.update_one({"_id": "orders-1"}, {"$set": {"generation": 1}})
    found = {
        each.id: (each.state, each.token, each.call) for each in ledger.lease_rescue.find_expired("orders", limit=10)
    }
    assert found == {
        "orders-1": (State.SENDING, claim.token, "orders-1-2"),
        "orders-2": (State.QUEUED, "b", "orders-2"),
    }
    assert ledger.lease_rescue.find_expired("others", limit=10) == []
    assert len(ledger.lease_rescue.find_expired("orders", limit=1)) == 1


def test_a_queued_record_comes_back_as_it_was(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    before = database.records.find_one()
    ledger.delivery_states.queue(["orders-1"], batch="b", seconds=60, exclusive=True)
    assert bring_back(ledger, database) == 1
    assert database.records.find_one() == before


def test_a_record_in_sending_comes_back_with_an_entry_and_travels_alone(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    assert bring_back(ledger, database) == 1
    found = database.records.find_one()
    assert (found["state"], found["fresh"], found["losses"], found["claims"]) == ("pending", False, 1, 1)
    assert not {"lease", "in_flight", "exclusive", "error", "failed_at", "finished_at"} & set(found)
    assert found["history"][0].items() >= {"action": "lost", "n": 1, "worker": "$state", "claim": claim.token}.items()
    assert [each.alone for each in ledger.records.find_due("orders", fresh=False, limit=10)] == [True]
    assert claim_records(ledger, ["orders-1"]).records[0].attempt == 2


def test_a_record_that_kills_its_worker_three_times_is_poison(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    for _ in range(3):
        claim_records(ledger, ["orders-1"], worker=NASTY)
        bring_back(ledger, database)
    found = database.records.find_one()
    assert (found["state"], found["losses"]) == ("failed", 3)
    assert found["error"]["message"] == "its worker died or stalled 3 times while sending it"
    assert found["failed_at"] == found["finished_at"]
    assert "due_at" not in found
    last = found["history"][-1]
    assert (last["state"], last["error"], last["fingerprint"]) == (
        "failed", found["error"]["message"], found["error"]["fingerprint"],
    )  # fmt: skip
    assert [each["state"] for each in found["history"][:-1]] == ["pending", "pending"]


def test_a_replay_of_poison_is_given_three_more_tries(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    for _ in range(3):
        claim_records(ledger, ["orders-1"])
        bring_back(ledger, database)
    ledger.operations.replay(["orders-1"], states=["failed"], who="me")
    claim_records(ledger, ["orders-1"])
    bring_back(ledger, database)
    assert database.records.find_one()["state"] == "pending"


def test_two_rescues_at_once_return_a_record_once(ledger: Ledger, claim: Claim, database: Any) -> None:
    expire(database)
    found = ledger.lease_rescue.find_expired("orders", limit=10)
    with ThreadPoolExecutor(8) as threads:
        returned = list(threads.map(lambda _: ledger.lease_rescue.bring_back(found), range(8)))
    assert sum(returned) == 1
    assert database.records.find_one()["losses"] == 1


def test_a_record_that_was_finished_or_claimed_meanwhile_is_left_alone(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    expire(database)
    found = ledger.lease_rescue.find_expired("orders", limit=10)
    ledger.delivery_states.write_transitions(
        claim,
        [Transition(record=claim.records[0], state=State.PENDING, outcome=outcome(Verdict.RETRY_LATER, error="busy"))],
    )
    assert ledger.lease_rescue.bring_back(found) == 0
    second = claim_records(ledger, ["orders-1"])
    assert ledger.lease_rescue.bring_back(found) == 0
    assert database.records.find_one()["lease"]["token"] == second.token


def test_a_second_loss_is_not_counted_by_the_rescue_that_saw_the_first(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    expire(database)
    first = ledger.lease_rescue.find_expired("orders", limit=10)
    ledger.lease_rescue.bring_back(first)
    claim_records(ledger, ["orders-1"])
    expire(database)
    assert ledger.lease_rescue.bring_back(first) == 0
    assert database.records.find_one()["losses"] == 1


def test_a_lease_that_was_prolonged_after_it_was_found_is_left_alone(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    expire(database)
    found = ledger.lease_rescue.find_expired("orders", limit=10)
    database.records.update_one({}, {"$set": {"lease.until": datetime(2100, 1, 1, tzinfo=UTC)}})
    assert ledger.lease_rescue.bring_back(found) == 0
    assert ledger.lease_rescue.bring_back(found, even_unexpired=True) == 1


def test_a_lease_without_an_end_never_expires(ledger: Ledger, claim: Claim, database: Any) -> None:
    database.records.update_one({}, {"$unset": {"lease.until": True}})
    assert ledger.lease_rescue.find_expired("orders", limit=10) == []


def test_records_that_were_queued_for_some_time_are_found_as_forgotten(ledger: Ledger, database: Any) -> None:
    def forgotten(after_seconds: float) -> list[str]:
        found = ledger.lease_rescue.find_forgotten("orders", after_seconds=after_seconds, lease_seconds=3600, limit=10)
        return [each.id for each in found]

    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    ledger.delivery_states.queue(["orders-1"], batch="b", seconds=3600, exclusive=True)
    ledger.delivery_states.queue(["orders-2"], batch="b", seconds=3000, exclusive=True)
    claim_records(ledger, ["orders-3"], seconds=3000)
    assert forgotten(300) == ["orders-2"]
    assert sorted(forgotten(0)) == ["orders-1", "orders-2"]
    assert forgotten(900) == []
