"""`syncctl local up|down|status`, through the installed command."""

import importlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo.errors import OperationFailure
from redis import Redis
from redis.exceptions import AuthenticationError

from syncctl.errors import ConfigurationError, ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from tests.harness.commands import Completed, clean_environment
from tests.harness.servers import connect, in_ci

FREE = ("--mongo-port", "0", "--redis-port", "0")

Run = Callable[..., Completed]


@pytest.fixture
def local(tmp_path: Path, run_syncctl: Run) -> Iterator[Run]:
    """Run `syncctl local ...` in a directory of its own; nothing is left running."""

    def run(*args: str) -> Completed:
        return run_syncctl("local", *args, cwd=tmp_path)

    yield run
    ended = run("down", "--wipe", "--yes")
    assert ended.exit_code == 0, ended.stderr


@pytest.fixture
def up(local: Run) -> dict[str, Any]:
    """Both servers running, as `up --json` printed them."""
    started = local("up", *FREE, "--json")
    if started.exit_code == 69 and "cannot find" in started.stderr and not in_ci():
        pytest.skip(started.stderr)
    assert started.exit_code == 0, started.stderr
    document: dict[str, Any] = started.json
    return document


def find_pids(document: dict[str, Any]) -> dict[str, int]:
    return {service["name"]: service["pid"] for service in document["services"]}


def test_up_leaves_both_running_and_prints_their_urls(up: dict[str, Any], local: Run) -> None:
    assert up["up"] is True
    assert [service["started"] for service in up["services"]] == [True, True]
    with connect(up["mongo_url"]) as client:
        assert client.admin.command("hello")["isWritablePrimary"]
    with Redis.from_url(up["redis_url"]) as client:
        assert client.ping()

    status = local("status", "--json")
    assert status.exit_code == 0
    assert status.json["mongo_url"] == up["mongo_url"]
    assert find_pids(status.json) == find_pids(up)


def test_up_again_starts_nothing_and_prints_lines_for_env(up: dict[str, Any], local: Run) -> None:
    again = local("up")
    assert again.exit_code == 0
    assert again.stdout == f"MONGO_URL={up['mongo_url']}\nREDIS_URL={up['redis_url']}\n"
    assert again.stderr.count("already running") == 2
    assert find_pids(local("status", "--json").json) == find_pids(up)


def test_other_users_of_the_machine_are_kept_out(up: dict[str, Any], local: Run, tmp_path: Path) -> None:
    """Redis writes files where CONFIG says, as its owner."""
    with Redis(port=urlsplit(up["redis_url"]).port) as client, pytest.raises(AuthenticationError):
        client.config_set("dir", "/tmp")
    place = urlsplit(up["mongo_url"])
    with connect(f"mongodb://127.0.0.1:{place.port}/celery_logs") as client:
        for ask in (client.list_database_names, client.celery_logs.records.find_one):
            with pytest.raises(OperationFailure, match="requires authentication"):
                ask()
    directory = tmp_path / ".syncctl"
    assert {stat.S_IMODE(each.stat().st_mode) for each in (directory, directory / "redis", directory / "mongodb")} == {
        0o700
    }
    private = [*directory.rglob("password"), *directory.rglob("redis.conf")]
    assert [stat.S_IMODE(each.stat().st_mode) for each in private] == [0o600] * 3
    passwords = [urlsplit(up[name]).password or "" for name in ("mongo_url", "redis_url")]
    shown = local("status").stdout + "".join(
        Path(f"/proc/{service['pid']}/cmdline").read_text() for service in up["services"]
    )
    assert all(len(password) == 48 and password not in shown for password in passwords)


def test_a_url_without_a_login_is_named(up: dict[str, Any]) -> None:
    url = re.sub("//[^@]*@", "//", up["mongo_url"])
    with Ledger(url, "celery_logs") as ledger, pytest.raises(ConfigurationError, match="wants a login"):
        ledger.describe_server()


def test_saved_urls_are_in_a_new_private_file_and_work(up: dict[str, Any], tmp_path: Path, run_syncctl: Run) -> None:
    """Whoever has the old file open reads nothing of it."""
    env = tmp_path / ".env"
    env.write_text("# mine\nPARTNER_URL=https://partner.example")
    env.chmod(0o644)
    with env.open() as opened_before:
        saved = run_syncctl("local", "up", "--save", cwd=tmp_path)
        assert saved.exit_code == 0, saved.stderr
        assert opened_before.read() == "# mine\nPARTNER_URL=https://partner.example"
    assert saved.stdout == ""
    assert saved.stderr.splitlines()[-2:] == [
        "wrote MONGO_URL and REDIS_URL to .env",
        "next: syncctl init, or syncctl doctor",
    ]
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    lines = f"MONGO_URL={up['mongo_url']}\nREDIS_URL={up['redis_url']}\n"
    assert env.read_text() == f"# mine\nPARTNER_URL=https://partner.example\n{lines}"
    doctor = run_syncctl("doctor", "redis", "mongodb", "--json", cwd=tmp_path)
    assert {check["status"] for check in doctor.json["checks"] if check["name"] in ("redis", "mongodb")} == {"ok"}
    again = run_syncctl("local", "up", "--save", cwd=tmp_path)
    assert "has their URLs already" in again.stderr
    assert env.read_text().endswith(f"example\n{lines}")


