"""upkeep: what dead workers held comes back, what lost its message is queued anew."""

from typing import Any

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.pipeline import maintenance
from tests.harness.world import ListReader, World, fly, version_row


def log(world: World, *numbers: int, content: str = "a") -> None:
    world.poll(ListReader([version_row(number, content, None) for number in numbers]))


def test_leases_that_ran_out_come_back_and_go_out_again(world: World) -> None:
    log(world, *range(1, 8))
    world.change_stream(batch_size=3)
    world.dispatch()
    ids = world.messages[0][1]
    world.ledger.delivery_states.claim(
        "orders", ids, batch=world.messages[0][0], mapping_hash="m", seconds=60, worker="w"
    )
    assert world.keep_up().returned == 0
    world.let_leases_expire()
    world.messages.clear()
    done = world.keep_up(dispatch=world.dispatch)
    assert (done.stream, done.returned, done.forgotten, done.dispatched) == ("orders", 7, 0, 7)


def test_more_than_one_look_takes_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "AT_ONCE", 2)
    log(world, *range(1, 6))
    world.dispatch()
    world.let_leases_expire()
    assert world.keep_up().returned == 5


def test_the_call_of_a_dead_worker_is_unsettled_before_a_newer_version_may_go(world: World) -> None:
    """Invariant 5: it may have been sent, and land late."""
    log(world, 1)
    fly(world.ledger, [world.record(1)["_id"]])
    world.let_leases_expire()
    seen: list[Any] = []
    returning = world.ledger.returns.return_expired

    class Returns:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.ledger.returns, name)

        def return_expired(self, *args: Any, **kwargs: Any) -> int:
            seen.extend(world.database.keys.find_one().get("unsettled", []))
            return returning(*args, **kwargs)

    class Rooms:
        returns = Returns()
        keys = world.ledger.keys

    maintenance.return_leases(ledger=Rooms(), stream=world.stream, settle_seconds=30)  # type: ignore[arg-type]
    assert [each["call"] for each in seen] == [world.record(1)["_id"]]
    assert world.record(1)["state"] == "pending"
    log(world, 1, content="b")
    world.send_all()
    assert [each["state"] for each in world.records()] == ["superseded", "pending"]
    world.let_calls_settle()
    world.let_retries_come()
    world.send_all()
    assert [each["state"] for each in world.records()] == ["superseded", "delivered"]


def test_what_was_only_queued_leaves_nothing_unsettled(world: World) -> None:
    log(world, 1)
    world.dispatch()
    world.let_leases_expire()
    world.keep_up()
    assert "unsettled" not in world.database.keys.find_one()


@pytest.mark.parametrize("changes", [{"order": "none"}, {"append_only": True}])
def test_without_an_order_no_call_is_waited_for(world: World, changes: dict[str, Any]) -> None:
    world.change_stream(**changes)
    log(world, 1)
    fly(world.ledger, [world.record(1)["_id"]])
    world.let_leases_expire()
    assert world.keep_up().returned == 1
    assert world.database.keys.count_documents({"unsettled": {"$exists": True}}) == 0


def test_messages_that_redis_has_lost_are_sent_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: Redis was flushed; nobody waits for the leases."""
    monkeypatch.setattr(maintenance, "FORGOTTEN_AFTER_SECONDS", 0.0)
    log(world, 1, 2, 3)
    before = world.records()
    world.dispatch()
    world.messages.clear()
    done = world.keep_up(messages_waiting=lambda: 1)
    assert (done.forgotten, done.returned) == (0, 0)
    done = world.keep_up()
    assert (done.forgotten, done.returned) == (3, 0)
    assert world.records() == before
    assert world.dispatch() == 3


def test_what_was_queued_just_now_is_not_taken_for_lost(world: World) -> None:
    log(world, 1)
    world.dispatch()
    world.messages.clear()
    assert world.keep_up().forgotten == 0


def test_what_is_being_sent_is_never_taken_for_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "FORGOTTEN_AFTER_SECONDS", 0.0)
    log(world, 1)
    fly(world.ledger, [world.record(1)["_id"]])
    assert world.keep_up().forgotten == 0


def test_without_redis_leases_come_back_all_the_same(world: World) -> None:
    log(world, 1)
    world.dispatch()
    world.let_leases_expire()

    def dispatch() -> int:
        raise ServiceUnavailable("cannot reach Redis", service="redis")

    with pytest.raises(ServiceUnavailable):
        world.keep_up(dispatch=dispatch)
    assert world.record(1)["state"] == "pending"
