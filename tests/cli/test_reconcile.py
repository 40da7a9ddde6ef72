"""`syncctl reconcile`: differences, repairs, exit codes, and how much memory it takes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_changes import answer
from tests.harness.commands import clean_environment
from tests.harness.json_pages import describes, keys_of, read_page
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
ROWS = 30
CHANGES = ("update orders set note = 'changed' where id in (4, 5)", "delete from orders where id = 6")


def test_a_source_that_agrees_is_exit_code_0(run_syncctl: Run, polled: Path) -> None:
    result = run_syncctl("reconcile", "orders", cwd=polled)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {line.split()[0] for line in result.stdout.splitlines()}
    assert {"accounted", "ahead", "missing", "stale", "extra"} <= rows


def test_differences_are_exit_code_1_and_the_next_command_is_named(
    run_syncctl: Run, polled: Path, source_db: SourceDb
) -> None:
    for change in CHANGES:
        source_db.execute(change)
    result = run_syncctl("reconcile", "orders", cwd=polled)
    assert result.exit_code == 1
    assert "id=4; id=5" in result.stdout or "id=5; id=4" in result.stdout
    assert "next: syncctl reconcile orders --repair" in result.stderr
    assert "extra rows are not changed: 1" in result.stderr


def test_a_repair_is_asked_for_and_done(run_syncctl: Run, polled: Path, source_db: SourceDb) -> None:
    for change in CHANGES:
        source_db.execute(change)
    refused = run_syncctl("reconcile", "orders", "--repair", cwd=polled)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    plan = run_syncctl("reconcile", "orders", "--repair", "--dry-run", "--json", cwd=polled)
    assert (plan.exit_code, plan.json["stale"], plan.json["repaired"]) == (1, 2, 0)
    done = run_syncctl("reconcile", "orders", "--repair", "--yes", "--json", cwd=polled)
    # The deleted row is left: whether the partner is to lose it, a repair does not decide.
    assert (done.exit_code, done.json["stale"], done.json["extra"], done.json["repaired"]) == (1, 2, 1, 2)
    again = run_syncctl("reconcile", "orders", "--json", cwd=polled)
    assert (again.json["accounted"], again.json["stale"], again.json["extra"]) == (ROWS - 1, 0, 1)
    source_db.add_orders([6])
    source_db.execute(CHANGES[0].replace("changed", "once more"))
    mended = run_syncctl("reconcile", "orders", "--repair", "--yes", cwd=polled)
    assert mended.exit_code == 0
    assert "logged 2 rows; next: syncctl status" in mended.stderr


def test_on_a_terminal_a_repair_shows_what_it_found_and_asks_with_the_count(
    run_syncctl: Run, polled: Path, source_db: SourceDb
) -> None:
    for change in CHANGES:
        source_db.execute(change)
    code, shown = answer("n", "reconcile", "orders", "--repair", cwd=polled)
    assert code == 1
    assert shown.index("with different content: id=") < shown.index("log and send 2 rows of orders? [y/N]")
    assert shown.rstrip().endswith("nothing was changed")
    code, shown = answer("y", "reconcile", "orders", "--repair", cwd=polled)
    assert (code, shown.count("with different content")) == (1, 1)
    assert "logged 2 rows" in shown


def test_its_json_is_what_the_page_says(run_syncctl: Run, polled: Path, source_db: SourceDb) -> None:
    for change in CHANGES:
        source_db.execute(change)
    result = run_syncctl("reconcile", "orders", "--json", cwd=polled)
    page, keys = read_page()["reconcile"], keys_of(result.json)
    assert {key for key in keys if not any(describes(known, key) for known in page)} == set()
    assert {known for known in page if "*" not in known} - keys == set()


def test_flags_that_make_no_sense_are_refused(run_syncctl: Run, polled: Path) -> None:
    for args in (("orders", "--dry-run"), ("orders", "--since", "yesterday"), ("nope",)):
        result = run_syncctl("reconcile", *args, cwd=polled)
        assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_does_not_grow_with_the_rows(settings_dir: Path, run_syncctl: Run, source_db: SourceDb) -> None:
    """60,000 rows, each of them unknown to the ledger and half a kilobyte wide: 30 MB that must not pile up."""
    source_db.create_orders()
    peaks = []
    for first, last in ((1, 2_000), (2_001, 60_000)):
        source_db.add_orders(range(first, last + 1), note="x" * 512)
        peaks.append(_peak_kilobytes(settings_dir))
    assert peaks[1] - peaks[0] < 25_000, peaks


def _peak_kilobytes(directory: Path) -> int:
    """Return the most memory that a reconciliation had at a time."""
    command = [sys.executable, "-c", _MEASURED]
    with subprocess.Popen(command, cwd=directory, env=clean_environment(), stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        return int(popen.stdout.read().split()[-1])


_MEASURED = """
import resource
from syncctl.cli import run
assert run(["reconcile", "orders", "--json"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