def test_saving_follows_its_servers_to_another_port_and_keeps_the_database(
    up: dict[str, Any], local: Run, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        f"MONGO_URL={up['mongo_url'].replace('celery_logs', 'mine')}\nREDIS_URL={up['redis_url']}\n"
    )
    local("down")
    again = local("up", *FREE, "--save", "--json")
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / ".env").read_text() == (
        f"MONGO_URL={again.json['mongo_url'].replace('celery_logs', 'mine')}\nREDIS_URL={again.json['redis_url']}\n"
    )


def test_saving_replaces_urls_of_other_servers_only_when_forced(local: Run, tmp_path: Path) -> None:
    other = "MONGO_URL=mongodb://mongo.example/orders\nREDIS_URL=redis://:former@localhost:6379/0\n"
    (tmp_path / ".env").write_text(other)
    refused = local("up", *FREE, "--save")
    assert refused.exit_code == 2
    assert ".env line 1 sets MONGO_URL to another server" in refused.stderr
    assert not list(tmp_path.rglob("*.pid"))
    assert (tmp_path / ".env").read_text() == other
    forced = local("up", *FREE, "--save", "--force", "--json")
    assert (tmp_path / ".env").read_text() == (
        f"MONGO_URL={forced.json['mongo_url']}\nREDIS_URL={forced.json['redis_url']}\n"
    )


