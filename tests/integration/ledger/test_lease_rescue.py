"""Records of dead workers come back, once; a record that keeps killing its worker does not."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.batches import Claim, ExpiredBatch
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import SentCall
from syncctl.ledger.ledger import Ledger
from tests.harness.passing_time import PAST, expire_batch_leases
from tests.harness.testbed import NASTY, claim_records, lose_records, new_record, outcome

IN_FLIGHT = {"lease", "in_flight_key", "in_flight_retry"}


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """One claimed record whose call may have begun."""
    ledger.records.log([new_record(1)], PAST)
    return claim_records(ledger, ["orders-1"], worker=NASTY, begun=True)


def seize(ledger: Ledger, database: Any) -> ExpiredBatch:
    expire_batch_leases(database)
    (batch,) = ledger.batches.seize_expired(["orders"], limit=10)
    return batch


def return_lost(ledger: Ledger, batch: ExpiredBatch, *, after_seconds: float = 0.0, fail_first: bool = False) -> int:
    lost = ledger.lease_rescue.find_lost(batch)
    return ledger.lease_rescue.return_lost(batch, lost, after_seconds=after_seconds, fail_first=fail_first)


def lose(ledger: Ledger, database: Any, *ids: str) -> None:
    database.records.update_many({"due_at": {"$exists": True}}, {"$set": {"due_at": PAST}})
    lose_records(ledger, database, ids, worker=NASTY)


def test_records_whose_calls_cannot_have_begun_come_back_as_they_were(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    before = database.records.find_one()
    claim_records(ledger, ["orders-1"])
    assert ledger.lease_rescue.give_back_unsent(seize(ledger, database)) == 1
    after = database.records.find_one()
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"generation", "mapping_hash"}
    assert [record.alone for record in ledger.records.find_due("orders", fresh=True, limit=10)] == [False]


def test_only_the_calls_that_may_have_begun_are_lost(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    claim = claim_records(ledger, ["orders-1", "orders-2", "orders-3"])
    assert ledger.batches.begin(claim, ["orders-2"], seconds=60)
    database.records.update_one({"_id": "orders-2"}, {"$set": {"generation": 1}})
    batch = seize(ledger, database)
    (lost,) = ledger.lease_rescue.find_lost(batch)
    call = SentCall(key_id=new_record(2).key_id, seq=2, call="orders-2-2", mapping_hash="mapping")
    assert (lost.id, lost.call) == ("orders-2", call)
    assert ledger.lease_rescue.give_back_unsent(batch) == 2
    assert return_lost(ledger, batch) == 1
    assert {document["_id"]: document.get("losses") for document in database.records.find()} == {
        "orders-1": None, "orders-2": 1, "orders-3": None,
    }  # fmt: skip


def test_lost_records_come_back_with_a_note_and_travel_alone(ledger: Ledger, claim: Claim, database: Any) -> None:
    assert return_lost(ledger, seize(ledger, database)) == 1
    found = database.records.find_one()
    assert (found["state"], found["fresh"], found["losses"], found["claims"]) == ("pending", False, 1, 1)
    assert not (IN_FLIGHT | {"error", "failed_at", "finished_at"}) & set(found)
    assert found["history"][0].items() >= {"action": "lost", "n": 1, "worker": "$state", "claim": claim.token}.items()
    assert [record.alone for record in ledger.records.find_due("orders", fresh=False, limit=10)] == [True]
    assert claim_records(ledger, ["orders-1"]).records[0].attempt == 2


def test_lost_records_are_due_once_their_calls_must_have_ended(ledger: Ledger, claim: Claim, database: Any) -> None:
    return_lost(ledger, seize(ledger, database), after_seconds=30.0)
    found = database.records.find_one()
    assert found["due_at"] - found["history"][0]["at"] == timedelta(seconds=30)


def test_a_record_that_kills_its_worker_three_times_is_failed(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    for _ in range(3):
        lose(ledger, database, "orders-1")
    found = database.records.find_one()
    assert (found["state"], found["losses"]) == ("failed", 3)
    assert found["error"]["message"] == "its worker died or stalled 3 times while sending it"
    assert found["failed_at"] == found["finished_at"]
    assert not (IN_FLIGHT | {"due_at"}) & set(found)
    last = found["history"][-1]
    assert (last["state"], last["error"], last["fingerprint"]) == (
        "failed", found["error"]["message"], found["error"]["fingerprint"],
    )  # fmt: skip
    assert [event["state"] for event in found["history"][:-1]] == ["pending", "pending"]


def test_a_record_that_is_lost_in_company_is_not_taken_for_poison(ledger: Ledger, database: Any) -> None:
    """Any of the others may have killed the worker: it fails only if it does so alone."""
    ledger.records.log([new_record(n) for n in (1, 2)], PAST)
    for _ in range(4):
        lose(ledger, database, "orders-1", "orders-2")
    assert {(document["state"], document["losses"]) for document in database.records.find()} == {("pending", 1)}
    lose(ledger, database, "orders-1")
    lose(ledger, database, "orders-1", "orders-2")
    assert [document["losses"] for document in database.records.find(sort=[("_id", 1)])] == [2, 1]
    lose(ledger, database, "orders-1")
    assert [document["state"] for document in database.records.find(sort=[("_id", 1)])] == ["failed", "pending"]


def test_a_stream_can_have_its_first_loss_fail(ledger: Ledger, claim: Claim, database: Any) -> None:
    assert return_lost(ledger, seize(ledger, database), fail_first=True) == 1
    found = database.records.find_one()
    assert (found["state"], found["losses"]) == ("failed", 1)
    assert "the partner may have it" in found["error"]["message"]


def test_a_replay_of_poison_is_given_three_more_tries(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    for _ in range(3):
        lose(ledger, database, "orders-1")
    ledger.operations.replay(["orders-1"], states=["failed"], who="me")
    lose(ledger, database, "orders-1")
    assert database.records.find_one()["state"] == "pending"


def test_an_answer_forgives_earlier_losses(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    lose(ledger, database, "orders-1")
    claim = claim_records(ledger, ["orders-1"])
    busy = Transition(record=claim.records[0], state=State.PENDING, outcome=outcome(Verdict.RETRY_LATER, error="busy"))
    ledger.delivery_states.write_transitions(claim, [busy])
    assert "losses" not in database.records.find_one()


def test_of_several_rescuers_one_returns_a_record(ledger: Ledger, claim: Claim, database: Any) -> None:
    batch = seize(ledger, database)
    with ThreadPoolExecutor(8) as threads:
        returned = list(threads.map(lambda _: return_lost(ledger, batch), range(8)))
    assert sum(returned) == 1
    assert database.records.find_one()["losses"] == 1


def write_busy(ledger: Ledger, claim: Claim) -> Sequence[Any]:
    busy = outcome(Verdict.RETRY_LATER, error="busy")
    return ledger.delivery_states.write_transitions(
        claim, [Transition(record=record, state=State.PENDING, outcome=busy) for record in claim.records]
    )


def test_records_that_were_finished_or_claimed_meanwhile_are_left_alone(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    batch = seize(ledger, database)
    lost = ledger.lease_rescue.find_lost(batch)
    assert write_busy(ledger, claim) == []
    assert ledger.lease_rescue.return_lost(batch, lost, after_seconds=0.0) == 0
    second = claim_records(ledger, ["orders-1"])
    assert ledger.lease_rescue.return_lost(batch, lost, after_seconds=0.0) == 0
    assert database.records.find_one()["lease"]["token"] == second.token
    assert ledger.batches.end_if_done(batch)


def test_an_unsent_record_that_another_has_claimed_meanwhile_stays_there(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    database.batches.update_one({"_id": claim.token}, {"$set": {"begun": []}})
    batch = seize(ledger, database)
    assert ledger.lease_rescue.give_back_unsent(batch) == 1
    second = claim_records(ledger, ["orders-1"])
    assert ledger.lease_rescue.give_back_unsent(batch) == 0
    assert database.records.find_one()["lease"]["token"] == second.token


def test_a_second_loss_is_not_counted_by_who_saw_the_first(ledger: Ledger, claim: Claim, database: Any) -> None:
    first = seize(ledger, database)
    lost = ledger.lease_rescue.find_lost(first)
    assert ledger.lease_rescue.return_lost(first, lost, after_seconds=0.0) == 1
    claim_records(ledger, ["orders-1"], begun=True)
    expire_batch_leases(database)
    assert ledger.lease_rescue.find_lost(first) == []
    assert ledger.lease_rescue.return_lost(first, lost, after_seconds=0.0) == 0
    assert database.records.find_one()["losses"] == 1
