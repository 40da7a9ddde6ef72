"""Concurrent calls: every call comes back exactly once, and no more than the limit are under way."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.stream import Batching
from syncctl.local.mock_partner import MockPartner
from syncctl.partner.bulk import BulkCall
from syncctl.partner.call_runner import CallResult, CallRunner, MayStart, WaitingCall, take_results
from syncctl.partner.client import PartnerClient
from tests.harness.cases import make_client, make_partner, make_record, make_stream
from tests.harness.hostile_partner import HostilePartner, Peer
from tests.harness.http_partner import CountingPartner

pytestmark = pytest.mark.timeout(60)
Eventually = Callable[..., Any]
NEVER_SECONDS = 0.3
"""How long nothing must happen."""


class Bench:
    """A runner, with the client of one partner and the results that have come back."""

    def __init__(self, client: PartnerClient, *, limit: int, counts_slow: bool = True) -> None:
        self.client = client
        self.queue: SimpleQueue[CallResult] = SimpleQueue()
        self.runner = CallRunner(self.queue, limit=limit, counts_slow=counts_slow)
        self.results: list[CallResult] = []

    def push(self, *numbers: int, may_start: Callable[[], MayStart] = lambda: "start") -> list[WaitingCall]:
        """Push a call for each of these records."""
        planned = [(record, self.client.prepare(record)) for record in map(make_record, numbers)]
        calls = [
            WaitingCall(client=self.client, bulk=bulk, may_start=may_start) for bulk in self.client.combine(planned)
        ]
        self.runner.push(calls)
        return calls

    def collect(self, count: int, *, within_seconds: float = 30.0) -> list[CallResult]:
        """Wait until so many results have come back in all."""
        until = time.monotonic() + within_seconds
        while len(self.results) < count and time.monotonic() < until:
            self.results += take_results(self.queue, timeout_seconds=0.05)
        assert len(self.results) >= count, f"only {len(self.results)} of {count} have come back"
        return self.results

    def see_that_nothing_comes_back(self) -> None:
        self.results += (came := take_results(self.queue, timeout_seconds=NEVER_SECONDS))
        assert came == []

    @property
    def under_way(self) -> int:
        """How many calls are being made."""
        return len(self.runner._running)

    def numbers(self) -> list[int]:
        """Return the records whose calls have come back, in that order."""
        return [record.seq for call, _ in self.results for record in call.bulk.records]


MakeBench = Callable[..., Bench]


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    """Return what makes a bench for a partner at a URL."""
    made: list[Bench] = []

    def make(url: str, **options: Any) -> Bench:
        made.append(Bench(options.pop("client", None) or make_client(url), **options))
        return made[-1]

    yield make
    for each in made:
        each.runner.set_limit(0)
        each.client.close()


class HoldingScript:
    """Answers at once but for the calls of some records, which it holds until it is told to go on."""

    def __init__(self, *held: int) -> None:
        self.go_on = threading.Event()
        self._held = [f'"id":{number},'.encode() for number in held]

    def __call__(self, peer: Peer) -> None:
        while request := peer.read_request():
            if any(each in request for each in self._held):
                self.go_on.wait(30)
            peer.answer("200 OK")


@pytest.mark.parametrize("limit", [1, 2, 7, 64])
def test_every_call_is_made_once_and_comes_back_once(bench: MakeBench, partner: MockPartner, limit: int) -> None:
    own = bench(partner.url, limit=limit)
    calls = [*own.push(*range(60)), *own.push(*range(60, 100))]
    results = own.collect(100)
    own.see_that_nothing_comes_back()
    assert Counter(call for call, _ in results) == Counter(calls)
    assert {outcome.verdict for _, outcomes in results for outcome in outcomes or []} == {Verdict.ACCEPTED}
    stats = partner.stats()
    assert (stats["calls"], stats["distinct_keys"]) == (100, 100)
    assert (own.under_way, own.runner.waiting) == (0, 0)


def test_calls_are_under_way_at_the_same_time(bench: MakeBench) -> None:
    together = threading.Barrier(8, timeout=30)

    def wait_for_the_others(peer: Peer) -> None:
        while peer.read_request():
            together.wait()
            peer.answer("200 OK")

    with HostilePartner(wait_for_the_others) as server:
        own = bench(server.url, limit=8)
        own.push(*range(8))
        own.collect(8)
    assert not together.broken


@pytest.mark.parametrize("counts_slow", [True, False])
def test_no_more_calls_than_the_limit_are_under_way(bench: MakeBench, counts_slow: bool) -> None:
    with CountingPartner(latency_seconds=0.01) as partner:
        own = bench(partner.url, limit=4, counts_slow=counts_slow)
        own.push(*range(40))
        own.collect(40)
    assert partner.most_at_once == 4


def test_the_limit_follows_what_it_is_set_to(bench: MakeBench, eventually: Eventually) -> None:
    script = HoldingScript(*range(8))
    with HostilePartner(script) as server:
        own = bench(server.url, limit=3)
        own.push(*range(8))
        eventually(lambda: own.under_way == 3)
        own.runner.set_limit(5)
        eventually(lambda: own.under_way == 5)
        # Calls that are under way go on; no other begins until there is room.
        own.runner.set_limit(1)
        own.see_that_nothing_comes_back()
        assert (own.under_way, own.runner.waiting) == (5, 3)
        assert own.runner.most_under_way == 5
        script.go_on.set()
        own.collect(8)
        eventually(lambda: own.runner.most_under_way == 1)


def test_a_lower_limit_is_relied_on_only_once_the_event_loop_knows_it(bench: MakeBench, eventually: Eventually) -> None:
    """Until then it may be about to begin calls up to the limit before."""
    own = bench("http://127.0.0.1:9", limit=5)
    goes_on = threading.Event()
    own.runner._loop.call_soon_threadsafe(goes_on.wait, 30)
    own.runner.set_limit(1)
    assert own.runner.most_under_way is None
    goes_on.set()
    eventually(lambda: own.runner.most_under_way == 1)


def test_without_a_limit_to_wait_for_calls_come_back_unmade(bench: MakeBench, eventually: Eventually) -> None:
    """Others hold all permits, nobody knows for how long: who holds the permits must be able to take the records."""
    script = HoldingScript(*range(4))
    with HostilePartner(script) as server:
        own = bench(server.url, limit=1)
        own.push(*range(4))
        eventually(lambda: own.under_way == 1)
        own.runner.set_limit(0)
        own.collect(3)
        assert own.numbers() == [1, 2, 3]
        assert [outcomes for _, outcomes in own.results] == [None] * 3
        script.go_on.set()
        own.collect(4)
    assert len(server.requests) == 1


def test_a_fast_call_comes_back_before_a_slow_one(bench: MakeBench) -> None:
    script = HoldingScript(0)
    with HostilePartner(script) as server:
        own = bench(server.url, limit=2)
        own.push(*range(10))
        own.collect(9)
        script.go_on.set()
        own.collect(10)
    assert sorted(own.numbers()[:9]) == list(range(1, 10))
    assert own.numbers()[9] == 0


# Calls that hang.


def test_calls_that_hang_delay_no_other(bench: MakeBench) -> None:
    """Without a limit of the partner's own."""
    script = HoldingScript(0, 1)
    with HostilePartner(script) as server:
        own = bench(server.url, limit=2, counts_slow=False)
        own.push(*range(10))
        own.collect(8)
        assert sorted(own.numbers()) == list(range(2, 10))
        assert own.under_way == 2
        script.go_on.set()
        own.collect(10)


