"""A delivery loop beside trouble: a stream that hangs, one with a bug, MongoDB away, a partner at its limits."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.broker.rate import SharedRate
from syncctl.core.records import Record
from syncctl.errors import ConfigurationError
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.local.mongod import Mongod
from syncctl.partner.client import Call, PartnerClient
from syncctl.pipeline.delivery import deliver
from syncctl.pipeline.delivery.deliver import DeliveryLoop
from syncctl.pipeline.delivery.delivery_gate import STALE_AFTER_SECONDS
from syncctl.pipeline.delivery.delivery_lane import BEGIN_AT_ONCE, BatchInHand, DeliveryLane
from tests.harness.holding_partner import HoldingPartner
from tests.harness.hostile_partner import HostilePartner, Peer
from tests.harness.http_partner import CountingPartner
from tests.harness.meddling_client import MeddlingClient, once
from tests.harness.tcp_proxy import Proxy
from tests.harness.testbed import ListReader, Testbed, version_row
from tests.harness.token_endpoint import TokenDesk
from tests.harness.waiting import eventually

Eventually = Callable[..., Any]


def log(testbed: Testbed, *numbers: int, content: Any = "a") -> None:
    """Let a poll have seen these rows."""
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


@pytest.fixture
def stock(testbed: Testbed, partner: MockPartner) -> Testbed:
    """A second stream, to a partner of another name at the same URL."""
    stream = replace(testbed.stream, name="stock", partner="other", path="/stock")
    testbed.ledger.streams.ensure("stock")
    other = replace(testbed.partner, name="other", url=partner.url)
    return Testbed(ledger=testbed.ledger, database=testbed.database, partner=other, stream=stream)


def run_together(first: Testbed, second: Testbed, **changes: Any) -> dict[str, dict[str, int]]:
    """Run one delivery loop for two streams; clients are made anew unless `clients` has one."""
    beds = {bed.stream.name: bed for bed in (first, second)}
    clients: dict[str, PartnerClient] = changes.pop("clients", {})
    own = {name: clients.get(name) or PartnerClient(bed.partner, bed.stream) for name, bed in beds.items()}
    options = {
        "streams": {name: bed.stream for name, bed in beds.items()},
        "partners": {bed.partner.name: bed.partner for bed in beds.values()},
        "make_setup": lambda name: beds[name].make_setup(name, client=own[name]),
    }

    try:
        return first.make_loop(**{**options, **changes}).run(first.stream.name)
    finally:
        for client in own.values():
            client.close()


# Beside another stream.


def test_streams_whose_records_are_done_cost_a_loop_nothing(testbed: Testbed, partner: MockPartner) -> None:
    """While another stream keeps the loop busy. Fails where each is asked about by itself.

    With hundreds of streams, what is known of the first is then stale before the last has been looked at, and no call
    begins on that.
    """
    began, release = threading.Event(), threading.Event()

    def hang(peer: Peer) -> None:
        while peer.read_request():
            began.set()
            release.wait(60)
            peer.answer("200 OK")

    with HostilePartner(hang) as server:
        slow = replace(testbed.partner, name="slow", url=server.url)
        beds = {"orders": replace(testbed, partner=slow, stream=replace(testbed.stream, partner="slow"))}
        for number in range(30):
            name = f"stock{number}"
            testbed.ledger.streams.ensure(name)
            beds[name] = replace(testbed, stream=replace(testbed.stream, name=name))
        for bed in beds.values():
            log(bed, 1)
        clients = {name: PartnerClient(bed.partner, bed.stream) for name, bed in beds.items()}
        loop = testbed.make_loop(
            streams={name: bed.stream for name, bed in beds.items()},
            partners={"slow": slow, testbed.partner.name: testbed.partner},
            make_setup=lambda name: beds[name].make_setup(name, client=clients[name]),
        )
        running = threading.Thread(target=loop.run, args=("orders",))
        running.start()
        assert began.wait(10)
        eventually(
            lambda: [record["stream"] for record in testbed.records(state={"$ne": "delivered"})] == ["orders"], 30
        )
        time.sleep(1.0)  # the last look at each stream
        testbed.database.command("profile", 2)
        time.sleep(2.0)
        testbed.database.command("profile", 0)
        release.set()
        running.join(20)
        for client in clients.values():
            client.close()
    asked = testbed.database["system.profile"].count_documents({})
    # Each half second the gates, each second what is due, and what expired leases, permits and one lease ask.
    assert asked < 60
    assert {record["state"] for record in testbed.records()} == {"delivered"}


def test_a_stream_that_hangs_delays_no_other(testbed: Testbed, stock: Testbed, partner: MockPartner) -> None:
    release = threading.Event()

    def hang(peer: Peer) -> None:
        while peer.read_request():
            release.wait(30)
            peer.answer("200 OK")

    with HostilePartner(hang) as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        log(testbed, *range(1, 41))
        log(stock, *range(1, 101))
        done: list[dict[str, dict[str, int]]] = []
        loop = threading.Thread(target=lambda: done.append(run_together(testbed, stock)))
        loop.start()
        until = time.monotonic() + 15
        while len(partner.calls()) < 100 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(partner.calls()) == 100
        # So do rows that come while it hangs.
        log(stock, *range(101, 111))
        while len(partner.calls()) < 110 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(partner.calls()) == 110
        assert testbed.database.records.count_documents({"stream": "orders", "state": "delivered"}) == 0
        release.set()
        loop.join(30)
    assert done == [{"orders": {"delivered": 40}, "stock": {"delivered": 110}}]


def test_a_token_endpoint_that_hangs_delays_no_other_partner(testbed: Testbed, stock: Testbed) -> None:
    with TokenDesk(answer=lambda peer: peer.hold()) as hung, TokenDesk() as desk:
        testbed.partner = replace(testbed.partner, url=hung.partner.url, auth=hung.auth(), timeout_seconds=10.0)
        stock.partner = replace(stock.partner, url=desk.partner.url, auth=desk.auth())
        log(testbed, *range(1, 41))
        loop = threading.Thread(target=lambda: run_together(testbed, stock))
        loop.start()
        # Once its threads are taken.
        time.sleep(1.0)
        began = time.monotonic()
        log(stock, *range(1, 11))
        while len(desk.partner.requests) < 10 and time.monotonic() < began + 30:
            time.sleep(0.05)
        took = time.monotonic() - began
        loop.join(60)
    assert len(desk.partner.requests) == 10
    assert took < 6.0


@pytest.mark.parametrize("max_in_flight", [1, 4, None])
def test_streams_of_one_partner_take_turns(testbed: Testbed, stock: Testbed, max_in_flight: int | None) -> None:
    """However long the backlog of one of them is."""
    with MockPartner(PartnerConfig(latency_seconds=0.02)) as server:
        testbed.partner = replace(testbed.partner, url=server.url, max_in_flight=max_in_flight)
        stock.partner = testbed.partner
        stock.change_stream(partner="default")
        rows = 300 if max_in_flight else 1500
        log(testbed, *range(1, rows + 1))
        log(stock, *range(1, 11))
        run_together(testbed, stock)
        paths = [call.path for call in server.calls()]
    assert paths.count("/orders") == rows
    last = max(at for at, path in enumerate(paths) if path == "/stock")
    assert last < rows / 2, "the second stream waited for the backlog of the first"


def test_a_bug_in_one_stream_stops_no_other(testbed: Testbed, stock: Testbed, partner: MockPartner) -> None:
    class Broken(PartnerClient):
        def prepare(self, record: Record) -> Call:  # noqa: ARG002
            raise ZeroDivisionError

    log(testbed, 1, 2, 3)
    log(stock, *range(1, 6))
    for bed, other in ((testbed, stock), (stock, testbed)):
        client = Broken(testbed.partner, testbed.stream)
        with pytest.raises(ZeroDivisionError):
            run_together(bed, other, clients={"orders": client})
    assert len(partner.calls()) == 5
    assert {(each["state"], each["claims"]) for each in testbed.records(stream="orders")} == {("pending", 0)}
    noted = testbed.database.streams.find_one({"_id": "orders"})["health"]["delivery"]
    assert (noted["error"], noted["worker"]) == ("a bug in syncctl: ZeroDivisionError", "worker")


def test_a_missing_index_is_named_and_is_no_bug(
    testbed: Testbed, stock: Testbed, caplog: pytest.LogCaptureFixture
) -> None:
    log(testbed, 1)
    testbed.database.records.drop_index("due")
    try:
        with pytest.raises(ConfigurationError):
            run_together(testbed, stock)
    finally:
        testbed.ledger.prepare()
    noted = testbed.database.streams.find_one({"_id": "orders"})["health"]["delivery"]
    assert "lacks an index" in noted["error"]
    logged = [record.message for record in caplog.records]
    assert logged == ["deliver.impossible"]


# While MongoDB is away.


@pytest.fixture
def wire(mongo_server: Mongod) -> Iterator[Proxy]:
    """The way of a worker to MongoDB."""
    with Proxy(mongo_server.port) as proxy:
        yield proxy


@pytest.fixture
def remote(testbed: Testbed, wire: Proxy) -> Iterator[Testbed]:
    """The testbed whose worker reaches MongoDB over the wire; `testbed` goes past it."""
    url = f"mongodb://127.0.0.1:{wire.port}/?directConnection=true"
    with Ledger(url, testbed.database.name, timeout_seconds=2.0) as ledger:
        yield replace(testbed, ledger=ledger, woken=[])


def cut(wire: Proxy, *, seconds: float = 2.5) -> None:
    """Let MongoDB be away for some time from now on."""
    wire.set("refuse")
    threading.Timer(seconds, lambda: wire.set("open")).start()


def check_each_was_sent_once(testbed: Testbed, partner: MockPartner, rows: int) -> None:
    assert {record["state"] for record in testbed.records()} == {"delivered"}
    assert [(record["attempts"], record["claims"]) for record in testbed.records()] == [(1, 1)] * rows
    assert all([entry["action"] for entry in record["history"]] == ["attempt"] for record in testbed.records())
    assert len(partner.calls()) == len({call.key for call in partner.calls()}) == rows
    assert testbed.database.batches.count_documents({}) == 0


def test_mongodb_away_between_take_and_call_loses_nothing(
    testbed: Testbed, remote: Testbed, wire: Proxy, partner: MockPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(testbed, *range(1, 41))
    take = remote.ledger.batches.take

    def take_and_cut(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        claim = take(*args, **options)
        # For longer than an operation waits.
        cut(wire, seconds=5.5)
        return claim

    monkeypatch.setattr(remote.ledger.batches, "take", take_and_cut)
    assert remote.deliver()["delivered"] == 40
    check_each_was_sent_once(testbed, partner, 40)


def test_mongodb_away_before_the_calls_are_noted_loses_nothing(
    testbed: Testbed, remote: Testbed, wire: Proxy, partner: MockPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(testbed, *range(1, 41))
    begin = remote.ledger.batches.begin

    def cut_and_begin(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        cut(wire)
        return begin(*args, **options)

    monkeypatch.setattr(remote.ledger.batches, "begin", cut_and_begin)
    assert remote.deliver()["delivered"] == 40
    check_each_was_sent_once(testbed, partner, 40)


@pytest.mark.parametrize("mood", ["refuse", "hang"])
def test_mongodb_away_between_call_and_outcome_loses_nothing(
    testbed: Testbed, remote: Testbed, wire: Proxy, partner: MockPartner, mood: Any
) -> None:
    log(testbed, *range(1, 41))
    remote.partner = replace(remote.partner, max_in_flight=4)

    def strike(*_: object) -> None:
        wire.set(mood)
        threading.Timer(2.5, lambda: wire.set("open")).start()

    client = MeddlingClient(remote, after=once(strike))
    done = remote.deliver(client=client)
    client.close()
    assert done["delivered"] == 40
    check_each_was_sent_once(testbed, partner, 40)


def test_mongodb_away_for_longer_than_a_lease_sends_nothing_twice(
    testbed: Testbed, remote: Testbed, wire: Proxy, partner: MockPartner
) -> None:
    """No other process has brought the batch back: the outcomes count."""
    log(testbed, *range(1, 41))
    remote.partner = replace(remote.partner, max_in_flight=4)
    remote.change_stream(lease_seconds=2.0)
    client = MeddlingClient(remote, after=once(lambda: cut(wire, seconds=5.0)))
    done = remote.deliver(client=client)
    client.close()
    assert done["delivered"] == 40
    assert testbed.maintain().returned == 0
    check_each_was_sent_once(testbed, partner, 40)


def test_a_loop_that_is_stopped_while_mongodb_is_away_ends(
    testbed: Testbed, remote: Testbed, wire: Proxy, partner: MockPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others bring back what it held: outcomes that could not be written are lost, and their calls repeated."""
    monkeypatch.setattr(deliver, "GIVE_UP_AFTER_SECONDS", 2.0)
    remote.partner = replace(remote.partner, max_in_flight=4, timeout_seconds=2.0)
    log(testbed, *range(1, 41))
    stopping = threading.Event()

    def strike() -> None:
        wire.set("refuse")
        stopping.set()

    client = MeddlingClient(remote, after=once(strike))
    began = time.monotonic()
    remote.deliver(client=client, is_stopping=stopping.is_set)
    client.close()
    assert time.monotonic() - began < 40
    wire.set("open")
    testbed.let_leases_expire()
    assert testbed.maintain().returned == 40 - testbed.database.records.count_documents({"state": "delivered"})
    assert 0 < len(testbed.records(losses=1)) <= BEGIN_AT_ONCE
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.deliver()
    assert {record["state"] for record in testbed.records()} == {"delivered"}
    assert {call.fate for call in partner.calls()} == {"applied", "repeated"}


