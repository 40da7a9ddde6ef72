"""A partner with ids of its own: created once, updated and deleted under its id, also after answers were lost."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from syncctl.core.outcome import OutcomeRules, Verdict
from syncctl.core.stream import Batching, Lookup
from syncctl.ledger.delivery_state import DeliveryStates
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.inspection.preview import RequestPreviewer, preview_record, preview_rows
from syncctl.sources.reader import StreamReader
from tests.harness.id_partner import DROP, IdPartner, Seen
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed
from tests.integration.delivery.test_capture import delete, log, remote, send

BY_ID: dict[str, Any] = {
    "path": "/orders",
    "capture": {"id": "data.id"},
    "update_method": "PUT",
    "update_path": "/orders/{remote.id}",
    "delete_method": "DELETE",
    "delete_path": "/orders/{remote.id}",
}
"""A stream whose partner creates an object for each row, and knows it by an id of its own."""


@pytest.fixture
def orders(testbed: Testbed) -> Iterator[IdPartner]:
    testbed.change_stream(**BY_ID)
    with IdPartner() as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        yield server


def once(answer: Any, *, method: str = "POST") -> Any:
    """Return a hook that gives this answer to the first call of a method alone."""
    given: list[Seen] = []

    def hook(call: Seen) -> Any:
        if call.method == method and not given:
            given.append(call)
            return answer
        return None

    return hook


def again(testbed: Testbed) -> dict[str, int]:
    """Let all due times have come, and deliver."""
    testbed.make_retries_due()
    return testbed.deliver()


def test_an_order_is_created_once_and_then_updated_under_its_id(testbed: Testbed, orders: IdPartner) -> None:
    for content in "abc":
        send(testbed, 1, 2, content=content)
    assert orders.created == {1: 1, 2: 1}
    assert sorted(row["content"] for row in orders.objects.values()) == ["c", "c"]
    # Also after the records are gone.
    testbed.database.records.delete_many({})
    send(testbed, 1, content="d")
    delete(testbed, 2)
    assert orders.created == {1: 1, 2: 1}
    assert [(row["id"], row["content"]) for row in orders.objects.values()] == [(1, "d")]


def test_a_row_that_comes_back_is_created_anew(testbed: Testbed, orders: IdPartner) -> None:
    send(testbed, 1)
    delete(testbed, 1)
    send(testbed, 1, content="b")
    send(testbed, 1, content="c")
    assert orders.calls() == ["POST /orders", "DELETE /orders/P-0001", "POST /orders", "PUT /orders/P-0002"]


def test_a_path_without_ids_is_updated_once_a_version_was_delivered(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(update_path="/orders/{id}", capture={})
    orders.hook = lambda _: (200, {})
    send(testbed, 1)
    send(testbed, 1, content="b")
    assert orders.calls() == ["POST /orders", "PUT /orders/1"]


def test_a_newer_version_waits_for_the_one_that_may_bring_the_id(testbed: Testbed, orders: IdPartner) -> None:
    """Order latest. Without the wait the second version would create a second order."""
    orders.hook = once(DROP)
    send(testbed, 1)
    send(testbed, 1, content="b")
    send(testbed, 1, content="c")
    testbed.maintain()
    testbed.deliver()
    assert orders.calls() == ["POST /orders"]
    assert testbed.states() == {1: ["pending"] * 3}
    assert testbed.ledger.sequencing.count(["orders"])["orders"].held == 2
    again(testbed)
    assert orders.calls() == ["POST /orders", "POST /orders", "PUT /orders/P-0001"]
    assert len({call.key for call in orders.seen[:2]}) == 1
    assert orders.created == {1: 1}
    assert orders.objects["P-0001"]["content"] == "c"
    assert testbed.states() == {1: ["delivered", "superseded", "delivered"]}


def test_a_version_that_no_call_was_made_for_holds_nothing(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once((503, {}))
    send(testbed, 1)
    send(testbed, 1, content="b")
    assert orders.calls() == ["POST /orders", "POST /orders"]
    assert testbed.states() == {1: ["pending", "delivered"]}
    again(testbed)
    assert testbed.states() == {1: ["superseded", "delivered"]}


def test_a_failed_version_holds_nothing_either(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = lambda call: (504, {}) if call.body["content"] == "a" and not orders.seen else (422, {})
    send(testbed, 1)
    log(testbed, 1, content="b")
    testbed.deliver()
    assert testbed.states() == {1: ["pending", "pending"]}
    orders.hook = lambda call: (422, {}) if call.body["content"] == "a" else None
    again(testbed)
    # The first call may still take effect, so that this one is not the last.
    assert testbed.states() == {1: ["failed", "pending"]}
    testbed.settle_calls()
    again(testbed)
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert orders.calls() == ["POST /orders"] * 3 + ["PUT /orders/P-0001"]


def test_an_answer_that_was_got_and_not_written_creates_nothing_twice(testbed: Testbed, orders: IdPartner) -> None:
    """The process dies between the answer and its write: the create is repeated under its key, and brings the id."""
    send(testbed, 1)
    testbed.database.keys.update_one({}, {"$unset": {"remote": True}, "$set": {"delivered_seq": 0}})
    record = testbed.record(1)
    lost = {"state": "pending", "claims": 1, "generation": 0}
    testbed.database.records.update_one(
        {"_id": record["_id"]},
        {"$set": {**lost, "due_at": record["logged_at"], "fresh": False}, "$unset": {"finished_at": True}},
    )
    testbed.database.keys.update_one({}, {"$set": {"reached_seq": record["seq"]}})
    log(testbed, 1, content="b")
    again(testbed)
    assert orders.created == {1: 1}
    assert orders.calls() == ["POST /orders", "POST /orders", "PUT /orders/P-0001"]


def test_an_answer_written_to_the_key_alone_makes_the_repetition_an_update(testbed: Testbed, orders: IdPartner) -> None:
    """The process dies between the key and the record. What is sent again has other bytes, so another key."""

    class Dying(Exception):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Dying

    log(testbed, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeliveryStates, "write_transitions", die)
        with pytest.raises(Dying):
            testbed.deliver()
    assert remote(testbed)["values"] == {"id": "P-0001"}
    testbed.let_leases_expire()
    assert testbed.rescue() == 1
    again(testbed)
    first, second = orders.seen
    assert (first.method, second.method, second.path) == ("POST", "PUT", "/orders/P-0001")
    assert second.key == f"{first.key}-2"
    assert testbed.states() == {1: ["delivered"]}


def test_a_late_answer_releases_the_version_that_waits(testbed: Testbed, orders: IdPartner) -> None:
    def hook(call: Seen) -> None:
        if call.method == "POST":
            testbed.let_leases_expire()
            testbed.rescue()
            log(testbed, 1, content="b")
            # The other process that looks meanwhile: the newer version waits.
            assert testbed.take_rows() == []

    orders.hook = hook
    send(testbed, 1)
    assert orders.calls() == ["POST /orders", "PUT /orders/P-0001"]
    assert testbed.states() == {1: ["pending", "delivered"]}
    again(testbed)
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert len(orders.seen) == 2


def test_a_delete_waits_for_the_id_too(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = once(DROP)
    send(testbed, 1)
    delete(testbed, 1)
    assert orders.calls() == ["POST /orders"]
    again(testbed)
    assert orders.calls() == ["POST /orders", "POST /orders", "DELETE /orders/P-0001"]
    assert orders.objects == {}


def test_what_never_reached_the_partner_is_not_deleted_there(testbed: Testbed, orders: IdPartner) -> None:
    log(testbed, 1)
    assert delete(testbed, 1) == {"discarded": 1}
    assert orders.seen == []
    assert testbed.states() == {1: ["superseded", "discarded"]}
    assert "nothing to delete" in testbed.records()[-1]["reason"]


def test_a_delete_whose_id_nothing_will_bring_fails_with_why(testbed: Testbed, orders: IdPartner) -> None:
    orders.hook = lambda _: (200, {})
    send(testbed, 1)
    assert delete(testbed, 1) == {"failed": 1}
    message = testbed.records()[-1]["error"]["message"]
    assert message == (
        "DELETE /orders/{remote.id} needs remote.id, which no answer has brought for this row, and none can any more"
    )


def test_a_delete_that_a_wrong_address_answered_keeps_its_id(testbed: Testbed, orders: IdPartner) -> None:
    """It is taken back once the address turns out to be wrong, and then needs the id."""
    testbed.change_stream(pause_after_refusals=1)
    send(testbed, 1)
    orders.hook = lambda _: (404, {})
    assert delete(testbed, 1) == {"delivered": 1}
    send(testbed, 2)
    assert testbed.states()[1] == ["delivered", "pending"]
    orders.hook = lambda _: None
    testbed.ledger.streams.resume("orders")
    again(testbed)
    assert set(orders.calls("DELETE")) == {"DELETE /orders/P-0001"}
    assert [row["id"] for row in orders.objects.values()] == [2]


def test_strict_sends_every_version_under_the_id_of_the_first(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(order="strict")
    orders.hook = once(DROP)
    for content in "abc":
        log(testbed, 1, content=content)
    testbed.deliver()
    again(testbed)
    assert orders.calls() == ["POST /orders", "POST /orders", "PUT /orders/P-0001", "PUT /orders/P-0001"]
    assert orders.objects["P-0001"]["content"] == "c"


def test_updates_go_alone_where_creates_go_together(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(
        batching=Batching(size=10, results="results", result_status="status"), capture={"id": "data.id"}
    )
    send(testbed, *range(1, 6))
    send(testbed, *range(1, 7), content="b")
    assert sorted(call.method for call in orders.seen) == ["POST"] * 2 + ["PUT"] * 5
    assert all(
        isinstance(call.body, dict) and call.body["content"] == "b" for call in orders.seen if call.method == "PUT"
    )
    assert set(orders.created.values()) == {1}
    assert {row["content"] for row in orders.objects.values()} == {"b"}


# An object that is gone.


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_object_is_created_anew(testbed: Testbed, orders: IdPartner, status: int) -> None:
    testbed.change_stream(missing="create")
    send(testbed, 1)
    orders.objects.clear()
    orders.hook = lambda call: (status, {}) if call.path.endswith("P-0001") else None
    assert send(testbed, 1, content="b") == {"retrying": 1, "delivered": 1}
    assert orders.calls() == ["POST /orders", "PUT /orders/P-0001", "POST /orders"]
    assert len({call.key for call in orders.seen}) == 3
    assert remote(testbed)["values"] == {"id": "P-0002"}
    assert not testbed.ledger.streams.load_gate("orders").hold.paused
    send(testbed, 1, content="c")
    assert orders.calls()[-1] == "PUT /orders/P-0002"


def test_a_missing_object_fails_unless_it_is_to_be_created(testbed: Testbed, orders: IdPartner) -> None:
    send(testbed, 1)
    orders.objects.clear()
    assert send(testbed, 1, content="b") == {"failed": 1}
    assert remote(testbed)["values"] == {"id": "P-0001"}


def test_a_re_creation_without_an_answer_is_repeated_under_its_key(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(missing="create")
    send(testbed, 1)
    orders.objects.clear()
    orders.hook = once(DROP)
    send(testbed, 1, content="b")
    again(testbed)
    assert orders.calls()[1:] == ["PUT /orders/P-0001", "POST /orders", "POST /orders"]
    assert orders.seen[2].key == orders.seen[3].key
    assert orders.created == {1: 2}
    assert remote(testbed)["values"] == {"id": "P-0002"}


def test_a_gateway_that_answers_404_to_all_re_creates_nothing(testbed: Testbed, orders: IdPartner) -> None:
    """Each record goes back to its update, and the run of refusals holds the stream."""
    testbed.change_stream(missing="create", pause_after_refusals=5)
    numbers = range(1, 9)
    send(testbed, *numbers)
    orders.hook = lambda _: (404, {})
    send(testbed, *numbers, content="b")
    assert testbed.ledger.streams.load_gate("orders").hold.paused
    orders.hook = lambda _: None
    testbed.ledger.streams.resume("orders")
    again(testbed)
    again(testbed)
    assert set(orders.created.values()) == {1}
    assert {row["content"] for row in orders.objects.values()} == {"b"}


def test_the_stream_may_say_what_a_404_means(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(missing="create", outcomes=OutcomeRules(common={404: Verdict.RETRY_LATER}))
    send(testbed, 1)
    orders.objects.clear()
    send(testbed, 1, content="b")
    assert orders.calls() == ["POST /orders", "PUT /orders/P-0001"]
    assert testbed.states() == {1: ["delivered", "pending"]}


# Looking before sending.


def test_previews_show_the_call_that_is_made_next(testbed: Testbed, orders: IdPartner, source_db: SourceDb) -> None:
    lookup = Lookup(path="/orders?ref={id}", capture={"id": "items[0].id"})
    testbed.change_stream(cursor="updated_at", lookback_seconds=0.0, lookup=lookup)
    source_db.create_orders(3)

    def show(**options: Any) -> list[str]:
        client = PartnerClient(testbed.partner, testbed.stream)
        previews = preview_rows(
            ledger=testbed.ledger,
            stream=testbed.stream,
            open_reader=lambda stream: StreamReader(testbed.source, stream),  # type: ignore[arg-type]
            previewer=RequestPreviewer(client=client),
            limit=9,
            **options,
        )
        client.close()
        return [f"{each.request.method} {str(each.request.url).removeprefix(orders.url)}" for each in previews]

    assert show() == ["POST /orders"] * 3
    orders.hook = lambda call: (500, {}) if call.body["id"] == 2 else None
    testbed.poll()
    testbed.deliver()
    theirs = {row["id"]: name for name, row in orders.objects.items()}
    source_db.execute("update orders set updated_at = '2027-01-01 00:00:00.00000' || id where id < 3")
    assert show() == [f"PUT /orders/{theirs[1]}", "GET /orders?ref=2"]
    testbed.poll()
    assert show(known=True) == [f"PUT /orders/{theirs[3]}"]


def test_other_bytes_are_not_shown_under_the_key_of_the_create(testbed: Testbed, orders: IdPartner) -> None:
    def show() -> list[tuple[str | None, str]]:
        key = testbed.ledger.keys.load("orders", [record["key_id"] for record in testbed.records()])
        with_client = PartnerClient(testbed.partner, testbed.stream)
        previewer = RequestPreviewer(client=with_client)
        shown = []
        for document in testbed.records():
            of_row = key[document["key_id"]]
            preview = preview_record(document, stream=testbed.stream, key=of_row, previewer=previewer)
            assert preview.request.headers is not None
            shown.append((preview.request.method, preview.request.headers["Idempotency-Key"]))
        with_client.close()
        return shown

    send(testbed, 1)
    send(testbed, 1, content="b")
    created, updated = (call.key for call in orders.seen)
    # Replayed, the record of the create is an update, and the partner has seen its key with other bytes.
    assert show() == [("PUT", f"{created}-2"), ("PUT", updated)]
