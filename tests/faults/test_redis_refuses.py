"""Invariants 2 and 12: a Redis that answers with errors is an outage; syncctl waits for its end, and shows it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl.broker.messages import QUEUES
from syncctl.broker.queue import KEY_TYPES
from syncctl.local.redis_server import RedisServer
from tests.harness.source_db import SourceDb


def become_replica(redis: Any) -> None:
    redis.execute_command("REPLICAOF", "127.0.0.1", "1")


def become_primary(redis: Any) -> None:
    redis.execute_command("REPLICAOF", "NO", "ONE")


def run_out_of_memory(redis: Any) -> None:
    redis.config_set("maxmemory", "1")


def get_memory(redis: Any) -> None:
    redis.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    ("refuse", "take_again", "hint"),
    [
        (become_replica, become_primary, "REPLICAOF NO ONE"),
        (run_out_of_memory, get_memory, "maxmemory"),
    ],
)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_redis_that_refuses_is_waited_for(
    refuse: Callable[[Any], None],
    take_again: Callable[[Any], None],
    hint: str,
    pool: str,
    own_redis: RedisServer,
    make_settings: Callable[..., Path],
    start_syncctl: Callable[..., Any],
    run_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
    source_db: SourceDb,
    mongo_database: Any,
) -> None:
    directory = make_settings(redis_url=own_redis.url(), redis_prefix="refused", stream={"poll_every": "500ms"})
    source_db.create_orders(3)

    def count_delivered() -> int:
        return int(mongo_database.records.count_documents({"state": "delivered"}))

    worker = start_syncctl("worker", "--pool", pool, "--concurrency", "2", cwd=directory)
    beat = start_syncctl("beat", cwd=directory)
    eventually(lambda: count_delivered() == 3, 60)
    with Redis.from_url(own_redis.url()) as redis:
        refuse(redis)
        # A worker can take messages from a full Redis, but Beat cannot put any there.
        noticed = beat if refuse is run_out_of_memory else worker
        noticed.wait_for_log('"beat.tick_lost"' if noticed is beat else '"redis.away"')
        check = run_syncctl("doctor", "redis", "--json", cwd=directory).json["checks"][0]
        assert (check["name"], check["status"]) == ("redis", "fail")
        assert hint in check["hint"]
        source_db.add_orders([4])
        take_again(redis)
        noticed.wait_for_log('"redis.back"')
    eventually(lambda: count_delivered() == 4, 60)
    actions = [json.loads(line)["action"] for line in worker.log.splitlines() if line.startswith("{")]
    assert actions.count("redis.away") == (noticed is worker)
    assert actions.count("redis.away") + actions.count("dispatch.failed") == actions.count("redis.back")
    assert "Unrecoverable" not in worker.log + beat.log
    assert beat.log.count('"beat.tick_lost"') <= 2, "once for each queue"
    assert "Traceback" not in worker.log + beat.log
    for command in (worker, beat):
        command.terminate()
        assert command.wait() == 0, command.log


@pytest.mark.parametrize("remote_control", ["false", "true"])
def test_keys_that_somebody_replaced_stop_no_worker(
    remote_control: str,
    own_redis: RedisServer,
    make_settings: Callable[..., Path],
    start_syncctl: Callable[..., Any],
    run_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
    source_db: SourceDb,
    mongo_database: Any,
) -> None:
    """Every command on them is refused until they are removed, which a worker does by itself."""
    environment = {"WORKER__REMOTE_CONTROL": remote_control}
    directory = make_settings(redis_url=own_redis.url(), redis_prefix="spoilt", stream={"poll_every": "500ms"})
    source_db.create_orders(3)

    def count_delivered() -> int:
        return int(mongo_database.records.count_documents({"state": "delivered"}))

    spoilt = [f"spoilt:{name}" for name in KEY_TYPES]
    with Redis.from_url(own_redis.url()) as redis:
        for name in spoilt:
            redis.set(name, "x")
        worker = start_syncctl("worker", "--beat", "--concurrency", "2", cwd=directory, env=environment)
        eventually(lambda: count_delivered() == 3, 60)
        for name in ("deliver", "poll", "control", "deliver\x06\x163"):
            redis.delete(f"spoilt:{name}")
            redis.hset(f"spoilt:{name}", "x", "y")
        source_db.add_orders([4])
        eventually(lambda: count_delivered() == 4, 60)
        assert {redis.type(f"spoilt:{name}") for name in QUEUES} <= {b"none", b"list"}
    removed = [json.loads(line) for line in worker.log.splitlines() if '"broker.key_removed"' in line]
    assert {(line["key"], line["type"]) for line in removed} >= {("spoilt:poll", "string"), ("spoilt:poll", "hash")}
    assert "Traceback" not in worker.log

    def find_account() -> Any:
        return run_syncctl("status", "--json", cwd=directory).json["queue"]["dropped_reasons"].get("foreign_key", 0)

    assert eventually(lambda: find_account() >= 4, 30)
    worker.terminate()
    assert worker.wait() == 0, worker.log


def test_beat_removes_a_key_that_somebody_put_in_the_place_of_a_queue(
    own_redis: RedisServer,
    make_settings: Callable[..., Path],
    start_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
    mongo_database: Any,
) -> None:
    directory = make_settings(redis_url=own_redis.url(), redis_prefix="spoilt", stream={"poll_every": "500ms"})
    with Redis.from_url(own_redis.url()) as redis:
        redis.set("spoilt:poll", "x")
        start_syncctl("beat", cwd=directory)
        eventually(lambda: redis.type("spoilt:poll") == b"list", 60)
    dropped = eventually(lambda: mongo_database.project.find_one({"_id": "dropped"}), 30)
    assert dropped["reasons"] == {"foreign_key": 1}
    assert dropped["worker"].startswith("beat:")


def test_a_worker_that_ends_by_an_error_says_so_with_its_exit_code(
    settings_dir: Path, start_syncctl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Its pool dies at once: Celery ends the worker, and does not pass the reason on to the caller."""
    worker = start_syncctl("worker", "--pool", "solo", "--", "--pidfile", "/nowhere/at/all.pid", cwd=settings_dir)
    assert worker.wait() != 0
