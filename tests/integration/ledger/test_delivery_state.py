"""The outcomes of calls become states; each write is guarded by the token of a batch."""

from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.batches import Claim
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.selections import ANY
from tests.harness.passing_time import PAST, expire_batch_leases
from tests.harness.testbed import NASTY, claim_records, new_record, outcome

IN_FLIGHT = {"lease", "in_flight_key", "in_flight_retry"}


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """One claimed record."""
    ledger.records.log([new_record(1)], PAST)
    return claim_records(ledger, ["orders-1"])


def land(ledger: Ledger, claim: Claim, state: State = State.DELIVERED, **changes: Any) -> list[str]:
    """Write the outcomes of the claim's records; return the ids of those that came too late."""
    late = ledger.delivery_states.write_transitions(
        claim, [Transition(record=record, state=state, **changes) for record in claim.records]
    )
    return [each.id for each in late]


def again(ledger: Ledger, database: Any) -> Claim:
    """Claim the one record once more, as soon as it is due."""
    database.records.update_one({}, {"$set": {"due_at": PAST}})
    return claim_records(ledger, ["orders-1"])


# Outcomes.


def test_an_accepted_record_is_delivered(ledger: Ledger, claim: Claim, database: Any) -> None:
    assert land(ledger, claim, outcome=outcome(status=201, excerpt=NASTY)) == []
    found = database.records.find_one()
    assert (found["state"], found["attempts"], found["outcomes"]) == ("delivered", 1, {"accepted": 1})
    assert found["delivered_at"] == found["finished_at"] == found["updated_at"]
    assert found["sent_at"] == found["delivered_at"] - timedelta(milliseconds=12)
    assert not (IN_FLIGHT | {"due_at", "error"}) & set(found)
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
    assert not (IN_FLIGHT | {"due_at"}) & set(found)


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
    assert not IN_FLIGHT & set(found)
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
    assert not (IN_FLIGHT | {"due_at"}) & set(found)


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
    assert ledger.batches.begin(claim, ["orders-1"], seconds=60)
    expire_batch_leases(database)
    (batch,) = ledger.batches.seize_expired(["orders"], limit=10)
    ledger.lease_rescue.return_lost(batch, ledger.lease_rescue.find_lost(batch), after_seconds=0.0)
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
    entries = [(event["action"], event.get("late"), event.get("n")) for event in found["history"]]
    assert entries == [("lost", None, 1), ("attempt", True, 1), ("attempt", None, 2)]
    assert "state" not in found["history"][1]


def test_an_outcome_counts_that_is_written_before_its_batch_is_brought_back(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    """The lease ran out, but the record is still under its token: the state is known."""
    assert ledger.batches.begin(claim, ["orders-1"], seconds=60)
    expire_batch_leases(database)
    (batch,) = ledger.batches.seize_expired(["orders"], limit=10)
    assert land(ledger, claim, outcome=outcome()) == []
    assert ledger.lease_rescue.find_lost(batch) == []
    assert database.records.find_one()["state"] == "delivered"


def test_many_outcomes_in_one_write_keep_what_differs_between_them(ledger: Ledger, database: Any) -> None:
    numbers = range(1, 8)
    ledger.records.log([new_record(n, NASTY) for n in numbers], PAST)
    claim = claim_records(ledger, [f"orders-{n}" for n in numbers])
    records = {record.seq: record for record in claim.records}
    database.records.update_one({"_id": "orders-7"}, {"$set": {"lease.token": "another's"}})
    transitions = [
        Transition(
            record=records[n],
            state=State.DELIVERED,
            outcome=outcome(status=200 + n, latency_ms=100.0 * n, excerpt=f"$excerpt {n}", batch_key=f"k{n}"),
        )
        for n in (5, 2, 7, 1)
    ]
    refusal = outcome(Verdict.REJECTED, status=422, error="no")
    transitions.insert(1, Transition(record=records[3], state=State.FAILED, outcome=refusal))
    busy = outcome(Verdict.RETRY_LATER, status=503, error="busy")
    transitions.append(Transition(record=records[4], state=State.PENDING, outcome=busy, delay_seconds=60))
    transitions.append(Transition(record=records[6], state=State.SUPERSEDED, superseded_by="orders-9"))
    late = ledger.delivery_states.write_transitions(claim, transitions)
    assert [record.id for record in late] == ["orders-7"]
    found = {document["seq"]: document for document in database.records.find()}
    assert {n: each["state"] for n, each in found.items()} == {
        1: "delivered", 2: "delivered", 3: "failed", 4: "pending", 5: "delivered", 6: "superseded", 7: "sending",
    }  # fmt: skip
    for number in (1, 2, 5):
        (entry,) = found[number]["history"]
        assert (entry["status"], entry["latency_ms"], entry["excerpt"], entry["batch_key"]) == (
            200 + number, 100.0 * number, f"$excerpt {number}", f"k{number}",
        )  # fmt: skip
        assert (entry["idempotency_key"], entry["state"]) == (f"orders-{number}", "delivered")
        assert found[number]["delivered_at"] - found[number]["sent_at"] == timedelta(milliseconds=100 * number)
        assert not (IN_FLIGHT | {"place", "due_at"}) & set(found[number])
    assert ledger.delivery_states.write_transitions(claim, transitions) == late


def test_the_last_fifty_attempts_are_kept_and_all_are_counted(ledger: Ledger, database: Any) -> None:
    """Invariant 4."""
    ledger.records.log([new_record(1)], PAST)
    busy = outcome(Verdict.RETRY_LATER, status=503, error="busy")
    for _ in range(52):
        land(ledger, again(ledger, database), State.PENDING, outcome=busy)
    land(ledger, again(ledger, database), outcome=outcome())
    found = database.records.find_one()
    assert [event["n"] for event in found["history"]] == list(range(4, 54))
    assert (found["attempts"], found["outcomes"]) == (53, {"retry_later": 52, "accepted": 1})


# Resend.


def test_a_delivered_record_goes_again_under_a_new_key(ledger: Ledger, claim: Claim, database: Any) -> None:
    land(ledger, claim, outcome=outcome())
    ledger.delivery_states.resend(["orders-1"])
    found = database.records.find_one()
    assert (found["state"], found["fresh"], found["history"][-1]["action"]) == ("pending", True, "resent")
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
            record=record,
            state=State.FAILED,
            outcome=outcome(Verdict.REJECTED, status=409, error=f"HTTP 409: {record.key['id']} is closed"),
        )
        for record in claim.records
    ]
    assert ledger.delivery_states.write_transitions(claim, refusals) == []
    (group,) = ledger.selections.group_failures({"orders": ANY}, limit=5)
    assert (group["count"], group["status"]) == (3, 409)
    entries = [document["history"][-1]["fingerprint"] for document in database.records.find()]
    assert entries == [group["fingerprint"]] * 3
