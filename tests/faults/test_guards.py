"""Guards of the invariants that no other test covers: each test fails when its guard is removed."""

import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.records import Record
from syncctl.core.rows import Row
from syncctl.core.stream import BreakerRules
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.breakers import Tally
from syncctl.ledger.expressions import SYNCCTL
from syncctl.partner.call import Call
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.client import PartnerClient
from syncctl.partner.response import BODY_AT_MOST_BYTES
from syncctl.partner.transport import Transport
from syncctl.pipeline.delivery.delivery_gate import Batch, DeliveryGate, Permits
from syncctl.pipeline.delivery.dispatch import Taken
from syncctl.pipeline.delivery.outcome_writer import decide_transition, write_transitions
from syncctl.pipeline.polling.identity import identify
from tests.harness.cases import make_partner
from tests.harness.hostile_partner import HostilePartner, Peer
from tests.harness.passing_time import PAST
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream
from tests.harness.testbed import ListReader, Testbed, outcome, version_row

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def log(testbed: Testbed, *numbers: int) -> None:
    """Have a poll log these rows."""
    testbed.poll(ListReader([version_row(number, "a", None) for number in numbers]))


def test_rows_whose_key_holds_a_null_are_failed_and_not_versions_of_one_another() -> None:
    """Invariant 9. Fails without the check for a NULL in `identify`."""
    rows = [Row(key={"id": None, "line": 1}, payload={"id": None, "line": 1}, version=None, at=at) for at in ("1", "2")]
    named = [identify(row) for row in rows]
    assert len({key for _, key in named}) == 2
    for row, _ in named:
        assert row.payload is None
        assert row.error == "key column id is NULL, so the key names no row"


