"""deliver: claim, call, write; with a real client, a real partner and a real ledger."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from syncctl.partner.batch import send_batch

from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.pipeline.deliver import WRITE_EVERY_RECORDS, Delivery
from tests.harness.hostile_partner import HostilePartner, Peer, answering, sending
from tests.harness.passing_time import PAST
from tests.harness.source_db import SourceDb
from tests.harness.testbed import ListReader, Testbed, version_row

Result = tuple[Record, Outcome | None]


def log(testbed: Testbed, *numbers: int, content: Any = "a") -> None:
    """Let a poll have seen these rows."""
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def send(testbed: Testbed, *numbers: int) -> Delivery:
    """Log rows, dispatch them and deliver the one batch."""
    log(testbed, *numbers)
    testbed.dispatch()
    return testbed.deliver()


def meet(testbed: Testbed, url: str) -> None:
    """Let the stream's partner be another."""
    testbed.partner = replace(testbed.partner, url=url)


@pytest.fixture
def moody(testbed: Testbed) -> Iterator[Any]:
    """Start a partner of these moods and let it be the stream's."""
    started: list[MockPartner] = []

    def start(**moods: Any) -> MockPartner:
        server = MockPartner(PartnerConfig(**moods))
        started.append(server)
        meet(testbed, server.url)
        return server

    yield start
    for each in started:
        each.stop()


# Calls and their outcomes.


def test_rows_arrive_with_every_digit(testbed: Testbed, source_db: SourceDb, partner: MockPartner) -> None:
    source_db.create_orders(30)
    testbed.poll()
    assert testbed.dispatch() == 30
    done = testbed.deliver()
    assert done == Delivery(stream="orders", claimed=30, delivered=30)
    assert {state for states in testbed.states().values() for state in states} == {"delivered"}
    body = json.loads(partner.rows()["7"], parse_float=Decimal)
    assert body == {
        "id": 7, "customer": "customer 7", "amount": Decimal("7.07"), "note": "",
        "updated_at": "2026-01-01 00:00:00.000007",
    }  # fmt: skip
    assert {call.key for call in partner.calls()} == {each["_id"] for each in testbed.records()}
    assert {call.attempt for call in partner.calls()} == {1}
    known = list(testbed.database.keys.find())
    assert all(each["delivered_seq"] == each["seq"] for each in known)


@pytest.mark.parametrize(
    ("status", "state", "verdict"),
    [
        ("200 OK", "delivered", "accepted"),
        ("204 No Content", "delivered", "accepted"),
        ("301 Moved", "failed", "rejected"),
        ("400 Bad Request", "failed", "rejected"),
        ("401 Unauthorized", "pending", "retry_later"),
        ("410 Gone", "pending", "retry_later"),
        ("422 Unprocessable", "failed", "rejected"),
        ("408 Timeout", "pending", "retry_later"),
        ("429 Too Many Requests", "pending", "retry_later"),
        ("500 Broken", "pending", "retry_later"),
        ("503 Busy", "pending", "retry_later"),
    ],
)
def test_each_answer_leads_to_its_state(testbed: Testbed, status: str, state: str, verdict: str) -> None:
    with HostilePartner(answering(status, b'{"message":"$error"}')) as server:
        meet(testbed, server.url)
        done = send(testbed, 1)
    found = testbed.record(1)
    assert (found["state"], found["outcomes"], found["attempts"]) == (state, {verdict: 1}, 1)
    entry = found["history"][0]
    assert (entry["status"], entry["outcome"]) == (int(status[:3]), verdict)
    names = {"delivered": "delivered", "failed": "failed", "pending": "retrying"}
    halted = status[:3] in ("401", "410")
    assert done == Delivery(stream="orders", claimed=1, waits=halted, **{names[state]: 1})
    assert found["tries"] == (0 if halted else 1)
    if state != "delivered":
        assert found["error"]["status"] == int(status[:3])
        assert found["error"]["message"].startswith(f"HTTP {status[:3]}")


def test_a_cut_connection_is_ambiguous_and_its_call_may_still_arrive(testbed: Testbed) -> None:
    with HostilePartner(sending(b"")) as server:
        meet(testbed, server.url)
        send(testbed, 1)
    found = testbed.record(1)
    assert (found["state"], found["outcomes"]) == ("pending", {"ambiguous": 1})
    (unsettled,) = testbed.database.keys.find_one()["unsettled"]
    assert unsettled["call"] == found["_id"]
    assert unsettled["until"] - found["updated_at"] <= timedelta(seconds=testbed.partner.timeout_seconds)


