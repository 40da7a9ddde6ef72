"""Capture: the partner's own values of a row, kept with its key, and known to paths, fields, templates and headers."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from syncctl.core.mapping import parse_fields
from syncctl.core.redaction import Redact
from syncctl.core.stream import Batching
from syncctl.partner.captured_values import Capture, NotCaptured
from syncctl.pipeline.inspection.show import find_versions
from tests.harness.id_partner import IdPartner, Seen
from tests.harness.testbed import ListReader, Testbed, version_row


@pytest.fixture
def orders(testbed: Testbed) -> Iterator[IdPartner]:
    testbed.change_stream(path="/orders", capture={"id": "data.id"})
    with IdPartner() as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        yield server


def log(testbed: Testbed, *numbers: int, content: Any = "a") -> None:
    """Let a poll have seen these rows."""
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def send(testbed: Testbed, *numbers: int, content: Any = "a") -> dict[str, int]:
    """Log rows and deliver them."""
    log(testbed, *numbers, content=content)
    return testbed.deliver()


def delete(testbed: Testbed, number: int) -> dict[str, int]:
    """Let a poll have seen that a row is gone, and deliver that."""
    testbed.poll(ListReader([version_row(number, None, None, payload=None, op="delete")]))
    return testbed.deliver()


def remote(testbed: Testbed, number: int = 1) -> Any:
    """Return what is known of the partner's object for a row."""
    (found,) = testbed.database.keys.find({"key.id": number})
    return found.get("remote")


def test_a_value_of_the_answer_is_kept_with_the_key(testbed: Testbed, orders: IdPartner) -> None:
    assert send(testbed, 1, 2) == {"delivered": 2}
    assert {remote(testbed, number)["values"]["id"] for number in (1, 2)} == set(orders.objects)
    (shown,) = find_versions(testbed.ledger, "orders", {"id": 1})
    assert shown["remote"] == remote(testbed)["values"]
    assert shown["history"][0]["captured"] == shown["remote"]
    # It stays when all records are gone.
    testbed.database.records.delete_many({})
    assert remote(testbed)["values"] == shown["remote"]


def test_a_header_that_holds_an_address_gives_its_last_segment(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(capture={"id": "header:location", "etag": "header:ETag"})
    orders.headers["ETag"] = ' "a/b" '
    send(testbed, 1)
    assert remote(testbed)["values"] == {"id": "P-0001", "etag": '"a/b"'}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is null"),
        ("", "is empty"),
        ([1], "is a list, not a single value"),
        ({"a": 1}, "is an object, not a single value"),
        ("x" * 513, "is longer than 512 characters"),
        ("a\nb", "holds a control character"),
        ("a\ud800", "holds a control character"),
        (float("nan"), "is null"),
    ],
)
def test_what_cannot_be_an_id_is_not_captured_and_the_history_says_so(
    testbed: Testbed, orders: IdPartner, value: Any, problem: str
) -> None:
    orders.hook = lambda _: (200, {"data": {"id": value}})
    assert send(testbed, 1) == {"delivered": 1}
    assert remote(testbed)["values"] == {}
    assert testbed.record(1)["history"][0]["not_captured"] == f"data.id {problem}"


@pytest.mark.parametrize("number", ["1E+999999999", "1E-999999999", "NaN", "Infinity"])
def test_a_number_that_would_fill_the_memory_is_no_id(number: str) -> None:
    with pytest.raises(NotCaptured, match="is a number that cannot be an id"):
        Capture(rules={}, redact=Redact(())).check(Decimal(number))


def test_a_secret_is_not_captured(testbed: Testbed, orders: IdPartner) -> None:
    testbed.partner = replace(testbed.partner, headers={"X-Tenant": "tenant-secret-4711"})
    orders.hook = lambda _: (200, {"data": {"id": "tenant-secret-4711"}})
    send(testbed, 1)
    assert remote(testbed)["values"] == {}
    assert testbed.record(1)["history"][0]["not_captured"] == "data.id holds a secret"


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"12345678901234567890", 12345678901234567890), (b"1.10", Decimal("1.10")), (b"true", True), (b'"$x.y"', "$x.y")],
)
def test_values_are_exact(testbed: Testbed, orders: IdPartner, text: bytes, value: Any) -> None:
    orders.hook = lambda _: (200, b'{"data": {"id": ' + text + b"}}")
    send(testbed, 1)
    (known,) = testbed.ledger.keys.load("orders", [testbed.record(1)["key_id"]]).values()
    assert known.remote_values == {"id": value}
    assert type(known.remote_values["id"]) is type(value)
    assert testbed.record(1)["history"][0]["captured"] == {"id": text.decode().strip('"')}


def test_an_answer_without_the_value_leaves_what_is_known(testbed: Testbed, orders: IdPartner) -> None:
    send(testbed, 1)
    orders.hook = lambda _: (204, b"")
    send(testbed, 1, content="b")
    assert remote(testbed)["values"] == {"id": "P-0001"}
    orders.hook = lambda _: (200, {"data": {"id": "other"}})
    send(testbed, 1, content="c")
    assert remote(testbed)["values"] == {"id": "other"}


