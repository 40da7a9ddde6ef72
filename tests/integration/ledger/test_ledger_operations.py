"""Changes to records that are not in flight, by an operator or a newer version."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.ledger import Ledger
from tests.harness.passing_time import PAST
from tests.harness.testbed import NASTY, claim_records, new_record, outcome


def finish(ledger: Ledger, number: int, state: State) -> None:
    """Log a record and bring it to its end."""
    ledger.records.log([new_record(number)], PAST)
    claim = claim_records(ledger, [f"orders-{number}"])
    failed = outcome(Verdict.REJECTED, status=422, error="no")
    landed = Transition(
        record=claim.records[0], state=state, outcome=failed if state is State.FAILED else outcome(), superseded_by="x"
    )
    ledger.delivery_states.write_transitions(claim, [landed])


def test_a_newer_version_supersedes_a_waiting_record(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1), new_record(2)], PAST)
    claim_records(ledger, ["orders-2"])
    assert ledger.operations.supersede([("orders-1", 1, "orders-9"), ("orders-2", 2, "orders-9")]) == 1
    found = database.records.find_one({"_id": "orders-1"})
    assert (found["state"], found["superseded_by"]) == ("superseded", "orders-9")
    assert found["finished_at"] == found["superseded_at"] == found["updated_at"]
    assert "due_at" not in found
    assert database.records.find_one({"_id": "orders-2"})["state"] == "sending"
    assert ledger.operations.supersede([]) == 0


def test_a_record_that_a_poll_has_found_again_meanwhile_is_not_superseded(ledger: Ledger, database: Any) -> None:
    """It is the newest of its key by now. Fails without the seq in the guard."""
    ledger.records.log([new_record(1)], PAST)
    assert ledger.records.raise_seq({"orders-1": 7}) == set()
    assert ledger.operations.supersede([("orders-1", 1, "orders-9")]) == 0
    assert database.records.find_one()["state"] == "pending"


def test_a_replay_starts_from_the_beginning_under_the_same_key(ledger: Ledger, database: Any) -> None:
    finish(ledger, 1, State.FAILED)
    assert ledger.operations.replay(["orders-1"], states=["failed"], who=NASTY) == 1
    found = database.records.find_one()
    assert (found["state"], found["fresh"], found["tries"], found["replays"]) == ("pending", True, 0, 1)
    assert (found["attempts"], found["claims"]) == (1, 1)
    assert not {"error", "failed_at", "finished_at"} & set(found)
    assert found["history"][-1].items() >= {"action": "replayed", "by": "$state", "from": "failed"}.items()
    sent = claim_records(ledger, ["orders-1"]).records[0]
    assert (sent.idempotency_key, sent.attempt, sent.tries) == ("orders-1", 2, 0)


def test_a_delivered_record_is_replayed_under_a_new_key(ledger: Ledger) -> None:
    """Under the old one its partner would do nothing."""
    finish(ledger, 1, State.DELIVERED)
    ledger.operations.replay(["orders-1"], states=["delivered"], who="me")
    claim = claim_records(ledger, ["orders-1"])
    assert claim.records[0].idempotency_key == "orders-1-2"
    failed = outcome(Verdict.REJECTED, status=422, error="no")
    ledger.delivery_states.write_transitions(
        claim, [Transition(record=claim.records[0], state=State.FAILED, outcome=failed)]
    )
    ledger.operations.replay(["orders-1"], states=["failed"], who="me")
    assert claim_records(ledger, ["orders-1"]).records[0].idempotency_key == "orders-1-2"


@pytest.mark.parametrize("state", [State.FAILED, State.DELIVERED])
def test_a_replay_can_ask_for_a_new_key(ledger: Ledger, state: State) -> None:
    finish(ledger, 1, state)
    ledger.operations.replay(["orders-1"], states=[state.value], who="me", new_key=True)
    assert claim_records(ledger, ["orders-1"]).records[0].idempotency_key == "orders-1-2"


def test_a_replay_leaves_other_records_alone(ledger: Ledger, database: Any) -> None:
    finish(ledger, 1, State.DELIVERED)
    ledger.records.log([new_record(2)], PAST)
    before = list(database.records.find())
    assert ledger.operations.replay(["orders-1", "orders-2", "unknown"], states=["failed"], who="me") == 0
    assert list(database.records.find()) == before


def test_a_discard_says_who_and_why(ledger: Ledger, database: Any) -> None:
    finish(ledger, 1, State.FAILED)
    ledger.records.log([new_record(2)], PAST)
    done = ledger.operations.discard(["orders-1", "orders-2"], states=["failed", "pending"], who="$who", reason=NASTY)
    assert done == 2
    for found, before in zip(database.records.find(sort=[("_id", 1)]), ("failed", "pending"), strict=True):
        assert (found["state"], found["reason"]) == ("discarded", "$state")
        assert found["history"][-1].items() >= {"by": "$who", "reason": "$state", "from": before}.items()
        assert found["discarded_at"] == found["finished_at"] == found["updated_at"]
        assert "due_at" not in found


def test_a_record_in_sending_cannot_be_discarded(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    claim_records(ledger, ["orders-1"])
    assert ledger.operations.discard(["orders-1"], states=["failed", "pending"], who="me", reason="why") == 0


def test_a_clean_up_removes_the_oldest_first_and_only_of_its_state(ledger: Ledger, database: Any) -> None:
    for number in range(1, 6):
        finish(ledger, number, State.DELIVERED)
        ended = PAST + timedelta(days=number)
        database.records.update_one({"_id": f"orders-{number}"}, {"$set": {"finished_at": ended}})
    finish(ledger, 6, State.FAILED)
    ledger.records.log([new_record(7)], PAST)
    before = PAST + timedelta(days=4)
    assert ledger.operations.count_finished("orders", State.DELIVERED, before) == 3
    assert ledger.operations.remove_finished("orders", State.DELIVERED, before, limit=2) == 2
    assert [document["_id"] for document in database.records.find(sort=[("_id", 1)])] == [
        f"orders-{n}" for n in (3, 4, 5, 6, 7)
    ]
    assert ledger.operations.remove_finished("orders", State.DELIVERED, before, limit=2) == 1
    assert ledger.operations.remove_finished("orders", State.DELIVERED, before, limit=2) == 0
    assert ledger.operations.remove_finished("others", State.DELIVERED, before, limit=2) == 0


def test_a_clean_up_removes_as_many_as_it_counts_however_many_it_keeps(ledger: Ledger, database: Any) -> None:
    before = PAST + timedelta(days=4)
    tried, given_up = {"due_at": before}, {"due_at": before - timedelta(days=31)}
    refused = {"version": "1", "error": "no", "due_at": before}
    marks: list[dict[str, Any]] = [
        {}, {"kept": True}, {"acknowledge": {"version": "1"}}, {"acknowledge": refused}, {"write_back": tried},
        {"write_back": given_up}, {"kept": True, "acknowledge": refused, "write_back": tried},
        {"acknowledge": {**refused, **given_up}, "write_back": given_up},
    ]  # fmt: skip
    for state, count in ((State.DELIVERED, 2), (State.FAILED, 4), (State.SUPERSEDED, 5)):
        for number, mark in enumerate(marks):
            record = {"_id": f"{state}-{number}", "stream": "orders", "state": state.value, "finished_at": PAST}
            database.records.insert_one({**record, **mark})
        assert ledger.operations.count_finished("orders", state, before) == count, state
        assert ledger.operations.remove_finished("orders", state, before, limit=99) == count


def test_a_record_that_was_replayed_meanwhile_is_not_removed(
    ledger: Ledger, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(ledger, 1, State.DELIVERED)
    database.records.update_one({}, {"$set": {"finished_at": PAST}})
    records = ledger.operations._records

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(records, name)

        def delete_many(self, query: Any) -> Any:
            database.records.update_one({}, {"$set": {"finished_at": datetime.now(UTC)}})
            return records.delete_many(query)

    monkeypatch.setattr(ledger.operations, "_records", Meanwhile())
    before = PAST + timedelta(days=1)
    assert ledger.operations.remove_finished("orders", State.DELIVERED, before, limit=2) == 0
    assert database.records.count_documents({}) == 1


@pytest.mark.parametrize("state", [State.PENDING, State.QUEUED, State.SENDING])
def test_an_unfinished_record_is_never_removed(ledger: Ledger, state: State) -> None:
    with pytest.raises(ValueError, match="not a terminal state"):
        ledger.operations.remove_finished("orders", state, datetime.now(UTC), limit=1)


def test_a_version_that_is_passed_over_in_flight_is_not_acknowledged(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1, acknowledge="v1")], PAST)
    (record,) = (claim := claim_records(ledger, ["orders-1"])).records
    passed_over = Transition(record=record, state=State.SUPERSEDED, superseded_by="orders-9")
    ledger.delivery_states.write_transitions(claim, [passed_over])
    found = database.records.find_one()
    assert found["state"] == "superseded"
    assert "acknowledge" not in found
