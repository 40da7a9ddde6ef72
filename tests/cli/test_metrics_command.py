"""`syncctl metrics` through the installed command."""

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.commands import Completed

Run = Callable[..., Completed]


def test_metrics_are_printed_as_prometheus_reads_them(run_syncctl: Run, settings_dir: Path) -> None:
    done = run_syncctl("metrics", cwd=settings_dir)
    assert (done.exit_code, done.stderr) == (0, "")
    names = {family.name for family in text_string_to_metric_families(done.stdout)}
    assert {"syncctl_ledger_up", "syncctl_records", "syncctl_records_logged"} <= names
    if (promtool := shutil.which("promtool")) is not None:
        command = [promtool, "check", "metrics"]
        checked = subprocess.run(command, input=done.stdout, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_a_ledger_that_is_away_is_a_metric_and_an_exit_code(
    run_syncctl: Run, make_settings: Callable[..., Path]
) -> None:
    directory = make_settings(mongo_url="mongodb://127.0.0.1:9/none")
    done = run_syncctl("metrics", cwd=directory)
    assert done.exit_code == 69
    assert "\nsyncctl_ledger_up 0.0\n" in done.stdout
    assert "\nsyncctl_redis_up 1.0\n" in done.stdout
    assert "syncctl_records" not in done.stdout
    assert "error: cannot reach MongoDB at 127.0.0.1:9" in done.stderr


def test_metrics_are_served_until_a_signal(
    start_syncctl: Callable[..., Any], settings_dir: Path, eventually: Callable[..., Any]
) -> None:
    served = start_syncctl("metrics", "--listen", "127.0.0.1:0", cwd=settings_dir)
    url = eventually(lambda: re.search(r"serving (http://\S+);", served.log))[1]
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert (answer.status, b"\nsyncctl_ledger_up 1.0\n" in answer.read()) == (200, True)


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x"])
def test_a_wrong_address_is_a_usage_error(run_syncctl: Run, settings_dir: Path, address: str) -> None:
    done = run_syncctl("metrics", "--listen", address, cwd=settings_dir)
    assert done.exit_code == 2
    assert "is not an address" in done.stderr
