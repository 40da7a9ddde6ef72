"""`syncctl health`: the heartbeats of this machine, and the exit code that says whether a restart would help."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.ledger.heartbeats import Heartbeats
from tests.harness.commands import Completed
from tests.harness.passing_time import PAST
from tests.harness.settings_files import NOWHERE

Run = Callable[..., Completed]
HOST = socket.gethostname()


@pytest.fixture
def heartbeats(mongo_database: Any) -> Heartbeats:
    """The heartbeats of the ledger of `settings_dir`: a worker and a Beat of another machine have sent one."""
    heartbeats = Heartbeats(mongo_database, "")
    heartbeats.record_worker("worker-1@elsewhere", {"host": "elsewhere", "pid": 1})
    heartbeats.record_beat({"pid": 2}, name="elsewhere:2")
    return heartbeats


def test_each_process_is_told_by_its_own_heartbeat(
    run_syncctl: Run, settings_dir: Path, heartbeats: Heartbeats, mongo_database: Any
) -> None:
    none = run_syncctl("health", cwd=settings_dir)
    assert (none.exit_code, none.stdout) == (1, "")
    assert f"no worker or Beat of {HOST} has sent a heartbeat within 1m" in none.stderr
    heartbeats.record_worker(f"worker-1@{HOST}", {"host": HOST, "pid": 1})
    assert run_syncctl("health", cwd=settings_dir).exit_code == 0
    assert run_syncctl("health", "worker", cwd=settings_dir).stdout.startswith(f"worker worker-1@{HOST}: ")
    silent = run_syncctl("health", "beat", "--json", cwd=settings_dir)
    assert (silent.exit_code, silent.json["ok"], silent.json["processes"]) == (1, False, [])
    heartbeats.record_beat({"pid": 2}, name=f"{HOST}:2")
    assert [
        process["process"] for process in run_syncctl("health", "beat", "--json", cwd=settings_dir).json["processes"]
    ] == [f"{HOST}:2"]
    mongo_database.workers.update_one({"_id": f"worker-1@{HOST}"}, {"$set": {"at": PAST}})
    old = run_syncctl("health", "worker", cwd=settings_dir)
    assert old.exit_code == 1
    assert "cause: the last one was " in old.stderr


def test_where_a_restart_would_not_help_the_exit_code_says_so(
    run_syncctl: Run, make_settings: Callable[..., Path]
) -> None:
    without_mongodb = run_syncctl("health", cwd=make_settings(mongo_url="mongodb://127.0.0.1:9/none"))
    assert without_mongodb.exit_code == 69
    without_redis = run_syncctl("health", "worker", cwd=make_settings(redis_url=NOWHERE["redis_url"]))
    assert without_redis.exit_code == 69
    assert "Redis" in without_redis.stderr