# A partner's rate.


def test_calls_do_not_pile_up_behind_a_partner_that_stands_still(
    testbed: Testbed, redis_url: str, redis_prefix: str
) -> None:
    """Those whose permits were valid meanwhile do not all come once it goes on."""
    per_second, hung_seconds = 20, 2.5
    with CountingPartner(latency_seconds=0.0) as server:
        answer = server.answer

        def hang_at_first(*args: Any) -> tuple[int, bytes]:
            answered = answer(*args)
            time.sleep(max(0.0, began + hung_seconds - time.monotonic()))
            return answered

        began = time.monotonic()
        server.answer = hang_at_first  # type: ignore[method-assign]
        testbed.partner = replace(testbed.partner, url=server.url, rate=(per_second, 1.0), max_in_flight=16)
        log(testbed, *range(1, 81))
        rate = SharedRate(redis_url, prefix=redis_prefix, name="default", calls=per_second, seconds=1.0)
        testbed.deliver(rate=rate)
        rate.close()
    assert len(server.arrivals) == 80
    after = [at for at in server.arrivals if at > began + hung_seconds - 0.2]
    most = max(sum(at <= other < at + 0.25 for other in after) for at in after)
    # A quarter of a second's permits, those that a rest makes up for, and the few that may be ahead.
    assert most <= per_second * (0.25 + 0.1 + 0.05) + 2


