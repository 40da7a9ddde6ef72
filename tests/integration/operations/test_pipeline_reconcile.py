"""reconcile: every row of the source compared with the ledger, whatever changes meanwhile; and its repair."""

import errno
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.errors import LeaseHeld, SourceError, SyncctlError, UsageError
from syncctl.pipeline.operations.reconcile import Differences, KnownRow, Reconciliation, Repair, join
from syncctl.pipeline.operations.scratch_database import _SETUP, MEMORY_KIB, ROWS_AT_ONCE, open_scratch
from syncctl.pipeline.polling.recheck import SourceRow
from syncctl.sources.reader import StreamReader
from tests.harness.passing_time import PAST
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

DAY = 86400.0


@contextmanager
def opened(
    testbed: Testbed, wrap: Callable[[Any], Any] = lambda reader: reader, **options: Any
) -> Iterator[Reconciliation]:
    defaults: dict[str, Any] = {"since": None, "retention_seconds": 30 * DAY, "wake": lambda: False}
    with open_scratch() as scratch, StreamReader(testbed.source, testbed.stream) as reader:
        yield Reconciliation(
            ledger=testbed.ledger,
            stream=testbed.stream,
            reader=wrap(reader),
            scratch=scratch,
            worker="reconciler",
            show=lambda _: None,
            **{**defaults, **options},
        )


def compare(testbed: Testbed, wrap: Callable[[Any], Any] = lambda reader: reader, **options: Any) -> Differences:
    with opened(testbed, wrap, **options) as work:
        return work.compare()


def repair(testbed: Testbed, wrap: Callable[[Any], Any] = lambda reader: reader) -> tuple[Differences, Repair]:
    with opened(testbed, wrap) as work:
        work.compare()
        return work.differences, work.repair(who="ann@host")


def counts(found: Differences) -> dict[str, int | None]:
    names = ("source_rows", "accounted", "ahead", "missing", "stale", "extra")
    return {name: value for name in names if (value := getattr(found, name)) != 0}


def forget(testbed: Testbed, *numbers: int) -> None:
    """Let the ledger never have heard of rows."""
    for collection in (testbed.database.records, testbed.database.keys):
        collection.delete_many({"key.id": {"$in": list(numbers)}})


