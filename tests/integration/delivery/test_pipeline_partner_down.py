"""A partner that is down, refuses the credentials or is gone: no attempts are used up, and it recovers in steps."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.core.outcome import OutcomeRules, Verdict
from syncctl.core.records import Record
from syncctl.core.states import BreakerState
from syncctl.core.stream import BreakerRules, RetrySchedule
from syncctl.ledger.breakers import HALF_OPEN_STARTS_AT, Tally
from syncctl.local.mock_partner import MockPartner
from syncctl.local.mock_partner_behaviour import PartnerConfig
from syncctl.partner.client import Call, PartnerClient
from syncctl.pipeline.delivery.delivery_gate import LOOK_EVERY_SECONDS
from syncctl.pipeline.delivery.dispatch import PROBE_SECONDS, Taken
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import read_status
from tests.harness.hostile_partner import HostilePartner, Peer, answering
from tests.harness.http_partner import RowPartner
from tests.harness.meddling_client import MeddlingClient, once
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed, claim_records

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def backlog(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(60)
    testbed.poll()
    testbed.change_stream(batch_size=10, window=10)
    testbed.partner = replace(testbed.partner, breaker=BreakerRules(minimum_calls=10))
    return testbed


@pytest.fixture
def ten_orders(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """As many records as have to fail before the circuit opens."""
    source_db.create_orders(10)
    testbed.poll()
    testbed.partner = replace(testbed.partner, breaker=BreakerRules(minimum_calls=10))
    return testbed


def meet(testbed: Testbed, url: str) -> None:
    testbed.partner = replace(testbed.partner, url=url)


def end_pause(testbed: Testbed) -> None:
    testbed.database.streams.update_many({"breaker.until": {"$exists": True}}, {"$set": {"breaker.until": PAST}})


def breaker(testbed: Testbed) -> dict[str, Any]:
    found: dict[str, Any] = testbed.database.streams.find_one({"_id": "orders"}).get("breaker", {})
    return found


def next_probe(testbed: Testbed) -> Any:
    status = read_status(ledger=testbed.ledger, configured={"orders": StreamPlan(partner="default")}, messages=0)
    assert status.partners[0]["next_probe_at"] == status.streams[0]["next_probe_at"]
    return status.streams[0]["next_probe_at"]


def tries(testbed: Testbed) -> list[int]:
    return sorted(record["tries"] for record in testbed.records())


def bring_down(backlog: Testbed, url: str) -> None:
    """Let a partner fail until the circuit opens, and its pause end: one record may ask whether it is back."""
    meet(backlog, url)
    backlog.deliver()
    end_pause(backlog)
    backlog.make_retries_due()


def test_a_partner_that_is_down_is_not_called_and_no_record_uses_up_its_tries(backlog: Testbed) -> None:
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        meet(backlog, down.url)
        backlog.deliver()
        calls = len(down.calls())
        assert breaker(backlog)["state"] == "open"
        assert 10 <= calls <= 20
        backlog.make_retries_due()
        assert backlog.deliver() == {}
        assert len(down.calls()) == calls
        before = tries(backlog)
        asked = []
        for _ in range(3):
            end_pause(backlog)
            backlog.make_retries_due()
            assert backlog.deliver() == {"retrying": 1}
            asked.append(down.calls()[-1].row)
        # Each probe is a different record, and costs none of them an attempt.
        assert len(down.calls()) == calls + 3
        assert asked[0] != asked[1] != asked[2]
        assert tries(backlog) == before
        assert "HTTP 500" in breaker(backlog)["reason"]


def test_a_new_record_does_not_wait_for_the_long_pause_after_probes_of_records_that_always_fail(
    ten_orders: Testbed, source_db: SourceDb
) -> None:
    """Invariant 12. Fails without `fresh_until` in `breakers.py:_kept_open`."""
    with RowPartner(lambda row: 503 if row <= 10 else 201) as server:
        bring_down(ten_orders, server.url)
        assert len(server.calls) == 10
        for _ in range(4):
            end_pause(ten_orders)
            ten_orders.make_retries_due()
            assert ten_orders.deliver() == {"retrying": 1}
        pause = (breaker(ten_orders)["until"] - breaker(ten_orders)["fresh_until"]).total_seconds()
        assert pause > 400
        assert next_probe(ten_orders) == breaker(ten_orders)["until"]
        source_db.add_orders([11])
        ten_orders.poll()
        assert next_probe(ten_orders) == breaker(ten_orders)["fresh_until"], "of the record that may probe first"
        ten_orders.make_retries_due()
        assert ten_orders.deliver() == {}, "the shortest pause is kept"
        ten_orders.database.streams.update_one({"_id": "orders"}, {"$set": {"breaker.fresh_until": PAST}})
        assert ten_orders.deliver()["delivered"] == 1
        assert server.calls.count(11) == 1
    assert ten_orders.states()[11] == ["delivered"]


def test_the_pause_grows_while_replayed_records_probe(ten_orders: Testbed) -> None:
    """A replayed record begins anew, and a probe by it says as much as one by a new record."""
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        bring_down(ten_orders, down.url)
        changes: list[dict[str, Any]] = [{"$set": {"fresh": True, "attempts_before": "$attempts", "due_at": PAST}}]
        ten_orders.database.records.update_many({}, changes)
        assert ten_orders.deliver() == {"retrying": 1}
    assert "fresh_until" not in breaker(ten_orders)


def test_a_record_that_has_failed_waits_for_the_whole_pause(ten_orders: Testbed) -> None:
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        bring_down(ten_orders, down.url)
        assert ten_orders.deliver() == {"retrying": 1}
        ten_orders.make_retries_due()
        ten_orders.database.streams.update_one({"_id": "orders"}, {"$set": {"breaker.fresh_until": PAST}})
        assert ten_orders.deliver() == {}


def test_one_at_a_time_asks_whether_the_partner_is_back(backlog: Testbed) -> None:
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        bring_down(backlog, down.url)
        taken = backlog.take()
        assert taken.is_probe
        assert taken.claim is not None
        assert len(taken.claim.records) == 1
        assert backlog.take() == Taken()
        assert backlog.deliver() == {}


def test_a_recovering_partner_gets_everything_with_limited_calls(backlog: Testbed) -> None:
    take = backlog.ledger.batches.take
    seen: list[tuple[int, int]] = []

    def watch(*args: Any, **options: Any) -> Any:
        claim = take(*args, **options)
        seen.append((breaker(backlog).get("allowed", 0), len(backlog.records(state="sending"))))
        return claim

    backlog.change_stream(batch_size=60, window=60)
    with MockPartner(PartnerConfig(error_rate=1.0, latency_seconds=0.05)) as server:
        bring_down(backlog, server.url)
        server.fix()
        backlog.ledger.batches.take = watch  # type: ignore[method-assign]
        backlog.deliver()
        del backlog.ledger.batches.take  # type: ignore[method-assign]
        backlog.make_retries_due()
        backlog.deliver()
        assert len(server.rows()) == 60
    assert seen[0] == (0, 1), "one asks"
    recovering = [(allowed, flying) for allowed, flying in seen[1:] if allowed]
    assert [allowed for allowed, _ in recovering][:1] == [HALF_OPEN_STARTS_AT]
    assert all(flying <= allowed for allowed, flying in recovering)
    assert {record["state"] for record in backlog.records()} == {"delivered"}


def test_records_that_always_fail_do_not_keep_a_partner_down_that_is_back(backlog: Testbed) -> None:
    """A fifth of the rows fail each time; that does not mean that the partner is down."""
    sick = True

    def answer(row: int) -> int:
        return 500 if sick or row % 5 == 0 else 201

    with RowPartner(answer) as server:
        meet(backlog, server.url)
        backlog.change_stream(retry=RetrySchedule(delays_seconds=(60.0,) * 99, jitter=0.0))
        backlog.deliver()
        assert breaker(backlog)["state"] == "open"
        sick = False
        opened = 0
        for _ in range(40):
            if breaker(backlog).get("state") == "open":
                opened += 1
                end_pause(backlog)
            # A minute passes: failed records are due again.
            backlog.make_retries_due()
            backlog.deliver()
            if len(backlog.records(state="delivered")) == 48:
                break
    assert len(backlog.records(state="delivered")) == 48
    assert opened <= 3, "it counted as down, and once or twice by bad luck"


def test_a_probe_that_was_given_back_is_followed_by_another_at_once(backlog: Testbed) -> None:
    asked_to_stop = threading.Event()

    class Stopped(PartnerClient):
        def prepare(self, record: Record) -> Call:
            asked_to_stop.set()
            return super().prepare(record)

    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        bring_down(backlog, down.url)
        calls = len(down.calls())
        client = Stopped(backlog.partner, backlog.stream)
        assert backlog.deliver(client=client, is_stopping=asked_to_stop.is_set) == {"returned": 1}
        client.close()
        assert len(down.calls()) == calls
        assert backlog.take().is_probe


def test_a_process_that_dies_with_the_probe_holds_nobody_for_longer_than_a_call(backlog: Testbed) -> None:
    backlog.change_stream(lease_seconds=3600.0)
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        bring_down(backlog, down.url)
        assert backlog.take().is_probe
        until = breaker(backlog)["probe"]["until"].replace(tzinfo=UTC)
        assert (until - backlog.ledger.streams.server_time()).total_seconds() <= PROBE_SECONDS
        backlog.database.streams.update_one({"_id": "orders"}, {"$set": {"breaker.probe.until": PAST}})
        assert backlog.take().is_probe


def test_who_has_lost_the_right_to_ask_calls_nobody(backlog: Testbed) -> None:
    take = backlog.ledger.batches.take

    def take_late(*args: Any, **options: Any) -> Any:
        claim = take(*args, **options)
        # It stood still, and another asks by now.
        backlog.database.streams.update_one({"_id": "orders"}, {"$set": {"breaker.probe.token": "another"}})
        return claim

    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        bring_down(backlog, down.url)
        calls = len(down.calls())
        backlog.ledger.batches.take = take_late  # type: ignore[method-assign]
        assert backlog.deliver() == {"returned": 1}
        del backlog.ledger.batches.take  # type: ignore[method-assign]
        assert len(down.calls()) == calls
    assert breaker(backlog)["probe"]["token"] == "another"


def test_a_batch_that_was_taken_before_is_no_more_than_a_partner_that_comes_back_gets(
    backlog: Testbed, partner: MockPartner
) -> None:
    backlog.partner = replace(backlog.partner, max_in_flight=1)
    first: list[str] = []

    def fail_and_come_back() -> None:
        """Let other processes have found the partner down, and back, while this one made a call."""
        first.append(backlog.database.batches.find_one()["_id"])
        breakers, rules = backlog.ledger.breakers, backlog.partner.breaker
        breakers.report("orders", Tally(calls=20, failures=20, reason="HTTP 503"), token="other", rules=rules)
        end_pause(backlog)
        assert breakers.acquire_probe("orders", token="probe", record="orders-x", seconds=60.0)
        assert breakers.report("orders", Tally(calls=1), token="probe", rules=rules) is BreakerState.HALF_OPEN
        # By then it has looked.
        time.sleep(2 * LOOK_EVERY_SECONDS)

    client = MeddlingClient(backlog, before=once(fail_and_come_back))
    done = backlog.deliver(client=client)
    client.close()
    assert (done["delivered"], done["returned"]) == (60, 9)
    claims = [entry["claim"] for record in backlog.records() for entry in record["history"]]
    assert claims.count(first[0]) == 1
    assert {call.attempt for call in partner.calls()} == {1}


@pytest.mark.parametrize("meant", [Verdict.REJECTED, Verdict.ACCEPTED, Verdict.RETRY_LATER])
def test_a_status_about_one_record_does_not_open_the_breaker(backlog: Testbed, meant: Verdict) -> None:
    backlog.change_stream(outcomes=OutcomeRules(common={500: meant}))
    with RowPartner(lambda row: 500 if row <= 40 else 201) as server:
        meet(backlog, server.url)
        backlog.deliver()
        assert len(server.calls) == 60
    assert breaker(backlog).get("state") == "closed"


@pytest.mark.parametrize("status", ["429 Slow Down", "503 Later"])
def test_a_retry_after_that_most_calls_get_is_waited_for(backlog: Testbed, status: str) -> None:
    with HostilePartner(answering(status, b"", "Retry-After: 500")) as server:
        meet(backlog, server.url)
        backlog.deliver()
        calls = len(server.requests)
        assert breaker(backlog)["state"] == "open"
        assert 10 <= calls <= 20, "further records are not called only to get the same answer"
        left = (breaker(backlog)["until"].replace(tzinfo=UTC) - backlog.ledger.streams.server_time()).total_seconds()
        assert 400 < left <= 500
        end_pause(backlog)
        backlog.make_retries_due()
        backlog.deliver()
        asked = [
            record for record in backlog.records() if record["attempts"] > 0 and record["tries"] < record["attempts"]
        ]
    # The probe is not sent again before its Retry-After.
    assert len(asked) == 1
    assert (asked[0]["due_at"].replace(tzinfo=UTC) - backlog.ledger.streams.server_time()).total_seconds() > 400


def test_a_batch_under_way_gives_back_what_it_has_not_sent(backlog: Testbed) -> None:
    backlog.change_stream(batch_size=60, window=60)
    backlog.partner = replace(backlog.partner, max_in_flight=2)
    with MockPartner(PartnerConfig(error_rate=1.0, latency_seconds=0.05)) as down:
        meet(backlog, down.url)
        done = backlog.deliver()
        assert done["retrying"] == len(down.calls())
        assert 10 <= done["retrying"] < 60
        assert done == {"retrying": done["retrying"], "returned": 60 - done["retrying"]}
    assert len([record for record in backlog.records() if record["tries"] == 0]) == done["returned"]


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_refused_credentials_pause_the_partner_and_use_up_nothing(backlog: Testbed, status: str) -> None:
    with HostilePartner(answering(status, b'{"message":"token expired"}')) as server:
        meet(backlog, server.url)
        backlog.deliver()
        assert backlog.deliver() == {}
    paused = backlog.ledger.partners.load_all()["default"]["paused"]
    assert (paused["by"], paused["reason"]) == ("syncctl", f"HTTP {status[:3]}: token expired")
    assert set(tries(backlog)) == {0}
    assert {record["state"] for record in backlog.records()} == {"pending"}
    with MockPartner() as healthy:
        meet(backlog, healthy.url)
        backlog.ledger.partners.resume("default")
        backlog.deliver()
        assert len(healthy.rows()) == 60


def test_an_endpoint_that_is_gone_pauses_its_stream(backlog: Testbed) -> None:
    with HostilePartner(answering("410 Gone")) as server:
        meet(backlog, server.url)
        backlog.deliver()
    assert backlog.ledger.streams.load_all()["orders"]["paused"]["reason"] == "HTTP 410"
    assert not backlog.ledger.partners.load_gate("default").paused
    assert set(tries(backlog)) == {0}


def delete_rows(testbed: Testbed, source_db: SourceDb, *, address: str = "/orders/{id}", rows: int = 1) -> None:
    """Deliver rows, and let a poll find that they are gone."""
    source_db.create_orders(rows)
    testbed.change_stream(mode="snapshot", cursor=None, delete_method="DELETE", delete_path=address, max_delete_share=1)
    testbed.poll()
    testbed.deliver()
    source_db.execute("delete from orders")
    testbed.poll()


@pytest.mark.parametrize(
    ("status", "rules", "address", "state"),
    [
        ("404 Not Found", {}, "/orders/{id}", "delivered"),
        ("410 Gone", {}, "/orders/{id}", "delivered"),
        ("404 Not Found", {404: Verdict.REJECTED}, "/orders/{id}", "failed"),
        ("410 Gone", {410: Verdict.REJECTED}, "/orders/{id}", "failed"),
        ("404 Not Found", {404: Verdict.RETRY_LATER}, "/orders/{id}", "pending"),
        # The address of no row in particular: it is wrong.
        ("404 Not Found", {}, "/gone", "failed"),
        ("404 Not Found", {404: Verdict.ACCEPTED}, "/gone", "delivered"),
    ],
)
def test_a_row_that_is_gone_at_the_partner_needs_no_delete(
    testbed: Testbed, source_db: SourceDb, status: str, rules: dict[int, Verdict], address: str, state: str
) -> None:
    delete_rows(testbed, source_db, address=address)
    testbed.change_stream(outcomes=OutcomeRules(by_operation={"delete": rules}))
    with HostilePartner(answering(status)) as server:
        meet(testbed, server.url)
        testbed.deliver()
    assert [record["state"] for record in testbed.records(op="delete")] == [state]
    assert not testbed.ledger.streams.load_gate("orders").paused


def test_a_delete_that_is_repeated_after_a_cut_is_done(testbed: Testbed, source_db: SourceDb) -> None:
    """The first call has deleted the row, and its answer was lost."""
    delete_rows(testbed, source_db)
    deleted: list[bytes] = []

    def cut_then_not_found(peer: Peer) -> None:
        while request := peer.read_request():
            deleted.append(request)
            if len(deleted) == 1:
                peer.reset()
                return
            peer.answer("404 Not Found", b'{"message":"no such order"}')

    with HostilePartner(cut_then_not_found) as server:
        meet(testbed, server.url)
        testbed.deliver()
        testbed.settle_calls()
        testbed.make_retries_due()
        testbed.deliver()
    (record,) = testbed.records(op="delete")
    assert (record["state"], record["outcomes"]) == ("delivered", {"ambiguous": 1, "accepted": 1})
    assert len(deleted) == 2


def test_a_status_can_mean_something_else_for_upserts(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    testbed.poll()
    testbed.change_stream(outcomes=OutcomeRules(by_operation={"upsert": {404: Verdict.RETRY_LATER}}))
    with HostilePartner(answering("404 Not Found")) as server:
        meet(testbed, server.url)
        testbed.deliver()
    assert testbed.record(1)["state"] == "pending"


def test_a_worker_waits_for_permits_that_others_hold(backlog: Testbed, partner: MockPartner) -> None:
    backlog.partner = replace(backlog.partner, max_in_flight=3)
    take = backlog.ledger.partners.acquire_permits
    assert take("default", token="other", wanted=3, at_most=3, seconds=60.0).calls == 3
    assert backlog.deliver() == {}
    assert partner.calls() == []
    backlog.ledger.partners.release_permits("default", token="other")
    backlog.deliver()
    assert len(partner.rows()) == 60
    assert backlog.database.partners.find_one({"_id": "default"})["permits"] == []


@pytest.mark.parametrize(
    ("changes", "status", "body", "state"),
    [
        ({"outcomes": OutcomeRules(common={409: Verdict.ACCEPTED})}, "409 Conflict", b"", "delivered"),
        ({}, "409 Conflict", b"", "failed"),
        ({"outcomes": OutcomeRules(common={404: Verdict.ACCEPTED})}, "404 Not Found", b"", "delivered"),
        ({"outcomes": OutcomeRules(common={403: Verdict.REJECTED})}, "403 Forbidden", b"", "failed"),
        ({"outcomes": OutcomeRules(common={403: Verdict.RETRY_LATER})}, "403 Forbidden", b"", "pending"),
        ({"outcomes": OutcomeRules(common={410: Verdict.REJECTED})}, "410 Gone", b"", "failed"),
        ({"outcomes": OutcomeRules(common={422: Verdict.RETRY_LATER})}, "422 Locked", b"", "pending"),
        ({"outcomes": OutcomeRules(common={202: Verdict.RETRY_LATER})}, "202 Accepted", b"", "pending"),
        ({"accepted_when": "result.status=ok"}, "200 OK", b'{"result":{"status":"ok"}}', "delivered"),
        ({"accepted_when": "result.status=ok"}, "200 OK", b'{"result":{"status":"error"}}', "pending"),
        ({"accepted_when": "result.status=ok"}, "200 OK", b"<html>", "pending"),
        ({"accepted_when": "result.status=ok"}, "204 No Content", b"", "pending"),
        ({"accepted_when": "!errors"}, "200 OK", b'{"data":1}', "delivered"),
        ({"accepted_when": "!errors"}, "200 OK", b'{"errors":["no"]}', "pending"),
        ({"accepted_when": "code!=7"}, "200 OK", b'{"code":7}', "pending"),
        ({"rejected_when": "errors"}, "200 OK", b'{"errors":["no"]}', "failed"),
        ({"rejected_when": "errors"}, "200 OK", b'{"errors":[]}', "delivered"),
        ({"rejected_when": "errors"}, "204 No Content", b"", "delivered"),
        ({"rejected_when": "code=7", "accepted_when": "code=0"}, "200 OK", b'{"code":7}', "failed"),
        ({"rejected_when": "code=7", "accepted_when": "code=0"}, "200 OK", b'{"code":8}', "pending"),
        (
            {"rejected_when": "code=7", "outcomes": OutcomeRules(common={409: Verdict.ACCEPTED})},
            "409 No",
            b'{"code":7}',
            "delivered",
        ),
        ({"ambiguous": "fail"}, "504 Gateway Timeout", b"", "failed"),
        ({"ambiguous": "fail"}, "503 Busy", b"", "pending"),
        # An answer that could not be read to its end may have said that it is accepted.
        ({"accepted_when": "ok=true", "ambiguous": "fail"}, "200 OK", b'{"rows":"' + b"x" * 70_000 + b'"}', "failed"),
        ({"accepted_when": "ok=true", "ambiguous": "fail"}, "200 OK", b'{"rows":"x"}', "pending"),
        ({"rejected_when": "no=true", "ambiguous": "fail"}, "200 OK", b'{"rows":"' + b"x" * 70_000 + b'"}', "failed"),
    ],
)
def test_the_outcome_rules_of_a_stream_decide_the_state(
    testbed: Testbed, source_db: SourceDb, changes: dict[str, Any], status: str, body: bytes, state: str
) -> None:
    source_db.create_orders(1)
    testbed.poll()
    testbed.change_stream(**changes)
    with HostilePartner(answering(status, body)) as server:
        meet(testbed, server.url)
        testbed.deliver()
    assert testbed.record(1)["state"] == state
    assert not testbed.ledger.streams.load_gate("orders").paused
    assert not testbed.ledger.partners.load_gate("default").paused
    if changes.get("ambiguous") == "fail" and state == "failed":
        assert "not sent again, because the partner may have it" in testbed.record(1)["error"]["message"]


def test_records_of_a_dead_worker_are_held_where_the_stream_says_so(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    testbed.poll()
    testbed.change_stream(ambiguous="fail")
    claim_records(testbed.ledger, [testbed.record(1)["_id"]], worker="dead", begun=True)
    testbed.let_leases_expire()
    testbed.maintain()
    assert testbed.record(1)["state"] == "failed"
    assert "not sent again, because the partner may have it" in testbed.record(1)["error"]["message"]


@pytest.mark.parametrize(("waited", "state"), [(50.0, "pending"), (101.0, "failed")])
def test_the_last_delay_is_repeated_until_it_is_time_to_give_up(
    testbed: Testbed, source_db: SourceDb, waited: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_db.create_orders(1)
    testbed.poll()
    testbed.change_stream(retry=RetrySchedule(delays_seconds=(1.0,), jitter=0.0, give_up_after_seconds=100.0))
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        meet(testbed, down.url)
        age: Callable[[], object] = lambda: testbed.database.records.update_one(  # noqa: E731
            {}, [{"$set": {"tried_at": {"$subtract": ["$$NOW", round(waited * 1000)]}}}]
        )
        for _ in range(4):
            testbed.make_retries_due()
            testbed.deliver()
        assert (testbed.record(1)["state"], testbed.record(1)["tries"]) == ("pending", 4)
        age()
        testbed.make_retries_due()
        testbed.deliver()
    assert testbed.record(1)["state"] == state


def test_the_time_to_give_up_begins_anew_after_a_pause(testbed: Testbed, source_db: SourceDb) -> None:
    """Four days without a call are not four days of attempts."""
    source_db.create_orders(1)
    testbed.poll()
    testbed.change_stream(retry=RetrySchedule(delays_seconds=(1.0,), jitter=0.0, give_up_after_seconds=100.0))
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        meet(testbed, down.url)
        testbed.deliver()
        testbed.ledger.streams.pause("orders", who="me", reason="maintenance")
        testbed.database.records.update_many({}, {"$set": {"tried_at": PAST}})
        testbed.ledger.streams.resume("orders")
        testbed.make_retries_due()
        testbed.deliver()
    assert (testbed.record(1)["state"], testbed.record(1)["tries"]) == ("pending", 2)


@pytest.mark.parametrize("said", [r"bad \ud83d", r"\udcff\ud800", r"tail \u0000"])
def test_no_text_of_a_partner_keeps_outcomes_from_being_written(
    testbed: Testbed, source_db: SourceDb, said: str
) -> None:
    """Half of a character has no form in MongoDB, and one bad document keeps all of its bulk out."""
    source_db.create_orders(9)
    testbed.poll()
    with RowPartner(lambda row: 422 if row == 3 else 201, body=b'{"message":"%s"}' % said.encode()) as server:
        meet(testbed, server.url)
        testbed.deliver()
        assert len(server.calls) == 9
    assert {number: states[0] for number, states in testbed.states().items() if number != 3} == dict.fromkeys(
        (1, 2, 4, 5, 6, 7, 8, 9), "delivered"
    )
    assert testbed.record(3)["state"] == "failed"
    assert testbed.record(3)["error"]["message"].startswith("HTTP 422: ")


@pytest.mark.parametrize("answer", [("429 Too Many Requests",), ("403 Forbidden", b"", "Retry-After: 1")])
def test_calls_are_counted_while_the_partner_limits_them(
    backlog: Testbed, partner: MockPartner, answer: tuple[Any, ...]
) -> None:
    backlog.change_stream(batch_size=20)
    backlog.deliver()
    assert "pace" not in (backlog.database.partners.find_one({"_id": "default"}) or {})
    calls: list[bytes] = []

    def limit(peer: Peer) -> None:
        while request := peer.read_request():
            calls.append(request)
            if len(calls) <= 5:
                peer.answer(*answer)
            else:
                peer.answer("200 OK")

    backlog.database.records.update_many({}, {"$set": {"state": "pending", "fresh": True, "due_at": PAST}})
    with HostilePartner(limit) as server:
        meet(backlog, server.url)
        backlog.deliver()
        backlog.make_retries_due()
        backlog.deliver()
    pace = backlog.database.partners.find_one({"_id": "default"})["pace"]
    assert sum(minute["limited"] for minute in pace) == 5
    assert 55 <= sum(minute["passed"] for minute in pace) <= 60
    assert backlog.ledger.partners.load_gate("default").is_limiting
    backlog.database.partners.update_one({"_id": "default"}, {"$set": {"limited_at": PAST}})
    assert not backlog.ledger.partners.load_gate("default").is_limiting
