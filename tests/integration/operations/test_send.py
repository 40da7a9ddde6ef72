"""One row sent at once: by the rules for all records, beside polls and workers, and never instead of them."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.stream import Lookup
from syncctl.errors import LeaseHeld, ServiceUnavailable, TroubleFound, UsageError
from syncctl.local.mock_partner import MockPartner
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.operations.send import RowSending, Sent
from syncctl.pipeline.polling.wait_for_poll import wait_for_poll_lease
from syncctl.sources.reader import StreamReader
from tests.harness.id_partner import IdPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed, claim_records

ROWS = 3
Send = Callable[..., Sent]


@pytest.fixture
def said() -> list[str]:
    """What the operator was told."""
    return []


@pytest.fixture
def send(testbed: Testbed, source_db: SourceDb, said: list[str]) -> Send:
    """Send one row of a table of three."""
    source_db.create_orders(ROWS)

    def run(key: str = "1", **changes: Any) -> Sent:
        said.clear()
        # Whatever is in the way is waited for no longer than it takes to find it out.
        options: dict[str, Any] = {"timeout_seconds": 30.0, "should_stop": lambda: bool(said), **changes}
        client = PartnerClient(testbed.partner, testbed.stream)
        sending = RowSending(
            ledger=testbed.ledger,
            stream=testbed.stream,
            partner=testbed.partner,
            worker="sender",
            who="ann@host",
            make_setup=lambda: testbed.make_setup(client=client),
            count_slots=lambda: 1,
            show=said.append,
            **options,
        )
        assert testbed.source is not None
        with closing(client), StreamReader(testbed.source, testbed.stream) as reader:
            return sending.run(reader, key)

    return run


def test_a_row_is_sent_and_the_poll_stays_as_it_was(testbed: Testbed, send: Send, partner: MockPartner) -> None:
    testbed.poll()
    before = testbed.database.streams.find_one({"_id": "orders"})
    sent = send(key="2")
    assert (sent.logged, sent.sent, sent.accepted, sent.obstacle) == (False, True, True, None)
    assert list(partner.rows()) == ["2"]
    after = testbed.database.streams.find_one({"_id": "orders"})
    assert after["health"] == before["health"]
    assert after["cursor"] == before["cursor"]
    assert "token" not in after["poll"]
    assert testbed.states() == {1: ["pending"], 2: ["delivered"], 3: ["pending"]}
    assert testbed.deliver() == {"delivered": 2}


def test_without_time_nothing_is_sent_and_a_worker_sends_it_later(testbed: Testbed, send: Send) -> None:
    sent = send(timeout_seconds=0.0)
    assert (sent.logged, sent.sent, sent.state, sent.obstacle) == (True, False, "pending", "it was not sent in time")
    assert testbed.deliver() == {"delivered": 1}


def test_a_row_with_another_version_in_flight_waits(testbed: Testbed, send: Send, source_db: SourceDb) -> None:
    testbed.poll()
    claim = claim_records(testbed.ledger, [testbed.record(1)["_id"]])
    source_db.execute("update orders set note = 'changed' where id = 1")
    sent = send()
    assert (sent.logged, sent.sent, sent.obstacle) == (True, False, "another version of the row is in flight")
    testbed.give_back(claim)
    assert send().accepted
    assert testbed.states()[1] == ["pending", "delivered"]


def test_a_record_that_a_worker_sends_is_the_workers(testbed: Testbed, send: Send, said: list[str]) -> None:
    testbed.poll()
    claim_records(testbed.ledger, [testbed.record(1)["_id"]])
    sent = send()
    assert (sent.sent, sent.state, sent.obstacle) == (False, "sending", "a worker is sending it")
    assert said == ["a worker is sending it"]


def test_a_version_that_waits_for_an_older_one_under_strict_is_not_sent(
    testbed: Testbed, send: Send, source_db: SourceDb
) -> None:
    testbed.change_stream(order="strict")
    testbed.poll()
    older = testbed.record(1)["_id"]
    testbed.database.records.update_one({"_id": older}, {"$set": {"state": "failed"}, "$unset": {"due_at": True}})
    source_db.execute("update orders set note = 'changed' where id = 1")
    sent = send()
    assert sent.obstacle == f"it waits for an older version of the row: syncctl show {older}"


def test_an_open_circuit_is_obeyed_unless_it_is_overruled(testbed: Testbed, send: Send, partner: MockPartner) -> None:
    testbed.poll()
    breaker = {"state": "open", "reason": "HTTP 503"}
    testbed.database.streams.update_one({"_id": "orders"}, {"$set": {"breaker": breaker}})
    assert send().obstacle == "the endpoint of stream orders is down (circuit open): HTTP 503"
    assert partner.calls() == []
    assert send(force=True).accepted
    assert testbed.database.streams.find_one({"_id": "orders"})["breaker"]["state"] == "open"


@pytest.mark.parametrize("by", ["ann@host", "syncctl"])
def test_a_paused_partner_is_not_called_unless_it_is_overruled(
    testbed: Testbed, send: Send, partner: MockPartner, by: str
) -> None:
    testbed.ledger.partners.pause("default", who=by, reason="HTTP 401")
    obstacle = send().obstacle
    assert obstacle is not None
    assert obstacle.startswith("partner default is paused by ")
    assert partner.calls() == []
    assert send(force=True).accepted
    assert testbed.ledger.partners.load_gate("default").hold.paused


def test_no_call_overtakes_one_that_may_still_take_effect(testbed: Testbed, send: Send) -> None:
    """Invariant 5."""
    testbed.poll()
    record = testbed.record(1)
    call = {"seq": record["seq"], "call": record["_id"], "until": datetime.now(UTC) + timedelta(minutes=1)}
    testbed.database.keys.update_one({"version": record["_id"]}, {"$set": {"unsettled": [call]}})
    obstacle = send().obstacle
    assert obstacle is not None
    assert obstacle.startswith("an earlier call may still take effect, until ")
    testbed.settle_calls()
    assert send().accepted


def test_a_version_whose_record_was_cleaned_up_is_sent_only_on_request(
    testbed: Testbed, send: Send, partner: MockPartner
) -> None:
    assert send().accepted
    testbed.database.records.delete_many({})
    with pytest.raises(TroubleFound, match="cleanup has removed its record") as caught:
        send()
    assert "--again" in caught.value.hint
    again = send(again=True)
    assert (again.logged, again.accepted) == (True, True)
    keys = [call.key for call in partner.calls()]
    assert len(set(keys)) == len(keys) == 2


def test_a_discarded_record_is_sent_only_on_request(testbed: Testbed, send: Send) -> None:
    testbed.poll()
    record = testbed.record(1)["_id"]
    testbed.ledger.operations.discard([record], states=["pending"], who="me", reason="test data")
    kept = send()
    assert (kept.sent, kept.accepted, kept.state, kept.error) == (False, False, "discarded", "test data")
    assert send(again=True).accepted


def test_rows_of_an_append_only_stream_are_sent_too(testbed: Testbed, send: Send, partner: MockPartner) -> None:
    testbed.change_stream(append_only=True)
    assert send().accepted
    assert not send().sent
    assert send(again=True).sent
    assert len(partner.calls()) == 2
    assert testbed.poll().unchanged == 1


def test_a_key_that_names_other_columns_is_refused(send: Send) -> None:
    with pytest.raises(UsageError, match="is not a key of this stream"):
        send(key="a=1,b=2")


def test_an_interruption_while_the_row_is_logged_is_known_to_the_next_poll(
    testbed: Testbed, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 8: a record may be there that no key knows."""

    def fail(*_: object) -> None:
        raise ServiceUnavailable("MongoDB is away", service="mongodb")

    with monkeypatch.context() as broken:
        broken.setattr(testbed.ledger.keys, "observe", fail)
        with pytest.raises(ServiceUnavailable):
            send()
    stream = testbed.database.streams.find_one({"_id": "orders"})
    assert stream["health"]["error"] == "sending one row: MongoDB is away"
    assert "token" in stream["poll"]
    (entry,) = testbed.ledger.audit.load(limit=9)
    assert (entry["action"], entry["count"], entry["error"]) == ("send", 0, "MongoDB is away")
    assert testbed.poll().logged == ROWS
    assert testbed.deliver() == {"delivered": ROWS}


def test_a_poll_that_does_not_end_is_waited_for_and_then_named(testbed: Testbed) -> None:
    testbed.ledger.polls.acquire("orders", seconds=60.0, worker="poller")
    with pytest.raises(LeaseHeld, match="stream orders is being polled"):
        wait_for_poll_lease(testbed.ledger, "orders", worker="me", lease_seconds=1.0, patience_seconds=0.0)


def test_a_question_to_the_partner_is_not_the_end_of_it(testbed: Testbed, send: Send) -> None:
    lookup = Lookup(path="/orders?ref={id}", capture={"id": "items[0].id"}, when="always")
    testbed.change_stream(
        path="/orders", lookup=lookup, update_method="PUT", update_path="/orders/{remote.id}", missing="create"
    )
    with IdPartner() as orders:
        testbed.partner = replace(testbed.partner, url=orders.url)
        sent = send()
        assert (sent.accepted, sent.state, sent.status) == (True, "delivered", 201)
        orders.objects.clear()
        again = send(again=True)
    assert [call.method for call in orders.seen] == ["GET", "POST", "GET", "POST"]
    assert (again.accepted, again.state) == (True, "delivered")