# Right before each call.


@pytest.fixture
def waiting(testbed: Testbed) -> Iterator[tuple[DeliveryLoop, DeliveryLane, BatchInHand, Callable[[], str]]]:
    """A call that waits for others to end, or for the rate, when everything allowed it a moment ago."""
    testbed.partner = replace(testbed.partner, max_in_flight=1)
    log(testbed, 1)
    client = PartnerClient(testbed.partner, testbed.stream)
    loop = testbed.make_loop(client=client)
    loop._open_lane("orders")
    lane = loop._lanes["orders"]
    lane.gate.look()
    loop._permits["default"].keep()
    lane.take()
    lane.prepare_calls()
    (held, call) = lane._planned[0]
    assert call.may_start() == "start"
    yield loop, lane, held, call.may_start
    client.close()


Waiting = tuple[DeliveryLoop, DeliveryLane, BatchInHand, Callable[[], str]]


def let_stream_be_paused(waiting: Waiting) -> None:
    _, lane, _, _ = waiting
    lane._ledger.streams.pause("orders", who="ada", reason="")
    lane.gate.look(at_once=True)


def let_look_be_long_ago(waiting: Waiting) -> None:
    waiting[1].gate._looked_at -= STALE_AFTER_SECONDS


def let_permits_run_out(waiting: Waiting) -> None:
    waiting[0]._permits["default"]._renewed_at -= STALE_AFTER_SECONDS


