"""`syncctl upgrade`, and what an earlier syncctl does with a ledger that a newer one has changed."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.ledger.migrations import VERSION
from tests.harness.earlier_ledgers import DATA, NAMES, EarlierLedger, read_ledger
from tests.harness.settings_files import BEAT

Run = Callable[..., Any]
ROWS = 3
COMMANDS = (
    ("status",),
    ("report",),
    ("show", "orders", "1"),
    ("poll", "--once"),
    ("replay", "--yes"),
    ("upgrade",),
    ("upgrade", "--check"),
    ("worker",),
    ("beat",),
)


def _let_a_newer_one_change_it(database: Any, *, oldest: int = VERSION + 1) -> None:
    written = {"version": VERSION + 1, "oldest": oldest, "by": "syncctl 9.1.0"}
    database.project.update_one({"_id": "schema"}, {"$set": written}, upsert=True)


def test_an_older_ledger_is_upgraded_once(run_syncctl: Run, settings_dir: Path, mongo_database: Any) -> None:
    read_ledger("ledger-first").restore(mongo_database)
    assert "run: syncctl upgrade" in run_syncctl("doctor", "mongodb ledger", cwd=settings_dir).stdout
    check = run_syncctl("upgrade", "--check", cwd=settings_dir)
    assert check.exit_code == 1, check.stderr
    assert "6 documents to change" in check.stdout
    assert mongo_database.records.count_documents({"in_flight": True}) == 6
    done = run_syncctl("upgrade", cwd=settings_dir)
    assert done.exit_code == 0, done.stderr
    assert f"the ledger has version {VERSION} now, and had 0: 12 documents changed" in done.stdout
    again = run_syncctl("upgrade", "--check", cwd=settings_dir)
    assert (again.exit_code, "nothing to do" in again.stdout) == (0, True)
    (entry,) = run_syncctl("audit", "--action", "upgrade", "--json", cwd=settings_dir).json["entries"]
    assert (entry["count"], entry["detail"]) == (12, {"version_before": 0, "version": VERSION})
    # Entries of before ends were noted had ended.
    assert all(entry["ended_at"] for entry in run_syncctl("audit", "--json", cwd=settings_dir).json["entries"])


@pytest.fixture(params=NAMES)
def earlier(request: pytest.FixtureRequest, make_settings: Callable[..., Path], mongo_database: Any) -> EarlierLedger:
    """What an earlier version wrote, upgraded, with the settings and the tables of then."""
    found = read_ledger(request.param)
    found.restore(mongo_database)
    directory = make_settings()
    shutil.copy(DATA / "syncctl.toml", directory)
    found.write_source(directory / "erp.db")
    with (directory / ".env").open("a") as file:
        file.write(f"SOURCE_URL=sqlite:///{directory}/erp.db\n")
    return found


def test_operators_work_with_what_an_earlier_version_wrote(
    run_syncctl: Run, earlier: EarlierLedger, tmp_path: Path, mongo_database: Any
) -> None:
    directory = tmp_path / "settings"

    def read(*args: str, exit_code: int = 0) -> Any:
        done = run_syncctl(*args, "--json", cwd=directory)
        assert done.exit_code == exit_code, (args, done.stderr)
        return done.json

    records = {record["_id"]: record for record in earlier.documents["records"]}
    states = Counter(record["state"] for record in records.values())
    listed = {record["id"]: record["state"] for record in read("records", "--limit", "1000")["records"]}
    assert listed.keys() == records.keys()
    assert sum(group["count"] for group in read("failures", exit_code=1)["groups"]) >= states["failed"]
    for state in ("delivered", "superseded"):
        record = next(record for record in records.values() if record["state"] == state)
        (shown,) = read("show", record["_id"])["records"]
        assert shown["state"] == listed[record["_id"]]
        assert len(shown["history"]) == len(record.get("history", []))
    failed = [record for record in records.values() if record["state"] == "failed" and record["stream"] == "orders"]
    story = read("show", "orders", str(next(iter(failed[0]["key"].values()))))
    assert failed[0]["_id"] in [version["id"] for version in story["records"]]

    replayed = read("replay", "--stream", "orders", "--yes")
    assert replayed["replayed"] == len(failed)
    assert mongo_database.records.count_documents({"stream": "orders", "state": "failed"}) == 0
    given_up = read("discard", failed[0]["_id"], "--reason", "obsolete", "--yes")
    assert given_up["discarded"] == 1
    kept = directory / "syncctl.toml"
    kept.write_text(kept.read_text().replace('superseded = "3650d"', 'superseded = "1h"'))
    cleaned = read("cleanup", "--yes")
    assert cleaned["deleted"]["superseded"] == states["superseded"]
    assert mongo_database.records.count_documents({}) == len(records) - states["superseded"]
    assert {"upgrade", "replay", "discard", "cleanup"} <= {entry["action"] for entry in read("audit")["entries"]}


def test_whatever_could_misread_a_newer_ledger_is_refused(run_syncctl: Run, polled: Path, mongo_database: Any) -> None:
    _let_a_newer_one_change_it(mongo_database)
    for command in COMMANDS:
        refused = run_syncctl(*command, cwd=polled)
        assert refused.exit_code == 2, (command, refused.stderr)
        assert f"knows versions up to {VERSION}" in refused.stderr, command
        assert "syncctl 9.1.0" in refused.stderr, command
    doctor = run_syncctl("doctor", "mongodb ledger", cwd=polled)
    assert doctor.exit_code == 1
    assert "syncctl 9.1.0" in doctor.stdout


def test_a_newer_ledger_that_only_adds_is_used(run_syncctl: Run, polled: Path, mongo_database: Any) -> None:
    _let_a_newer_one_change_it(mongo_database, oldest=VERSION)
    assert run_syncctl("status", cwd=polled).exit_code == 0
    assert run_syncctl("poll", "--once", cwd=polled).exit_code == 0
    assert run_syncctl("upgrade", "--check", cwd=polled).exit_code == 0
    doctor = run_syncctl("doctor", "mongodb ledger", cwd=polled)
    assert "! warn" in doctor.stdout


@pytest.mark.timeout(240)
def test_workers_beat_and_polls_end_when_a_newer_syncctl_has_changed_the_ledger(
    run_syncctl: Run,
    start_syncctl: Callable[..., Any],
    make_settings: Callable[..., Path],
    mongo_database: Any,
    eventually: Callable[..., Any],
) -> None:
    directory = make_settings(sections={"beat": BEAT, "worker": {"concurrency": 1}})
    worker = start_syncctl("worker", "--pool", "threads", cwd=directory)
    beat = start_syncctl("beat", cwd=directory)
    poll = start_syncctl("poll", cwd=directory)
    poll.wait_for_log("polling orders", timeout=90)
    eventually(lambda: mongo_database.workers.find_one() and mongo_database.beat.find_one({"_id": "beat"}), timeout=90)
    status = run_syncctl("status", "--json", cwd=directory).json
    assert (status["workers"][0]["ledger_differs"], status["beat"]["ledger_differs"]) == (False, False)
    _let_a_newer_one_change_it(mongo_database)
    for process in (worker, beat, poll):
        assert process.wait(timeout=90) == 2, process.log
        assert f"knows versions up to {VERSION}" in process.log


def test_processes_that_know_another_version_are_named(run_syncctl: Run, polled: Path, mongo_database: Any) -> None:
    now = [{"$set": {"at": "$$NOW", "version": "0.1.0", "queues": ["deliver"]}}]
    mongo_database.workers.update_one({"_id": "celery@old"}, now, upsert=True)
    assert "celery@old knows another version of the ledger" in run_syncctl("status", cwd=polled).stderr
    assert "celery@old knows version 0 of the ledger" in run_syncctl("doctor", "workers versions", cwd=polled).stdout
