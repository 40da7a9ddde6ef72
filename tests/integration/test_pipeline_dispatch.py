"""dispatch: due records are queued oldest first, up to the window, one version of a key at a time."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import Observation
from tests.harness.passing_time import PAST
from tests.harness.testbed import ListReader, Testbed, claim_records, new_record, outcome, version_row


def log(testbed: Testbed, *numbers: int, content: str = "a") -> None:
    """Let a poll have seen these rows."""
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def retried(testbed: Testbed, *numbers: int) -> None:
    """Let these records have been tried, and be due again."""
    testbed.database.records.update_many({"key.id": {"$in": numbers}}, {"$set": {"fresh": False, "due_at": PAST}})


def queued(testbed: Testbed) -> list[int]:
    return sorted(each["key"]["id"] for each in testbed.records(state="queued"))


def test_batches_hold_ids_oldest_first(testbed: Testbed) -> None:
    testbed.change_stream(batch_size=3)
    log(testbed, 5, 1, 4, 2, 3, 6, 7)
    assert testbed.dispatch() == 7
    by_id = {each["_id"]: each for each in testbed.records()}
    sent = [[by_id[each]["key"]["id"] for each in ids] for _, ids in testbed.messages]
    assert sent == [[5, 1, 4], [2, 3, 6], [7]]
    tokens = [token for token, _ in testbed.messages]
    assert len(set(tokens)) == 3
    assert {each["lease"]["token"] for each in by_id.values()} == set(tokens)
    assert testbed.dispatch() == 0


def test_never_more_than_the_window_is_in_flight(testbed: Testbed) -> None:
    testbed.change_stream(window=4, batch_size=3)
    log(testbed, *range(1, 11))
    assert testbed.dispatch() == 4
    assert queued(testbed) == [1, 2, 3, 4]
    assert testbed.dispatch(messages_waiting=lambda: 0) == 0
    testbed.deliver()
    assert testbed.dispatch(messages_waiting=lambda: 0) == 3


def test_no_message_is_sent_while_the_queue_holds_a_windows_worth(testbed: Testbed) -> None:
    log(testbed, 1)
    assert testbed.dispatch(messages_waiting=lambda: testbed.sizes.messages) == 0
    assert testbed.dispatch(messages_waiting=lambda: testbed.sizes.messages - 1) == 1


def test_at_least_half_of_the_window_is_for_first_attempts(testbed: Testbed) -> None:
    testbed.change_stream(window=6)
    log(testbed, *range(1, 9))
    retried(testbed, *range(1, 9))
    log(testbed, *range(11, 19))
    assert testbed.dispatch() == 6
    assert queued(testbed) == [1, 2, 3, 11, 12, 13]


def test_retries_in_flight_count_towards_their_half(testbed: Testbed) -> None:
    testbed.change_stream(window=6)
    log(testbed, *range(1, 9))
    retried(testbed, *range(1, 9))
    assert testbed.dispatch() == 3
    assert testbed.dispatch() == 0
    log(testbed, *range(11, 19))
    assert testbed.dispatch(messages_waiting=lambda: 0) == 3
    assert queued(testbed) == [1, 2, 3, 11, 12, 13]


def test_first_attempts_take_the_whole_window_where_nothing_is_retried(testbed: Testbed) -> None:
    testbed.change_stream(window=6)
    log(testbed, *range(1, 9))
    assert testbed.dispatch() == 6


def test_records_that_are_not_due_are_left_alone(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    later = testbed.ledger.streams.server_time() + timedelta(hours=1)
    testbed.database.records.update_one({"key.id": 1}, {"$set": {"due_at": later}})
    assert testbed.dispatch() == 1
    assert queued(testbed) == [2]


def test_an_overtaken_version_is_superseded_and_makes_way(testbed: Testbed) -> None:
    testbed.change_stream(window=2)
    for content in "abc":
        log(testbed, 1, 2, 3, content=content)
    assert testbed.dispatch() == 2
    assert testbed.states() == {
        1: ["superseded", "superseded", "queued"],
        2: ["superseded", "superseded", "queued"],
        3: ["superseded", "superseded", "pending"],
    }
    newest = {each["key"]["id"]: each["_id"] for each in testbed.records()}
    for each in testbed.records(state="superseded"):
        assert each["superseded_by"] == newest[each["key"]["id"]]


def test_a_newer_version_waits_until_the_older_one_is_finished(testbed: Testbed) -> None:
    log(testbed, 1, content="a")
    testbed.dispatch()
    log(testbed, 1, content="b")
    assert testbed.dispatch(messages_waiting=lambda: 0) == 0
    assert testbed.states() == {1: ["queued", "pending"]}
    testbed.deliver()
    assert testbed.states() == {1: ["superseded", "pending"]}
    assert testbed.dispatch() == 1


def test_blocked_records_do_not_block_the_ones_behind_them(testbed: Testbed) -> None:
    testbed.change_stream(window=4)
    log(testbed, 1, 2, content="a")
    testbed.dispatch()
    log(testbed, 1, 2, content="b")
    log(testbed, 3, 4)
    assert testbed.dispatch(messages_waiting=lambda: 0) == 2
    assert queued(testbed) == [1, 2, 3, 4]


def test_without_an_order_every_version_goes(testbed: Testbed) -> None:
    testbed.change_stream(order="none")
    for content in "abc":
        log(testbed, 1, content=content)
    assert testbed.dispatch() == 3
    assert testbed.states() == {1: ["queued"] * 3}


@pytest.mark.parametrize("order", ["latest", "none"])
def test_a_record_whose_key_does_not_know_it_is_left_alone(testbed: Testbed, order: str) -> None:
    """Its poll is at work, or was interrupted and will be repeated."""
    testbed.change_stream(order=order)
    new = new_record(1, seq=9)
    testbed.ledger.records.log([new, new_record(2, seq=9)], PAST)
    known = Observation(
        key_id=new.key_id, key=new.key, previous_seq=None, seq=5, version="before", hash="h", op="upsert"
    )
    testbed.ledger.keys.observe("orders", [known])
    assert testbed.dispatch() == 0
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}


def test_a_publish_that_fails_puts_its_records_back_at_once(testbed: Testbed) -> None:
    testbed.change_stream(batch_size=2)
    log(testbed, 1, 2, 3, 4, 5)
    before = testbed.records()

    def publish(stream: str, token: str, ids: Sequence[str]) -> None:
        if testbed.messages:
            raise ServiceUnavailable("cannot reach Redis", service="redis")
        testbed.publish(stream, token, ids)

    with pytest.raises(ServiceUnavailable, match="Redis"):
        testbed.dispatch(publish=publish)
    assert queued(testbed) == [1, 2]
    assert testbed.records()[2:] == before[2:]
    assert testbed.dispatch() == 3


def test_a_redis_that_is_away_leaves_everything_as_it_is(testbed: Testbed) -> None:
    log(testbed, 1)
    before = testbed.records()

    def waiting() -> int:
        raise ServiceUnavailable("cannot reach Redis", service="redis")

    with pytest.raises(ServiceUnavailable, match="Redis"):
        testbed.dispatch(messages_waiting=waiting)
    assert testbed.records() == before
    assert testbed.dispatch() == 1


def test_a_dispatch_that_comes_meanwhile_makes_the_holder_look_once_more(testbed: Testbed) -> None:
    log(testbed, 1)

    def publish(stream: str, token: str, ids: Sequence[str]) -> None:
        testbed.publish(stream, token, ids)
        if len(testbed.messages) == 1:
            log(testbed, 2)
            assert testbed.dispatch() == 0

    assert testbed.dispatch(publish=publish) == 2
    assert queued(testbed) == [1, 2]
    assert "dispatch" not in testbed.database.streams.find_one()


def test_a_paused_stream_sends_nothing_and_goes_on_logging(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.ledger.streams.pause("orders", who="me", reason="their maintenance")
    assert testbed.dispatch() == 0
    log(testbed, 2)
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}
    testbed.ledger.streams.resume("orders")
    assert testbed.dispatch() == 2


def test_a_record_that_was_lost_in_sending_travels_alone(testbed: Testbed) -> None:
    log(testbed, 1, 2, 3)
    ids = {each["key"]["id"]: each["_id"] for each in testbed.records()}
    claim_records(testbed.ledger, [ids[1], ids[2]])
    testbed.expire_leases()
    testbed.maintain()
    log(testbed, 4)
    testbed.dispatch()
    assert sorted(sorted(each) for _, each in testbed.messages) == sorted(
        [[ids[1]], [ids[2]], sorted(each["_id"] for each in testbed.records() if each["key"]["id"] in (3, 4))]
    )


def test_a_record_that_was_never_lost_after_a_retry_travels_with_others(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    claim = claim_records(testbed.ledger, [each["_id"] for each in testbed.records()])
    busy = outcome(Verdict.RETRY_LATER, error="busy")
    testbed.ledger.delivery_states.write_transitions(
        claim, [Transition(record=each, state=State.PENDING, outcome=busy) for each in claim.records]
    )
    testbed.dispatch()
    assert [len(ids) for _, ids in testbed.messages] == [2]


def test_two_dispatches_at_once_send_each_record_once(testbed: Testbed) -> None:
    from concurrent.futures import ThreadPoolExecutor

    testbed.change_stream(batch_size=5)
    log(testbed, *range(1, 41))
    with ThreadPoolExecutor(6) as threads:
        sent = list(threads.map(lambda _: testbed.dispatch(), range(6)))
    assert sum(sent) == 40
    ids: list[Any] = [each for _, batch in testbed.messages for each in batch]
    assert len(ids) == len(set(ids)) == 40
