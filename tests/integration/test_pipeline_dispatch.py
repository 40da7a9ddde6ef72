"""dispatch: what is due goes out, oldest first, up to the window, one version of a key at a time."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import Observation
from tests.harness.world import PAST, ListReader, World, fly, new_record, outcome, version_row


def log(world: World, *numbers: int, content: str = "a") -> None:
    """Let a poll have seen these rows."""
    world.poll(ListReader([version_row(number, content, None) for number in numbers]))


def retried(world: World, *numbers: int) -> None:
    """Let these records have been tried, and be due again."""
    world.database.records.update_many({"key.id": {"$in": numbers}}, {"$set": {"fresh": False, "due_at": PAST}})


def queued(world: World) -> list[int]:
    return sorted(each["key"]["id"] for each in world.records(state="queued"))


def test_batches_of_ids_the_oldest_first(world: World) -> None:
    world.change_stream(batch_size=3)
    log(world, 5, 1, 4, 2, 3, 6, 7)
    assert world.dispatch() == 7
    by_id = {each["_id"]: each for each in world.records()}
    sent = [[by_id[each]["key"]["id"] for each in ids] for _, ids in world.messages]
    assert sent == [[5, 1, 4], [2, 3, 6], [7]]
    tokens = [token for token, _ in world.messages]
    assert len(set(tokens)) == 3
    assert {each["lease"]["token"] for each in by_id.values()} == set(tokens)
    assert world.dispatch() == 0


def test_never_more_than_the_window_in_flight(world: World) -> None:
    world.change_stream(window=4, batch_size=3)
    log(world, *range(1, 11))
    assert world.dispatch() == 4
    assert queued(world) == [1, 2, 3, 4]
    assert world.dispatch(messages_waiting=lambda: 0) == 0
    world.deliver()
    assert world.dispatch(messages_waiting=lambda: 0) == 3


def test_no_message_while_the_queue_holds_a_windows_worth(world: World) -> None:
    log(world, 1)
    assert world.dispatch(messages_waiting=lambda: world.sizes.messages) == 0
    assert world.dispatch(messages_waiting=lambda: world.sizes.messages - 1) == 1


def test_at_least_half_of_the_window_is_for_first_attempts(world: World) -> None:
    world.change_stream(window=6)
    log(world, *range(1, 9))
    retried(world, *range(1, 9))
    log(world, *range(11, 19))
    assert world.dispatch() == 6
    assert queued(world) == [1, 2, 3, 11, 12, 13]


def test_retries_in_flight_count_towards_their_half(world: World) -> None:
    world.change_stream(window=6)
    log(world, *range(1, 9))
    retried(world, *range(1, 9))
    assert world.dispatch() == 3
    assert world.dispatch() == 0
    log(world, *range(11, 19))
    assert world.dispatch(messages_waiting=lambda: 0) == 3
    assert queued(world) == [1, 2, 3, 11, 12, 13]


def test_first_attempts_take_the_whole_window_where_nothing_is_retried(world: World) -> None:
    world.change_stream(window=6)
    log(world, *range(1, 9))
    assert world.dispatch() == 6


def test_what_is_not_due_yet_is_left(world: World) -> None:
    log(world, 1, 2)
    later = world.ledger.streams.server_time() + timedelta(hours=1)
    world.database.records.update_one({"key.id": 1}, {"$set": {"due_at": later}})
    assert world.dispatch() == 1
    assert queued(world) == [2]


def test_an_overtaken_version_is_set_aside_and_makes_way(world: World) -> None:
    world.change_stream(window=2)
    for content in "abc":
        log(world, 1, 2, 3, content=content)
    assert world.dispatch() == 2
    assert world.states() == {
        1: ["superseded", "superseded", "queued"],
        2: ["superseded", "superseded", "queued"],
        3: ["superseded", "superseded", "pending"],
    }
    newest = {each["key"]["id"]: each["_id"] for each in world.records()}
    for each in world.records(state="superseded"):
        assert each["superseded_by"] == newest[each["key"]["id"]]


def test_a_newer_version_waits_until_the_older_one_has_landed(world: World) -> None:
    log(world, 1, content="a")
    world.dispatch()
    log(world, 1, content="b")
    assert world.dispatch(messages_waiting=lambda: 0) == 0
    assert world.states() == {1: ["queued", "pending"]}
    world.deliver()
    assert world.states() == {1: ["superseded", "pending"]}
    assert world.dispatch() == 1


def test_blocked_records_do_not_block_the_ones_behind_them(world: World) -> None:
    world.change_stream(window=4)
    log(world, 1, 2, content="a")
    world.dispatch()
    log(world, 1, 2, content="b")
    log(world, 3, 4)
    assert world.dispatch(messages_waiting=lambda: 0) == 2
    assert queued(world) == [1, 2, 3, 4]


def test_where_there_is_no_order_every_version_goes(world: World) -> None:
    world.change_stream(order="none")
    for content in "abc":
        log(world, 1, content=content)
    assert world.dispatch() == 3
    assert world.states() == {1: ["queued"] * 3}


@pytest.mark.parametrize("order", ["latest", "none"])
def test_a_record_whose_key_does_not_know_it_is_left_alone(world: World, order: str) -> None:
    """Its poll is at work, or was interrupted and will be repeated."""
    world.change_stream(order=order)
    new = new_record(1, seq=9)
    world.ledger.records.log([new, new_record(2, seq=9)], PAST)
    known = Observation(
        key_id=new.key_id, key=new.key, previous_seq=None, seq=5, version="before", hash="h", op="upsert"
    )
    world.ledger.keys.observe("orders", [known])
    assert world.dispatch() == 0
    assert world.states() == {1: ["pending"], 2: ["pending"]}


def test_a_publish_that_fails_puts_its_records_back_at_once(world: World) -> None:
    world.change_stream(batch_size=2)
    log(world, 1, 2, 3, 4, 5)
    before = world.records()

    def publish(stream: str, token: str, ids: Sequence[str]) -> None:
        if world.messages:
            raise ServiceUnavailable("cannot reach Redis", service="redis")
        world.publish(stream, token, ids)

    with pytest.raises(ServiceUnavailable, match="Redis"):
        world.dispatch(publish=publish)
    assert queued(world) == [1, 2]
    assert world.records()[2:] == before[2:]
    assert world.dispatch() == 3


def test_a_redis_that_is_away_leaves_everything_as_it_is(world: World) -> None:
    log(world, 1)
    before = world.records()

    def waiting() -> int:
        raise ServiceUnavailable("cannot reach Redis", service="redis")

    with pytest.raises(ServiceUnavailable, match="Redis"):
        world.dispatch(messages_waiting=waiting)
    assert world.records() == before
    assert world.dispatch() == 1


def test_a_dispatch_that_comes_meanwhile_makes_the_holder_look_once_more(world: World) -> None:
    log(world, 1)

    def publish(stream: str, token: str, ids: Sequence[str]) -> None:
        world.publish(stream, token, ids)
        if len(world.messages) == 1:
            log(world, 2)
            assert world.dispatch() == 0

    assert world.dispatch(publish=publish) == 2
    assert queued(world) == [1, 2]
    assert "dispatch" not in world.database.streams.find_one()


def test_a_paused_stream_sends_nothing_and_goes_on_logging(world: World) -> None:
    log(world, 1)
    world.ledger.streams.pause("orders", who="me", reason="their maintenance")
    assert world.dispatch() == 0
    log(world, 2)
    assert world.states() == {1: ["pending"], 2: ["pending"]}
    world.ledger.streams.resume("orders")
    assert world.dispatch() == 2


def test_a_record_that_was_lost_in_sending_travels_alone(world: World) -> None:
    log(world, 1, 2, 3)
    ids = {each["key"]["id"]: each["_id"] for each in world.records()}
    fly(world.ledger, [ids[1], ids[2]])
    world.let_leases_expire()
    world.keep_up()
    log(world, 4)
    world.dispatch()
    assert sorted(sorted(each) for _, each in world.messages) == sorted(
        [[ids[1]], [ids[2]], sorted(each["_id"] for each in world.records() if each["key"]["id"] in (3, 4))]
    )


def test_a_record_that_was_never_lost_after_a_retry_travels_with_others(world: World) -> None:
    log(world, 1, 2)
    claim = fly(world.ledger, [each["_id"] for each in world.records()])
    busy = outcome(Verdict.RETRY_LATER, error="busy")
    world.ledger.delivery_states.land(
        claim, [Transition(record=each, state=State.PENDING, outcome=busy) for each in claim.records]
    )
    world.dispatch()
    assert [len(ids) for _, ids in world.messages] == [2]


def test_two_at_once_send_each_record_once(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    world.change_stream(batch_size=5)
    log(world, *range(1, 41))
    with ThreadPoolExecutor(6) as threads:
        sent = list(threads.map(lambda _: world.dispatch(), range(6)))
    assert sum(sent) == 40
    ids: list[Any] = [each for _, batch in world.messages for each in batch]
    assert len(ids) == len(set(ids)) == 40