@pytest.fixture
def polled(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(20)
    testbed.change_stream(page_size=7)
    testbed.poll()
    return testbed


class Reader:
    """A reader during whose scan something happens."""

    def __init__(self, reader: Any, before: Callable[[], object] = object, after: Callable[[], object] = object):
        self._reader, self._before, self._after = reader, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def scan(self, *args: Any, **options: Any) -> Iterator[Any]:
        self._before()
        yield from self._reader.scan(*args, **options)
        self._after()


# Compared


def test_a_source_that_agrees_is_accounted_for(polled: Testbed) -> None:
    assert counts(compare(polled)) == {"source_rows": 20, "accounted": 20}


def test_missing_stale_and_extra_rows_are_told_apart(polled: Testbed, source_db: SourceDb) -> None:
    forget(polled, 3, 4)
    source_db.execute("update orders set note = 'changed' where id in (5, 6, 7)")
    source_db.execute("delete from orders where id = 8")
    source_db.add_orders([30, 31])
    found = compare(polled)
    assert counts(found) == {"source_rows": 21, "accounted": 14, "ahead": 2, "missing": 2, "stale": 3, "extra": 1}
    samples = {kind: sorted(key["id"] for key in keys) for kind, keys in found.samples.items()}  # type: ignore[type-var]
    assert samples == {"missing": [3, 4], "stale": [5, 6, 7], "extra": [8]}


def test_deletes_that_are_known_are_no_difference(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(12)
    testbed.change_stream(mode="snapshot", cursor=None)
    testbed.poll()
    source_db.execute("delete from orders where id < 3")
    assert counts(compare(testbed)) == {"source_rows": 10, "accounted": 10, "extra": 2}
    testbed.poll()
    assert counts(compare(testbed)) == {"source_rows": 10, "accounted": 10}
    source_db.add_orders([1])
    assert counts(compare(testbed)) == {"source_rows": 11, "accounted": 10, "stale": 1}


def test_all_rows_are_ahead_of_a_stream_that_was_never_polled(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(5)
    assert counts(compare(testbed)) == {"source_rows": 5, "ahead": 5}


def test_rows_before_the_start_are_no_part_of_the_stream(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(10)
    testbed.change_stream(start="8")
    testbed.poll()
    forget(testbed, 9)
    assert counts(compare(testbed)) == {"source_rows": 3, "accounted": 2, "missing": 1}


def test_rows_that_the_next_poll_will_find_are_not_missing(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders()
    source_db.add_orders([1, 2, 6])
    testbed.poll()
    source_db.add_orders([4])
    assert counts(compare(testbed)) == {"source_rows": 4, "accounted": 3, "ahead": 1}
    testbed.change_stream(cursor="updated_at", lookback_seconds=60.0)
    testbed.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
    testbed.poll()
    source_db.add_orders([5])
    assert counts(compare(testbed)) == {"source_rows": 5, "accounted": 4, "ahead": 1}


def test_mode_flag_counts_no_extra_rows(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(5)
    acknowledge = "update orders set note = 'sent' where id = :id"
    testbed.change_stream(mode="flag", cursor=None, where="note = ''", acknowledge=acknowledge)
    testbed.poll()
    source_db.execute("update orders set note = 'sent' where id < 3")
    forget(testbed, 4)
    assert counts(compare(testbed)) == {"source_rows": 3, "accounted": 2, "missing": 1, "extra": None}


def test_keys_of_every_type_survive_the_sort(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("create table keyed (a text, b numeric, c blob, v integer, primary key (a, b, c)) without rowid")
    rows = [("ä'%:x\n ", 1.5, b"\x00\xff", 1), ("", 2, b"", 2), ("x", -1, b"\x01", 3)]
    source_db.execute_many("insert into keyed values (?, ?, ?, ?)", rows)
    testbed.change_stream(mode="snapshot", table="keyed", key=(), cursor=None)
    testbed.poll()
    assert counts(compare(testbed)) == {"source_rows": 3, "accounted": 3}
    testbed.database.keys.delete_many({})
    testbed.database.records.delete_many({})
    found, done = repair(testbed)
    assert (found.missing, done.logged) == (3, 3)
    assert counts(compare(testbed)) == {"source_rows": 3, "accounted": 3}


def test_rows_without_a_whole_key_and_unreadable_ones_are_accounted_for(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("create table odd (a text, v)")
    source_db.execute_many("insert into odd values (?, ?)", [(None, 1), ("x", 2), ("y", float("inf"))])
    testbed.change_stream(mode="snapshot", table="odd", key=("a",), cursor=None)
    assert testbed.poll().failed == 2
    assert counts(compare(testbed)) == {"source_rows": 3, "accounted": 3}


# While rows change


def test_rows_polled_during_the_comparison_are_no_difference(polled: Testbed, source_db: SourceDb) -> None:
    polled.change_stream(mode="snapshot", cursor=None)
    polled.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
    polled.poll()

    def change() -> None:
        source_db.execute("update orders set note = 'new' where id in (1, 20)")
        source_db.execute("delete from orders where id = 2")
        source_db.add_orders([40])

    def change_and_poll() -> None:
        change()
        assert polled.poll().logged == 4

    late = compare(polled, lambda reader: Reader(reader, after=change_and_poll))
    assert counts(late) == {"source_rows": 19, "accounted": 19}


def test_rows_polled_after_they_were_read_are_checked_again(polled: Testbed, source_db: SourceDb) -> None:
    source_db.execute("update orders set note = 'new' where id = 5")
    polled.change_stream(mode="snapshot", cursor=None)
    polled.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
    found = compare(polled, lambda reader: Reader(reader, after=polled.poll))
    assert counts(found) == {"source_rows": 20, "accounted": 20}


def test_a_row_that_goes_or_changes_during_the_comparison_is_no_difference(
    testbed: Testbed, source_db: SourceDb
) -> None:
    source_db.create_orders(6)
    testbed.change_stream(cursor="updated_at", lookback_seconds=0.0)
    testbed.poll()
    forget(testbed, 2, 3)

    def change() -> None:
        source_db.execute("delete from orders where id = 2")
        source_db.execute("update orders set updated_at = '2026-02-01 00:00:00' where id = 3")

    found = compare(testbed, lambda reader: Reader(reader, after=change))
    assert counts(found) == {"source_rows": 5, "accounted": 4, "ahead": 1}


def test_a_row_that_comes_back_during_the_comparison_is_not_extra(polled: Testbed, source_db: SourceDb) -> None:
    source_db.execute("delete from orders where id = 9")
    found = compare(polled, lambda reader: Reader(reader, after=lambda: source_db.add_orders([9])))
    assert found.extra == 0


def test_a_row_that_is_seen_twice_counts_once(polled: Testbed) -> None:
    class Twice(Reader):
        def scan(self, *args: Any, **options: Any) -> Iterator[Any]:
            pages = list(super().scan(*args, **options))
            yield from pages
            yield pages[0]

    assert counts(compare(polled, Twice)) == {"source_rows": 20, "accounted": 20}


def test_one_row_that_cannot_be_looked_for_stops_no_other(polled: Testbed) -> None:
    class Unreadable(Reader):
        def find_rows(self, keys: Sequence[Any]) -> Any:
            if any(key["id"] == 3 for key in keys):
                raise SourceError("a bad row")
            return self._reader.find_rows(keys)

    forget(polled, 3, 4)
    found, done = repair(polled, Unreadable)
    assert (found.missing, done.logged, done.unreadable) == (2, 1, 1)
    forget(polled, 4)
    with pytest.raises(SourceError):
        compare(polled, type("All", (Reader,), {"find_rows": _refuse}))


def _refuse(*_: Any) -> Any:
    raise SourceError("the table is gone")


# Since


def test_since_compares_what_was_read_after_a_time(polled: Testbed, source_db: SourceDb) -> None:
    polled.database.runs.update_many({}, {"$set": {"started_at": PAST}})
    source_db.add_orders(range(21, 31))
    polled.poll()
    forget(polled, 5, 25)
    source_db.add_orders([31])
    source_db.execute("delete from orders where id = 26")
    found = compare(polled, since=PAST + timedelta(hours=1))
    assert counts(found) == {"source_rows": 10, "accounted": 8, "ahead": 1, "missing": 1, "extra": None}
    with pytest.raises(UsageError, match="does not reach back"):
        compare(polled, since=PAST - timedelta(hours=1))


def test_modes_without_a_cursor_column_refuse_since(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(2)
    testbed.change_stream(mode="snapshot", cursor=None)
    with pytest.raises(UsageError, match="since a time"):
        compare(testbed, since=PAST)


def test_a_stream_that_only_appends_is_compared_as_far_as_records_are_kept(
    testbed: Testbed, source_db: SourceDb
) -> None:
    source_db.create_orders(10)
    testbed.change_stream(append_only=True)
    testbed.poll()
    assert testbed.database.keys.count_documents({}) == 0
    assert counts(compare(testbed)) == {"source_rows": 10, "accounted": 10, "extra": None}
    forget(testbed, 2)
    source_db.execute("update orders set note = 'changed' where id = 3")
    found, done = repair(testbed)
    assert counts(found) == {"source_rows": 10, "accounted": 8, "missing": 1, "stale": 1, "extra": None}
    assert done.logged == 2
    assert counts(compare(testbed)) == {"source_rows": 10, "accounted": 10, "extra": None}
    # Rows read so long ago may have been cleaned up, so they cannot be judged.
    testbed.database.runs.update_many({}, {"$set": {"started_at": datetime.now(UTC) - timedelta(days=29.9)}})
    source_db.add_orders([11])
    testbed.poll()
    forget(testbed, 4, 11)
    found = compare(testbed, retention_seconds=29 * DAY)
    assert counts(found) == {"source_rows": 1, "missing": 1, "extra": None}


# Repaired


def test_a_repair_logs_what_is_missing_or_stale_and_leaves_the_cursor(polled: Testbed, source_db: SourceDb) -> None:
    polled.deliver()
    forget(polled, 3)
    source_db.execute("update orders set note = 'changed' where id = 5")
    cursor = polled.ledger.polls.load_cursor("orders")
    found, done = repair(polled)
    assert (found.missing, found.stale, found.repaired) == (1, 1, 2)
    assert (done.logged, done.failed, done.unreadable) == (2, 0, 0)
    assert polled.ledger.polls.load_cursor("orders") == cursor
    assert polled.states()[3] == ["pending"]
    assert polled.states()[5] == ["delivered", "pending"]
    polled.deliver()
    assert counts(compare(polled)) == {"source_rows": 20, "accounted": 20}
    (entry,) = polled.ledger.audit.load(limit=1)
    assert (entry["action"], entry["who"], entry["count"]) == ("repair", "ann@host", 2)
    assert polled.poll().error is None


def test_a_repair_takes_rows_as_they_are_then(polled: Testbed, source_db: SourceDb) -> None:
    forget(polled, 3, 4)
    with opened(polled) as work:
        assert work.compare().missing == 2
        source_db.execute("update orders set note = 'newer' where id = 3")
        source_db.execute("delete from orders where id = 4")
        assert work.repair(who="ann@host").logged == 1
    assert polled.record(3)["payload"]["note"] == "newer"


def test_a_repair_gives_way_to_a_poll(polled: Testbed) -> None:
    forget(polled, 3)
    polled.ledger.polls.acquire("orders", seconds=60, worker="other")
    with opened(polled) as work:
        work.compare()
        with pytest.raises(LeaseHeld):
            work.repair(who="ann@host", patience_seconds=0.0)
    assert polled.records(**{"key.id": 3}) == []


def test_a_change_that_the_cursor_missed_is_repaired_under_its_own_version(
    testbed: Testbed, source_db: SourceDb
) -> None:
    """By rowversion, a query's joined columns may change while the row's own version stays."""
    from syncctl.sources.reader import StreamReader

    source_db.execute("create table versions (id integer primary key, name text, rv blob)")
    source_db.execute("insert into versions values (1, 'a', ?)", [(7).to_bytes(8, "big")])
    testbed.change_stream(table="versions", mode="rowversion", cursor="rv")

    def open_versions() -> Any:
        return StreamReader(testbed.source, testbed.stream, read_ceiling=lambda _: (9).to_bytes(8, "big"))

    assert testbed.poll(open_versions()).logged == 1
    source_db.execute("update versions set name = 'b'")
    with open_scratch() as scratch, open_versions() as reader:
        work = Reconciliation(
            ledger=testbed.ledger,
            stream=testbed.stream,
            reader=reader,
            scratch=scratch,
            since=None,
            retention_seconds=DAY,
            wake=lambda: False,
            worker="reconciler",
            show=lambda _: None,
        )
        assert work.compare().stale == 1
        assert work.repair(who="ann@host").logged == 1
        assert work.compare().accounted == 1


# What it stands on


def scratch_row(number: int, key_id: str = "") -> SourceRow:
    key = {"id": number}
    return SourceRow(key_id=key_id or f"{number:032}", hash="h" * 32, is_ahead=False, at=str(number), key=key)


def test_rows_come_back_sorted_by_key_and_those_of_one_key_as_they_were_added() -> None:
    given = [scratch_row(number, f"{(number * 7919) % 499:04}") for number in range(1009)]
    with open_scratch() as scratch:
        for start in range(0, 1009, 100):
            scratch.add_rows(given[start : start + 100])
        assert list(scratch.sorted_rows()) == sorted(given, key=lambda row: row.key_id)
        scratch.clear()
        assert list(scratch.sorted_rows()) == []


def test_many_rows_take_no_more_memory_than_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 11: 100,000 rows of 400 bytes, in a scratch that may keep 1 MB."""
    monkeypatch.setattr("syncctl.pipeline.operations.scratch_database._SETUP", tuple(
        statement.replace(str(MEMORY_KIB), "1024") for statement in _SETUP
    ))  # fmt: skip
    with open_scratch() as scratch:
        before = read_memory_kib()
        for start in range(0, 100_000, 1000):
            scratch.add_rows(
                replace(scratch_row(number), at="x" * 300) for number in reversed(range(start, start + 1000))
            )
        assert sum(1 for _ in scratch.sorted_rows()) == 100_000
        assert read_memory_kib() - before < 16_000, "the rows hold 40 MB"


def read_memory_kib() -> int:
    """Return the memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def test_a_scratch_without_room_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fill() -> None:
        with open_scratch() as scratch:
            (directory,) = tmp_path.iterdir()
            assert directory.stat().st_mode & 0o077 == 0
            scratch._connection.execute("PRAGMA max_page_count = 20")
            scratch.add_rows(scratch_row(number) for number in range(10_000))

    with pytest.raises(SyncctlError) as caught:
        fill()
    assert (caught.value.why, "TMPDIR" in caught.value.hint) == ("database or disk is full", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_temporary_directory_that_cannot_be_made_says_what_to_do(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr("syncctl.pipeline.operations.scratch_database.TemporaryDirectory", refuse)
    with pytest.raises(SyncctlError) as caught, open_scratch():
        pass
    assert "TMPDIR" in caught.value.hint


def test_a_scratch_keeps_keys_exact() -> None:
    key = {"a": Decimal("1.10"), "b": None, "c": 1.0, "d": 2**70, "e": "x\ny \x1f \ud800", "f": True}
    row = SourceRow(key_id=key_id(key), hash="h" * 32, is_ahead=True, at="2026 1", key=key)
    with open_scratch() as scratch:
        scratch.add_rows([row])
        (again,) = scratch.sorted_rows()
        for number in range(ROWS_AT_ONCE + 1):
            scratch.add_to_repair({**key, "number": number})
        pages = list(scratch.keys_to_repair())
    assert again == row
    assert key_id(again.key) == row.key_id
    assert [len(page) for page in pages] == [ROWS_AT_ONCE, 1]
    assert pages[1] == [{**key, "number": ROWS_AT_ONCE}]


@pytest.mark.parametrize("known", ["", "a", "ac", "bd", "abcd", "e"])
def test_two_orders_are_joined_and_nothing_falls_between(known: str) -> None:
    rows = iter([scratch_row(1, "a"), scratch_row(2, "b"), scratch_row(3, "b"), scratch_row(4, "d")])
    found = {
        key_id: (len(group), key is not None)
        for key_id, group, key in join(rows, (KnownRow(key_id, "", True) for key_id in known))
    }
    assert set(found) == set("abd") | set(known)
    assert all(found[each] == (2 if each == "b" else int(each in "abd"), each in known) for each in found)