def test_an_answer_is_read_up_to_its_cap_and_its_connection_closed() -> None:
    """Invariant 11: an endless answer of a partner takes a limited amount of memory. Fails without the cap."""
    chunk, sent, hung_up = b"x" * 65_536, [0], threading.Event()

    def answer_without_end(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while sent[0] < 512 * 1024 * 1024:
                peer.sock.sendall(chunk)
                sent[0] += len(chunk)
        except OSError:
            hung_up.set()

    with HostilePartner(answer_without_end) as server:
        partner = make_partner(server.url)
        transport = Transport(partner, urlsplit(server.url))
        call_deadline.begin(partner.timeout_seconds)
        tracemalloc.start()
        try:
            answer, error = transport.exchange("POST", "/orders", {"Host": "partner"}, b"{}")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The server notices, instead of being left with a connection that is never read.
        assert hung_up.wait(20)
        transport.close()
    assert answer is not None
    assert (error, answer.status, answer.is_capped) == (None, 200, True)
    assert BODY_AT_MOST_BYTES <= 1_000_000
    assert len(answer.body) == BODY_AT_MOST_BYTES
    assert peak < 5_000_000


def test_a_page_costs_the_memory_of_a_page(source_db: SourceDb) -> None:
    """Invariant 11: however long the table is. Fails without the limit of the statement."""
    source_db.create_orders()
    source_db.add_orders(range(1, 5001), note="x" * 2000)
    with open_stream(source_db, page_size=50) as reader:
        pages = reader.pages(reader.start_cursor())
        assert len(next(pages).rows) == 50
        tracemalloc.start()
        try:
            assert [len(page.rows) for page in islice(pages, 3)] == [50, 50, 50]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3_000_000, "50 rows hold 0.1 MB, the table 10 MB"


# Probes (invariant 12): one that makes no call lets another record be the probe, at once.


def open_circuit(testbed: Testbed) -> None:
    """Make it seem that the partner has been down long enough for a probe to be due."""
    failed = Tally(calls=10, failures=10, reason="HTTP 503")
    testbed.ledger.breakers.report("orders", failed, token="earlier", rules=BreakerRules())
    testbed.database.streams.update_one({"_id": "orders"}, {"$set": {"breaker.until": PAST}})


def hold_stream(testbed: Testbed) -> None:
    testbed.ledger.streams.pause("orders", who=SYNCCTL, reason="HTTP 410")


def pause_partner(testbed: Testbed) -> None:
    testbed.ledger.partners.pause("default", who=SYNCCTL, reason="HTTP 401")


PAUSES = pytest.mark.parametrize("pause", [open_circuit, hold_stream, pause_partner])
Pause = Callable[[Testbed], None]


@PAUSES
def test_a_probe_whose_record_could_not_be_taken_is_followed_by_another_at_once(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch, pause: Pause
) -> None:
    """Fails without `release_probe` in `dispatch.py:_take_probe`."""
    log(testbed, 1)
    pause(testbed)
    take = testbed.ledger.batches.take

    def take_too_late(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        # Another process has taken the records first.
        testbed.database.records.update_many({}, {"$set": {"due_at": FAR}})
        return take(*args, **options)

    monkeypatch.setattr(testbed.ledger.batches, "take", take_too_late)
    assert testbed.take() == Taken()
    testbed.make_retries_due()
    assert testbed.take().is_probe


def test_a_record_probes_for_all_that_stands_in_the_way_or_for_nothing(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the probe, another process became the probe of the stream's pause. Fails if the circuit's
    probe is kept, and if the record is taken without both."""
    log(testbed, 1, 2)
    open_circuit(testbed)
    hold_stream(testbed)
    acquire = testbed.ledger.breakers.acquire_probe

    def acquire_too_late(*args: Any, **options: Any) -> bool:
        monkeypatch.undo()
        assert testbed.ledger.streams.acquire_probe("orders", token="another", record="its", seconds=60.0)
        return acquire(*args, **options)

    monkeypatch.setattr(testbed.ledger.breakers, "acquire_probe", acquire_too_late)
    assert testbed.take() == Taken()
    gate = testbed.ledger.streams.load_gate("orders")
    assert (gate.breaker.probe, gate.hold.probe) == (None, "another")
    assert [record["claims"] for record in testbed.records(claims={"$exists": True})] in ([], [0, 0])


@PAUSES
def test_a_probe_that_was_taken_and_not_sent_is_followed_by_another_at_once(testbed: Testbed, pause: Pause) -> None:
    """Its worker was asked to stop. Fails without each `release_probe` in `DeliveryLane._end`."""
    log(testbed, 1)
    pause(testbed)
    asked_to_stop = threading.Event()

    class Stopped(PartnerClient):
        def prepare(self, record: Record) -> Call:
            asked_to_stop.set()
            return super().prepare(record)

    client = Stopped(testbed.partner, testbed.stream)
    assert testbed.deliver(client=client, is_stopping=asked_to_stop.is_set) == {"returned": 1}
    client.close()
    assert testbed.take().is_probe


# A process acts on its own knowledge at once, and not only after its next look at the ledger.


@pytest.mark.parametrize("status", [503, 401, 410])
def test_no_call_begins_between_an_outcome_that_stops_all_and_the_next_look(testbed: Testbed, status: int) -> None:
    """Invariant 12: a circuit opens, the partner is paused, or the stream is held. Fails without each `gate.close`."""
    testbed.partner = replace(testbed.partner, breaker=BreakerRules(minimum_calls=1))
    log(testbed, 1)
    claim = testbed.take().claim
    assert claim is not None
    gate = DeliveryGate(testbed.ledger, testbed.stream)
    gate.look()
    batch = Batch(
        ledger=testbed.ledger, stream=testbed.stream, partner=testbed.partner, claim=claim, known={}, gate=gate
    )
    assert gate.admits(claim)
    refused = outcome(Verdict.RETRY_LATER, status=status, error=f"HTTP {status}")
    write_transitions(batch, [decide_transition(batch, claim.records[0], refused)], {})
    assert not gate.admits(claim)
    gate.look(at_once=True)
    assert not gate.admits(claim), "the ledger says the same"


def test_permits_are_returned_although_the_answer_to_their_request_was_lost(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12: others would find too few permits until these expire. Fails if only known permits are returned."""
    partner = replace(testbed.partner, max_in_flight=2)
    permits = Permits(testbed.ledger, partner, token="mine", share=2)
    acquire = testbed.ledger.partners.acquire_permits

    def acquire_and_lose_the_answer(*args: Any, **options: Any) -> int:
        acquire(*args, **options)
        raise ServiceUnavailable("MongoDB is away", service="mongodb")

    monkeypatch.setattr(testbed.ledger.partners, "acquire_permits", acquire_and_lose_the_answer)
    with pytest.raises(ServiceUnavailable):
        permits.keep()
    (kept,) = testbed.database.partners.find_one({"_id": "default"})["permits"]
    assert (permits.held, kept["calls"]) == (0, 2)
    permits.release()
    assert testbed.database.partners.find_one({"_id": "default"})["permits"] == []


# A claimed batch always ends, whatever happens afterwards.


@pytest.mark.parametrize("error", [ServiceUnavailable("MongoDB is away", service="mongodb"), ZeroDivisionError()])
def test_a_batch_that_cannot_be_planned_goes_back_with_no_try_used_up(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Invariants 12 and 13. Fails without the give-back in `DeliveryLane._plan`: its process would renew the lease of
    the batch for ever, and send none of it."""
    log(testbed, 1, 2, 3)
    client = PartnerClient(testbed.partner, testbed.stream)
    loop = testbed.make_loop(client=client)
    loop._open_lane("orders")
    lane = loop._lanes["orders"]
    lane.gate.look()
    take = testbed.ledger.batches.take

    def raise_error(*_: Any) -> None:
        raise error

    def take_and_break(*args: Any, **options: Any) -> Any:
        claim = take(*args, **options)
        monkeypatch.setattr(testbed.ledger.keys, "load", raise_error)
        return claim

    monkeypatch.setattr(testbed.ledger.batches, "take", take_and_break)
    with pytest.raises(type(error)):
        lane.take()
    monkeypatch.undo()
    assert len(testbed.records(state="sending")) == 3
    lane.write_outcomes()
    assert lane.is_idle
    assert {(record["state"], record["claims"], record.get("tries", 0)) for record in testbed.records()} == {
        ("pending", 0, 0)
    }
    assert testbed.database.batches.count_documents({}) == 0
    assert testbed.deliver(client=client) == {"delivered": 3}
    client.close()