def let_permits_be_lost(waiting: Waiting) -> None:
    waiting[0]._permits["default"].held = 0


def let_lease_run_out(waiting: Waiting) -> None:
    waiting[2].batch.claim.ends_at = 0.0


def let_batch_be_lost(waiting: Waiting) -> None:
    waiting[2].is_lost = True


def let_worker_stop(waiting: Waiting) -> None:
    waiting[0]._is_retired = True


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (let_stream_be_paused, "return"),
        (let_batch_be_lost, "return"),
        (let_worker_stop, "return"),
        (let_look_be_long_ago, "wait"),
        (let_permits_run_out, "wait"),
        (let_permits_be_lost, "wait"),
        (let_lease_run_out, "wait"),
    ],
)
def test_a_call_that_has_waited_is_asked_about_once_more(
    waiting: Waiting, change: Callable[[Waiting], None], answer: str
) -> None:
    """Each of these fails when its line is taken out of `DeliveryLane._make_guard`."""
    change(waiting)
    assert waiting[3]() == answer


# Permits of a concurrency limit.


@pytest.mark.parametrize("is_asked_to_stop", [False, True])
def test_records_go_back_once_others_hold_all_permits(testbed: Testbed, is_asked_to_stop: bool) -> None:
    """Invariant 12: the process stood still until its permits ended, and another has them now. Without the give-back,
    calls that wait would keep their records for as long as the other has work; and a worker that is asked to stop would
    never end."""
    testbed.partner = replace(testbed.partner, max_in_flight=1)
    log(testbed, *range(1, 6))
    asked_to_stop = threading.Event()

    def lose_permits() -> None:
        others = {"token": "another", "calls": 1, "until": datetime(2100, 1, 1, tzinfo=UTC)}
        testbed.database.partners.update_one({"_id": "default"}, {"$set": {"permits": [others]}})
        eventually(lambda: loop._permits["default"].held == 0, 20)
        if is_asked_to_stop:
            asked_to_stop.set()

    client = MeddlingClient(testbed, before=once(lose_permits))
    loop = testbed.make_loop(client=client, is_stopping=asked_to_stop.is_set)
    done = loop.run("orders")
    client.close()
    assert done == {"orders": {"delivered": 1, "returned": 4}}
    assert [(record["state"], record["claims"]) for record in testbed.records()] == [
        ("delivered", 1),
        *[("pending", 0)] * 4,
    ]
    assert testbed.database.batches.count_documents({}) == 0
    assert [permit["token"] for permit in testbed.database.partners.find_one({"_id": "default"})["permits"]] == [
        "another"
    ]


