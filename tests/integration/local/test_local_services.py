"""The embedded servers: they start, survive kills and restarts, explain failures, and never outlive their parent."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern
from redis import Redis

from syncctl.errors import ExitCode, ServiceUnavailable, TroubleFound
from syncctl.local import server as server_module
from syncctl.local.demo.environment import LocalServices
from syncctl.local.mongod import REPLICA_SET, Mongod, find_mongod
from syncctl.local.redis_server import RedisServer, find_redis_server
from syncctl.local.server import Server, diagnose, find_port, why_taken
from tests.harness.servers import connect

UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
LOADING = "mongod: error while loading shared libraries:"


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def make_failing_program(path: Path, *, message: str, exit_code: int) -> Path:
    path.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit {exit_code}\n")
    path.chmod(0o755)
    return path


def test_both_serve_and_are_set_up_as_the_ledger_and_the_broker_need_them(
    mongo_server: Mongod, redis_server: RedisServer
) -> None:
    with connect(mongo_server.url("probe")) as client:
        collection = client.probe.get_collection("c", write_concern=WriteConcern("majority", j=True))
        assert collection.insert_one({"a": 1}).acknowledged
        hello = client.admin.command("hello")
        assert hello["isWritablePrimary"]
        assert hello["hosts"] == [mongo_server.address]
        client.drop_database("probe")
    with Redis.from_url(redis_server.url()) as client:
        config = client.config_get("*")
    assert config["maxmemory-policy"] == "noeviction"
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["bind"] == "127.0.0.1"
    assert config["protected-mode"] == "yes"


def test_acknowledged_writes_survive_a_kill_on_the_same_port(own_mongod: Mongod, own_redis: RedisServer) -> None:
    before = own_mongod.port, own_redis.port
    with connect(own_mongod.url("probe")) as client:
        collection = client.probe.get_collection("c", write_concern=WriteConcern("majority", j=True))
        collection.insert_one({"_id": 1})
        own_mongod.kill()
        assert not own_mongod.is_running()
        own_mongod.restart()
        assert collection.count_documents({}) == 1
    with Redis.from_url(own_redis.url()) as client:
        client.set("a", "1")
    own_redis.stop()
    own_redis.restart()
    with Redis.from_url(own_redis.url()) as client:
        assert client.get("a") == b"1"
    assert (own_mongod.port, own_redis.port) == before


def test_a_frozen_server_answers_again_when_thawed(own_redis: RedisServer) -> None:
    own_redis.freeze()
    assert not own_redis.check_ready(timeout_seconds=0.2)
    own_redis.thaw()
    assert own_redis.check_ready(timeout_seconds=10)


def test_a_frozen_server_can_be_stopped(own_redis: RedisServer) -> None:
    pid = own_redis.pid
    own_redis.freeze()
    own_redis.stop(timeout_seconds=10)
    assert not is_alive(pid)


def test_files_of_a_replica_set_serve_on_another_port(tmp_path: Path) -> None:
    with Mongod(tmp_path) as first, connect(first.url("probe")) as client:
        client.probe.c.insert_one({"_id": 1})
    with Mongod(tmp_path) as second, connect(second.url("probe")) as client:
        assert second.port != first.port
        assert client.probe.c.count_documents({}) == 1


class AttackedMongod(Mongod):
    """Another user of this machine tries, before each of syncctl's own steps, to initiate it and to become its root."""

    codes: set[int]

    def check_ready(self, *, timeout_seconds: float) -> bool:
        if self.owns_port():
            with MongoClient[dict[str, Any]]("127.0.0.1", self.port, directConnection=True, timeoutMS=5000) as client:
                members = [{"_id": 0, "host": self.address}]
                self.attack(client, {"replSetInitiate": {"_id": REPLICA_SET, "members": members}})
                self.attack(client, {"createUser": "eve", "pwd": "eve", "roles": ["root"]})
        return super().check_ready(timeout_seconds=timeout_seconds)

    def attack(self, client: MongoClient[dict[str, Any]], command: dict[str, Any]) -> None:
        try:
            client.admin.command(command)
            self.codes.add(0)
        except PyMongoError as error:
            self.codes.add(getattr(error, "code", None) or 0)


def test_nobody_else_becomes_the_first_user_of_a_starting_mongod(tmp_path: Path) -> None:
    server = AttackedMongod(tmp_path, protected=True)
    server.codes = set()
    with server, connect(server.url()) as client:
        assert server.codes <= {UNAUTHORIZED, AUTHENTICATION_FAILED}
        assert UNAUTHORIZED in server.codes
        users = client.admin.command("usersInfo", {"forAllDBs": True})["users"]
        assert [(user["user"], user["db"]) for user in users] == [("syncctl", "admin")]


def test_a_mongod_that_another_user_has_a_login_for_is_not_used(tmp_path: Path) -> None:
    """As an earlier version may have left it."""
    with Mongod(tmp_path, protected=True) as server, connect(server.url()) as client:
        client.celery_logs.command("createUser", "eve", pwd="eve", roles=["dbOwner"])
    with pytest.raises(TroubleFound) as caught:
        server.start()
    assert "eve in celery_logs" in caught.value.why
    assert "--wipe" in caught.value.hint
    assert not server.is_running()


