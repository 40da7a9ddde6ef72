"""Wake-ups: one waiting message is enough, and a lost one is sent anew while records are due."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from syncctl.errors import ServiceUnavailable, UsageError
from syncctl.local.redis_server import RedisServer
from syncctl.settings import load_settings
from syncctl.wiring import row_path, wake_ups
from syncctl.wiring.connections import Connections
from tests.harness.source_db import SourceDb


@pytest.fixture
def connections(settings_dir: Path, source_db: SourceDb) -> Iterator[Connections]:
    """The connections of a worker whose source has three rows."""
    source_db.create_orders(3)
    with Connections(load_settings(directory=settings_dir, environment={})) as opened:
        yield opened


@pytest.fixture
def without_redis(make_settings: Callable[..., Path], source_db: SourceDb) -> Iterator[Connections]:
    """The same where Redis is away."""
    source_db.create_orders(3)
    directory = make_settings(redis_url="redis://localhost:1/0")
    with Connections(load_settings(directory=directory, environment={})) as opened:
        yield opened


def test_a_poll_wakes_one_worker_however_many_pages_it_reads(connections: Connections) -> None:
    run = row_path.poll(connections, "orders")
    assert (run.logged, run.dispatched) == (3, 3)
    assert connections.broker.count_waiting() == 1
    assert wake_ups.wake(connections, "orders")
    assert connections.broker.count_waiting() == 1


def test_as_many_are_woken_as_there_are_slots(connections: Connections) -> None:
    connections.ledger.heartbeats.record_worker("w1", {"pid": 1, "queues": ["deliver"], "slots": 2})
    connections.ledger.heartbeats.record_worker("w2", {"pid": 2, "queues": ["deliver"], "slots": 1})
    for _ in range(5):
        assert wake_ups.wake(connections, "orders")
    assert connections.broker.count_waiting() == 3


def test_a_lost_wake_up_is_sent_anew_while_records_are_due(connections: Connections, redis_url: str) -> None:
    """Invariant 2."""
    row_path.poll(connections, "orders")
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    (done,) = row_path.maintain_streams(connections)
    assert (done.stream, done.dispatched) == ("orders", 1)
    assert connections.broker.count_waiting() == 1


def test_no_worker_is_woken_where_nothing_is_due(connections: Connections) -> None:
    (done,) = row_path.maintain_streams(connections)
    assert done.dispatched == 0
    assert connections.broker.count_waiting() == 0


def test_an_unknown_stream_wakes_nobody(connections: Connections) -> None:
    with pytest.raises(UsageError):
        wake_ups.wake(connections, "unknown")
    assert not wake_ups.wake_while_possible(connections, "unknown")()
    with pytest.raises(UsageError):
        row_path.deliver(connections, "unknown")


def test_without_redis_rows_are_logged_and_stay_due(without_redis: Connections) -> None:
    run = row_path.poll(without_redis, "orders")
    assert (run.logged, run.dispatched, run.error) == (3, 0, None)
    with pytest.raises(ServiceUnavailable, match="Redis"):
        wake_ups.wake(without_redis, "orders")
    assert row_path.maintain_streams(without_redis) == []
    assert without_redis.ledger.records.has_due("orders")


def test_a_delivery_loop_asks_a_redis_that_hangs_once_and_leaves_it_alone(
    make_settings: Callable[..., Path], source_db: SourceDb, own_redis: RedisServer
) -> None:
    """Its calls and leases wait meanwhile."""
    source_db.create_orders(3)
    directory = make_settings(redis_url=own_redis.url())
    with Connections(load_settings(directory=directory, environment={})) as opened:
        own_redis.freeze()
        started = time.monotonic()
        for _ in range(5):
            wake_ups.wake_in_passing(opened, "orders")
        took = time.monotonic() - started
        own_redis.thaw()
        assert took < 2.0
        assert not opened.redis_rest.is_over
