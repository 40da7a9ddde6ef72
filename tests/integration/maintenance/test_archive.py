"""The archive: what cleanup removes was written, synced and read back before, whatever fails, whoever else does it."""

import fcntl
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backports import zstd

from syncctl.archive import archive_files
from syncctl.archive.archive_files import MARK, ArchiveError, append_lines, create_archive, list_files
from syncctl.archive.frames import FRAME_BYTES_AT_MOST, Damage, find_last_frame, make_frame, read_lines
from syncctl.core.ids import key_id
from syncctl.core.json_text import JsonText
from syncctl.core.states import State
from syncctl.errors import TroubleFound, UsageError
from syncctl.ledger.archived_records import read_line, to_line
from syncctl.pipeline.maintenance import cleanup
from syncctl.pipeline.maintenance.archive import Wanted, find_archived, search_archive
from syncctl.pipeline.maintenance.cleanup import Cleaned, clean_up
from syncctl.pipeline.maintenance.maintenance import find_failing, maintenance_lease
from syncctl.tasks import maintenance
from tests.harness.testbed import Testbed, new_record

DAY = date(2026, 1, 31)
KEPT = {"delivered": 86_400.0, "failed": 86_400.0, "superseded": 86_400.0, "discarded": 86_400.0}
LONG_AGO = datetime(2026, 1, 31, 12, tzinfo=UTC)
EXACT = {
    "id": 1, "price": Decimal("12345678901234567890.123456789"), "many": 2**70, "whole": 2**40, "real": 1.0,
    "none": None, "text": "line\nend \0 ümlaut \u2028", "lines": [{"n": 1}], "attributes": JsonText('{"a":1.10}'),
    "long": Decimal("1" * 40),
}  # fmt: skip


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A directory that is an archive."""
    assert create_archive(tmp_path)
    return tmp_path


def finish(testbed: Testbed, *numbers: int, at: datetime = LONG_AGO, state: str = "delivered", **changes: Any) -> None:
    """Log records that finished long ago."""
    for number in numbers:
        testbed.ledger.records.log([new_record(number, **changes)], at)
    ended = {"state": state, "finished_at": at, "updated_at": at, "history": [{"action": "attempt", "at": at, "n": 1}]}
    ids = [f"orders-{number}" for number in numbers]
    testbed.database.records.update_many({"_id": {"$in": ids}}, {"$set": ended, "$unset": {"due_at": True}})


def clean(testbed: Testbed, archive: Path, **changes: Any) -> Cleaned:
    return clean_up(ledger=testbed.ledger, retention_seconds=KEPT, who="ann", archive=archive, **changes)


def search(archive: Path, damages: list[str] | None = None, **wanted: Any) -> list[Any]:
    return list(search_archive(archive, Wanted(**wanted), warn=(damages if damages is not None else []).append))


def ids(records: list[Any]) -> list[str]:
    return [record["_id"] for record in records]


def lines(*numbers: int) -> list[bytes]:
    return [b'{"n": %d}\n' % number for number in numbers]


def read(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return list(read_lines(file))


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let this process write no file beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Files and frames.


def test_a_directory_becomes_an_archive_once(tmp_path: Path) -> None:
    place = tmp_path / "new" / "archive"
    assert [create_archive(place), create_archive(place)] == [True, False]
    assert [path.name for path in place.iterdir()] == [MARK]
    assert ((place / MARK).stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o600, 0o700)
    with pytest.raises(ArchiveError):
        create_archive(place / MARK)


def test_where_no_archive_is_mounted_nothing_is_written(testbed: Testbed, tmp_path: Path) -> None:
    """The directory of an archive on a disk that is not mounted is missing, or empty where it is the mount point."""
    finish(testbed, 1)
    (tmp_path / "mount point").mkdir()
    for name, why in (("missing", "there is no such directory"), ("mount point", "there is no archive")):
        with pytest.raises(ArchiveError) as failed:
            clean(testbed, tmp_path / name)
        assert failed.value.why == why
        assert "syncctl archive create --archive " in failed.value.hint
    assert testbed.states() == {1: ["delivered"]}
    assert not (tmp_path / "missing").exists()
    assert list((tmp_path / "mount point").iterdir()) == []
    create_archive(tmp_path / "mount point")
    clean(testbed, tmp_path / "mount point")
    assert ids(search(tmp_path / "mount point")) == ["orders-1"]


def test_later_lines_are_appended_and_other_programs_read_them_all(tmp_path: Path) -> None:
    append_lines(tmp_path, "orders", DAY, lines(1, 2))
    append_lines(tmp_path, "orders", DAY, lines(3))
    (file,) = list_files(tmp_path)
    assert (file.stream, file.day) == ("orders", DAY)
    assert list(file.read_lines()) == lines(1, 2, 3)
    assert (file.path.stat().st_mode & 0o777, file.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with zstd.open(file.path) as plain:
        assert plain.read() == b"".join(lines(1, 2, 3))


@pytest.mark.parametrize("cut", [1, 10, 60, 70])
def test_what_a_crash_cut_off_is_left_alone_and_a_new_part_begins(tmp_path: Path, cut: int) -> None:
    append_lines(tmp_path, "orders", DAY, lines(1))
    path = tmp_path / "orders" / "2026-01-31.jsonl.zst"
    whole = path.read_bytes()
    second = make_frame(lines(2))
    path.write_bytes(whole + second[:-cut])
    append_lines(tmp_path, "orders", DAY, lines(2))
    append_lines(tmp_path, "orders", DAY, lines(3))
    assert path.read_bytes() == whole + second[:-cut]
    assert read(path.with_name("2026-01-31.2.jsonl.zst")) == lines(2, 3)
    kept = [line for line in read(path) if isinstance(line, bytes)]
    assert kept[:1] == lines(1)
    assert set(kept) <= set(lines(1, 2))


def test_a_clean_up_that_was_interrupted_before_it_removed_anything_repeats_no_line(tmp_path: Path) -> None:
    append_lines(tmp_path, "orders", DAY, lines(1, 2))
    append_lines(tmp_path, "orders", DAY, lines(1, 2, 3))
    assert read(tmp_path / "orders" / "2026-01-31.jsonl.zst") == lines(1, 2, 3)


def test_lines_that_are_known_are_written_and_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_lines(tmp_path, "orders", DAY, lines(1, 2))
    path = tmp_path / "orders" / "2026-01-31.jsonl.zst"
    content = path.read_bytes()
    os.utime(path, (0, 0))
    synced: list[tuple[int, bool]] = []
    sync = os.fsync

    def note(number: int) -> None:
        status = os.fstat(number)
        synced.append((status.st_ino, status.st_mtime > 0))
        sync(number)

    monkeypatch.setattr(os, "fsync", note)
    append_lines(tmp_path, "orders", DAY, lines(1, 2))
    assert (path.stat().st_ino, True) in synced
    assert path.read_bytes() == content
    # The directory of the stream was made, and not synced, before its maker died.
    assert tmp_path.stat().st_ino in {inode for inode, _ in synced}


def test_lines_that_cannot_be_synced_again_may_not_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    append_lines(tmp_path, "orders", DAY, lines(1))
    sync = os.fsync
    monkeypatch.setattr(os, "ftruncate", fail)
    monkeypatch.setattr(os, "fsync", lambda number: fail() if stat.S_ISREG(os.fstat(number).st_mode) else sync(number))
    for numbers in ((2,), (2,), (2, 3)):
        with pytest.raises(ArchiveError) as failed:
            append_lines(tmp_path, "orders", DAY, lines(*numbers))
        assert failed.value.why == "Input/output error"
    monkeypatch.undo()
    append_lines(tmp_path, "orders", DAY, lines(2))
    assert read(tmp_path / "orders" / "2026-01-31.jsonl.zst") == lines(1, 2)


def test_directories_that_are_made_are_private(tmp_path: Path) -> None:
    create_archive(tmp_path / "a" / "b")
    append_lines(tmp_path / "a" / "b", "orders", DAY, lines(1))
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.name: path.stat().st_mode & 0o777 for path in made} == {"a": 0o700, "b": 0o700, "orders": 0o700}


def test_a_file_that_stays_locked_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_lines(tmp_path, "orders", DAY, lines(1))
    path = tmp_path / "orders" / "2026-01-31.jsonl.zst"
    monkeypatch.setattr(archive_files, "LOCK_SECONDS", 0.1)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(ArchiveError) as failed:
            append_lines(tmp_path, "orders", DAY, lines(2))
    assert "another cleanup or program has kept" in (failed.value.why or "")
    assert "let the other program end" in (failed.value.hint or "")
    append_lines(tmp_path, "orders", DAY, lines(2))
    assert read(path) == lines(1, 2)


def test_a_damaged_frame_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        append_lines(tmp_path, "orders", DAY, lines(number))
    path = tmp_path / "orders" / "2026-01-31.jsonl.zst"
    content = bytearray(path.read_bytes())
    at = len(make_frame(lines(1)))
    content[at + 8] ^= 0xFF
    path.write_bytes(content)
    first, damage, third = read(path)
    assert (first, third) == (*lines(1), *lines(3))
    assert isinstance(damage, Damage)
    assert damage.at == at
    path.write_bytes(b"not an archive")
    (damage,) = read(path)
    assert isinstance(damage, Damage)


def test_the_largest_record_fits_in_a_frame(tmp_path: Path) -> None:
    largest = to_line({"_id": "orders-1", "payload": "\1" * (16 * 1024 * 1024 - 100)})
    append_lines(tmp_path, "orders", DAY, [largest])
    assert read(tmp_path / "orders" / "2026-01-31.jsonl.zst") == [largest]


def test_memory_is_that_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(make_frame([b"0" * (FRAME_BYTES_AT_MOST + 1)]) + make_frame(lines(1)))
    damage, *rest = read(path)
    assert "holds more than" in damage.why
    assert rest == lines(1)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    append_lines(tmp_path, "orders", DAY, lines(1))
    path = tmp_path / "orders" / "2026-01-31.jsonl.zst"
    before = path.read_bytes()
    with limited_files(len(before) + 20), pytest.raises(ArchiveError) as failed:
        append_lines(tmp_path, "orders", DAY, lines(2))
    assert "so none of them is removed" in failed.value.what
    assert failed.value.why == "File too large"
    assert path.read_bytes() == before
    append_lines(tmp_path, "orders", DAY, lines(2))
    assert read(path) == lines(1, 2)


@pytest.mark.parametrize("stream", ["../orders", "a/b", ".", ""])
def test_a_stream_is_no_way_out_of_the_directory(tmp_path: Path, stream: str) -> None:
    with pytest.raises(ArchiveError):
        append_lines(tmp_path, stream, DAY, lines(1))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [MARK]


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "elsewhere").touch()
    (tmp_path / "orders" / "2026-01-31.jsonl.zst").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError):
        append_lines(tmp_path, "orders", DAY, lines(1))
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            append_lines(tmp_path, "orders", DAY, lines(writer * 100 + number))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(tmp_path / "orders" / "2026-01-31.jsonl.zst")
    assert sorted(found) == sorted(
        line for writer in range(4) for line in lines(*range(writer * 100, writer * 100 + 10))
    )


# Cleanup.


def test_what_is_removed_is_in_the_archive_to_the_last_digit(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, 1, payload=EXACT)
    finish(testbed, 2, state="failed", at=LONG_AGO + timedelta(days=1))
    stored = testbed.ledger.records.find(record_id="orders-1")
    planned = clean(testbed, tmp_path, dry_run=True)
    assert (planned.archived, list_files(tmp_path)) == (2, [])
    done = clean(testbed, tmp_path)
    assert (done.archived, done.deleted["delivered"], done.deleted["failed"]) == (2, 1, 1)
    assert testbed.records() == []
    assert [file.path.name for file in list_files(tmp_path)] == ["2026-01-31.jsonl.zst", "2026-02-01.jsonl.zst"]
    assert search(tmp_path, record_id="orders-1") == stored
    assert stored[0]["payload"] == EXACT
    (entry, *_) = testbed.ledger.audit.load(limit=5)
    assert entry["detail"]["archive"] == str(tmp_path)


def test_what_cannot_be_archived_is_not_removed_and_the_job_says_so(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, 1)
    (tmp_path / "archive").write_text("a file in the way")
    with pytest.raises(ArchiveError), maintenance_lease(testbed.ledger, "cleanup", seconds=60):
        clean(testbed, tmp_path / "archive")
    assert testbed.states() == {1: ["delivered"]}
    (job,) = find_failing(testbed.ledger)
    assert (job.name, "cannot archive records in" in (job.error or "")) == ("cleanup", True)
    testbed.ledger.maintenance.release("cleanup")
    with maintenance_lease(testbed.ledger, "cleanup", seconds=60):
        clean(testbed, tmp_path)
    assert find_failing(testbed.ledger) == []


def test_a_stream_that_cannot_be_archived_keeps_no_other_from_its_clean_up(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, 1)
    finish(testbed, 2)
    testbed.database.records.update_one({"_id": "orders-2"}, {"$set": {"stream": "payments"}})
    testbed.ledger.streams.ensure("payments")
    testbed.database.workers.insert_one({"_id": "long-dead", "at": LONG_AGO})
    (tmp_path / "orders").write_text("a file in the way")
    with pytest.raises(ArchiveError, match="cannot archive records of orders"):
        clean(testbed, tmp_path)
    assert ids(list(testbed.database.records.find({}))) == ["orders-1"]
    assert testbed.database.workers.find_one({"_id": "long-dead"}) is None
    (entry, *_) = testbed.ledger.audit.load(limit=1)
    assert (entry["count"], "cannot archive records of orders" in entry["error"]) == (1, True)


def test_a_clean_up_that_dies_before_it_removes_is_repeated_without_a_trace(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(testbed, 1, 2, 3)

    def die(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(testbed.ledger.operations, "remove_finished", die)
    with pytest.raises(KeyboardInterrupt):
        clean(testbed, tmp_path)
    monkeypatch.undo()
    assert testbed.states() == {number: ["delivered"] for number in (1, 2, 3)}
    clean(testbed, tmp_path)
    (file,) = list_files(tmp_path)
    assert len(list(file.read_lines())) == 3
    assert testbed.records() == []


def test_a_clean_up_that_is_asked_to_stop_ends_after_its_batch(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is to end waits for no cleanup of millions; nothing is half-done, and the next one goes on."""
    monkeypatch.setattr(cleanup, "ARCHIVED_AT_ONCE", 2)
    finish(testbed, *range(1, 6))
    finish(testbed, 6, state="failed")
    shown: list[int] = []
    done = clean(testbed, tmp_path, should_stop=lambda: bool(shown), show=shown.append)
    assert (shown, done.deleted) == ([2], {"delivered": 2, "failed": 0, "superseded": 0, "discarded": 0})
    assert (len(testbed.records()), len(search(tmp_path))) == (4, 2)
    (entry, *_) = testbed.ledger.audit.load(limit=1)
    assert (entry["count"], entry["error"]) == (2, None)
    assert clean(testbed, tmp_path, show=shown.append).archived == 4
    assert shown == [2, 2, 3, 4]
    assert (testbed.records(), len(search(tmp_path))) == ([], 6)