def test_an_unreachable_partner_is_retried_and_no_call_may_have_arrived(testbed: Testbed) -> None:
    meet(testbed, "http://127.0.0.1:1")
    send(testbed, 1)
    assert testbed.record(1)["outcomes"] == {"retry_later": 1}
    assert "unsettled" not in testbed.database.keys.find_one()


# Retries.


def test_retries_follow_the_schedule_and_end_with_it(testbed: Testbed, moody: Any) -> None:
    """Invariant 6: when, is in the ledger."""
    server = moody(error_rate=1.0)
    send(testbed, 1)
    for delay in (60, 600):
        found = testbed.record(1)
        assert found["state"] == "pending"
        assert found["due_at"] - found["updated_at"] == timedelta(seconds=delay)
        assert testbed.dispatch() == 0
        testbed.make_retries_due()
        testbed.dispatch()
        testbed.deliver()
    found = testbed.record(1)
    assert (found["state"], found["attempts"], found["outcomes"]) == ("failed", 3, {"retry_later": 3})
    assert "something broke" in found["error"]["message"]
    assert [(call.attempt, call.key) for call in server.calls()] == [(n, found["_id"]) for n in (1, 2, 3)]
    assert len({call.body_hash for call in server.calls()}) == 1


def test_a_retry_is_never_earlier_than_the_partner_asked(testbed: Testbed, moody: Any) -> None:
    moody(too_many_rate=1.0, retry_after_seconds=300)
    send(testbed, 1)
    found = testbed.record(1)
    assert found["due_at"] - found["updated_at"] >= timedelta(seconds=300)


def test_a_retry_that_succeeds_leaves_no_error(testbed: Testbed, moody: Any) -> None:
    server = moody(error_rate=1.0)
    send(testbed, 1)
    server.fix()
    testbed.make_retries_due()
    testbed.send_all()
    found = testbed.record(1)
    assert (found["state"], found["outcomes"]) == ("delivered", {"retry_later": 1, "accepted": 1})
    assert "error" not in found


# Records that are not sent.


def test_a_record_that_cannot_become_a_call_is_failed_without_one(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(method="PUT", path="/orders/{content}")
    testbed.poll(ListReader([version_row(1, None, None), version_row(2, "b", None)]))
    testbed.dispatch()
    assert testbed.deliver() == Delivery(stream="orders", claimed=2, delivered=1, failed=1)
    found = testbed.record(1)
    assert (found["state"], found["attempts"], found["history"][0]["action"]) == ("failed", 0, "unsendable")
    assert "content" in found["error"]["message"]
    assert [call.path for call in partner.calls()] == ["/orders/b"]


def test_a_version_that_was_overtaken_while_it_was_queued_is_not_sent(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1, 2, content="a")
    testbed.dispatch()
    log(testbed, 1, content="b")
    assert testbed.deliver() == Delivery(stream="orders", claimed=2, delivered=1, superseded=1)
    assert testbed.states() == {1: ["superseded", "pending"], 2: ["delivered"]}
    assert testbed.records(state="superseded")[0]["superseded_by"] == testbed.records(state="pending")[0]["_id"]
    assert [call.row for call in partner.calls()] == ["2"]


def test_without_an_order_an_overtaken_version_is_sent(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(order="none")
    log(testbed, 1, content="a")
    testbed.dispatch()
    log(testbed, 1, content="b")
    testbed.send_all()
    assert testbed.states() == {1: ["delivered", "delivered"]}
    assert len(partner.calls()) == 2


def test_a_message_delivered_twice_does_nothing_twice(testbed: Testbed, partner: MockPartner) -> None:
    """Invariant 3. MongoDB changes documents one by one: two claims at once may each get a part, no record twice."""
    testbed.change_stream(batch_size=50)
    log(testbed, *range(1, 51))
    testbed.dispatch()
    message = testbed.messages.pop()
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: testbed.deliver(message), range(4)))
    assert sum(each.claimed for each in done) == 50
    assert testbed.deliver(message) == Delivery(stream="orders")
    assert len(partner.calls()) == len({call.key for call in partner.calls()}) == 50


