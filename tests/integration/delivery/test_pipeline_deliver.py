"""deliver: take, call, write; a real client, a real partner, a real ledger."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from syncctl.core.records import Record
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.partner.client import Call, PartnerClient
from syncctl.pipeline.delivery.delivery_lane import BEGIN_AT_ONCE, WRITE_EVERY_RECORDS
from tests.harness.holding_partner import HoldingPartner
from tests.harness.hostile_partner import HostilePartner, Peer, answering, sending
from tests.harness.meddling_client import MeddlingClient, once
from tests.harness.passing_time import stand_still
from tests.harness.source_db import SourceDb
from tests.harness.testbed import ListReader, Testbed, version_row
from tests.harness.waiting import eventually

Eventually = Callable[..., Any]


def log(testbed: Testbed, *numbers: int, content: Any = "a") -> None:
    """Let a poll have seen these rows."""
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def send(testbed: Testbed, *numbers: int) -> dict[str, int]:
    """Log rows and deliver them."""
    log(testbed, *numbers)
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


def test_the_log_names_the_errors_by_which_records_failed_and_each_call_if_asked(
    testbed: Testbed, moody: Any, caplog: pytest.LogCaptureFixture
) -> None:
    moody(reject_rate=1.0)
    caplog.set_level("INFO")
    assert send(testbed, 1, 2, 3) == {"failed": 3}
    (failed,) = [line for line in caplog.records if line.message == "deliver.failed"]
    assert failed.levelname == "WARNING"
    assert (failed.fields["records"], failed.fields["status"]) == (3, 422)
    ids = {record["_id"] for record in testbed.records()}
    assert failed.fields["record"] in ids
    assert failed.fields["fingerprint"] == testbed.records()[0]["error"]["fingerprint"]
    (batch,) = [line for line in caplog.records if line.message == "deliver"]
    assert (batch.levelname, batch.fields["failed"]) == ("WARNING", 3)
    calls = [line for line in caplog.records if line.message == "deliver.attempt"]
    assert {call.fields["record"] for call in calls} == ids
    assert {(call.fields["outcome"], call.fields["now"]) for call in calls} == {("rejected", "failed")}


# Calls and their outcomes.


def test_rows_arrive_with_every_digit(testbed: Testbed, source_db: SourceDb, partner: MockPartner) -> None:
    source_db.create_orders(30)
    testbed.poll()
    assert testbed.deliver() == {"delivered": 30}
    assert {state for states in testbed.states().values() for state in states} == {"delivered"}
    body = json.loads(partner.rows()["7"], parse_float=Decimal)
    assert body == {
        "id": 7, "customer": "customer 7", "amount": Decimal("7.07"), "note": "",
        "updated_at": "2026-01-01 00:00:00.000007",
    }  # fmt: skip
    assert {call.key for call in partner.calls()} == {record["_id"] for record in testbed.records()}
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
    assert done == {names[state]: 1}
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
        assert testbed.deliver() == {}
        testbed.make_retries_due()
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
    testbed.deliver()
    found = testbed.record(1)
    assert (found["state"], found["outcomes"]) == ("delivered", {"retry_later": 1, "accepted": 1})
    assert "error" not in found


# Records that are not sent.


def test_a_record_that_cannot_become_a_call_is_failed_without_one(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(method="PUT", path="/orders/{content}")
    testbed.poll(ListReader([version_row(1, None, None), version_row(2, "b", None)]))
    assert testbed.deliver() == {"delivered": 1, "failed": 1}
    found = testbed.record(1)
    assert (found["state"], found["attempts"], found["history"][0]["action"]) == ("failed", 0, "unsendable")
    assert "content" in found["error"]["message"]
    assert [call.path for call in partner.calls()] == ["/orders/b"]


def test_a_version_that_was_overtaken_while_its_batch_was_taken_is_not_sent(
    testbed: Testbed, partner: MockPartner
) -> None:
    log(testbed, 1, 2, content="a")
    take = testbed.ledger.batches.take

    def take_late(*args: Any, **options: Any) -> Any:
        claim = take(*args, **options)
        del testbed.ledger.batches.take  # type: ignore[method-assign]
        log(testbed, 1, content="b")
        return claim

    testbed.ledger.batches.take = take_late  # type: ignore[method-assign]
    assert testbed.deliver() == {"superseded": 1, "delivered": 2}
    assert testbed.states() == {1: ["superseded", "delivered"], 2: ["delivered"]}
    old, new = testbed.records(**{"key.id": 1})
    assert (old["superseded_by"], old["claims"], old["attempts"]) == (new["_id"], 0, 0)
    assert {call.key for call in partner.calls()} == {new["_id"], testbed.record(2)["_id"]}


def test_without_an_order_an_overtaken_version_is_sent(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(order="none")
    log(testbed, 1, content="a")
    log(testbed, 1, content="b")
    assert testbed.deliver() == {"delivered": 2}
    assert testbed.states() == {1: ["delivered", "delivered"]}
    assert len(partner.calls()) == 2


def test_several_loops_at_once_send_each_record_once(testbed: Testbed, partner: MockPartner) -> None:
    """Invariant 3."""
    testbed.change_stream(batch_size=10)
    log(testbed, *range(1, 101))
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda number: testbed.deliver(worker=f"w{number}"), range(4)))
    assert sum(each.get("delivered", 0) for each in done) == 100
    assert len(partner.calls()) == len({call.key for call in partner.calls()}) == 100
    assert testbed.deliver() == {}
    assert testbed.database.batches.count_documents({}) == 0


def test_a_stop_gives_back_what_was_not_sent(testbed: Testbed, moody: Any) -> None:
    partner = moody(latency_seconds=0.05)
    testbed.partner = replace(testbed.partner, max_in_flight=2)
    log(testbed, *range(1, 41))
    done = testbed.deliver(is_stopping=lambda: len(partner.calls()) >= 5)
    assert done["delivered"] == len(partner.calls()) < 40
    assert done == {"delivered": done["delivered"], "returned": 40 - done["delivered"]}
    back = testbed.records(state="pending")
    assert len(back) == done["returned"]
    assert {(each["claims"], each["attempts"], each["fresh"]) for each in back} == {(0, 0, True)}
    assert testbed.database.batches.count_documents({}) == 0
    assert testbed.deliver() == {"delivered": len(back)}
    assert {call.attempt for call in partner.calls()} == {1}


def test_whose_time_is_over_gives_back_the_rest_and_wakes_another(testbed: Testbed, moody: Any) -> None:
    moody(latency_seconds=0.05)
    testbed.partner = replace(testbed.partner, max_in_flight=2)
    log(testbed, *range(1, 101))
    done = testbed.deliver(seconds=0.3)
    assert 0 < done["delivered"] < 100
    assert len(testbed.records(state="pending")) == 100 - done["delivered"]
    assert testbed.woken == ["orders"]


def test_another_is_woken_while_more_is_due_than_one_takes_at_once(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(batch_size=5)
    log(testbed, *range(1, 4))
    testbed.deliver()
    assert testbed.woken == []
    log(testbed, *range(6, 17))
    testbed.deliver()
    assert set(testbed.woken) == {"orders"}
    assert len(partner.calls()) == 14


def test_records_that_get_no_permit_are_not_taken(testbed: Testbed, partner: MockPartner) -> None:
    testbed.partner = replace(testbed.partner, max_in_flight=3)
    take = testbed.ledger.partners.acquire_permits
    assert take("default", token="other", wanted=3, at_most=3, seconds=60.0).calls == 3
    log(testbed, 1, 2)
    assert testbed.deliver() == {}
    assert partner.calls() == []
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}
    testbed.ledger.partners.release_permits("default", token="other")
    assert testbed.deliver() == {"delivered": 2}
    assert testbed.database.partners.find_one({"_id": "default"})["permits"] == []


def test_a_stream_that_is_paused_meanwhile_sends_nothing_more(testbed: Testbed, moody: Any) -> None:
    server = moody(latency_seconds=0.1)
    testbed.partner = replace(testbed.partner, max_in_flight=1)
    log(testbed, *range(1, 101))
    pause = once(lambda: testbed.ledger.streams.pause("orders", who="me", reason="why"))
    client = MeddlingClient(testbed, before=pause)
    done = testbed.deliver(client=client)
    client.close()
    # The pause is heard of within half a second.
    assert 1 <= done["delivered"] == len(server.calls()) <= 15
    assert done["returned"] == 100 - done["delivered"]
    assert {record["attempts"] for record in testbed.records(state="pending")} == {0}


def test_what_stops_a_batch_before_its_calls_holds_nothing(testbed: Testbed, partner: MockPartner) -> None:
    class Broken(PartnerClient):
        def prepare(self, record: Record) -> Call:
            if record.key["id"] == 2:
                raise ZeroDivisionError
            return super().prepare(record)

    testbed.partner = replace(testbed.partner, max_in_flight=3)
    log(testbed, 1, 2, 3)
    client = Broken(testbed.partner, testbed.stream)
    with pytest.raises(ZeroDivisionError):
        testbed.deliver(client=client)
    client.close()
    assert testbed.database.partners.find_one({"_id": "default"})["permits"] == []
    assert testbed.database.batches.count_documents({}) == 0
    assert {(each["state"], each["claims"]) for each in testbed.records()} == {("pending", 0)}
    assert testbed.deliver() == {"delivered": 3}


# Keys.


def test_new_bytes_go_under_a_new_key(testbed: Testbed, moody: Any) -> None:
    """Invariant 7: the partner would refuse other bytes under the old one."""
    server = moody(error_rate=1.0)
    send(testbed, 1)
    server.fix()
    testbed.change_stream(method="PUT", path="/v2/orders/{id}")
    testbed.make_retries_due()
    testbed.deliver()
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
    testbed.deliver()
    old, new = testbed.records()
    assert (old["state"], new["state"], new["outcomes"]) == ("pending", "pending", {"accepted": 1})
    assert new["due_at"] == testbed.database.keys.find_one()["unsettled"][0]["until"]
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.deliver()
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert [call.key for call in server.calls()] == [old["_id"], new["_id"], f"{new['_id']}-2"]
    assert json.loads(server.rows()["1"])["content"] == "b"


def test_an_ambiguous_call_that_is_accepted_at_last_keeps_no_version_waiting(testbed: Testbed, moody: Any) -> None:
    server = moody(drop_before_rate=1.0)
    send(testbed, 1)
    server.fix()
    testbed.make_retries_due()
    testbed.deliver()
    assert testbed.record(1)["state"] == "delivered"
    log(testbed, 1, content="b")
    testbed.deliver()
    assert testbed.states() == {1: ["delivered", "delivered"]}
    assert len(server.calls()) == 3


# Outcomes that come too late.


def test_a_late_outcome_joins_the_history_and_changes_nothing(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1)

    def lose(*_: object) -> None:
        testbed.let_leases_expire()
        # The loop itself may be quicker.
        testbed.rescue()

    client = MeddlingClient(testbed, after=lose)
    assert testbed.deliver(client=client) == {"late": 1}
    client.close()
    found = testbed.record(1)
    assert (found["state"], found["attempts"], found["tries"]) == ("pending", 1, 0)
    assert [(event["action"], event.get("late")) for event in found["history"]] == [("lost", None), ("attempt", True)]
    testbed.make_retries_due()
    testbed.deliver()
    assert [(call.key, call.attempt, call.fate) for call in partner.calls()] == [
        (found["_id"], 1, "applied"), (found["_id"], 2, "repeated"),
    ]  # fmt: skip
    assert testbed.record(1)["state"] == "delivered"


def test_a_call_that_outlived_its_lease_has_the_newest_version_sent_again(
    testbed: Testbed, partner: MockPartner
) -> None:
    """Invariant 5: it may have arrived after the newer version."""
    log(testbed, 1, content="old")
    takes_no_more = threading.Event()

    def stall(*_: object) -> None:
        # It stood still before it sent; meanwhile a newer version was delivered.
        takes_no_more.set()
        testbed.let_leases_expire()
        testbed.rescue()
        log(testbed, 1, content="new")
        testbed.settle_calls()
        testbed.deliver(worker="another")
        assert json.loads(partner.rows()["1"])["content"] == "new"

    client = MeddlingClient(testbed, before=stall)
    assert testbed.deliver(client=client, is_stopping=takes_no_more.is_set) == {"late": 1}
    client.close()
    assert json.loads(partner.rows()["1"])["content"] == "old"
    old, new = testbed.records()
    assert (old["state"], new["state"], new["history"][-1]["action"]) == ("pending", "pending", "resent")
    testbed.make_retries_due()
    assert testbed.deliver() == {"delivered": 1}
    assert json.loads(partner.rows()["1"])["content"] == "new"
    assert partner.calls()[-1].key == f"{new['_id']}-2"
    assert testbed.states() == {1: ["superseded", "delivered"]}


@pytest.mark.parametrize("status", ["422 No", "503 Busy"])
def test_a_late_refusal_sends_no_version_again(testbed: Testbed, partner: MockPartner, status: str) -> None:
    log(testbed, 1, content="old")
    accepting = testbed.partner
    takes_no_more = threading.Event()

    def script(peer: Peer) -> None:
        while peer.read_request():
            takes_no_more.set()
            testbed.let_leases_expire()
            testbed.rescue()
            testbed.settle_calls()
            testbed.partner = accepting
            log(testbed, 1, content="new")
            testbed.deliver(worker="another")
            peer.answer(status)

    with HostilePartner(script) as server:
        meet(testbed, server.url)
        assert testbed.deliver(is_stopping=takes_no_more.is_set) == {"late": 1}
    meet(testbed, accepting.url)
    testbed.make_retries_due()
    assert testbed.deliver() == {}
    assert testbed.states() == {1: ["superseded", "delivered"]}
    assert len(partner.calls()) == 1


# Leases.


def test_a_lease_that_is_renewed_outlives_its_length(testbed: Testbed, moody: Any) -> None:
    """A call may take longer than a lease lasts."""
    server = moody(latency_seconds=3.0)
    testbed.change_stream(lease_seconds=1.0)
    log(testbed, 1, 2)
    others: list[int] = []
    over = threading.Event()

    def rescue() -> None:
        while not over.wait(0.1):
            others.append(testbed.rescue())

    watcher = threading.Thread(target=rescue)
    watcher.start()
    assert testbed.deliver() == {"delivered": 2}
    over.set()
    watcher.join()
    assert len(others) > 10
    assert set(others) == {0}
    assert len(server.calls()) == 2
    assert all([entry["action"] for entry in record["history"]] == ["attempt"] for record in testbed.records())


def test_whose_lease_was_lost_sends_nothing_more_of_that_batch(
    testbed: Testbed, partner: MockPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 3. What it had not begun goes back at once, without a loss; what it may have begun, as lost."""
    testbed.partner = replace(testbed.partner, max_in_flight=1)
    log(testbed, *range(1, 41))
    tokens: list[str] = []

    def lose() -> None:
        tokens.append(testbed.database.batches.find_one()["_id"])
        testbed.let_leases_expire()
        assert testbed.rescue() == 40
        stand_still(testbed.database, monkeypatch)

    client = MeddlingClient(testbed, before=once(lose))
    done = testbed.deliver(client=client)
    client.close()
    assert (done["late"], done["delivered"]) == (1, 40 - BEGIN_AT_ONCE)
    for record in testbed.records(state="delivered"):
        assert (record["claims"], record["attempts"], len(record["history"])) == (1, 1, 1)
        assert record["history"][0]["claim"] != tokens[0]
    begun = testbed.records(losses=1)
    assert len(begun) == BEGIN_AT_ONCE
    assert sum(each["attempts"] for each in begun) == 1, "one call was under way"
    for each in begun:
        assert each["state"] == "pending"
        lost = each["history"][0]
        assert (lost["action"], lost["claim"]) == ("lost", tokens[0])
        # Due once the call must have ended that its process may have begun.
        assert each["due_at"] - lost["at"] == timedelta(seconds=testbed.partner.timeout_seconds)
    assert len(partner.calls()) == 1 + 40 - BEGIN_AT_ONCE
    testbed.settle_calls()
    testbed.make_retries_due()
    assert testbed.deliver() == {"delivered": BEGIN_AT_ONCE}
    assert sum(call.fate == "repeated" for call in partner.calls()) == 1
    assert len(partner.calls()) == 41