def test_a_worker_that_is_to_end_begins_no_clean_up_and_no_further_day_of_a_roll_up(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(testbed, 1)
    finish(testbed, 2, at=LONG_AGO + timedelta(days=3))
    settings = SimpleNamespace(archive_directory=tmp_path, retention=SimpleNamespace(**KEPT))
    monkeypatch.setattr(maintenance, "connections", lambda: SimpleNamespace(ledger=testbed.ledger, settings=settings))
    monkeypatch.setattr(maintenance, "stopping", lambda: True)
    maintenance.roll_up()
    assert testbed.ledger.reports.frozen_until() == datetime(2026, 2, 1, 12, tzinfo=UTC)
    assert maintenance.cleanup()["archived"] == 0
    assert len(testbed.records()) == 2
    monkeypatch.undo()
    clean(testbed, tmp_path)
    assert testbed.records() == []
    assert [hour["window_start"].day for hour in testbed.database.reports.find({"logged": 1})] == [31, 3]


def test_columns_with_the_names_of_extended_json_come_back_exactly(testbed: Testbed, tmp_path: Path) -> None:
    names = ("$date", "$oid", "$numberDecimal", "$numberLong", "$regex", "$code", "$ref", "$id", "pairs", "a.b")
    for number, name in enumerate(names, start=10):
        payload = {"id": 1, name: "2026", "lines": [{name: 2, "n": Decimal("1.50")}], "one": {name: [[name, 1]]}}
        finish(testbed, number, payload=payload, key={name: number}, key_id=key_id({name: number}))
        finish(testbed, 200 + number, payload={name: [{name: None}]})
        stored = testbed.ledger.records.find(record_id=f"orders-{number}")
        assert stored[0]["payload"] == payload
        clean(testbed, tmp_path)
        assert search(tmp_path, record_id=f"orders-{number}") == stored
        assert [record["key"] for record in search(tmp_path, key=f"{name}={number}")] == [{name: number}]
        assert find_archived(tmp_path, f"orders-{200 + number}", warn=print)[0]["payload"] == {name: [{name: None}]}


def test_a_record_that_is_replayed_meanwhile_stays_in_the_ledger(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(testbed, 1, 2)
    archive_records = cleanup.archive_records

    def archive_and_replay(*args: Any) -> None:
        archive_records(*args)
        testbed.database.records.update_one(
            {"_id": "orders-1"}, {"$set": {"state": "pending"}, "$unset": {"finished_at": True}}
        )

    monkeypatch.setattr(cleanup, "archive_records", archive_and_replay)
    assert clean(testbed, tmp_path).deleted["delivered"] == 1
    assert testbed.states() == {1: ["pending"]}
    monkeypatch.undo()
    finish(testbed, 1, at=LONG_AGO + timedelta(hours=1))
    clean(testbed, tmp_path)
    assert [record["finished_at"].hour for record in find_archived(tmp_path, "orders-1", warn=print)] == [12, 13]


def test_two_clean_ups_at_once_lose_nothing_and_nothing_is_found_twice(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, *range(1, 60))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            clean(testbed, tmp_path)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert testbed.records() == []
    assert sorted(ids(search(tmp_path))) == sorted(f"orders-{number}" for number in range(1, 60))


def test_a_page_is_bounded_in_records_and_in_bytes(testbed: Testbed) -> None:
    finish(testbed, *range(1, 6))
    finish(testbed, 9, at=LONG_AGO - timedelta(hours=1), payload={"id": 9, "text": "x" * 100_000})
    load = testbed.ledger.operations.load_finished
    before = datetime.now(UTC)
    page = load("orders", State.DELIVERED, before, limit=3, bytes_at_most=10**9)
    assert [record["_id"] for record in page] == ["orders-9", "orders-1", "orders-2"]
    assert len(load("orders", State.DELIVERED, before, limit=3, bytes_at_most=1)) == 1


# Reading.


def test_a_search_takes_the_filters_of_the_ledger(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, 1, 2)
    finish(testbed, 3, state="failed", at=LONG_AGO + timedelta(days=2))
    clean(testbed, tmp_path)
    assert ids(search(tmp_path)) == ["orders-1", "orders-2", "orders-3"]
    assert ids(search(tmp_path, streams=("invoices",))) == []
    assert ids(search(tmp_path, streams=("orders",), key="2")) == ["orders-2"]
    assert ids(search(tmp_path, key="id=3")) == ["orders-3"]
    assert ids(search(tmp_path, key="a=1,b=2")) == []
    assert ids(search(tmp_path, states=("failed",))) == ["orders-3"]
    assert ids(search(tmp_path, since=LONG_AGO + timedelta(hours=1))) == ["orders-3"]
    assert ids(search(tmp_path, until=LONG_AGO + timedelta(days=2))) == ["orders-1", "orders-2"]


def test_what_is_not_there_or_ambiguous_is_an_error(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, 11, 12)
    clean(testbed, tmp_path)
    assert ids(find_archived(tmp_path, "orders-11", warn=print)) == ["orders-11"]
    with pytest.raises(UsageError, match="is ambiguous"):
        find_archived(tmp_path, "orders-1", warn=print)
    with pytest.raises(TroubleFound, match="has no record orders-99"):
        find_archived(tmp_path, "orders-99", warn=print)
    with pytest.raises(UsageError, match="is not the id of a record"):
        find_archived(tmp_path, "5", warn=print)
    with pytest.raises(TroubleFound, match="cannot read the archive"):
        find_archived(tmp_path / "nowhere", "orders-11", warn=print)


def test_lines_of_somebody_else_are_passed_over_with_a_word(testbed: Testbed, tmp_path: Path) -> None:
    finish(testbed, 1)
    clean(testbed, tmp_path)
    append_lines(tmp_path, "orders", LONG_AGO.date(), [b'{"a": 1}\n', b"no JSON\n", b'{"_id": {"$oid": "x"}}\n'])
    damages: list[str] = []
    assert ids(search(tmp_path, damages)) == ["orders-1"]
    assert len(damages) == 3
    assert read_line(b"[" * 100_000) is None


def test_a_last_frame_is_known_only_where_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    frame = make_frame(lines(1))
    path.write_bytes(frame)
    with path.open("rb") as file:
        assert find_last_frame(file, len(frame)) is not None
        assert find_last_frame(file, len(frame) - 1) is None
        assert find_last_frame(file, 3) is None
