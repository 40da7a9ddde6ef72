"""`syncctl poll` as an operator and a script see it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.ledger.ledger import Ledger
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from syncctl.settings import load_settings
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
Start = Callable[..., Any]
Eventually = Callable[..., Any]


def test_a_poll_logs_rows_once_and_says_so(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    first = run_syncctl("poll", "orders", "--once", "--json", cwd=settings_dir)
    assert (first.exit_code, first.stderr) == (0, "")
    run = first.json["runs"][0]
    assert (run["stream"], run["read"], run["logged"], run["failed"], run["error"]) == ("orders", 3, 3, 0, None)
    assert (run["cursor_before"], run["cursor_after"]) == (None, "3")
    again = run_syncctl("poll", "--once", "--json", cwd=settings_dir).json["runs"][0]
    assert (again["logged"], again["cursor_before"], again["cursor_after"]) == (0, "3", "3")


def test_a_person_sees_a_table_and_the_next_command(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    result = run_syncctl("poll", "--once", cwd=settings_dir)
    assert result.stdout.splitlines()[0].split()[:5] == ["STREAM", "READ", "LOGGED", "UNCHANGED", "FAILED"]
    assert result.stdout.splitlines()[1].split()[:5] == ["orders", "3", "3", "0", "0"]
    assert result.stderr == "next: syncctl status\n"


def test_a_row_that_cannot_be_encoded_is_exit_code_1(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set amount = 9e999 where id = 2")
    result = run_syncctl("poll", "--once", "--json", cwd=settings_dir)
    run = result.json["runs"][0]
    assert (result.exit_code, run["logged"], run["failed"]) == (1, 3, 1)


def test_a_table_that_is_missing_is_exit_code_1_and_the_runs_error(run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("poll", "--once", "--json", cwd=settings_dir)
    assert result.exit_code == 1
    assert "orders" in result.json["runs"][0]["error"]
    assert result.stderr.startswith("error: cannot poll stream orders\n  cause: ")


def test_without_redis_rows_are_logged_with_a_warning(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(3)
    result = run_syncctl("poll", "--once", "--json", cwd=settings_dir, env={"REDIS_URL": "redis://localhost:1/0"})
    run = result.json["runs"][0]
    assert (result.exit_code, run["logged"], run["dispatched"]) == (0, 3, 0)
    assert result.stderr.startswith("warning: ")
    assert "localhost:1" in result.stderr


def test_a_poll_that_another_process_runs_is_exit_code_75(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(3)
    run_syncctl("poll", "--once", cwd=settings_dir)
    settings = load_settings(directory=settings_dir)
    with Ledger(settings.mongo_url, settings.mongo_database) as ledger:
        assert ledger.polls.acquire("orders", seconds=3600, worker="somebody else")
    result = run_syncctl("poll", "--once", cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (75, "")
    assert len(result.stderr.splitlines()) == 3


def test_a_poll_goes_on_until_ctrl_c(
    start_syncctl: Start, settings_dir: Path, source_db: SourceDb, eventually: Eventually
) -> None:
    source_db.create_orders(3)
    poll = start_syncctl("poll", cwd=settings_dir)
    poll.wait_for_log("orders read=3 logged=3")
    source_db.add_orders(range(4, 6))
    poll.wait_for_log("logged=2")
    poll.interrupt()
    assert poll.wait() == 130


def test_sigterm_stops_a_poll_too(start_syncctl: Start, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    poll = start_syncctl("poll", cwd=settings_dir)
    poll.wait_for_log("logged=1")
    poll.terminate()
    assert poll.wait() == 143


@pytest.mark.parametrize("service", ["redis", "mongodb"])
def test_a_poll_outlives_a_service_that_is_away(
    service: str,
    start_syncctl: Start,
    make_settings: Callable[..., Path],
    own_mongod: Mongod,
    own_redis: RedisServer,
    source_db: SourceDb,
) -> None:
    source_db.create_orders(1)
    directory = make_settings(
        mongo_url=own_mongod.url("celery_logs"), redis_url=own_redis.url(), partner_url="http://localhost:1"
    )
    poll = start_syncctl("poll", cwd=directory)
    poll.wait_for_log("logged=1")
    server: Mongod | RedisServer = own_redis if service == "redis" else own_mongod
    server.kill()
    source_db.add_orders([2])
    poll.wait_for_log("warning:", timeout=60)
    server.start()
    source_db.add_orders([3])
    poll.wait_for_log("cursor=3", timeout=60)
