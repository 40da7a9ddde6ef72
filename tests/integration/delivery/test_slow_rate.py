"""A rate of less than a call a second: no record waits for it in a worker, and streams share it in random order."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl.local.mock_partner import MockPartner
from syncctl.local.redis_server import RedisServer
from syncctl.settings import load_settings
from syncctl.wiring import row_path
from syncctl.wiring.connections import Connections
from tests.harness.source_db import SourceDb


class Worker(Connections):
    """A worker whose messages a test takes in hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.messages: list[str] = []

    def publish(self, stream: str) -> None:
        self.messages.append(stream)

    def deliver(self, first: str, **options: Any) -> dict[str, int]:
        """Deliver due records of every stream; return how many were delivered, by stream."""
        done = row_path.deliver(self, first, **options)
        return {name: counts["delivered"] for name, counts in done.items() if counts.get("delivered")}

    def count(self, state: str) -> int:
        counts = self.ledger.records.count_states(["orders", "stock"])
        return sum(counts[name][state] for name in counts)


MakeWorker = Callable[..., Worker]


@pytest.fixture
def worker(make_settings: Callable[..., Path], source_db: SourceDb) -> Iterator[MakeWorker]:
    """Return what makes a worker with two streams of ten rows each, polled, to a partner with a rate."""
    source_db.create_orders(10)
    opened: list[Worker] = []

    def make(rate: str, **sections: Any) -> Worker:
        stream = {"table": "orders", "key": ["id"], "mode": "increasing", "cursor": "id", "start": "beginning"}
        directory = make_settings(
            sections={
                "partners": {"default": {"rate": rate}, **sections.get("partners", {})},
                "streams": {"stock": {**stream, "endpoint": "POST /x", **sections.get("stock", {})}},
            }
        )
        made = Worker(load_settings(directory=directory, environment={}))
        opened.append(made)
        for name in ("orders", "stock"):
            row_path.poll(made, name)
        made.messages.clear()
        return made

    yield make
    for each in opened:
        each.close()


def test_records_without_a_permit_are_not_held(worker: MakeWorker, partner: MockPartner) -> None:
    slow = worker("3/minute")
    began = time.monotonic()
    assert sum(slow.deliver("orders").values()) == 3
    assert time.monotonic() - began < 20, "it waits for no permit"
    assert len(partner.calls()) == 3
    assert slow.deliver("stock") == {}
    assert len(partner.calls()) == 3
    assert (slow.count("pending"), slow.count("sending")) == (17, 0)
    assert slow.ledger.batches.count(["orders", "stock"]) == {}


def test_streams_of_one_partner_share_its_permits_at_random(worker: MakeWorker, mongo_database: Any) -> None:
    """Also where one of them is always the first that a worker is woken for."""
    slow = worker("1/minute")
    had: set[str] = set()
    for _ in range(9):
        done = slow.deliver("orders")
        assert sum(done.values()) == 1
        had |= done.keys()
        mongo_database.partners.update_one({"_id": "default"}, {"$unset": {"rate": True}})
        if len(had) == 2:
            break
    assert had == {"orders", "stock"}


def test_a_slow_rate_is_kept_when_redis_is_flushed(
    worker: MakeWorker, partner: MockPartner, redis_url: str, redis_prefix: str
) -> None:
    """Fails where the calls of a span are counted in Redis: each flush would let through those of another span."""
    slow = worker("3/minute")
    with Redis.from_url(redis_url) as redis:
        for _ in range(3):
            slow.deliver("orders")
            for key in redis.scan_iter(f"{redis_prefix}*"):
                redis.delete(key)
    assert len(partner.calls()) == 3


def test_a_rate_of_a_call_a_second_is_waited_for(worker: MakeWorker, partner: MockPartner) -> None:
    paced = worker("60/minute")
    paced.deliver("orders", should_stop=lambda: len(partner.calls()) >= 4)
    calls = partner.calls()
    assert len(calls) >= 4
    assert all(after.at - before.at > 0.8 for before, after in pairwise(calls))


@pytest.mark.parametrize(("rate", "calls"), [("1/minute", 1), ("10/second", 0)])
def test_without_redis_the_streams_of_other_partners_go_on(
    worker: MakeWorker, partner: MockPartner, monkeypatch: pytest.MonkeyPatch, rate: str, calls: int
) -> None:
    """Without Redis a rate of a call a second or more cannot be kept, and its partner is not called; a slower one is
    kept in the ledger."""
    with MockPartner() as other:
        limited = worker(rate, partners={"other": {"url": other.url}}, stock={"partner": "other"})
        monkeypatch.setattr(
            limited, "settings", limited.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
        )
        done = limited.deliver("orders", seconds=3.0)
        assert done.get("stock") == 10
        assert len(partner.calls()) == calls
        assert (limited.count("pending"), limited.count("sending")) == (10 - calls, 0)


def test_a_redis_that_hangs_holds_up_no_stream_of_another_partner(
    worker: MakeWorker, partner: MockPartner, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where the loop, with the calls and leases of all its streams, waits for each answer of Redis."""
    with MockPartner() as other:
        limited = worker("10/second", partners={"other": {"url": other.url}}, stock={"partner": "other"})
        monkeypatch.setattr(limited, "settings", limited.settings.model_copy(update={"redis_url": own_redis.url()}))
        own_redis.freeze()
        started = time.monotonic()
        done = limited.deliver("orders", seconds=2.0)
        took = time.monotonic() - started
        own_redis.thaw()
        assert done.get("stock") == 10
        assert partner.calls() == []
        assert took < 5.0
        assert limited.deliver("orders", should_stop=lambda: len(partner.calls()) == 10).get("orders") == 10
