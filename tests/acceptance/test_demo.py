"""`syncctl demo`: the account is exact, and nothing is left behind, however it ends."""

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mongod import find_mongod
from syncctl.local.redis_server import find_redis_server
from tests.harness.commands import Completed, RunningCommand
from tests.harness.json_pages import describes, keys_of, read_page

Run = Callable[..., Completed]
Start = Callable[..., RunningCommand]
Eventually = Callable[..., Any]

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]
PATIENCE = 240.0
ELSEWHERE = {
    "MONGO_URL": "mongodb://127.0.0.1:1/somebody_elses",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "PARTNER_URL": "http://127.0.0.1:1",
    "STREAMS__ORDERS__TABLE": "somebody_elses",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory in which the demo makes its own, and in whose name its processes are found."""
    for find in (find_mongod, find_redis_server):
        find()
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def find_processes(home: Path) -> list[str]:
    """Return the command lines of the processes that live in a demo's temporary directory."""
    mark = f"TMPDIR={home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def find_child(parent: int, words: str) -> int:
    """Return the pid of a process's child by words of its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(fields[1]) == parent and words in command:
            return int(process.name)
    raise AssertionError(f"process {parent} has no child {words}")


def is_clean(home: Path) -> bool:
    """Return whether neither a process nor a file is left."""
    return not find_processes(home) and not list(home.iterdir())


@pytest.fixture
def start_demo(start_syncctl: Start, home: Path) -> Callable[[], RunningCommand]:
    """Start a demo and wait until rows have arrived at the partner."""

    def start() -> RunningCommand:
        command = start_syncctl("demo", "--rows", "5000", "--json", cwd=home, env={"TMPDIR": str(home)})
        command.wait_for_log("delivered", timeout=PATIENCE)
        assert any("mongod" in process for process in find_processes(home))
        return command

    return start


def test_the_account_of_the_demo_is_exact(run_syncctl: Run, home: Path, eventually: Eventually) -> None:
    result = run_syncctl(
        "demo", "--rows", "300", "--json", cwd=home, env={**ELSEWHERE, "TMPDIR": str(home)}, timeout=PATIENCE
    )
    assert result.exit_code == 0, result.stderr
    account = result.json
    assert account["exact"] is True
    assert account["differences"] == []
    assert account["rows"] == account["source_rows"] == account["delivered"] == 300
    assert account["lost"] == account["stale"] == account["extra"] == account["unfinished"] == 0
    assert account["violations"] == account["duplicated_effects"] == 0
    assert account["failed_before_fix"] == account["replayed"] + account["overtaken"] > 0
    assert account["distinct_keys"] >= 300
    # A partner that fails must be called again, and says so itself.
    assert account["calls"] == sum(account["answers"].values()) > account["distinct_keys"]
    assert account["repeated_calls"] > 0
    assert "starting MongoDB and Redis" in result.stderr
    assert "syncctl init" in result.stderr.splitlines()[-2]
    eventually(lambda: is_clean(home), timeout=30)
    assert account["documents"] is None
    documented = read_page()["demo"]
    assert all(any(describes(known, key) for known in documented) for key in keys_of(account))
    assert {key for key in documented if not key.startswith("documents.")} <= keys_of(account) | {"answers.*"}


def test_documents_arrive_whole_and_once_and_bring_their_ids_back(
    run_syncctl: Run, home: Path, eventually: Eventually
) -> None:
    options = ("--documents", "--rows", "150", "--fail", "0.3", "--json")
    environment = {**ELSEWHERE, "TMPDIR": str(home)}
    result = run_syncctl("demo", *options, cwd=home, env=environment, timeout=PATIENCE)
    assert result.exit_code == 0, result.stderr
    account, documents = result.json, result.json["documents"]
    assert account["exact"] is True
    assert account["rows"] == account["source_rows"] == account["delivered"] == 150
    assert account["lost"] == account["stale"] == account["extra"] == account["unfinished"] == 0
    assert account["violations"] == account["duplicated_effects"] == documents["created_twice"] == 0
    assert documents["created"] == documents["written_back"] == 150 < documents["lines"]
    # Answers were lost of orders that the partner had created, and it ignores the Idempotency-Key.
    assert account["answers"]["cut_after_applied"] > 0
    assert documents["lookups"] > documents["found"] > 0
    assert account["answers"]["found"] == documents["found"]
    assert account["calls"] == sum(account["answers"].values())
    assert read_page()["demo"] <= keys_of(account) | {"answers.*"}
    assert "150 ids written back" in result.stderr
    eventually(lambda: is_clean(home), timeout=30)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_stopped_leaves_nothing(
    start_demo: Callable[[], RunningCommand],
    home: Path,
    eventually: Eventually,
    number: signal.Signals,
    exit_code: int,
) -> None:
    demo = start_demo()
    os.kill(demo.pid, number)
    assert demo.wait(timeout=60) == exit_code
    eventually(lambda: is_clean(home), timeout=30)


def test_a_demo_that_is_killed_leaves_nothing(
    start_demo: Callable[[], RunningCommand], home: Path, eventually: Eventually
) -> None:
    demo = start_demo()
    os.kill(demo.pid, signal.SIGKILL)
    assert demo.wait(timeout=60) == -signal.SIGKILL
    eventually(lambda: is_clean(home), timeout=60)


def test_a_worker_that_dies_is_an_error_with_its_last_words(
    start_demo: Callable[[], RunningCommand], home: Path, eventually: Eventually
) -> None:
    demo = start_demo()
    os.kill(find_child(demo.pid, "syncctl worker"), signal.SIGKILL)
    assert demo.wait(timeout=60) == 1
    error = json.loads(demo.log.splitlines()[-1])["error"]
    assert error["what"] == "the demo's worker ended unexpectedly, killed by SIGKILL"
    assert error["why"].startswith("its last line: 20")
    assert "| 20" in demo.log
    eventually(lambda: is_clean(home), timeout=30)


def test_a_directory_that_is_kept_can_be_looked_at(run_syncctl: Run, home: Path) -> None:
    environment = {"TMPDIR": str(home)}
    result = run_syncctl("demo", "--rows", "50", "--keep", cwd=home, env=environment, timeout=PATIENCE)
    assert result.exit_code == 0, result.stderr
    assert "exact: 50 rows, none lost, none stale" in result.stdout
    assert find_processes(home) == []
    up, status = (
        shlex.split(match)[1:] for match in re.findall(r"syncctl -C \S+ (?:local up.*|status)", result.stderr)
    )
    try:
        assert run_syncctl(*up, cwd=home).exit_code == 0
        shown = run_syncctl(*status, "--json", cwd=home)
        assert shown.json["streams"][0]["counts"]["delivered"] >= 50
    finally:
        run_syncctl(*up[:2], "local", "down", cwd=home)


def test_a_server_that_does_not_start_is_an_error_with_a_hint(run_syncctl: Run, home: Path) -> None:
    broken = home / "bin"
    broken.mkdir()
    (broken / "mongod").write_text(f"#!{sys.executable}\nraise SystemExit('no such disk')\n")
    (broken / "mongod").chmod(0o755)
    environment = {"TMPDIR": str(home), "PATH": f"{broken}:{os.environ['PATH']}"}
    result = run_syncctl("demo", "--json", cwd=home, env=environment)
    assert result.exit_code == 69
    assert result.stdout == ""
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert error["what"].startswith("cannot start mongod")
    assert error["hint"]
    assert find_processes(home) == []
    assert list(home.iterdir()) == [broken]