def test_a_deleted_row_has_no_object_and_comes_back_as_a_new_one(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(delete_method="DELETE", delete_path="/orders/{remote.id}")
    send(testbed, 1)
    assert delete(testbed, 1) == {"delivered": 1}
    assert orders.calls() == ["POST /orders", "DELETE /orders/P-0001"]
    assert (remote(testbed)["values"], remote(testbed)["gone"]) == ({"id": "P-0001"}, True)
    send(testbed, 1, content="b")
    assert remote(testbed)["values"] == {"id": "P-0002"}
    assert "gone" not in remote(testbed)


def test_bulk_calls_bring_the_value_of_each_row(testbed: Testbed, orders: IdPartner) -> None:
    batching = Batching(size=10, results="results", result_status="status")
    testbed.change_stream(batching=batching)
    assert send(testbed, *range(1, 25)) == {"delivered": 24}
    assert len(orders.seen) == 3
    for number in range(1, 25):
        assert orders.objects[remote(testbed, number)["values"]["id"]]["id"] == number


def test_fields_templates_and_headers_know_the_values(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(
        fields=parse_fields({"no": "id", "theirs": "remote.id"}), headers={"X-Theirs": "{{ remote.id }}"}
    )
    orders.hook = lambda _: (200, {"data": {"id": 7}})
    send(testbed, 1)
    send(testbed, 1, content="b")
    testbed.change_stream(fields=(), body='{"no": {{ row.id | json }}, "theirs": {{ remote.id | json }}}')
    send(testbed, 1, 2, content="c")
    assert [call.body for call in orders.seen[:2]] == [{"no": 1}, {"no": 1, "theirs": 7}]
    assert sorted((call.body["no"], call.body["theirs"]) for call in orders.seen[2:]) == [(1, 7), (2, None)]


@pytest.mark.parametrize("value", ["..", "a/../b", "%2e%2e", "..%2Fadmin"])
def test_a_value_takes_no_call_to_another_path(testbed: Testbed, orders: IdPartner, value: str) -> None:
    testbed.change_stream(delete_method="DELETE", delete_path="/orders/{remote.id}")
    orders.hook = lambda _: (200, {"data": {"id": value}})
    send(testbed, 1)
    assert delete(testbed, 1) == {"failed": 1}
    assert len(orders.seen) == 1
    assert "remote.id holds a segment" in testbed.records()[-1]["error"]["message"]


def test_other_values_are_one_segment(testbed: Testbed, orders: IdPartner) -> None:
    testbed.change_stream(delete_method="DELETE", delete_path="/orders/{remote.id}")
    orders.hook = lambda call: (200, {"data": {"id": "a/b?c ä"}}) if call.method == "POST" else (204, b"")
    send(testbed, 1)
    delete(testbed, 1)
    assert orders.calls("DELETE") == ["DELETE /orders/a%2Fb%3Fc%20%C3%A4"]


def test_a_late_answer_brings_its_value_too(testbed: Testbed, orders: IdPartner) -> None:
    """The call outlives its lease: its answer goes to the history, and the id it brings is kept."""

    def hook(_: Seen) -> None:
        testbed.let_leases_expire()
        testbed.rescue()

    orders.hook = hook
    assert send(testbed, 1) == {"late": 1}
    assert testbed.states() == {1: ["pending"]}
    assert remote(testbed)["values"] == {"id": "P-0001"}


def test_the_answer_to_a_newer_version_wins_whichever_comes_first(testbed: Testbed, orders: IdPartner) -> None:
    held: list[Seen] = []

    def hook(call: Seen) -> Any:
        if call.body["content"] == "a" and not held:
            held.append(call)
            testbed.let_leases_expire()
            testbed.rescue()
            log(testbed, 1, content="b")
            testbed.deliver()
            return 200, {"data": {"id": "old"}, "more": 1}
        return None

    testbed.change_stream(capture={"id": "data.id", "more": "more"})
    orders.hook = hook
    send(testbed, 1)
    # What the newer answer did not say is taken from the older one.
    assert remote(testbed)["values"] == {"id": "P-0001", "more": 1}


def test_other_bytes_go_under_another_key(testbed: Testbed, orders: IdPartner) -> None:
    """Invariant 7: an id that came since changes the bytes of a call that may have been made."""
    testbed.change_stream(fields=parse_fields({"id": "id", "theirs": "remote.id"}))
    orders.hook = lambda _: (504, {})
    send(testbed, 1)
    for theirs in (7, 8):
        testbed.database.keys.update_one({}, {"$set": {"remote": {"values": {"id": theirs}, "seq": 1}}})
        testbed.make_retries_due()
        testbed.deliver()
    bodies = [(call.key, call.body.get("theirs")) for call in orders.seen]
    first = testbed.record(1)["_id"]
    assert bodies == [(first, None), (f"{first}-2", 7), (f"{first}-3", 8)]
