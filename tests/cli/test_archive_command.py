"""`syncctl cleanup --archive`, and `syncctl archive`: what is deleted is found again, without any service."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from syncctl.ledger.ledger import Ledger
from tests.harness.servers import name_database
from tests.harness.settings_files import NOWHERE
from tests.harness.testbed import new_record

Run = Callable[..., Any]
LONG_AGO = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def finished(mongo_url: str, mongo_database: Any) -> Any:
    """Three records that were delivered long ago, in the ledger of the test's settings."""
    with Ledger(mongo_url, name_database(mongo_url)) as ledger:
        ledger.prepare()
        ledger.streams.ensure("orders")
        ledger.records.log([new_record(number) for number in (1, 2, 3)], LONG_AGO)
    ended = {"state": "delivered", "finished_at": LONG_AGO, "delivered_at": LONG_AGO, "updated_at": LONG_AGO}
    mongo_database.records.update_many({}, {"$set": ended, "$unset": {"due_at": True}})
    return mongo_database.records


def test_what_clean_up_deletes_is_found_in_the_archive(
    run_syncctl: Run, make_settings: Callable[..., Path], finished: Any, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    settings = make_settings(sections={"retention": {"archive": str(archive)}})
    planned = run_syncctl("cleanup", "--dry-run", cwd=settings)
    assert planned.stdout == "would archive and delete 3 records: 3 delivered\n"
    create = f"syncctl archive create --archive {archive}"
    warned = f"cannot archive records in {archive}, so none is removed: there is no such directory"
    assert f"warning: {warned}; mount its disk; or, if there has never been an archive, run: {create}" in planned.stderr
    assert run_syncctl("cleanup", "--yes", cwd=settings).exit_code == 1
    assert (finished.count_documents({}), archive.exists()) == (3, False)
    made = run_syncctl(*create.split()[1:], cwd=settings)
    assert (made.exit_code, made.stdout) == (0, f"{archive} is now an archive\n")
    refused = run_syncctl("cleanup", cwd=settings)
    assert f"confirmation needed: archive in {archive} and delete 3 finished records?" in refused.stderr
    done = run_syncctl("cleanup", "--yes", "--json", cwd=settings)
    assert (done.json["archived"], done.json["deleted"]["delivered"]) == (3, 3)
    assert finished.count_documents({}) == 0

    away = make_settings(**NOWHERE)
    named = ("--archive", str(archive))
    found = run_syncctl("archive", "search", "--stream", "orders", "--key", "2", *named, cwd=away)
    assert (found.exit_code, found.stderr) == (0, "next: syncctl archive show orders-2\n")
    assert "orders-2" in found.stdout
    assert "orders-1" not in found.stdout
    shown = run_syncctl("archive", "show", "orders-2", *named, cwd=away)
    assert shown.stdout.startswith("record orders-2\n")
    assert 'payload         {"id": 2, "content": "a"}' in shown.stdout
    missing = run_syncctl("archive", "show", "orders-9", *named, cwd=away)
    assert (missing.exit_code, missing.stdout) == (1, "")
    unnamed = run_syncctl("archive", "search", cwd=away)
    assert unnamed.exit_code == 2
    assert "hint: add --archive DIR" in unnamed.stderr

    (file,) = archive.rglob("*.zst")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    truncated = run_syncctl("archive", "search", "--json", *named, cwd=away)
    assert truncated.exit_code == 1
    # After a copy that was interrupted, the ledger no longer has these records.
    assert "or the file was truncated later and must be restored from a backup" in truncated.stderr
    file.write_bytes(content[:-1] + b"cut off")
    damaged = run_syncctl("archive", "search", "--json", *named, cwd=away)
    assert (damaged.exit_code, len(damaged.json["records"])) == (1, 3)
    assert f"warning: {file}: from byte" in damaged.stderr


def test_nothing_is_deleted_that_cannot_be_archived(
    run_syncctl: Run, settings_dir: Path, finished: Any, tmp_path: Path
) -> None:
    assert run_syncctl("archive", "create", "--archive", str(tmp_path), cwd=settings_dir).exit_code == 0
    (tmp_path / "orders").touch()
    done = run_syncctl("cleanup", "--archive", str(tmp_path), "--yes", cwd=settings_dir)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"error: cannot archive records of orders in {tmp_path}, so none of them is removed" in done.stderr
    assert "hint: make room and check the rights of the directory" in done.stderr
    assert finished.count_documents({}) == 3