def test_a_process_that_died_costs_its_begun_calls_and_nothing_else(testbed: Testbed, partner: MockPartner) -> None:
    """Invariants 7 and 13."""
    log(testbed, *range(1, 11))
    client = PartnerClient(testbed.partner, testbed.stream)
    claim = testbed.take(mapping_hash=client.mapping_hash).claim
    assert claim is not None
    begun = [record.id for record in claim.records[:3]]
    assert testbed.ledger.batches.begin(claim, begun, seconds=15.0)
    client.send(client.prepare(claim.records[0]))
    client.close()
    assert testbed.deliver() == {}, "its lease has not run out"
    testbed.let_leases_expire()
    testbed.maintain()
    # Those it had not begun go on at once, as if it had never taken them.
    assert testbed.deliver() == {"delivered": 7}
    assert {(record["claims"], record.get("losses")) for record in testbed.records(state="delivered")} == {(1, None)}
    lost = testbed.records(state="pending")
    assert sorted(each["_id"] for each in lost) == sorted(begun)
    assert {(each["claims"], each["losses"]) for each in lost} == {(1, 1)}
    testbed.settle_calls()
    testbed.make_retries_due()
    assert testbed.deliver() == {"delivered": 3}
    assert [call.fate for call in partner.calls() if call.key == begun[0]] == ["applied", "repeated"]
    assert len(partner.calls()) == 11


