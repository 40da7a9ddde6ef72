"""Redis beside Celery: the messages that wait in the queues."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl.broker.queue import Broker
from syncctl.errors import ServiceUnavailable
from tests.harness.commands import run_python

PUBLISH = """
from syncctl.settings import load_settings
from syncctl.wiring.connections import Connections
with Connections(load_settings()) as connections:
    for _ in range(2):
        connections.publish("orders")
"""


@pytest.fixture
def broker(redis_url: str, redis_prefix: str) -> Iterator[Broker]:
    with Broker(redis_url, prefix=f"{redis_prefix}:") as opened:
        yield opened


def test_messages_are_counted_where_celery_puts_them(broker: Broker, settings_dir: Path, redis_url: str) -> None:
    assert broker.count_waiting() == 0
    run_python(PUBLISH, settings_dir)
    assert broker.count_waiting() == 2
    assert broker.count_waiting("poll") == 0
    with Redis.from_url(redis_url) as redis:
        taken = redis.lpop(f"{broker.prefix}deliver")
        names = {key.decode() for key in redis.scan_iter()}
    assert broker.count_waiting() == 1
    assert all(name.startswith(broker.prefix) for name in names), names
    assert isinstance(taken, bytes)


def test_a_message_names_a_stream_and_carries_neither_payload_nor_deadline(
    broker: Broker, settings_dir: Path, redis_url: str
) -> None:
    """A worker an hour ahead would throw away whatever has an `expires`."""
    import base64

    run_python(PUBLISH, settings_dir)
    with Redis.from_url(redis_url) as redis:
        message: Any = json.loads(redis.lindex(f"{broker.prefix}deliver", -1) or b"{}")
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == (["orders"], {})
    assert (message["headers"]["expires"], message["headers"]["eta"]) == (None, None)
    assert message["headers"]["task"] == "syncctl.deliver"


def test_the_server_reports_its_version_policy_and_memory(broker: Broker) -> None:
    server = broker.describe_server()
    assert server["version"]
    assert server["maxmemory_policy"] == "noeviction"
    assert server["used_memory_bytes"] > 0


def test_a_redis_that_is_away_is_reported_as_unavailable() -> None:
    with Broker("redis://:s3cr3t@localhost:1/0", prefix="x:") as broker:
        for ask in (broker.count_waiting, broker.describe_server):
            with pytest.raises(ServiceUnavailable) as caught:
                ask()
            error = caught.value
            assert (error.what, error.service) == ("cannot reach Redis at localhost:1", "redis")
            assert error.hint == "check REDIS_URL, then run: syncctl doctor redis"
            assert "s3cr3t" not in f"{error}{error.hint}"
            assert "\n" not in error.why
