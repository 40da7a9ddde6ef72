"""A partner that knows no `Idempotency-Key`: it is asked for its object before that is created again."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from syncctl.core.outcome import OutcomeRules, Verdict
from syncctl.core.stream import Batching, Lookup
from syncctl.ledger.delivery_state import DeliveryStates
from tests.harness.id_partner import DROP, IdPartner, Seen
from tests.harness.testbed import Testbed
from tests.integration.delivery.test_capture import delete, log, remote, send
from tests.integration.delivery.test_remote_ids import BY_ID, again, once

BY_LIST = Lookup(path="/orders?ref={id}", capture={"id": "items[0].id"})
BY_PATH = Lookup(path="/orders/{id}", capture={"id": "data.id"})


@pytest.fixture
def orders(testbed: Testbed) -> Iterator[IdPartner]:
    testbed.change_stream(**BY_ID, lookup=BY_LIST)
    with IdPartner(knows_keys=False) as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        yield server


def methods(orders: IdPartner) -> str:
    """Return the methods of all calls: P for POST, U for PUT, G for GET, D for DELETE."""
    return "".join({"POST": "P", "PUT": "U", "GET": "G", "DELETE": "D"}[call.method] for call in orders.seen)


def lookups(testbed: Testbed) -> list[str]:
    """Return what the lookups of all records came to, in order."""
    return [entry["lookup"] for record in testbed.records() for entry in record["history"] if "lookup" in entry]


def test_a_create_whose_answer_was_lost_is_found_and_not_repeated(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once(DROP)
    send(testbed, 1)
    assert testbed.states() == {1: ["pending"]}
    again(testbed)
    assert (methods(orders), orders.created) == ("PG", {1: 1})
    assert testbed.states() == {1: ["delivered"]}
    assert lookups(testbed) == ["found"]
    assert remote(testbed)["values"] == {"id": "P-0001"}
    send(testbed, 1, content="b")
    assert orders.calls()[-1] == "PUT /orders/P-0001"
    question = orders.seen[1]
    assert (question.path, question.body, question.key) == ("/orders?ref=1", None, None)


def test_a_create_that_did_not_arrive_is_made_under_the_same_key(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once((500, {}))
    send(testbed, 1)
    assert again(testbed) == {"retrying": 1, "delivered": 1}
    assert methods(orders) == "PGP"
    assert orders.seen[0].key == orders.seen[2].key
    assert lookups(testbed) == ["not found"]


def test_not_found_proves_nothing_while_a_call_may_still_take_effect(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once((504, {}))
    send(testbed, 1)
    again(testbed)
    assert methods(orders) == "PG"
    (unsettled,) = testbed.database.keys.find_one()["unsettled"]
    assert testbed.record(1)["due_at"] == unsettled["until"]
    # It takes effect now.
    orders.apply(orders.seen[0])
    testbed.settle_calls()
    again(testbed)
    assert (methods(orders), orders.created) == ("PGG", {1: 1})
    assert testbed.states() == {1: ["delivered"]}


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_5xx_may_have_created_it(testbed: Testbed, orders: IdPartner, status: int) -> None:
    def hook(call: Seen) -> Any:
        if call.method == "POST" and not orders.created:
            orders.apply(call)
            return status, {}
        return None

    orders.hook = hook
    send(testbed, 1)
    again(testbed)
    assert (methods(orders), orders.created) == ("PG", {1: 1})


def test_a_503_did_not(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once((503, {}))
    send(testbed, 1)
    again(testbed)
    assert methods(orders) == "PP"


def test_a_newer_version_asks_itself_and_updates_what_it_finds(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once(DROP)
    send(testbed, 1)
    send(testbed, 1, content="b")
    assert (methods(orders), orders.created) == ("PGU", {1: 1})
    assert orders.objects["P-0001"]["content"] == "b"
    assert orders.seen[2].key == testbed.records()[1]["_id"] + "-2"
    # The lost call may still take effect after the update, which is therefore sent once more.
    testbed.settle_calls()
    again(testbed)
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert methods(orders) == "PGUU"


def test_a_409_asks_and_updates_what_another_has_created(testbed: Testbed, orders: IdPartner) -> None:
    orders.apply(Seen(method="POST", path="/orders", key=None, body={"id": 1, "content": "old"}))
    orders.hook = lambda call: (409, {}) if call.method == "POST" else None
    assert send(testbed, 1) == {"retrying": 2, "delivered": 1}
    assert methods(orders) == "PGU"
    assert orders.objects["P-0001"]["content"] == "a"


def test_a_409_for_what_is_not_found_fails_at_the_second_time(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = lambda call: (409, {}) if call.method == "POST" else None
    assert send(testbed, 1) == {"retrying": 2, "failed": 1}
    assert methods(orders) == "PGP"


def test_the_stream_may_say_what_a_409_means(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(outcomes=OutcomeRules(common={409: Verdict.ACCEPTED}))
    orders.apply(Seen(method="POST", path="/orders", key=None, body={"id": 1, "content": "old"}))
    orders.hook = lambda call: (409, {}) if call.method == "POST" else None
    send(testbed, 1)
    assert methods(orders) == "P"
    # Its id is still not known.
    send(testbed, 1, content="b")
    assert methods(orders) == "PGU"


def test_always_asks_before_a_first_create(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(lookup=replace(BY_LIST, when="always"))
    orders.apply(Seen(method="POST", path="/orders", key=None, body={"id": 1, "content": "old"}))
    send(testbed, 1, 2)
    assert (sorted(methods(orders)), orders.created) == (sorted("GGUP"), {1: 1, 2: 1})
    send(testbed, 1, 2, content="b")
    assert sorted(methods(orders)) == sorted("GGUPUU")


def test_rows_that_were_delivered_before_ids_were_kept_are_asked_for(testbed: Testbed, orders: IdPartner) -> None:
    now = testbed.stream
    testbed.change_stream(capture={}, update_method=None, lookup=None, delete_path="/orders/{id}")
    send(testbed, 1)
    assert remote(testbed) is None
    testbed.stream = now
    send(testbed, 1, content="b")
    assert (methods(orders), orders.created) == ("PGU", {1: 1})


def test_a_delete_in_doubt_asks_too(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once(DROP)
    send(testbed, 1)
    delete(testbed, 1)
    assert (methods(orders), orders.objects) == ("PGD", {})


def test_a_delete_of_what_is_not_found_is_done(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once((500, {}))
    send(testbed, 1)
    assert delete(testbed, 1) == {"delivered": 1}
    assert methods(orders) == "PG"
    assert remote(testbed)["gone"]


# Answers that prove nothing.


@pytest.mark.parametrize(
    ("answer", "state", "message"),
    [
        ((200, {"items": [{"id": 1}, {"id": 2}]}), "failed", "lookup: it found 2 objects at items[0].id"),
        ((200, {"items": [{"name": 1}]}), "pending", "lookup: items[0].id is not in the answer, and nothing says"),
        ((200, {"error": "later"}), "pending", "lookup: items[0].id is not in the answer, and nothing says"),
        ((200, {"items": [{"id": "a\nb"}]}), "failed", "lookup: items[0].id holds a control character"),
        ((200, b"<html>"), "pending", "lookup: items[0].id is not there: the answer is not JSON"),
        ((404, {}), "failed", "lookup: HTTP 404"),
        ((400, {}), "failed", "lookup: HTTP 400"),
        ((500, {}), "pending", "lookup: HTTP 500"),
        ((429, {}), "pending", "lookup: HTTP 429"),
        (DROP, "pending", "lookup: "),
    ],
)
def test_what_proves_nothing_creates_nothing(
    testbed: Testbed, orders: IdPartner, answer: Any, state: str, message: str
) -> None:
    def hook(call: Seen) -> Any:
        return answer if call.method == "GET" else DROP

    orders.hook = hook
    send(testbed, 1)
    again(testbed)
    assert (methods(orders), orders.created) == ("PG", {1: 1})
    record = testbed.record(1)
    assert (record["state"], record["history"][1]["lookup"]) == (state, "failed")
    assert record["error"]["message"].startswith(message)
    # Nothing of it may take effect later.
    assert len(testbed.database.keys.find_one()["unsettled"]) == 1


@pytest.mark.parametrize("answer", [{"items": []}, {"items": None}, {}, [], None])
def test_what_says_that_there_is_none(testbed: Testbed, orders: IdPartner, answer: Any) -> None:
    orders.hook = lambda call: (500, {}) if not orders.seen else (200, answer) if call.method == "GET" else None
    send(testbed, 1)
    again(testbed)
    assert methods(orders) == "PGP"


def test_a_404_at_the_address_of_the_row_says_so_too(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(lookup=BY_PATH)
    orders.hook = once((500, {}))
    send(testbed, 1)
    again(testbed)
    assert methods(orders) == "PGP"


def test_a_lookup_that_hangs_ends_with_its_deadline_and_is_asked_again(testbed: Testbed, orders: IdPartner) -> None:
    testbed.partner = replace(testbed.partner, timeout_seconds=0.5)
    over = threading.Event()

    def hook(call: Seen) -> Any:
        if call.method == "GET" and len(orders.seen) == 1:
            over.wait(20)
        return DROP if call.method == "POST" else None

    orders.hook = hook
    send(testbed, 1)
    again(testbed)
    over.set()
    assert testbed.states() == {1: ["pending"]}
    again(testbed)
    assert testbed.states() == {1: ["delivered"]}
    assert orders.created == {1: 1}


# Crashes.


def test_a_process_that_dies_with_a_create_leaves_a_doubt(testbed: Testbed, orders: IdPartner) -> None:
    class Dying(Exception):
        pass

    orders.hook = once((500, {}))
    send(testbed, 1)
    original = DeliveryStates.write_transitions

    def die_after_a_create(*given: Any, **options: Any) -> Any:
        if orders.seen[-1].method == "POST":
            raise Dying
        return original(*given, **options)

    # It asks, creates, and dies before the outcome is written, also to the key.
    testbed.make_retries_due()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeliveryStates, "write_transitions", die_after_a_create)
        patch.setattr("syncctl.ledger.keys.Keys.note_delivered", lambda *_: None)
        with pytest.raises(Dying):
            testbed.deliver()
    assert methods(orders) == "PGP"
    assert testbed.record(1)["looked_up"] is True
    testbed.let_leases_expire()
    assert testbed.rescue() == 1
    assert "looked_up" not in testbed.record(1)
    again(testbed)
    assert (methods(orders), orders.created) == ("PGPG", {1: 1})
    assert testbed.states() == {1: ["delivered"]}


def test_a_claim_that_made_no_call_leaves_what_was_asked(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once((500, {}))
    send(testbed, 1)
    original = DeliveryStates.write_transitions
    with pytest.MonkeyPatch.context() as patch:
        # The second claim, for the create, is lost before its call began.
        def take_no_more(*given: Any, **options: Any) -> Any:
            done = original(*given, **options)
            patch.setattr("syncctl.ledger.batches.Batches.begin", lambda *_, **__: False)
            return done

        patch.setattr(DeliveryStates, "write_transitions", take_no_more)
        patch.setattr("syncctl.pipeline.delivery.delivery_lane.LOOK_EVERY_SECONDS", 3600.0)
        testbed.make_retries_due()
        claims: list[int] = []

        def stop() -> bool:
            claims.append(1)
            return methods(orders) == "PG" and len(claims) > 50

        testbed.deliver(is_stopping=stop)
    assert methods(orders) == "PG"
    testbed.let_leases_expire()
    testbed.rescue()
    again(testbed)
    assert (methods(orders), orders.created) == ("PGP", {1: 1})


def test_a_late_create_is_asked_for_and_not_repeated(testbed: Testbed, orders: IdPartner) -> None:
    def hook(call: Seen) -> None:
        if call.method == "POST":
            testbed.let_leases_expire()
            testbed.rescue()

    orders.hook = hook
    assert send(testbed, 1) == {"late": 1}
    again(testbed)
    # The late answer has brought the id, so that what is sent again is an update.
    assert (methods(orders), orders.created) == ("PU", {1: 1})
    assert testbed.states() == {1: ["delivered"]}


def test_a_late_re_creation_is_updated_and_not_repeated(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(missing="create")
    send(testbed, 1)
    orders.objects.clear()

    def hook(call: Seen) -> None:
        if call.method == "POST":
            testbed.let_leases_expire()
            testbed.rescue()

    orders.hook = hook
    assert send(testbed, 1, content="b") == {"retrying": 1, "late": 1}
    orders.hook = lambda _: None
    again(testbed)
    # The object that the late answer has named is another one than that which was lost.
    assert (methods(orders), orders.created) == ("PUPU", {1: 2})
    assert testbed.states() == {1: ["delivered", "delivered"]}


# With other features.


def test_rows_of_a_bulk_call_without_an_answer_are_asked_for_one_by_one(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(batching=Batching(size=10, results="results", result_status="status"))
    orders.hook = once(DROP)
    send(testbed, *range(1, 8))
    again(testbed)
    assert methods(orders) == "P" + "G" * 7
    assert set(orders.created.values()) == {1}
    assert {state for states in testbed.states().values() for state in states} == {"delivered"}


def test_strict_asks_for_the_oldest_and_goes_on(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(order="strict")
    orders.hook = once(DROP)
    for content in "abc":
        log(testbed, 1, content=content)
    testbed.deliver()
    again(testbed)
    assert (methods(orders), orders.created) == ("PGUU", {1: 1})
    assert testbed.states() == {1: ["delivered"] * 3}


def test_without_updates_a_row_that_is_found_is_delivered(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(update_method=None, lookup=replace(BY_LIST, when="always"))
    orders.apply(Seen(method="POST", path="/orders", key=None, body={"id": 1, "content": "old"}))
    send(testbed, 1)
    assert (methods(orders), testbed.states()) == ("G", {1: ["delivered"]})


def test_where_the_one_endpoint_needs_the_id_a_row_that_is_found_is_sent(testbed: Testbed, orders: IdPartner) -> None:
    lookup = replace(BY_LIST, when="always")
    testbed.change_stream(method="PUT", path="/orders/{remote.id}", update_method=None, lookup=lookup)
    orders.apply(Seen(method="POST", path="/orders", key=None, body={"id": 1, "content": "old"}))
    send(testbed, 1)
    assert (methods(orders), testbed.states()) == ("GU", {1: ["delivered"]})


def test_a_delete_asks_for_the_object_that_may_have_been_created_since_the_last_one(
    testbed: Testbed, orders: IdPartner
) -> None:
    """The id of the deleted object is still known: the delete of another one must not go there."""
    send(testbed, 1)
    delete(testbed, 1)
    testbed.deliver()
    orders.hook = once(DROP)
    send(testbed, 1, content="b")
    delete(testbed, 1)
    testbed.deliver()
    again(testbed)
    assert (orders.calls().count("DELETE /orders/P-0001"), orders.objects) == (1, {})
    assert orders.calls()[-1] == "DELETE /orders/P-0002"


def test_a_list_below_another_row_says_nothing_of_this_one(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(lookup=replace(BY_LIST, path="/customers/{id}/orders?ref={id}", when="always"))
    orders.hook = lambda call: (404, {}) if call.method == "GET" else None
    send(testbed, 1)
    assert (methods(orders), testbed.states()) == ("G", {1: ["failed"]})


def test_a_create_keeps_its_key_when_the_endpoint_of_updates_is_set(testbed: Testbed, orders: IdPartner) -> None:
    """Invariant 7: the bytes of a create are the same, and a partner that knows keys takes it for a repeat."""
    testbed.change_stream(update_method=None, lookup=None, delete_path="/orders/{id}")
    orders.hook = once(DROP)
    send(testbed, 1)
    testbed.change_stream(update_method="PUT", update_path="/orders/{remote.id}")
    again(testbed)
    assert methods(orders) == "PP"
    assert orders.seen[0].key == orders.seen[1].key


def test_a_missing_object_is_not_taken_for_found(testbed: Testbed, orders: IdPartner) -> None:
    """A search that still lists a deleted object must not keep a record going between update and lookup for ever."""
    testbed.change_stream(missing="create", lookup=replace(BY_LIST, when="always"))
    send(testbed, 1)
    orders.objects.clear()
    orders.hook = lambda call: (200, {"items": [{"id": "P-0001"}]}) if call.method == "GET" else None
    send(testbed, 1, content="b")
    assert methods(orders) == "GPUGP"
    assert remote(testbed)["values"] == {"id": "P-0002"}


def test_questions_do_not_end_a_run_of_refusals(testbed: Testbed, orders: IdPartner) -> None:
    """A partner that answers questions and refuses every record is paused: questions show nothing of records."""
    testbed.change_stream(lookup=replace(BY_LIST, when="always"), pause_after_refusals=5)
    # One record at a time: a question, its create, the next question.
    testbed.change_stream(batch_size=1, window=2)
    orders.hook = lambda call: (405, {}) if call.method == "POST" else None
    send(testbed, *range(1, 12))
    assert testbed.ledger.streams.load_gate("orders").hold.paused
    # Probes go on, by questions and by creates, until one is accepted.
    orders.hook = lambda _: None
    for _ in range(30):
        testbed.database.streams.update_one(
            {"_id": "orders", "paused": {"$exists": True}}, [{"$set": {"paused.until": "$$NOW"}}]
        )
        again(testbed)
    assert not testbed.ledger.streams.load_gate("orders").hold.paused
    assert set(orders.created.values()) == {1}
    assert len(orders.created) == 11