def test_a_loop_brings_back_and_sends_what_a_dead_process_held(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1, 2)
    testbed.take(worker="dead")
    testbed.let_leases_expire()
    assert testbed.deliver() == {"delivered": 2}
    assert len(partner.calls()) == 2


# How outcomes are written.


def test_outcomes_are_written_as_they_come(testbed: Testbed, moody: Any) -> None:
    """Invariant 7: the calls that a crash can repeat are a known number, and the ledger names them beforehand."""
    moody(latency_seconds=0.002)
    limit = 8
    testbed.partner = replace(testbed.partner, max_in_flight=limit)
    testbed.change_stream(batch_size=1000)
    log(testbed, *range(1, 601))
    lock = threading.Lock()
    answered, in_doubt, unnamed = 0, [0], []

    def begin(bulk: Any) -> None:
        if testbed.database.batches.count_documents({"begun": bulk.records[0].id}) == 0:
            unnamed.append(bulk.records[0].id)

    def count(*_: object) -> None:
        nonlocal answered
        with lock:
            answered += 1
            in_doubt.append(answered - testbed.database.records.count_documents({"state": "delivered"}))

    client = MeddlingClient(testbed, before=begin, after=count)
    assert testbed.deliver(client=client)["delivered"] == 600
    client.close()
    assert unnamed == []
    # Those that come in while a hundred are being written are not more than what is under way and about to be.
    assert max(in_doubt) < WRITE_EVERY_RECORDS + 2 * (limit + BEGIN_AT_ONCE)


