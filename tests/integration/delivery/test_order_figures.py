"""Many updates of few rows, with random transient failures: the state of the partner under each order.

SYNCCTL_ORDER_UPDATES=10000 and SYNCCTL_ORDER_KEYS=100 make it larger; --timeout 0 gives it the time it then takes, and
--log-cli-level=INFO tells the counts.
"""

import json
import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest

from syncctl.core.stream import BreakerRules, RetrySchedule
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.harness.testbed import ListReader, Testbed, version_row

log = logging.getLogger(__name__)

UPDATES = int(os.environ.get("SYNCCTL_ORDER_UPDATES", "1000"))
KEYS = int(os.environ.get("SYNCCTL_ORDER_KEYS", "30"))
SENT_AFTER_A_POLL = 0.3
"""Versions of a row pile up meanwhile."""
ROUNDS_AT_MOST = 20 * UPDATES


@pytest.fixture
def moody() -> Iterator[MockPartner]:
    """A partner of whose calls every sixth is answered 429 or 500, or gets its connection cut."""
    config = PartnerConfig(
        seed=7, too_many_rate=0.05, error_rate=0.05, drop_before_rate=0.03, drop_after_rate=0.03, retry_after_seconds=0
    )
    with MockPartner(config) as server:
        yield server


def update_and_send(testbed: Testbed, *, seed: int) -> dict[int, list[str]]:
    """Update rows at random, polling and sending all the while; return every content that was logged, by row."""
    draw = random.Random(seed)
    logged: dict[int, list[str]] = defaultdict(list)
    number = 0
    while number < UPDATES:
        # A poll sees only the last of several changes of a row: each change is one that is logged.
        rows = draw.sample(range(1, KEYS + 1), min(KEYS // 2, UPDATES - number))
        changes = {row: f"{number + at}" for at, row in enumerate(rows)}
        number += len(rows)
        run = testbed.poll(ListReader([version_row(row, content, None) for row, content in changes.items()]))
        assert run.logged == len(changes)
        for row, content in changes.items():
            logged[row].append(content)
        if draw.random() < SENT_AFTER_A_POLL:
            send_once(testbed)
    for _ in range(ROUNDS_AT_MOST):
        if not testbed.database.records.count_documents({"state": {"$in": ["pending", "sending"]}}):
            return dict(logged)
        send_once(testbed)
    raise AssertionError("it never comes to rest")


def send_once(testbed: Testbed) -> None:
    # Retries are due at once, after cut calls have settled: this test is about the order, not the schedule.
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.deliver()


def applied(testbed: Testbed, partner: MockPartner) -> dict[int, list[str]]:
    """Return, by row, the contents in the order in which the partner applied them."""
    contents = {
        record["_id"]: (record["key"]["id"], record["payload"]["content"])
        for record in testbed.records(stream="orders")
    }
    seen: dict[int, list[str]] = defaultdict(list)
    keys: set[str] = set()
    for call in partner.calls():
        if call.fate not in ("applied", "dropped_after") or call.key in keys:
            continue
        keys.add(call.key)
        # A record that goes under a new key has its number behind its id.
        row, content = next(contents[each] for each in (call.key, call.key.rpartition("-")[0]) if each in contents)
        seen[row].append(content)
    return dict(seen)


def without_repeats(contents: list[str]) -> list[str]:
    return [each for at, each in enumerate(contents) if at == 0 or contents[at - 1] != each]


def prepare(testbed: Testbed, moody: MockPartner, order: str) -> None:
    testbed.partner = replace(testbed.partner, url=moody.url, breaker=BreakerRules(minimum_calls=10**9))
    retry = RetrySchedule(delays_seconds=(0.0,) * 60, jitter=0.0)
    testbed.change_stream(order=order, retry=retry, window=200, batch_size=20)


def count(testbed: Testbed, partner: MockPartner, logged: dict[int, list[str]]) -> str:
    states = {
        state: testbed.database.records.count_documents({"state": state})
        for state in ("delivered", "superseded", "failed", "discarded")
    }
    return f"{sum(map(len, logged.values()))} versions of {len(logged)} rows, {len(partner.calls())} calls, {states}"


def test_under_latest_the_partner_ends_with_the_newest_version_of_each_row(
    testbed: Testbed, moody: MockPartner
) -> None:
    prepare(testbed, moody, "latest")
    logged = update_and_send(testbed, seed=1)
    held = {int(row): json.loads(body)["content"] for row, body in moody.rows().items()}
    assert held == {row: contents[-1] for row, contents in logged.items()}
    log.info(count(testbed, moody, logged))


def test_under_strict_the_partner_has_seen_every_version_in_order(testbed: Testbed, moody: MockPartner) -> None:
    prepare(testbed, moody, "strict")
    logged = update_and_send(testbed, seed=2)
    assert {row: without_repeats(seen) for row, seen in applied(testbed, moody).items()} == logged
    assert moody.stats()["calls"] > sum(map(len, logged.values())), "nothing failed"
    assert not testbed.database.records.count_documents({"state": {"$ne": "delivered"}})
    log.info(count(testbed, moody, logged))