@pytest.mark.parametrize("words", [("up",), ("up", "--json"), ("up", "--save", "--json"), ("status", "--json")])
def test_no_password_is_written_to_a_file_that_others_can_read(
    up: dict[str, Any], tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Who opened it before its rights were taken away reads what is written later."""
    shared = tmp_path / "shared"
    command = [sys.executable, "-m", "syncctl", "local", *words]
    for mode in (0o644, 0o640, 0o604):
        shared.touch()
        shared.chmod(mode)
        with shared.open("w") as output:
            ended = subprocess.run(
                command,
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.PIPE,
                env=clean_environment(),
                timeout=60,
                check=False,
            )
        assert ended.returncode == 2
        assert b"other users can read the file" in ended.stderr
        assert shared.read_text() == ""
    shared.chmod(0o600)
    with shared.open("w") as output:
        subprocess.run(command, cwd=tmp_path, stdout=output, env=clean_environment(), check=True, timeout=60)
    assert up["redis_url"] in shared.read_text()


def test_a_pipe_that_others_can_read_gets_no_password_and_nothing_is_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pipe.open("w") as output:
        command = [sys.executable, "-m", "syncctl", "local", "up", *FREE]
        ended = subprocess.run(command, cwd=tmp_path, stdout=output, env=clean_environment(), timeout=60, check=False)
    assert ended.returncode == 2
    assert os.read(reader, 1000) == b""
    os.close(reader)
    assert not (tmp_path / ".syncctl").exists()


def test_an_empty_password_file_is_no_password(up: dict[str, Any], local: Run, tmp_path: Path) -> None:
    """A full disk, or a machine that went down, may have left it."""
    local("down")
    (tmp_path / ".syncctl" / "redis" / "password").write_text("")
    again = local("up", "--json")
    assert again.exit_code == 0, again.stderr
    password = urlsplit(again.json["redis_url"]).password or ""
    assert len(password) == 48
    assert password != urlsplit(up["redis_url"]).password


def test_up_starts_only_what_is_down_on_its_last_port(
    up: dict[str, Any], local: Run, eventually: Callable[..., Any]
) -> None:
    before = find_pids(up)
    os.kill(before["redis"], signal.SIGKILL)
    down = eventually(lambda: (found := local("status", "--json")).exit_code == 1 and found, timeout=20)
    assert {service["name"]: service["up"] for service in down.json["services"]} == {
        "mongodb": True,
        "redis": False,
    }
    again = local("up", "--json")
    assert again.exit_code == 0, again.stderr
    assert {name: again.json[name] for name in ("mongo_url", "redis_url")} == {
        name: up[name] for name in ("mongo_url", "redis_url")
    }
    assert {service["name"]: service["started"] for service in again.json["services"]} == {
        "mongodb": False,
        "redis": True,
    }
    assert find_pids(again.json)["mongodb"] == before["mongodb"]


def test_stored_data_survives_down_and_up_on_other_ports(up: dict[str, Any], local: Run) -> None:
    with connect(up["mongo_url"]) as client:
        client.get_default_database().probe.insert_one({"_id": 1})
    down = local("down", "--json")
    assert down.exit_code == 0
    assert down.json == {"stopped": ["mongodb", "redis"], "wiped": False}
    status = local("status")
    assert status.exit_code == 1
    assert status.stdout.count("down") == 2

    again = local("up", *FREE, "--json").json
    assert again["mongo_url"] != up["mongo_url"]
    with connect(again["mongo_url"]) as client:
        assert client.get_default_database().probe.count_documents({}) == 1


def test_down_twice_and_a_status_without_servers_are_no_errors(local: Run) -> None:
    assert local("status").exit_code == 1
    down = local("down")
    assert down.exit_code == 0
    assert "neither is running" in down.stderr
    assert "syncctl local up" not in down.stderr
    assert down.stdout == ""


def test_without_a_terminal_wipe_asks_nothing_and_removes_nothing(
    up: dict[str, Any], local: Run, tmp_path: Path
) -> None:
    refused = local("down", "--wipe")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert local("status").exit_code == 0
    wiped = local("down", "--wipe", "--yes", "--json")
    assert wiped.exit_code == 0
    assert wiped.json["wiped"] is True
    assert not (tmp_path / ".syncctl").exists()


def test_wipe_leaves_other_files_alone(up: dict[str, Any], local: Run, tmp_path: Path) -> None:
    mine = tmp_path / ".syncctl" / "mine.txt"
    mine.write_text("mine")
    assert local("down", "--wipe", "--yes").exit_code == 0
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("flag", ["--mongo-port", "--redis-port"])
def test_a_taken_port_names_the_flag(local: Run, tmp_path: Path, flag: str) -> None:
    other = {"--mongo-port": "--redis-port", "--redis-port": "--mongo-port"}[flag]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        refused = local("up", flag, str(taken), other, "0")
    assert refused.exit_code == 2
    assert str(taken) in refused.stderr
    assert flag in refused.stderr
    assert refused.stdout == ""
    assert not list(tmp_path.rglob("*.pid"))


def test_a_server_that_runs_is_not_moved_to_another_port(up: dict[str, Any], local: Run) -> None:
    refused = local("up", "--redis-port", "1")
    assert refused.exit_code == 2
    assert "local down" in refused.stderr
    assert find_pids(local("status", "--json").json) == find_pids(up)


def test_another_programs_pid_is_never_signalled(
    up: dict[str, Any], local: Run, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    os.kill(find_pids(up)["redis"], signal.SIGKILL)
    eventually(lambda: local("status").exit_code == 1, timeout=20)
    pid_file = tmp_path / ".syncctl" / "redis" / "redis-server.pid"
    written = json.loads(pid_file.read_text())
    # Its command line even contains the server's name, but it works in another directory.
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "redis-server"], stdin=subprocess.PIPE
    ) as bystander:
        pid_file.write_text(json.dumps({**written, "pid": bystander.pid}))
        assert local("down").exit_code == 0
        assert bystander.poll() is None


def test_without_psutil_the_hint_is_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "syncctl.local.daemons", raising=False)
    with pytest.raises(ServiceUnavailable) as caught:
        importlib.import_module("syncctl.local.daemons")
    assert 'pip install "syncctl[local]"' in caught.value.hint


def test_two_at_once_do_not_start_two_pairs(tmp_path: Path, local: Run) -> None:
    import fcntl

    (tmp_path / ".syncctl").mkdir()
    with (tmp_path / ".syncctl" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = local("up", *FREE)
    assert refused.exit_code == 75
    assert "another syncctl local" in refused.stderr


def test_up_that_is_interrupted_leaves_nothing_running(
    tmp_path: Path, start_syncctl: Callable[..., Any], eventually: Callable[..., Any], local: Run
) -> None:
    # Redis is up by the time a mongod that never gets ready is waited for.
    slow = tmp_path / "bin" / "mongod"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"
    running = start_syncctl("local", "up", *FREE, "--save", cwd=tmp_path, env={"PATH": path})
    eventually((tmp_path / ".syncctl" / "mongodb" / "mongod.pid").exists)
    running.interrupt()
    assert running.wait() == 130
    assert local("status").exit_code == 1
    assert not list(tmp_path.rglob("*.pid"))


def test_up_says_how_to_keep_urls_that_the_settings_do_not_have(up: dict[str, Any], local: Run, tmp_path: Path) -> None:
    unknown = local("up")
    assert unknown.stderr.splitlines()[-1].startswith("next: syncctl local up --save,")
    (tmp_path / ".env").write_text(unknown.stdout)
    assert local("up").stderr.splitlines()[-1] == "next: syncctl init, or syncctl doctor"
    (tmp_path / ".env").write_text(unknown.stdout.replace(str(up["services"][0]["port"]), "1"))
    assert "set MONGO_URL in .env, which has other values" in local("up").stderr.splitlines()[-1]
