"""The project: whoever stands in the wrong directory, or at another project's ledger, changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl.settings import load_settings
from tests.harness.settings_files import write_settings

Run = Callable[..., Any]
ACTING = (
    ("worker",),
    ("beat",),
    ("poll", "--once"),
    ("add", "2", "3"),
    ("cleanup", "--yes"),
    ("rewind", "orders", "--to", "beginning", "--yes"),
    ("pause", "orders"),
    ("resume", "orders"),
)


@pytest.mark.parametrize("args", ACTING, ids=" ".join)
def test_where_nothing_is_configured_nothing_is_changed(
    args: tuple[str, ...], run_syncctl: Run, tmp_path: Path
) -> None:
    done = run_syncctl(*args, cwd=tmp_path)
    assert done.exit_code == 2, done.stderr
    assert "nothing is configured" in done.stderr
    assert "--directory" in done.stderr


@pytest.mark.parametrize("args", [("worker",), ("beat",), ("cleanup", "--yes"), ("add", "2", "3")], ids=" ".join)
def test_a_ledger_of_another_project_is_left_alone(
    args: tuple[str, ...], run_syncctl: Run, make_settings: Callable[..., Path]
) -> None:
    directory = make_settings(project="erp")
    run_syncctl("poll", "--once", cwd=directory)
    (directory / ".env").write_text((directory / ".env").read_text().replace("PROJECT=erp", "PROJECT=shop"))
    done = run_syncctl(*args, cwd=directory)
    assert done.exit_code == 2, done.stderr
    assert "belongs to 'erp'" in done.stderr
    assert 'set project = "erp"' in done.stderr


def test_celerys_own_command_refuses_too(make_settings: Callable[..., Path], run_syncctl: Run) -> None:
    import subprocess
    import sys

    from tests.harness.commands import clean_environment

    directory = make_settings(project="erp")
    run_syncctl("poll", "--once", cwd=directory)
    (directory / ".env").write_text((directory / ".env").read_text().replace("PROJECT=erp", "PROJECT=shop"))
    for program in ("worker", "beat"):
        command = [sys.executable, "-m", "celery", "-A", "syncctl.celery_app", program]
        done = subprocess.run(
            command, cwd=directory, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "project.refused" in done.stderr + done.stdout


def test_the_keys_in_redis_bear_the_projects_name_unless_it_is_the_default(
    run_syncctl: Run, make_settings: Callable[..., Path], redis_url: str, redis_prefix: str, tmp_path: Path
) -> None:
    directory = make_settings(project="erp")
    run_syncctl("add", "2", "3", "--timeout", "1s", cwd=directory)
    with Redis.from_url(redis_url) as redis:
        assert redis.llen(f"{redis_prefix}:erp:control") == 1
    for database, project, namespace in (
        ("celery_logs", "", "syncctl:"),
        ("ledger", "", "syncctl:ledger:"),
        ("ledger", "erp", "syncctl:erp:"),
        ("ledger", "celery_logs", "syncctl:"),
    ):
        home = write_settings(
            tmp_path / f"{database}{project}",
            mongo_url=f"mongodb://127.0.0.1:1/{database}",
            redis_url="redis://127.0.0.1:1/0",
            source_url="sqlite:///x",
            partner_url="http://127.0.0.1:1",
            project=project,
        )
        assert load_settings(directory=home, environment={}).redis_namespace == namespace


def test_two_workers_of_one_machine_have_two_names(
    start_syncctl: Callable[..., Any], run_syncctl: Run, settings_dir: Path, eventually: Callable[..., Any]
) -> None:
    options = (
        ("--pool", "solo"),
        ("--pool", "solo"),
        ("--pool", "solo", "--name", "a"),
        ("--pool", "solo", "--name", "a"),
    )
    workers = [start_syncctl("worker", *option, cwd=settings_dir) for option in options]

    def find_all() -> bool:
        shown = run_syncctl("status", "--json", cwd=settings_dir).json["workers"]
        return {worker["pid"] for worker in shown} == {worker.pid for worker in workers}

    eventually(find_all, 60)