def test_a_stop_gives_back_what_was_not_sent(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, *range(1, 21))
    testbed.dispatch()
    done = testbed.deliver(should_stop=lambda: len(partner.calls()) >= 5)
    assert done.claimed == 20
    assert done.delivered == len(partner.calls()) < 20
    assert done.returned == 20 - done.delivered
    back = testbed.records(state="pending")
    assert len(back) == done.returned
    assert {(each["claims"], each["attempts"], each["fresh"]) for each in back} == {(0, 0, True)}
    assert sum(each.delivered for each in testbed.send_all()) == len(back)
    assert {call.attempt for call in partner.calls()} == {1}


def test_a_record_whose_call_would_outlive_its_lease_goes_back_unsent(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(lease_seconds=testbed.partner.timeout_seconds + 1)
    assert send(testbed, 1, 2) == Delivery(stream="orders", claimed=2, returned=2)
    assert partner.calls() == []
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}


def test_a_record_without_a_permit_goes_back_unsent(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1, 2)
    testbed.dispatch()
    assert testbed.deliver(wait_for_permit=lambda _: False) == Delivery(stream="orders", claimed=2, returned=2)
    assert partner.calls() == []
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}


def test_a_stream_that_was_paused_meanwhile_sends_nothing(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1)
    testbed.dispatch()
    testbed.ledger.streams.pause("orders", who="me", reason="why")
    assert testbed.deliver() == Delivery(stream="orders", claimed=1, returned=1, waits=True)
    assert partner.calls() == []
    assert testbed.record(1)["state"] == "pending"


# Keys.


def test_new_bytes_go_under_a_new_key(testbed: Testbed, moody: Any) -> None:
    """Invariant 7: the partner would refuse other bytes under the old one."""
    server = moody(error_rate=1.0)
    send(testbed, 1)
    server.fix()
    testbed.change_stream(method="PUT", path="/v2/orders/{id}")
    testbed.make_retries_due()
    testbed.send_all()
    identity = testbed.record(1)["_id"]
    assert [(call.key, call.attempt, call.path) for call in server.calls()] == [
        (identity, 1, "/orders"), (f"{identity}-2", 2, "/v2/orders/1"),
    ]  # fmt: skip
    assert testbed.record(1)["state"] == "delivered"


def test_after_an_ambiguous_call_the_newest_version_is_sent_once_it_has_settled(testbed: Testbed, moody: Any) -> None:
    """Invariant 5: it cannot be called back, so a version accepted before it may have arrived is sent again."""
    server = moody(drop_after_rate=1.0)
    send(testbed, 1)
    server.fix()
    log(testbed, 1, content="b")
    testbed.send_all()
    old, new = testbed.records()
    assert (old["state"], new["state"], new["outcomes"]) == ("pending", "pending", {"accepted": 1})
    assert new["due_at"] == testbed.database.keys.find_one()["unsettled"][0]["until"]
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.send_all()
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert [call.key for call in server.calls()] == [old["_id"], new["_id"], f"{new['_id']}-2"]
    assert json.loads(server.rows()["1"])["content"] == "b"


def test_an_ambiguous_call_that_is_accepted_at_last_keeps_no_version_waiting(testbed: Testbed, moody: Any) -> None:
    server = moody(drop_before_rate=1.0)
    send(testbed, 1)
    server.fix()
    testbed.make_retries_due()
    testbed.send_all()
    assert testbed.record(1)["state"] == "delivered"
    log(testbed, 1, content="b")
    testbed.send_all()
    assert testbed.states() == {1: ["delivered", "delivered"]}
    assert len(server.calls()) == 3


# Outcomes that come too late.


def test_a_late_outcome_joins_the_history_and_changes_nothing(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1)
    testbed.dispatch()

    def stall(client: Any, calls: Sequence[Any], **options: Any) -> Iterator[Result]:
        for each in send_batch(client, calls, **options):
            testbed.expire_leases()
            testbed.maintain()
            yield each

    assert testbed.deliver(send_batch=stall) == Delivery(stream="orders", claimed=1, late=1)
    found = testbed.record(1)
    assert (found["state"], found["attempts"], found["tries"]) == ("pending", 1, 0)
    assert [(each["action"], each.get("late")) for each in found["history"]] == [("lost", None), ("attempt", True)]
    testbed.send_all()
    assert [(call.key, call.attempt, call.fate) for call in partner.calls()] == [
        (found["_id"], 1, "applied"), (found["_id"], 2, "repeated"),
    ]  # fmt: skip
    assert testbed.record(1)["state"] == "delivered"


