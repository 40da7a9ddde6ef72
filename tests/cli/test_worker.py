"""`syncctl worker` and `syncctl beat`: how they start, log and stop."""

import json
import os
import signal as signals
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.harness.process_groups import group_members
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
Start = Callable[..., Any]
Eventually = Callable[..., Any]


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that takes two seconds for each call."""
    with MockPartner(PartnerConfig(latency_seconds=2.0)) as server:
        yield server


@pytest.mark.parametrize("signal", ["interrupt", "terminate"])
@pytest.mark.parametrize("args", [("worker",), ("worker", "--pool", "threads", "--beat"), ("beat",)], ids=" ".join)
def test_a_graceful_stop_is_exit_code_0(
    args: tuple[str, ...],
    signal: str,
    run_syncctl: Run,
    start_syncctl: Start,
    settings_dir: Path,
    eventually: Eventually,
) -> None:
    command = start_syncctl(*args, cwd=settings_dir)
    if args == ("beat",):
        eventually(lambda: run_syncctl("status", "--json", cwd=settings_dir).json["beat"]["last_tick_at"])
    else:
        command.wait_for_log("ready")
    getattr(command, signal)()
    assert command.wait() == 0, command.log


@pytest.mark.parametrize("how", [("interrupt",), ("hang_up",), ("interrupt", "hang_up"), ("terminate", "hang_up")])
def test_the_first_ctrl_c_and_a_terminal_that_closes_let_calls_end(
    how: tuple[str, ...],
    run_syncctl: Run,
    start_syncctl: Start,
    settings_dir: Path,
    source_db: SourceDb,
    partner: MockPartner,
    eventually: Eventually,
) -> None:
    source_db.create_orders(2)
    run_syncctl("poll", "--once", cwd=settings_dir)
    worker = start_syncctl("worker", "--concurrency", "2", cwd=settings_dir)
    eventually(partner.calls)
    for number, act in enumerate(how):
        if number:
            worker.wait_for_log("press Ctrl-C again to stop at once")
        getattr(worker, act)()
    assert worker.wait() == 0, worker.log
    counts = run_syncctl("status", "--json", cwd=settings_dir).json["streams"][0]["counts"]
    assert counts["sending"] == 0
    assert counts["delivered"] == len(partner.rows()) > 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_the_second_ctrl_c_stops_at_once(
    pool: str,
    run_syncctl: Run,
    start_syncctl: Start,
    settings_dir: Path,
    source_db: SourceDb,
    partner: MockPartner,
    eventually: Eventually,
) -> None:
    source_db.create_orders(2)
    run_syncctl("poll", "--once", cwd=settings_dir)
    worker = start_syncctl("worker", "--pool", pool, cwd=settings_dir)
    eventually(partner.calls)
    worker.interrupt()
    worker.wait_for_log("press Ctrl-C again to stop at once")
    worker.interrupt()
    assert worker.wait() == 130
    counts = run_syncctl("status", "--json", cwd=settings_dir).json["streams"][0]["counts"]
    assert counts["sending"] > 0


def test_beat_within_a_worker_ends_with_it_also_if_the_worker_is_killed(
    start_syncctl: Start, settings_dir: Path, eventually: Eventually
) -> None:
    """Else it would send ticks for ever, by settings that may have changed since."""
    worker = start_syncctl("worker", "--beat", cwd=settings_dir)
    worker.wait_for_log("ready.")
    os.kill(worker.pid, signals.SIGKILL)
    eventually(lambda: group_members(worker.pid) == [], 60)
    assert '"action": "beat.worker_gone"' in worker.log


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_beat_within_a_worker_is_started_again_if_it_is_killed(
    pool: str, start_syncctl: Start, settings_dir: Path, mongo_database: Any, eventually: Eventually
) -> None:
    """Else nothing is polled or retried any more, and no service manager notices: the worker still runs."""
    worker = start_syncctl("worker", "--beat", "--pool", pool, cwd=settings_dir)
    killed = [None]
    for _ in range(2):
        running = eventually(lambda: mongo_database.beat.find_one({"_id": "beat", "pid": {"$nin": killed}}), 60)
        os.kill(running["pid"], signals.SIGKILL)
        killed.append(running["pid"])
    eventually(lambda: mongo_database.beat.find_one({"_id": "beat", "pid": {"$nin": killed}}), 60)
    assert worker.log.count('"action": "beat.started_again"') == 2
    worker.terminate()
    assert worker.wait() == 0, worker.log
    assert group_members(worker.pid) == []


def test_beat_alone_goes_on_without_the_process_that_started_it(
    settings_dir: Path, mongo_database: Any, tmp_path: Path, eventually: Eventually
) -> None:
    log = tmp_path / "beat.log"
    with log.open("w") as output:
        shell = subprocess.run(
            ["sh", "-c", f"{Path(sys.executable).parent / 'syncctl'} beat > /dev/null & echo $!"],
            cwd=settings_dir, stdout=subprocess.PIPE, stderr=output, text=True, check=True, start_new_session=True,
        )  # fmt: skip
    pid = int(shell.stdout)
    try:
        first = eventually(mongo_database.beat.find_one, 60)
        eventually(lambda: mongo_database.beat.find_one()["at"] > first["at"], 60)
    finally:
        os.kill(pid, signals.SIGTERM)


@pytest.mark.parametrize("forced", ["", "1"])
def test_without_a_terminal_every_log_line_is_json_with_an_action(
    forced: str, start_syncctl: Start, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(1)
    environment = {"C_FORCE_ROOT": forced}
    worker = start_syncctl("worker", "--pool", "threads", "--beat", cwd=settings_dir, env=environment)
    worker.wait_for_log('"action": "poll"')
    lines = [line for line in worker.log.splitlines() if line]
    worker.terminate()
    assert worker.wait() == 0
    assert json.loads(lines[0])["action"] == "worker.start"
    for line in lines[:-1]:
        assert {"at", "level", "action"} <= set(json.loads(line)), line
    warnings = [json.loads(line) for line in lines[:-1] if "uperuser" in line]
    expected = ["worker.superuser"] if os.geteuid() == 0 and not forced else []
    assert [line["action"] for line in warnings] == expected


def test_a_worker_without_a_ledger_says_so_at_once(start_syncctl: Start, settings_dir: Path) -> None:
    worker = start_syncctl("worker", "--pool", "solo", cwd=settings_dir, env={"MONGO_URL": "mongodb://127.0.0.1:1/x"})
    worker.wait_for_log("worker.ledger_away")
    # The heartbeat, which gives the ledger the full time of an operation, comes later.
    assert "heartbeat.failed" not in worker.log.partition("worker.ledger_away")[0]
    assert "cannot reach MongoDB at 127.0.0.1:1: connection refused" in worker.log
