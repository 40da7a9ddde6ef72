"""`syncctl add`: the round trip, and which hop broke."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Start = Callable[..., Any]


def test_numbers_come_back_as_they_are(run_syncctl: Run, start_syncctl: Start, settings_dir: Path) -> None:
    start_syncctl("worker", "--pool", "solo", "--name", "adder", cwd=settings_dir)
    for x, y, total in (("2", "3", 5), ("-2", "0.5", -1.5), ("-3", "-4", -7), ("0.1", "-.1", 0.0)):
        result = run_syncctl("add", x, y, "--timeout", "30s", "--json", cwd=settings_dir)
        assert result.exit_code == 0, result.stderr
        assert result.json["sum"] == total
        assert type(result.json["sum"]) is type(total)
        assert (result.json["x"], result.json["y"]) == (float(x), float(y))
        assert result.json["worker"].startswith("adder@")
    shown = run_syncctl("add", "2", "3", cwd=settings_dir)
    assert shown.stdout == "2 + 3 = 5\n"
    assert "worker adder@" in shown.stderr


def test_without_a_worker_it_names_that_hop_and_the_fix(run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("add", "2", "3", "--timeout", "1s", cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (69, "")
    error, _, hint = result.stderr.splitlines()
    assert "worker" in error
    assert "syncctl worker" in hint


@pytest.mark.parametrize("url", ["redis://localhost:1/0", "redis://:hunter2secret@localhost:1/0"])
def test_without_a_broker_it_names_that_hop(url: str, run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("add", "2", "3", cwd=settings_dir, env={"REDIS_URL": url})
    assert (result.exit_code, result.stdout) == (69, "")
    assert "broker" in result.stderr.splitlines()[0]
    assert "localhost:1" in result.stderr
    assert "hunter2secret" not in result.stderr


def test_a_worker_of_other_queues_takes_nothing(run_syncctl: Run, start_syncctl: Start, settings_dir: Path) -> None:
    start_syncctl("worker", "--pool", "solo", "--queues", "deliver", cwd=settings_dir).wait_for_log("ready")
    result = run_syncctl("add", "2", "3", "--timeout", "2s", cwd=settings_dir)
    assert result.exit_code == 69
    assert "worker" in result.stderr.splitlines()[0]
