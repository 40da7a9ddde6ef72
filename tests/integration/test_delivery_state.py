"""The states of a record from pending to its outcome; a token guards each step."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.delivery_state import Claim, Transition
from syncctl.ledger.ledger import Ledger
from tests.harness.passing_time import PAST
from tests.harness.testbed import NASTY, claim_records, new_record, outcome

GROUNDED = {"lease", "in_flight", "exclusive"}


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """One claimed record."""
    ledger.records.log([new_record(1)], PAST)
    return claim_records(ledger, ["orders-1"])


def land(ledger: Ledger, claim: Claim, state: State = State.DELIVERED, **changes: Any) -> list[str]:
    """Write the outcomes of the claim's records; return the ids of those that came too late."""
    late = ledger.delivery_states.write_transitions(
        claim, [Transition(record=each, state=state, **changes) for each in claim.records]
    )
    return [each.id for each in late]


def again(ledger: Ledger, database: Any) -> Claim:
    """Claim the one record once more, as soon as it is due."""
    database.records.update_one({}, {"$set": {"due_at": PAST}})
    return claim_records(ledger, ["orders-1"])


# Queue.


def test_only_due_records_are_queued(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    database.records.update_one({"_id": "orders-2"}, {"$set": {"due_at": datetime(2100, 1, 1, tzinfo=UTC)}})
    database.records.update_one({"_id": "orders-3"}, {"$set": {"state": "discarded"}})
    ids = ["orders-1", "orders-2", "orders-3", "unknown"]
    assert ledger.delivery_states.queue(ids, batch="b", seconds=60, exclusive=True) == 1
    assert ledger.delivery_states.queue(ids, batch="c", seconds=60, exclusive=True) == 0
    queued = database.records.find_one({"_id": "orders-1"})
    assert (queued["state"], queued["lease"]["token"]) == ("queued", "b")
    assert queued["lease"]["until"] > datetime.now(UTC)
    assert ledger.records.count_in_flight("orders") == (1, 0)


def test_two_versions_of_a_key_are_never_in_flight_together(ledger: Ledger, database: Any) -> None:
    """Invariant 5: the unique index says so, whoever dispatches."""
    versions = [new_record(n, key_id="the key") for n in (1, 2, 3)]
    ledger.records.log([*versions, new_record(4)], PAST)
    ids = [f"orders-{n}" for n in (1, 2, 3, 4)]
    assert ledger.delivery_states.queue(ids, batch="b", seconds=60, exclusive=True) == 2
    assert ledger.delivery_states.queue(ids, batch="c", seconds=60, exclusive=True) == 0
    flying = [each["_id"] for each in database.records.find({"in_flight": True}, sort=[("_id", 1)])]
    assert flying == ["orders-1", "orders-4"]
    ledger.delivery_states.unqueue(flying, batch="b")
    assert ledger.delivery_states.queue(["orders-2"], batch="d", seconds=60, exclusive=True) == 1


def test_without_an_order_versions_go_side_by_side(ledger: Ledger) -> None:
    ledger.records.log([new_record(n, key_id="the key") for n in (1, 2)], PAST)
    assert ledger.delivery_states.queue(["orders-1", "orders-2"], batch="b", seconds=60, exclusive=False) == 2


def test_unpublished_records_are_put_back_by_their_own_batch_alone(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    before = database.records.find_one()
    ledger.delivery_states.queue(["orders-1"], batch="b", seconds=60, exclusive=True)
    assert ledger.delivery_states.unqueue(["orders-1"], batch="other") == 0
    assert ledger.delivery_states.unqueue(["orders-1"], batch="b") == 1
    assert database.records.find_one() == before


def test_a_record_in_sending_is_not_put_back(ledger: Ledger, claim: Claim, database: Any) -> None:
    database.records.update_one({}, {"$set": {"lease.token": "batch"}})
    assert ledger.delivery_states.unqueue(["orders-1"], batch="batch") == 0
    assert database.records.find_one()["state"] == "sending"


# Claim.


def test_a_message_that_eight_workers_have_is_claimed_by_one(ledger: Ledger, database: Any) -> None:
    ids = [f"orders-{n}" for n in range(40)]
    ledger.records.log([new_record(n) for n in range(40)], PAST)
    ledger.delivery_states.queue(ids, batch="b", seconds=60, exclusive=True)

    def claim(number: int) -> Claim:
        return ledger.delivery_states.claim("orders", ids, batch="b", mapping_hash="m", seconds=60, worker=f"w{number}")

    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(claim, range(8)))
    assert Counter(record.id for each in claims for record in each.records) == Counter(ids)
    tokens = {record.id: each.token for each in claims for record in each.records}
    assert {each["_id"]: each["lease"]["token"] for each in database.records.find()} == tokens
    assert {each["claims"] for each in database.records.find()} == {1}


def test_a_stale_or_doubled_message_claims_nothing(ledger: Ledger, claim: Claim) -> None:
    for batch in ("batch", "stale", claim.token):
        again = ledger.delivery_states.claim(
            "orders", ["orders-1"], batch=batch, mapping_hash="m", seconds=60, worker="w"
        )
        assert again.records == ()


def test_a_record_queued_again_is_not_claimed_by_its_old_message(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    ledger.delivery_states.queue(["orders-1"], batch="old", seconds=60, exclusive=True)
    ledger.delivery_states.unqueue(["orders-1"], batch="old")
    ledger.delivery_states.queue(["orders-1"], batch="new", seconds=60, exclusive=True)
    stale = ledger.delivery_states.claim("orders", ["orders-1"], batch="old", mapping_hash="m", seconds=60, worker="w")
    assert stale.records == ()
    assert database.records.find_one()["state"] == "queued"


def test_a_lease_names_its_worker_literally(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    claim_records(ledger, ["orders-1"], worker=NASTY)
    assert database.records.find_one()["lease"]["worker"] == "$state"


def test_a_claim_gives_the_records_in_the_order_in_which_they_were_observed(ledger: Ledger) -> None:
    ledger.records.log([new_record(n, seq=10 - n) for n in range(1, 6)], PAST)
    claim = claim_records(ledger, [f"orders-{n}" for n in range(1, 6)])
    assert [each.seq for each in claim.records] == [5, 6, 7, 8, 9]
    assert [each.attempt for each in claim.records] == [1] * 5


def test_new_bytes_go_under_a_new_key_and_old_bytes_under_the_old_one(ledger: Ledger, database: Any) -> None:
    """Invariant 7: once, also when the claim of the new mapping was given back."""
    ledger.records.log([new_record(1)], PAST)
    keys = []
    for mapping in ("old", "old", "new", "new", "old"):
        ledger.delivery_states.queue(["orders-1"], batch="b", seconds=60, exclusive=True)
        claim = ledger.delivery_states.claim(
            "orders", ["orders-1"], batch="b", mapping_hash=mapping, seconds=60, worker="w"
        )
        keys.append(claim.records[0].idempotency_key)
        ledger.delivery_states.release(claim, ["orders-1"])
    assert keys == ["orders-1", "orders-1", "orders-1-2", "orders-1-2", "orders-1-3"]


# Release.


def test_an_unsent_record_goes_back_as_if_it_had_not_been_claimed(ledger: Ledger, claim: Claim, database: Any) -> None:
    ledger.delivery_states.release(claim, ["orders-1"])
    found = database.records.find_one()
    assert (found["state"], found["claims"], found["attempts"], found["due_at"]) == ("pending", 0, 0, PAST)
    assert not GROUNDED & set(found)
    assert claim_records(ledger, ["orders-1"]).records[0].attempt == 1


def test_a_record_that_another_worker_holds_is_not_given_back(ledger: Ledger, claim: Claim, database: Any) -> None:
    database.records.update_one({}, {"$set": {"lease.token": "another's"}})
    ledger.delivery_states.release(claim, ["orders-1"])
    assert database.records.find_one()["state"] == "sending"


# Outcomes.


def test_an_accepted_record_is_delivered(ledger: Ledger, claim: Claim, database: Any) -> None:
    assert land(ledger, claim, outcome=outcome(status=201, excerpt=NASTY)) == []
    found = database.records.find_one()
    assert (found["state"], found["attempts"], found["outcomes"]) == ("delivered", 1, {"accepted": 1})
    assert found["delivered_at"] == found["finished_at"] == found["updated_at"]
    assert found["sent_at"] == found["delivered_at"] - timedelta(milliseconds=12)
    assert not (GROUNDED | {"due_at", "error"}) & set(found)
    (entry,) = found["history"]
    assert entry.items() >= {
        "action": "attempt", "n": 1, "worker": "worker", "outcome": "accepted", "status": 201, "latency_ms": 12.0,
        "excerpt": "$state", "idempotency_key": "orders-1", "state": "delivered", "claim": claim.token,
    }.items()  # fmt: skip
    assert entry["at"] == found["delivered_at"]


def test_a_rejected_record_is_failed_with_the_reason_stored_literally(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1, NASTY)], PAST)
    claim = claim_records(ledger, ["orders-1"], worker="$worker")
    refusal = outcome(Verdict.REJECTED, status=422, error="$error {'$ne': 1}", excerpt="$$ROOT")
    land(ledger, claim, State.FAILED, outcome=refusal)
    found = database.records.find_one()
    assert (found["state"], found["error"]["status"], found["error"]["message"]) == ("failed", 422, "$error {'$ne': 1}")
    assert found["failed_at"] == found["finished_at"]
    assert found["payload"]["content"] == "$state"
    assert found["history"][0].items() >= {
        "worker": "$worker", "error": "$error {'$ne': 1}", "excerpt": "$$ROOT", "state": "failed",
        "fingerprint": found["error"]["fingerprint"],
    }.items()  # fmt: skip
    assert not (GROUNDED | {"due_at"}) & set(found)


def test_an_unsendable_record_is_failed_without_an_attempt(ledger: Ledger, claim: Claim, database: Any) -> None:
    land(ledger, claim, State.FAILED, reason="$reason")
    found = database.records.find_one()
    assert (found["state"], found["attempts"], found["error"]["message"]) == ("failed", 0, "$reason")
    assert found["history"][0].items() >= {"action": "unsendable", "error": "$reason", "state": "failed"}.items()
    assert "sent_at" not in found


def test_a_record_to_retry_is_pending_until_a_later_time(ledger: Ledger, claim: Claim, database: Any) -> None:
    land(ledger, claim, State.PENDING, outcome=outcome(Verdict.RETRY_LATER, status=503, error="busy"), delay_seconds=60)
    found = database.records.find_one()
    assert (found["state"], found["fresh"], found["tries"], found["error"]["message"]) == ("pending", False, 1, "busy")
    assert found["due_at"] == found["updated_at"] + timedelta(seconds=60)
    assert not GROUNDED & set(found)
    second = again(ledger, database)
    assert (second.records[0].attempt, second.records[0].tries) == (2, 1)
    land(ledger, second, outcome=outcome())
    found = database.records.find_one()
    assert (found["attempts"], found["outcomes"]) == (2, {"retry_later": 1, "accepted": 1})
    assert "error" not in found
    assert found["sent_at"] < found["history"][1]["at"]


def test_a_superseded_record_costs_no_attempt(ledger: Ledger, claim: Claim, database: Any) -> None:
    land(ledger, claim, State.SUPERSEDED, superseded_by="orders-9")
    found = database.records.find_one()
    assert (found["state"], found["superseded_by"], found["claims"]) == ("superseded", "orders-9", 0)
    assert found["finished_at"] == found["superseded_at"]
    assert not (GROUNDED | {"due_at"}) & set(found)


def test_writing_an_outcome_twice_is_writing_it_once(ledger: Ledger, claim: Claim, database: Any) -> None:
    """The driver repeats a bulk after a cut connection."""
    assert land(ledger, claim, outcome=outcome()) == []
    before = database.records.find_one()
    assert land(ledger, claim, outcome=outcome()) == []
    assert database.records.find_one() == before


def test_an_outcome_after_its_lease_was_lost_changes_no_state_and_joins_the_history(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    """Invariant 3."""
    database.records.update_one({}, {"$set": {"lease.until": PAST}})
    ledger.lease_rescue.bring_back(ledger.lease_rescue.find_expired("orders", limit=1))
    second = claim_records(ledger, ["orders-1"])
    assert land(ledger, claim, State.FAILED, outcome=outcome(Verdict.REJECTED, status=422, error="no")) == ["orders-1"]
    found = database.records.find_one()
    assert (found["state"], found["lease"]["token"], found["attempts"]) == ("sending", second.token, 0)
    late = outcome(Verdict.REJECTED, status=422, error="no")
    for _ in range(2):
        ledger.delivery_states.add_late_outcomes(claim, [(claim.records[0], late)])
    land(ledger, second, outcome=outcome())
    found = database.records.find_one()
    assert (found["state"], found["attempts"], found["tries"]) == ("delivered", 2, 1)
    assert found["outcomes"] == {"rejected": 1, "accepted": 1}
    entries = [(each["action"], each.get("late"), each.get("n")) for each in found["history"]]
    assert entries == [("lost", None, 1), ("attempt", True, 1), ("attempt", None, 2)]
    assert "state" not in found["history"][1]


def test_the_last_fifty_attempts_are_kept_and_all_are_counted(ledger: Ledger, database: Any) -> None:
    """Invariant 4."""
    ledger.records.log([new_record(1)], PAST)
    busy = outcome(Verdict.RETRY_LATER, status=503, error="busy")
    for _ in range(52):
        land(ledger, again(ledger, database), State.PENDING, outcome=busy)
    land(ledger, again(ledger, database), outcome=outcome())
    found = database.records.find_one()
    assert [each["n"] for each in found["history"]] == list(range(4, 54))
    assert (found["attempts"], found["outcomes"]) == (53, {"retry_later": 52, "accepted": 1})


# Resend.


def test_a_delivered_record_goes_again_under_a_new_key(ledger: Ledger, claim: Claim, database: Any) -> None:
    land(ledger, claim, outcome=outcome())
    ledger.delivery_states.resend(["orders-1"])
    found = database.records.find_one()
    assert (found["state"], found["fresh"], found["history"][-1]["action"]) == ("pending", False, "resent")
    assert "finished_at" not in found
    assert claim_records(ledger, ["orders-1"]).records[0].idempotency_key == "orders-1-2"


def test_a_record_in_flight_is_sent_again_after_it_was_accepted(ledger: Ledger, claim: Claim, database: Any) -> None:
    ledger.delivery_states.resend(["orders-1"])
    land(ledger, claim, outcome=outcome())
    found = database.records.find_one()
    assert (found["state"], found["history"][0]["state"]) == ("pending", "pending")
    assert "resend" not in found
    assert "finished_at" not in found
    second = claim_records(ledger, ["orders-1"])
    assert second.records[0].idempotency_key == "orders-1-2"
    land(ledger, second, outcome=outcome())
    assert database.records.find_one()["state"] == "delivered"


def test_a_tried_record_takes_a_new_key_and_an_untried_one_keeps_its_own(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    ledger.records.log([new_record(2)], PAST)
    land(ledger, claim, State.PENDING, outcome=outcome(Verdict.RETRY_LATER, error="busy"))
    ledger.delivery_states.resend(["orders-1", "orders-2"])
    assert again(ledger, database).records[0].idempotency_key == "orders-1-2"
    assert claim_records(ledger, ["orders-2"]).records[0].idempotency_key == "orders-2"


def test_a_discarded_record_stays_discarded(ledger: Ledger, claim: Claim, database: Any) -> None:
    land(ledger, claim, State.FAILED, outcome=outcome(Verdict.REJECTED, status=422, error="no"))
    before = database.records.find_one()
    ledger.delivery_states.resend(["orders-1"])
    assert database.records.find_one() == before


def test_the_keys_of_rows_make_no_error_of_their_own(ledger: Ledger, database: Any) -> None:
    names = ("north", "Zürich-2", "old town")
    for number, name in enumerate(names, start=1):
        ledger.records.log([new_record(number, key={"id": name}, key_id=key_id({"id": name}))], PAST)
    claim = claim_records(ledger, [f"orders-{number}" for number in range(1, 4)])
    refusals = [
        Transition(
            record=each,
            state=State.FAILED,
            outcome=outcome(Verdict.REJECTED, status=409, error=f"HTTP 409: {each.key['id']} is closed"),
        )
        for each in claim.records
    ]
    assert ledger.delivery_states.write_transitions(claim, refusals) == []
    (group,) = ledger.operations.group_failures(["orders"], limit=5)
    assert (group["count"], group["status"]) == (3, 409)
    entries = [each["history"][-1]["fingerprint"] for each in database.records.find()]
    assert entries == [group["fingerprint"]] * 3