def test_calls_are_not_noted_long_before_they_begin(testbed: Testbed) -> None:
    """Invariant 7: what a crash puts in doubt is no whole batch, however fast the first calls of it are noted. While no
    call ends, these are the calls in flight, as many that wait for them, and as many that are about to."""
    limit = 16
    with HoldingPartner() as server:
        for row in range(1, 301):
            server.hold(str(row))
        testbed.partner = replace(testbed.partner, url=server.url, max_in_flight=limit)
        testbed.change_stream(batch_size=1000)
        log(testbed, *range(1, 301))
        stopping = threading.Event()
        loop = threading.Thread(target=testbed.deliver, kwargs={"is_stopping": stopping.is_set})
        loop.start()
        try:
            eventually(lambda: server.held() == limit)
            time.sleep(0.5)
            noted = [len(batch["begun"]) for batch in testbed.database.batches.find()]
        finally:
            stopping.set()
            server.release_held()
            loop.join()
    assert limit <= sum(noted) <= limit + limit + max(BEGIN_AT_ONCE, limit)


def test_a_stream_that_is_only_appended_to_needs_no_keys(testbed: Testbed, partner: MockPartner) -> None:
    testbed.change_stream(append_only=True)
    testbed.poll(ListReader([version_row(n, "a", None, at=str(n)) for n in (1, 2, 3)]))
    testbed.deliver()
    assert len(partner.calls()) == 3
    assert testbed.database.keys.count_documents({}) == 0
    assert {record["state"] for record in testbed.records()} == {"delivered"}


def test_the_name_of_a_worker_is_stored_literally(testbed: Testbed) -> None:
    log(testbed, 1)
    seen: list[str] = []
    client = MeddlingClient(testbed, before=lambda _: seen.append(testbed.database.batches.find_one()["worker"]))
    testbed.deliver(client=client, worker="$$ROOT")
    client.close()
    assert testbed.record(1)["history"][0]["worker"] == "$$ROOT"
    assert seen == ["$$ROOT"]