@pytest.mark.parametrize(("kind", "name"), [(Mongod, "mongod"), (RedisServer, "redis-server")])
def test_no_password_goes_to_another_program_on_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Server], name: str
) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        server = kind(tmp_path / "directory", port=listener.getsockname()[1], protected=True)
        with pytest.raises(ServiceUnavailable):
            server.start(timeout_seconds=0.5)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_services_end_with_their_context(tmp_path: Path) -> None:
    with LocalServices(tmp_path) as services:
        pids = services.mongod.pid, services.redis.pid
        assert all(is_alive(pid) for pid in pids)
        assert f":{services.mongod.port}/celery_logs?" in services.mongo_url
    assert not any(is_alive(pid) for pid in pids)
    assert not list(tmp_path.rglob("*.pid"))


def test_no_server_is_left_when_one_of_them_does_not_start(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = LocalServices(tmp_path, mongo_port=taken_port)
    launched: list[int] = []
    launch = Server._launch

    def note(server: Server) -> Any:
        child = launch(server)
        launched.append(child.pid)
        return child

    monkeypatch.setattr(Server, "_launch", note)
    with pytest.raises(ServiceUnavailable) as caught:
        services.start()
    assert caught.value.service == "mongodb"
    assert str(taken_port) in caught.value.what
    assert "in use" in caught.value.why
    assert len(launched) == 2
    assert not any(is_alive(pid) for pid in launched)


def test_a_free_port_that_was_taken_meanwhile_is_replaced(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [find_port(), taken_port]
    monkeypatch.setattr("syncctl.local.server.find_port", offered.pop)
    with RedisServer(tmp_path) as server:
        assert server.port != taken_port
        assert server.check_ready(timeout_seconds=5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_never_outlive_their_parent(
    tmp_path: Path, number: signal.Signals, eventually: Callable[..., Any]
) -> None:
    code = """
        import sys, threading, time
        from pathlib import Path
        from syncctl.local.demo.environment import LocalServices
        services = LocalServices(Path(sys.argv[1]))
        starter = threading.Thread(target=services.start)
        starter.start()
        starter.join()
        print(services.mongod.pid, services.redis.pid, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(text) for text in parent.stdout.readline().split()]
        assert len(pids) == 2
        # The thread that started them has ended long ago, and they live on.
        assert all(is_alive(pid) for pid in pids)
        parent.send_signal(number)
    eventually(lambda: not any(is_alive(pid) for pid in pids), timeout=20)


def test_a_child_takes_everything_it_started_along(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    from syncctl.local.child import Child

    child = Child(["/bin/sh", "-c", "sleep 600 & echo $!; wait"], log=tmp_path / "log")
    grandchild = int(eventually(child.read_log))
    assert is_alive(grandchild)
    child.stop(timeout_seconds=10)
    eventually(lambda: not is_alive(grandchild), timeout=10)


def test_ports_are_free_and_outside_the_range_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {find_port() for _ in range(20)}
    assert len(ports) > 1
    assert all(port < low and why_taken(port) is None for port in ports)


def test_without_binaries_the_hint_is_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(server_module, "find_spec", lambda _name: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for find, service in ((find_mongod, "mongodb"), (find_redis_server, "redis")):
        with pytest.raises(ServiceUnavailable) as caught:
            find()
        assert caught.value.service == service
        assert caught.value.exit_code == ExitCode.UNAVAILABLE
        assert 'pip install "syncctl[local]"' in caught.value.hint


def test_a_program_on_path_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_failing_program(tmp_path / "redis-server", message="", exit_code=0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == program


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ((f"{LOADING} libcurl.so.4: cannot open", 127), ("libcurl.so.4", "apt-get install libcurl4")),
        ((f"{LOADING} libcrypto.so.3: cannot open", 127), ("libcrypto.so.3", "apt-get install libssl3")),
        (("libc.so.6: version `GLIBC_2.35'\\'' not found", 1), ("GLIBC_2.35", "PATH")),
        (("went wrong", 3), ("exit code 3; its log ends: went wrong", "mongod.log")),
    ],
)
def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: tuple[str, int], said: tuple[str, str]
) -> None:
    (message, exit_code), (why, hint) = program, said
    make_failing_program(tmp_path / "mongod", message=message, exit_code=exit_code)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = Mongod(tmp_path / "directory")
    with pytest.raises(ServiceUnavailable) as caught:
        server.start()
    assert why in caught.value.why
    assert hint in caught.value.hint
    assert not server.is_running()


def test_a_server_that_never_gets_ready_is_killed_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho $$\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = RedisServer(tmp_path / "directory")
    with pytest.raises(ServiceUnavailable, match="it runs, but did not become ready"):
        server.start(timeout_seconds=0.5)
    assert not is_alive(int(server.log.read_text()))


def test_a_processor_without_avx_is_named() -> None:
    found = diagnose("", exit_code=-signal.SIGILL, log_path="log", name="mongod")
    assert "AVX" in found.why
