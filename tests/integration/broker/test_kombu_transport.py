"""Messages that a worker holds while it loses its connection to Redis are released, and the worker survives."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection, Queue
from kombu.transport import redis

from syncctl.broker.kombu_transport import harden_transport


@pytest.fixture
def message(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A message that was taken and whose connection is gone, closed twice as Celery does when Redis restarts."""
    monkeypatch.setattr(redis.Channel, "QoS", redis.Channel.QoS)
    harden_transport()
    connection = Connection(redis_url)
    channel = connection.channel()
    queue = Queue("test-queue", channel=channel)
    queue.declare()
    connection.Producer().publish({"n": 1}, routing_key="test-queue", serializer="json")
    taken = queue.get(no_ack=False)
    assert taken is not None
    # Kombu closes and forgets its connection to Redis.
    channel.pool.disconnect()
    channel._pool = None
    channel.connection = None
    yield taken
    connection.release()


@pytest.mark.parametrize(
    "act",
    [
        lambda message: message.ack(),
        lambda message: message.reject(),
        lambda message: message.requeue(),
        lambda message: message.channel.qos.restore_unacked(),
    ],
)
def test_held_messages_are_released_without_an_error(message: Any, act: Callable[[Any], None]) -> None:
    act(message)


def test_without_the_hardened_transport_a_message_that_is_returned_would_end_the_worker(
    message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kombu's own, which this stands in for: once it raises no more, this can go."""
    monkeypatch.setattr(message.channel.qos, "_is_disconnected", lambda: False)
    with pytest.raises(AttributeError):
        message.requeue()