def test_a_call_that_outlived_its_lease_has_the_newest_version_sent_again(
    testbed: Testbed, partner: MockPartner
) -> None:
    """Invariant 5: it may have arrived after the newer version."""
    log(testbed, 1, content="old")
    testbed.dispatch()

    def stall(client: Any, calls: Sequence[Any], **options: Any) -> Iterator[Result]:
        # It stood still before it sent; meanwhile a newer version was delivered.
        testbed.expire_leases()
        testbed.maintain()
        log(testbed, 1, content="new")
        testbed.settle_calls()
        testbed.send_all()
        assert json.loads(partner.rows()["1"])["content"] == "new"
        yield from send_batch(client, calls, **options)

    assert testbed.deliver(send_batch=stall).late == 1
    assert json.loads(partner.rows()["1"])["content"] == "old"
    old, new = testbed.records()
    assert (old["state"], new["state"], new["history"][-1]["action"]) == ("superseded", "pending", "resent")
    testbed.send_all()
    assert json.loads(partner.rows()["1"])["content"] == "new"
    assert partner.calls()[-1].key == f"{new['_id']}-2"
    assert testbed.states() == {1: ["superseded", "delivered"]}


@pytest.mark.parametrize("status", ["422 No", "503 Busy"])
def test_a_late_refusal_sends_no_version_again(testbed: Testbed, partner: MockPartner, status: str) -> None:
    log(testbed, 1, content="old")
    testbed.dispatch()
    accepting = testbed.partner

    def script(peer: Peer) -> None:
        while peer.read_request():
            testbed.expire_leases()
            testbed.maintain()
            testbed.settle_calls()
            testbed.partner = accepting
            log(testbed, 1, content="new")
            testbed.send_all()
            peer.answer(status)

    with HostilePartner(script) as server:
        meet(testbed, server.url)
        assert testbed.deliver().late == 1
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert len(partner.calls()) == 1


# How outcomes are written.


def test_outcomes_are_written_as_they_come(testbed: Testbed) -> None:
    """Invariant 7: a crash can repeat only a known number of calls."""
    testbed.change_stream(batch_size=200)
    log(testbed, *range(1, 101))
    testbed.dispatch()
    unwritten: list[int] = []

    def watch(client: Any, calls: Sequence[Any], **options: Any) -> Iterator[Result]:
        for count, each in enumerate(send_batch(client, calls, **options)):
            yield each
            unwritten.append(count + 1 - testbed.database.records.count_documents({"state": "delivered"}))

    assert testbed.deliver(send_batch=watch).delivered == 100
    assert min(unwritten) >= 0
    assert max(unwritten) < WRITE_EVERY_RECORDS


def test_a_stream_that_is_only_appended_to_needs_no_keys(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(append_only=True)
    testbed.poll(ListReader([version_row(n, "a", None, at=str(n)) for n in (1, 2, 3)]))
    testbed.send_all()
    assert len(partner.calls()) == 3
    assert testbed.database.keys.count_documents({}) == 0
    assert {each["state"] for each in testbed.records()} == {"delivered"}


def test_the_name_of_a_worker_is_stored_literally(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.dispatch()
    testbed.deliver(worker="$$ROOT")
    assert testbed.record(1)["history"][0]["worker"] == "$$ROOT"


def test_records_of_a_dead_worker_are_sent_by_another_under_the_same_key(
    testbed: Testbed, partner: MockPartner
) -> None:
    log(testbed, 1)
    testbed.dispatch()

    class Killed(BaseException):
        pass

    def die(client: Any, calls: Sequence[Any], **options: Any) -> Iterator[Result]:
        for _ in send_batch(client, calls, **options):
            raise Killed
        yield from ()

    with pytest.raises(Killed):
        testbed.deliver(send_batch=die)
    assert testbed.record(1)["state"] == "sending"
    assert testbed.dispatch(messages_waiting=lambda: 0) == 0
    testbed.database.records.update_one({}, {"$set": {"lease.until": PAST}})
    assert testbed.maintain().returned == 1
    testbed.send_all()
    assert testbed.record(1)["state"] == "delivered"
    assert [call.fate for call in partner.calls()] == ["applied", "repeated"]
