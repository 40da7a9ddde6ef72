"""The time from logged to delivered in the roll-ups: once for each record, in the hour of its first delivery."""

from datetime import timedelta
from typing import Any

from syncctl.core.histogram import bucket_of
from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.attempt_history import HISTORY_LENGTH
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.reporting.roll_up import roll_up
from tests.harness.passing_time import PAST
from tests.harness.testbed import claim_records, new_record, outcome

BUSY = outcome(Verdict.RETRY_LATER, status=503, error="busy", latency_ms=900.0)


def log(ledger: Ledger, number: int, *, seconds_ago: float = 0.0) -> None:
    ledger.records.log([new_record(number)], ledger.streams.server_time() - timedelta(seconds=seconds_ago))


def call(ledger: Ledger, database: Any, number: int, state: State = State.DELIVERED) -> None:
    database.records.update_one({"_id": f"orders-{number}", "state": "pending"}, {"$set": {"due_at": PAST}})
    (record,) = (claim := claim_records(ledger, [f"orders-{number}"])).records
    answer = outcome() if state is State.DELIVERED else BUSY
    ledger.delivery_states.write_transitions(claim, [Transition(record=record, state=state, outcome=answer)])


def delivery_buckets(ledger: Ledger, database: Any) -> dict[int, int]:
    """Return the times of all hours, by bucket."""
    roll_up(ledger=ledger)
    buckets: dict[int, int] = {}
    for stored in database.reports.find({"stream": "orders"}):
        for bucket, count in stored["delivery"].items():
            buckets[int(bucket)] = buckets.get(int(bucket), 0) + count
    return buckets


def test_retries_are_part_of_the_time_from_logged_to_delivered(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, seconds_ago=1000)
    log(ledger, 2, seconds_ago=100_000)
    log(ledger, 3)
    call(ledger, database, 1, State.PENDING)
    assert delivery_buckets(ledger, database) == {}
    for number in (1, 2):
        call(ledger, database, number)
    found = delivery_buckets(ledger, database)
    # A bucket is 5 % wide, and the two writes take less.
    assert sum(found.values()) == 2
    for expected_ms in (1e6, 1e8):
        assert found.keys() & {bucket_of(expected_ms), bucket_of(expected_ms) + 1}


def test_a_record_that_is_sent_again_counts_once(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, seconds_ago=1000)
    call(ledger, database, 1)
    before = delivery_buckets(ledger, database)
    database.records.update_one({"_id": "orders-1"}, {"$set": {"logged_at": PAST}})
    for _ in range(2):
        ledger.operations.replay(["orders-1"], states=["delivered"], who="me")
        call(ledger, database, 1)
    assert sum(before.values()) == sum(delivery_buckets(ledger, database).values()) == 1


def test_a_first_delivery_that_has_left_the_history_is_replaced_by_no_later_one(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, seconds_ago=1000)
    call(ledger, database, 1)
    ledger.operations.replay(["orders-1"], states=["delivered"], who="me")
    for _ in range(HISTORY_LENGTH):
        call(ledger, database, 1, State.PENDING)
    call(ledger, database, 1)
    assert delivery_buckets(ledger, database) == {}


def test_a_clock_that_went_back_gives_the_shortest_time(ledger: Ledger, database: Any) -> None:
    """After a failover the new member's clock may be behind that of the one that logged the record."""
    log(ledger, 1, seconds_ago=-30)
    call(ledger, database, 1)
    assert delivery_buckets(ledger, database) == {bucket_of(0.0): 1}
