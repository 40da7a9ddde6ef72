"""A rate of less than one call a second: no worker waits for it, and streams share it in random order."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl.local.mock_partner import MockPartner
from syncctl.pipeline.deliver import put_back_batch
from syncctl.settings import load_settings
from syncctl.wiring import rows
from syncctl.wiring.connections import Connections
from tests.harness.source_db import SourceDb

Message = tuple[str, str, Sequence[str]]


class Worker(Connections):
    """A worker whose messages a test takes in hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.messages: list[Message] = []

    def publish(self, stream: str, token: str, ids: Sequence[str]) -> None:
        self.messages.append((stream, token, ids))

    def deliver_all(self) -> list[Any]:
        messages, self.messages = self.messages, []
        return [rows.deliver(self, *each) for each in messages]


@pytest.fixture
def worker(make_settings: Callable[..., Path], source_db: SourceDb) -> Iterator[Callable[..., Worker]]:
    """Make a worker with two polled streams of ten rows each, to a partner with a rate: `worker("1/minute")`."""
    source_db.create_orders(10)
    opened: list[Worker] = []

    def make(rate: str) -> Worker:
        stream = {"table": "orders", "key": ["id"], "mode": "increasing", "cursor": "id", "start": "beginning"}
        directory = make_settings(
            sections={"partners": {"default": {"rate": rate}}, "streams": {"stock": {**stream, "endpoint": "POST /x"}}}
        )
        made = Worker(load_settings(directory=directory, environment={}))
        opened.append(made)
        for name in ("orders", "stock"):
            rows.poll(made, name)
        for name, token, ids in made.messages:
            assert put_back_batch(ledger=made.ledger, stream=name, token=token, ids=ids), name
        made.messages.clear()
        return made

    yield make
    for each in opened:
        each.close()


def test_records_without_a_permit_go_back_at_once_and_are_not_dispatched_again(
    worker: Callable[..., Worker], partner: MockPartner
) -> None:
    slow = worker("3/minute")
    while rows.dispatch(slow, "orders"):
        pass
    assert sum(len(ids) for _, _, ids in slow.messages) > 3
    done = slow.deliver_all()
    assert [sum(getattr(each, name) for each in done) for name in ("delivered", "failed", "retrying")] == [3, 0, 0]
    assert any(each.waits for each in done)
    assert all(each.waits for each in done if each.returned)
    assert len(partner.calls()) == 3
    assert (rows.dispatch(slow, "orders"), slow.messages) == (0, [])
    counts = slow.ledger.records.count_states(["orders", "stock"])
    assert sum(counts[name]["pending"] for name in counts) == 17
    assert sum(counts[name]["sending"] + counts[name]["queued"] for name in counts) == 0


def test_streams_of_one_partner_share_its_permits_at_random(
    worker: Callable[..., Worker], redis_url: str, redis_prefix: str
) -> None:
    slow = worker("1/minute")
    had = set()
    with Redis.from_url(redis_url) as redis:
        for _ in range(60):
            rows.dispatch(slow, "orders")
            names = {name for name, _, _ in slow.messages}
            assert len(names) == 1
            had |= names
            slow.deliver_all()
            redis.delete(f"{redis_prefix}:rate:rolling:default")
            if len(had) == 2:
                break
    assert had == {"orders", "stock"}


def test_a_permit_of_one_call_a_second_is_waited_for(worker: Callable[..., Worker], partner: MockPartner) -> None:
    paced = worker("60/minute")
    rows.dispatch(paced, "orders")
    name, token, ids = paced.messages[0]
    assert len(ids) == 5, "no more than a few seconds' worth"
    assert rows.deliver(paced, name, token, ids).delivered == 5
