"""Invariant 14: whoever can write to Redis ends no worker, sends no row elsewhere, and reaches nothing in MongoDB."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl.broker.messages import HEADER, MAX_AGE_SECONDS, Seal
from syncctl.celery_app import load_project_key
from syncctl.core.project_key import ProjectKey
from syncctl.local.mock_partner import MockPartner
from syncctl.settings import load_settings
from tests.harness.process_groups import group_members
from tests.harness.settings_files import ORDERS
from tests.harness.source_db import SourceDb

ID = "00000000-1111-4222-8333-{:012d}"
MARK = "left-by-the-attacker"
WRONG: tuple[Any, ...] = (
    None,
    7,
    True,
    [],
    {},
    "",
    MARK,
    [MARK],
    {"$where": MARK},
    {"__type__": "datetime"},
    1e308,
    [[[]]],
)
MUST_BE_RIGHT = {
    "message": ("body", "content-type", "content-encoding", "headers", "properties"),
    "headers": ("task", "id", HEADER),
    "properties": ("body_encoding",),
}
MUST_BE_EMPTY = ("compression", "eta", "expires", "group", "retries", "shadow", "stamps")
REMADE = ("lang", "timelimit", "origin", "argsrepr", "root_id", "parent_id", "ignore_result")


class Forger:
    """Writes messages as Celery does, with a signature that is right unless it is told otherwise."""

    def __init__(self, directory: Path) -> None:
        self.settings = load_settings(directory=directory, environment={})
        self.key = load_project_key(self.settings)
        self.number = 0

    def message(
        self, task: str = "syncctl.deliver", args: Any = ("orders",), *, age: float = 0, key: bytes | None = None
    ) -> dict[str, Any]:
        """Return a message; one of a task that there is not, or of wrong arguments, has the signature of another."""
        self.number += 1
        identity = ID.format(self.number)
        known = load_project_key(self.settings)
        seal = Seal(lambda: ProjectKey(key or known.key, known.server_ms - round(age * 1000)))
        at = seal.now_ms()
        signature = seal._compute("message", task, identity, list(args), at)
        body = json.dumps([list(args), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        return {
            "body": base64.b64encode(body.encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"lang": "py", "task": task, "id": identity, HEADER: {"at": at, "signature": signature}},
            "properties": {
                "correlation_id": identity,
                "body_encoding": "base64",
                "delivery_tag": identity,
                "delivery_info": {"exchange": "", "routing_key": "deliver"},
            },
        }

    def list_hostile(self) -> Iterator[bytes]:
        """Yield messages that must be dropped."""
        yield from self._list_malformed()
        yield from self._list_forged()

    def _list_malformed(self) -> Iterator[bytes]:
        yield from (b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe\x00", b"{}", b"[" * 9000, b'{"a":' * 3000)
        yield b"x" * 2_000_000
        yield json.dumps(self.message() | {"padding": "x" * 20_000}).encode()
        for field in MUST_BE_RIGHT["message"]:
            for value in WRONG:
                yield self._change(self.message(), value, field)
            yield self._change(self.message(), ..., field)
        for part in ("headers", "properties"):
            for field in MUST_BE_RIGHT[part]:
                for value in WRONG:
                    yield self._change(self.message(), value, part, field)
        for field in MUST_BE_EMPTY:
            for value in WRONG:
                if value:
                    yield self._change(self.message(), value, "headers", field)

    def _list_forged(self) -> Iterator[bytes]:
        for kind in ("application/x-python-serialize", "application/x-yaml", "application/x-msgpack", "text/plain"):
            yield self._change(self.message(), kind, "content-type")
        for task in ("celery.chord", "celery.map", "celery.backend_cleanup", "os.system", "syncctl.dispatch", "$where"):
            yield json.dumps(self.message(task)).encode()
        for args in ((), ("orders", "other"), ({"$gt": ""},), (["orders"],), (None,), (7,), (MARK,), ("$state",)):
            yield json.dumps(self.message(args=args)).encode()
        yield self._embed({"callbacks": [{"task": "syncctl.cleanup", "args": [], "kwargs": {}, "options": {}}]})
        yield self._embed({"chain": [{"task": "syncctl.cleanup"}]})
        yield self._embed([MARK])
        for at in (float("nan"), 10**400, "1", None, [0]):
            yield self._change(self.message(), at, "headers", HEADER, "at")
        # Forged, altered, replayed.
        yield json.dumps(self.message(key=b"another")).encode()
        yield json.dumps(self.message(age=MAX_AGE_SECONDS + 60)).encode()
        for other in ("syncctl.poll", "syncctl.cleanup"):
            yield self._change(self.message(), other, "headers", "task")
        yield self._change(self.message(), ID.format(0), "headers", "id")
        yield self._change(self.message(), self.message(args=("other",))["body"], "body")
        yield json.dumps(self.message("syncctl.poll")).encode()

    def list_harmless(self) -> Iterator[bytes]:
        """Yield genuine wake-ups with wrong values in fields that are made anew."""
        for field in REMADE:
            for value in WRONG:
                yield self._change(self.message(), value, "headers", field)
        for field in ("delivery_info", "delivery_tag", "correlation_id", "reply_to", "priority"):
            for value in WRONG:
                yield self._change(self.message(), value, "properties", field)

    def _embed(self, embed: Any) -> bytes:
        body = json.dumps([["orders"], {}, embed]).encode()
        return self._change(self.message(), base64.b64encode(body).decode(), "body")

    @staticmethod
    def _change(message: dict[str, Any], value: Any, *path: str) -> bytes:
        part = message
        for name in path[:-1]:
            part = part[name]
        if value is ...:
            del part[path[-1]]
        else:
            part[path[-1]] = value
        return json.dumps(message).encode()


@pytest.fixture
def other_partner() -> Iterator[MockPartner]:
    with MockPartner() as server:
        yield server


def test_hostile_messages_end_no_worker_and_reach_nothing(
    make_settings: Callable[..., Path],
    start_syncctl: Callable[..., Any],
    run_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
    source_db: SourceDb,
    partner: MockPartner,
    other_partner: MockPartner,
    mongo_database: Any,
    redis_url: str,
    redis_prefix: str,
) -> None:
    other = {**ORDERS, "table": "others", "partner": "other", "endpoint": "POST /others", "poll_every": "1h"}
    directory = make_settings(
        stream={"poll_every": "500ms"},
        sections={"partners": {"other": {"url": other_partner.url}}, "streams": {"other": other}},
    )
    source_db.create_orders(3)
    run_syncctl("init", "--yes", cwd=directory)
    forger = Forger(directory)
    hostile, harmless = list(forger.list_hostile()), list(forger.list_harmless())
    assert len(hostile) > 200
    mongo_database.command("profile", 2)
    queue = f"{redis_prefix}:deliver"

    with Redis.from_url(redis_url) as redis:
        # What waits already must not end the worker that starts, nor the one that is started in its place.
        redis.lpush(queue, *hostile[:40])
        worker = start_syncctl("worker", "--concurrency", "2", "--beat", cwd=directory)
        worker.wait_for_log("ready")
        members = eventually(lambda: group_members(worker.pid) if len(group_members(worker.pid)) > 2 else None)
        for message in hostile[40:]:
            redis.lpush(queue, message)
        redis.lpush(queue, *harmless)
        for priority in (3, 6, 9):
            # Kombu's queues of another priority, which no worker reads.
            redis.lpush(f"{queue}\x06\x16{priority}", *harmless)
        for channel in ("celery.pidbox", "celeryev/worker.online"):
            for command in ("shutdown", "pool_shrink", "cancel_consumer"):
                control = {"method": command, "arguments": {}, "destination": None}
                redis.publish(f"{redis_prefix}:/0.{channel}", json.dumps({**forger.message(), "body": control}))
        redis.hset(f"{redis_prefix}:unacked", "a", "not json")
        redis.zadd(f"{redis_prefix}:unacked_index", {"a": 1.0})
        eventually(lambda: redis.llen(queue) == 0, 60)

        # It still works, for every stream.
        source_db.add_orders([4, 5])
        eventually(lambda: mongo_database.records.count_documents({"state": "delivered"}) == 5, 60)
        added = eventually(lambda: run_syncctl("add", "2", "3", "--json", cwd=directory))
        assert added.json["sum"] == 5

    assert worker.is_running()
    assert set(members) <= set(group_members(worker.pid))
    lines = [json.loads(line) for line in worker.log.splitlines() if '"broker.message_dropped"' in line]
    assert len(lines) == len(hostile)
    assert MARK not in worker.log
    eventually(lambda: run_syncctl("status", "--json", cwd=directory).json["queue"]["dropped"] == len(hostile), 20)
    check = run_syncctl("doctor", "queue", "--json", cwd=directory).json["checks"][-1]
    assert (check["name"], check["status"]) == ("queue messages", "warn")
    assert f"{len(hostile)} messages" in check["detail"]

    # Nothing went to the other partner, and nothing of the messages came as far as MongoDB.
    assert not other_partner.calls()
    assert len(partner.rows()) == 5
    mongo_database.command("profile", 0)
    commands = [str(command) for command in mongo_database["system.profile"].find()]
    assert commands
    assert not [command for command in commands if MARK in command or "$where" in command]
    worker.terminate()
    assert worker.wait() == 0


def test_forged_results_are_not_believed(
    make_settings: Callable[..., Path], run_syncctl: Callable[..., Any], redis_url: str, redis_prefix: str
) -> None:
    """Somebody answers in a worker's place, with whatever Celery would make something of."""
    import threading

    directory = make_settings()
    forged: tuple[Any, ...] = (
        {"status": "SUCCESS", "result": {"sum": 6, "worker": "w", "signature": "0" * 64}},
        {"status": "SUCCESS", "result": {"sum": "5", "worker": [], "signature": None}},
        {"status": "SUCCESS", "result": [5]},
        {"status": "SUCCESS", "result": None},
        {"status": "FAILURE", "result": {"exc_type": "system", "exc_module": "os", "exc_message": f"touch {MARK}"}},
        {"status": "FAILURE", "result": 7},
        {"status": [], "result": {}},
        {},
        [],
        b"{",
    )
    for answer in forged:
        done = threading.Event()

        def reply(answer: Any = answer, done: threading.Event = done) -> None:
            with Redis.from_url(redis_url) as redis:
                while not done.is_set():
                    for raw in redis.lrange(f"{redis_prefix}:control", 0, -1):
                        task_id = json.loads(raw)["headers"]["id"]
                        key = f"{redis_prefix}:celery-task-meta-{task_id}"
                        full = (
                            {"task_id": task_id, "traceback": None, "children": [], **answer}
                            if isinstance(answer, dict)
                            else answer
                        )
                        text = answer if isinstance(answer, bytes) else json.dumps(full)
                        redis.set(key, text)
                        redis.publish(key, text)
                    done.wait(0.1)

        thread = threading.Thread(target=reply)
        thread.start()
        try:
            completed = run_syncctl("add", "2", "3", "--timeout", "3s", cwd=directory)
        finally:
            done.set()
            thread.join()
        with Redis.from_url(redis_url) as redis:
            redis.delete(f"{redis_prefix}:control")
        assert completed.exit_code == 69, (answer, completed.stderr)
        assert "Traceback" not in completed.stderr, (answer, completed.stderr)
        assert not (directory / MARK).exists()