def test_calls_that_hang_count_where_the_partner_sets_the_limit(bench: MakeBench) -> None:
    script = HoldingScript(0, 1)
    with HostilePartner(script) as server:
        own = bench(server.url, limit=2, counts_slow=True)
        own.push(*range(10))
        time.sleep(CallRunner.SLOW_SECONDS)
        own.see_that_nothing_comes_back()
        assert (own.under_way, own.runner.waiting) == (2, 8)
        script.go_on.set()
        own.collect(10)


def test_there_is_a_bound_to_the_calls_that_hang(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """For sockets and memory."""
    monkeypatch.setattr(CallRunner, "HANGING_AT_MOST", 5)
    script = HoldingScript(*range(10))
    with HostilePartner(script) as server:
        own = bench(server.url, limit=2, counts_slow=False)
        own.push(*range(10))
        eventually(lambda: own.under_way == 5)
        time.sleep(CallRunner.SLOW_SECONDS)
        own.see_that_nothing_comes_back()
        assert (own.under_way, own.runner.waiting) == (5, 5)
        script.go_on.set()
        own.collect(10)


# Calls that may not start.


def test_a_call_that_may_not_start_comes_back_unsent(bench: MakeBench, partner: MockPartner) -> None:
    allowed = iter(["start"] * 5)
    own = bench(partner.url, limit=4)
    own.push(*range(20), may_start=lambda: next(allowed, "return"))  # type: ignore[arg-type]
    own.collect(20)
    sent = {call.bulk.records[0].id for call, outcomes in own.results if outcomes is not None}
    assert len(sent) == 5
    assert {call.key for call in partner.calls()} == sent


def test_a_call_that_has_to_wait_is_asked_again_and_keeps_its_place(bench: MakeBench, partner: MockPartner) -> None:
    may_go = threading.Event()
    own = bench(partner.url, limit=1)
    own.push(0, may_start=lambda: "start" if may_go.is_set() else "wait")
    own.push(*range(1, 10))
    own.see_that_nothing_comes_back()
    assert partner.calls() == []
    may_go.set()
    own.collect(10)
    assert [call.row for call in partner.calls()] == [str(number) for number in range(10)]


def test_a_call_may_wait_and_then_be_turned_down(bench: MakeBench, partner: MockPartner) -> None:
    answers: list[MayStart] = ["wait", "wait", "return"]
    own = bench(partner.url, limit=4)
    own.push(0, may_start=lambda: answers.pop(0))
    ((_, outcomes),) = own.collect(1)
    assert outcomes is None
    assert partner.calls() == []


def test_a_bug_in_what_is_asked_loses_no_record(bench: MakeBench, partner: MockPartner) -> None:
    def fail() -> MayStart:
        raise ZeroDivisionError

    own = bench(partner.url, limit=4)
    own.push(0, 1, may_start=fail)
    own.push(2)
    own.collect(3)
    assert {call.bulk.records[0].seq: outcomes is None for call, outcomes in own.results} == {
        0: True,
        1: True,
        2: False,
    }


class BrokenClient(PartnerClient):
    """A client with a bug."""

    error: BaseException = ZeroDivisionError("secret")

    async def send_bulk(self, bulk: BulkCall) -> list[Outcome]:
        """Fail as no client should, for one call in three."""
        if bulk.records[0].seq % 3 == 0:
            raise self.error
        return await super().send_bulk(bulk)


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), asyncio.CancelledError("secret"), TimeoutError()])
def test_a_bug_of_the_client_loses_no_record(bench: MakeBench, partner: MockPartner, error: BaseException) -> None:
    client = BrokenClient(make_partner(partner.url), make_stream())
    client.error = error
    own = bench(partner.url, client=client, limit=2)
    own.push(*range(9))
    results = own.collect(9)
    assert Counter(outcomes[0].verdict for _, outcomes in results if outcomes) == {
        Verdict.ACCEPTED: 6,
        Verdict.AMBIGUOUS: 3,
    }
    errors = {outcomes[0].error for _, outcomes in results if outcomes and outcomes[0].error}
    assert errors == {f"a bug in syncctl: {type(error).__name__}"}
    assert own.under_way == 0


def test_a_bug_in_a_call_of_many_rows_is_an_outcome_for_each(bench: MakeBench, partner: MockPartner) -> None:
    client = BrokenClient(make_partner(partner.url), make_stream(batching=Batching(size=4)))
    own = bench(partner.url, client=client, limit=2)
    own.push(3, 4, 5, 6)
    ((call, outcomes),) = own.collect(1)
    assert [record.seq for record in call.bulk.records] == [3, 4, 5, 6]
    assert [outcome.verdict for outcome in outcomes or []] == [Verdict.AMBIGUOUS] * 4


def test_results_are_taken_as_they_are(partner: MockPartner) -> None:
    queue: SimpleQueue[CallResult] = SimpleQueue()
    began = time.monotonic()
    assert take_results(queue, timeout_seconds=0.0) == []
    assert take_results(queue, timeout_seconds=0.05) == []
    assert time.monotonic() - began >= 0.05
    client = make_client(partner.url)
    record = make_record()
    (bulk,) = client.combine([(record, client.prepare(record))])
    results: list[CallResult] = [(WaitingCall(client=client, bulk=bulk, may_start=lambda: "start"), None)] * 3
    for result in results:
        queue.put(result)
    assert take_results(queue, timeout_seconds=5.0) == results
    client.close()
