"""Batches: concurrent calls, every record accounted for."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from syncctl.partner.batch import send_batch

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.partner.bulk import BulkCall
from syncctl.partner.call import Call
from syncctl.partner.client import PartnerClient
from tests.harness.cases import make_client, make_partner, make_record, make_stream
from tests.harness.hostile_partner import HostilePartner, Peer

pytestmark = pytest.mark.timeout(60)


def prepare(client: PartnerClient, count: int) -> list[tuple[Record, Call]]:
    """Return this many records with their calls."""
    records = [make_record(number) for number in range(count)]
    return [(record, client.prepare(record)) for record in records]


def always() -> bool:
    return True


@pytest.mark.parametrize("threads", [1, 2, 7, 16])
def test_every_record_is_sent_once_and_yielded_once(partner: MockPartner, threads: int) -> None:
    client = make_client(partner.url)
    calls = prepare(client, 100)
    results = list(send_batch(client, calls, threads=threads, may_start=always))
    client.close()
    assert Counter(record.id for record, _ in results) == Counter(record.id for record, _ in calls)
    assert {outcome and outcome.verdict for _, outcome in results} == {Verdict.ACCEPTED}
    stats = partner.stats()
    assert (stats["calls"], stats["distinct_keys"]) == (100, 100)


def test_calls_are_under_way_at_the_same_time() -> None:
    together = threading.Barrier(8, timeout=30)

    def wait_for_the_others(peer: Peer) -> None:
        while peer.read_request():
            together.wait()
            peer.answer("200 OK")

    with HostilePartner(wait_for_the_others) as server:
        client = make_client(server.url)
        results = list(send_batch(client, prepare(client, 8), threads=8, may_start=always))
        client.close()
    assert [outcome and outcome.verdict for _, outcome in results] == [Verdict.ACCEPTED] * 8
    assert not together.broken


def test_no_more_calls_than_threads_are_under_way() -> None:
    lock = threading.Lock()
    under_way, most = 0, 0

    def count(peer: Peer) -> None:
        nonlocal under_way, most
        while peer.read_request():
            with lock:
                under_way += 1
                most = max(most, under_way)
            threading.Event().wait(0.01)
            with lock:
                under_way -= 1
            peer.answer("200 OK")

    with HostilePartner(count) as server:
        client = make_client(server.url)
        list(send_batch(client, prepare(client, 40), threads=4, may_start=always))
        client.close()
    assert 1 < most <= 4


def test_a_fast_call_is_yielded_before_a_slow_one() -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        while request := peer.read_request():
            if b'"id":0,' in request:
                release.wait(30)
            peer.answer("200 OK")

    with HostilePartner(script) as server:
        client = make_client(server.url)
        numbers = []
        for record, _ in send_batch(client, prepare(client, 10), threads=2, may_start=always):
            numbers.append(record.seq)
            if len(numbers) == 9:
                release.set()
        client.close()
    assert sorted(numbers[:9]) == list(range(1, 10))
    assert numbers[9] == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_a_record_that_may_not_start_is_yielded_unsent(partner: MockPartner, threads: int) -> None:
    left = iter([True] * 5)
    lock = threading.Lock()

    def may_start() -> bool:
        with lock:
            return next(left, False)

    client = make_client(partner.url)
    results = list(send_batch(client, prepare(client, 20), threads=threads, may_start=may_start))
    client.close()
    sent = {record.id for record, outcome in results if outcome is not None}
    assert (len(results), len(sent)) == (20, 5)
    assert {call.key for call in partner.calls()} == sent


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_of_may_start_comes_after_every_record(partner: MockPartner, threads: int) -> None:
    lock = threading.Lock()
    asked = 0

    def may_start() -> bool:
        nonlocal asked
        with lock:
            asked += 1
            if asked > 3:
                raise RuntimeError("no rate limit today")
        return True

    client = make_client(partner.url)
    results: list[tuple[Record, Outcome | None]] = []
    with pytest.raises(RuntimeError, match="no rate limit today"):
        results.extend(send_batch(client, prepare(client, 20), threads=threads, may_start=may_start))
    client.close()
    assert len(partner.calls()) == 3


class BrokenClient(PartnerClient):
    """A client with a bug."""

    def send_bulk(self, group: BulkCall) -> list[Outcome]:
        """Fail as no client should, for one record in three."""
        if int(group.call.headers["Idempotency-Key"][-1], 16) % 3 == 0:
            raise ZeroDivisionError("secret")
        return super().send_bulk(group)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_bug_loses_no_record(partner: MockPartner, threads: int) -> None:
    client = BrokenClient(make_partner(partner.url), make_stream())
    results = list(send_batch(client, prepare(client, 9), threads=threads, may_start=always))
    client.close()
    assert Counter(outcome and outcome.verdict for _, outcome in results) == {
        Verdict.ACCEPTED: 6,
        Verdict.AMBIGUOUS: 3,
    }
    errors = {outcome.error for _, outcome in results if outcome is not None and outcome.error}
    assert errors == {"a bug in syncctl: ZeroDivisionError"}


@pytest.mark.parametrize("threads", [1, 4])
def test_a_batch_that_is_left_early_starts_nothing_more(
    threads: int, partner: MockPartner, eventually: Callable[..., Any]
) -> None:
    left = threading.Event()
    lock = threading.Lock()
    asked = 0

    def may_start() -> bool:
        nonlocal asked
        with lock:
            asked += 1
            waits = asked > 5
        return left.wait(30) if waits else True

    client = make_client(partner.url)
    first = prepare(client, 5000)
    batch = send_batch(client, first[:4000], threads=threads, may_start=may_start)
    next(batch)
    eventually(lambda: asked > 5 or threads == 1)
    batch.close()  # type: ignore[attr-defined]
    left.set()
    # Another batch comes to its end meanwhile: nothing of the first one blocks it.
    rest = list(send_batch(client, first[4000:], threads=threads, may_start=always))
    client.close()
    assert len(rest) == 1000
    assert 1 <= partner.stats()["calls"] - 1000 <= 5


def test_a_batch_that_is_never_begun_sends_nothing(partner: MockPartner) -> None:
    client = make_client(partner.url)
    send_batch(client, prepare(client, 5), threads=4, may_start=always)
    assert list(send_batch(client, [], threads=4, may_start=always)) == []
    client.close()
    assert partner.calls() == []


def test_threads_are_kept_between_batches() -> None:
    with MockPartner(PartnerConfig(latency_seconds=0.005)) as partner:
        client = make_client(partner.url)

        def names() -> set[str]:
            return {each.name for each in threading.enumerate() if each.name.startswith("partner")}

        list(send_batch(client, prepare(client, 40), threads=8, may_start=always))
        before = names()
        for _ in range(20):
            list(send_batch(client, prepare(client, 40), threads=8, may_start=always))
        client.close()
    assert before
    assert before <= names()
    assert len(names()) <= len(before) + 16
