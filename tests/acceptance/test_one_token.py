"""Two workers share one token of a partner that accepts only the newest one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.harness.commands import RunningCommand, run_syncctl
from tests.harness.source_db import SourceDb
from tests.harness.token_endpoint import CLIENT_SECRET, TokenDesk

ROWS = 200


@pytest.fixture
def desk() -> Iterator[TokenDesk]:
    with TokenDesk() as desk:
        yield desk


def test_two_workers_share_one_token_and_its_renewal(
    desk: TokenDesk, make_settings: Callable[..., Path], mongo_database: Any, redis_url: str, redis_prefix: str,
    source_db: SourceDb, start_syncctl: Callable[..., RunningCommand], eventually: Callable[..., Any],
) -> None:  # fmt: skip
    source_db.create_orders(ROWS)
    auth = {**desk.auth().values, "type": "oauth2", "client_secret": "${CLIENT_SECRET}"}
    sections = {"partners": {"default": {"auth": auth}}}
    directory = make_settings(partner_url=desk.partner.url, stream={"batch_size": 5}, sections=sections)
    env = {"CLIENT_SECRET": CLIENT_SECRET}
    assert run_syncctl("poll", "--once", cwd=directory, env=env).exit_code == 0
    for name in ("one", "two"):
        start_syncctl("worker", "--name", name, cwd=directory, env=env)
    start_syncctl("beat", cwd=directory, env=env)
    records = mongo_database.records

    def count(state: str) -> int:
        return int(records.count_documents({"stream": "orders", "state": state}))

    eventually(lambda: count("delivered") == ROWS, timeout=60)
    assert desk.given == 1
    assert run_syncctl("doctor", "partner", cwd=directory, env=env).exit_code == 0
    assert desk.given == 1
    desk.revoke()
    source_db.add_orders(range(ROWS + 1, 2 * ROWS + 1))
    eventually(lambda: count("delivered") == 2 * ROWS, timeout=60)
    assert desk.given == 2
    assert len({document["history"][0]["worker"] for document in records.find()}) > 1, "several processes have called"
    assert {(document["attempts"], document["history"][0].get("status")) for document in records.find()} == {(1, 200)}
    with Redis.from_url(redis_url) as redis:
        (kept,) = [redis.get(key) for key in redis.scan_iter(f"{redis_prefix}:shelf:token:*")]
    assert kept
    assert desk.good.encode() not in kept