def test_a_loop_has_use_of_the_permits_that_no_other_loop_wants(testbed: Testbed) -> None:
    with CountingPartner(latency_seconds=0.1) as server:
        testbed.partner = replace(testbed.partner, url=server.url, max_in_flight=6)
        log(testbed, *range(1, 61))
        assert testbed.deliver(count_slots=lambda: 3) == {"delivered": 60}
    assert server.most_at_once == 6
    assert testbed.database.partners.find_one({"_id": "default"})["permits"] == []


def test_a_loop_gets_its_share_of_permits_while_another_has_a_backlog(testbed: Testbed, stock: Testbed) -> None:
    """The one that has them all returns some as its calls end, and there are never more calls than permits."""
    with CountingPartner(latency_seconds=0.5) as server:
        testbed.partner = replace(testbed.partner, url=server.url, max_in_flight=6)
        stock.partner, stock.stream = testbed.partner, replace(stock.stream, partner="default", path="/orders")
        log(testbed, *range(1, 73))
        backlog = threading.Thread(target=testbed.deliver, kwargs={"count_slots": lambda: 2})
        backlog.start()
        try:
            eventually(lambda: server.most_at_once == 6)
            log(stock, *range(1, 7))
            assert stock.deliver(count_slots=lambda: 2) == {"delivered": 6}
            assert backlog.is_alive(), "it got its permits only once the other loop had ended"
        finally:
            backlog.join()
    assert server.most_at_once == 6
    assert testbed.database.records.count_documents({"state": "delivered"}) == 78


def test_a_batch_that_waits_for_one_call_names_its_record_alone(testbed: Testbed) -> None:
    """Else each look for due records would read all that were in flight with the calls that hang."""
    with HoldingPartner() as server:
        server.hold("7")
        testbed.partner = replace(testbed.partner, url=server.url)
        log(testbed, *range(1, 41))
        loop = threading.Thread(target=testbed.deliver)
        loop.start()
        try:
            eventually(lambda: testbed.database.records.count_documents({"state": "delivered"}) == 39)
            (hanging,) = testbed.records(state="sending")
            eventually(lambda: testbed.database.batches.find_one()["ids"] == [hanging["_id"]])
            assert testbed.ledger.batches.find_in_flight("orders").key_ids == {hanging["key_id"]}
        finally:
            server.release_held()
            loop.join()
    assert testbed.database.batches.count_documents({}) == 0
    assert testbed.database.records.count_documents({"state": "delivered"}) == 40
