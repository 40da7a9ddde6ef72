"""Mode snapshot: a table without any cursor, compared with the ledger; inserts, updates and deletes."""

import time
from typing import Any

import pytest

from syncctl.core.rows import Cursor
from syncctl.sources.reader import StreamReader
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


@pytest.fixture
def snapshot(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(30)
    testbed.change_stream(mode="snapshot", cursor=None, page_size=7)
    return testbed


def operations(testbed: Testbed) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for record in testbed.records():
        found.setdefault(record["key"]["id"], []).append(record["op"])
    return found


def test_inserts_updates_and_deletes_are_found(snapshot: Testbed, source_db: SourceDb) -> None:
    run = snapshot.poll()
    assert (run.read, run.logged, run.unchanged, run.error) == (30, 30, 0, None)
    source_db.execute("delete from orders where id in (1, 30)")
    source_db.execute("update orders set note = 'new' where id = 7")
    source_db.add_orders([31])
    run = snapshot.poll()
    assert (run.logged, run.unchanged, run.failed, run.error) == (4, 27, 0, None)
    found = operations(snapshot)
    assert [found[1], found[30], found[7], found[31]] == [["upsert", "delete"]] * 2 + [["upsert"] * 2, ["upsert"]]
    assert snapshot.poll().logged == 0


def test_a_key_without_a_form_in_json_is_failed_once_and_never_deleted(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("create table rates (at real primary key, rate integer)")
    source_db.execute("insert into rates values (1.5, 1), (9e999, 2)")
    testbed.change_stream(mode="snapshot", table="rates", key=("at",), cursor=None)
    assert [(run.logged, run.failed) for run in (testbed.poll(), testbed.poll(), testbed.poll())] == [
        (2, 1),
        (0, 0),
        (0, 0),
    ]
    assert {record["op"] for record in testbed.records()} == {"upsert"}


def test_a_warning_says_where_deletes_go_unless_the_stream_does(snapshot: Testbed) -> None:
    def advise() -> tuple[str, ...]:
        with StreamReader(snapshot.source, snapshot.stream) as reader:
            return reader.advice

    (warning,) = advise()
    assert "sends only their key to POST /orders; in streams.orders set delete_endpoint" in warning
    snapshot.change_stream(sends_deletes=False)
    assert advise() == ()
    snapshot.change_stream(sends_deletes=True, delete_method="DELETE", delete_path="/orders/{id}")
    assert advise() == ()


def test_with_a_delete_share_of_zero_no_row_is_deleted(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    testbed.change_stream(mode="snapshot", cursor=None, max_delete_share=0.0)
    testbed.poll()
    source_db.execute("delete from orders where id = 2")
    assert "stopped: 1 of 3 known rows are gone" in str(testbed.poll().error)
    assert {record["op"] for record in testbed.records()} == {"upsert"}


def test_a_row_that_comes_back_is_sent_again(snapshot: Testbed, source_db: SourceDb) -> None:
    snapshot.poll()
    source_db.execute("delete from orders where id = 3")
    snapshot.poll()
    source_db.add_orders([3])
    snapshot.poll()
    assert operations(snapshot)[3] == ["upsert", "delete", "upsert"]


def test_a_long_table_is_read_in_pieces_and_both_halves_go_on_where_they_were(
    snapshot: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.pipeline.polling.delete_detection.KEYS_AT_ONCE", 10)
    snapshot.poll()
    source_db.execute("delete from orders where id in (2, 15, 29)")
    phases = []
    for _ in range(50):
        run = snapshot.poll(should_stop=lambda: True)
        assert run.error is None
        cursor = snapshot.database.streams.find_one({"_id": "orders"})["cursor"]
        phases.append(cursor.get("phase", "start"))
        if phases[-1] == "start":
            break
    assert phases.count("read") == 4
    assert phases.count("sweep") >= 3
    assert phases[-1] == "start"
    assert {number for number, ops in operations(snapshot).items() if ops[-1] == "delete"} == {2, 15, 29}


def test_an_emptied_table_deletes_nothing_until_an_operator_allows_it(snapshot: Testbed, source_db: SourceDb) -> None:
    snapshot.poll()
    source_db.execute("delete from orders where id > 10")
    run = snapshot.poll()
    assert "20 of 30 known rows are gone" in str(run.error)
    assert run.hint is not None
    assert "max_delete_share = 1" in run.hint
    assert all(ops == ["upsert"] for ops in operations(snapshot).values())
    assert "20 of 30" in str(snapshot.poll().error)
    snapshot.change_stream(max_delete_share=1.0)
    assert snapshot.poll().logged == 20
    assert snapshot.poll().logged == 0


def test_a_row_that_is_there_after_all_is_not_deleted(snapshot: Testbed, source_db: SourceDb) -> None:
    """A page is read before the row comes; the delete is only logged once the row itself was asked for."""
    snapshot.poll()

    class Blinking:
        """A source that leaves row 5 out of its pages, and returns it when it is looked up by its key."""

        def __init__(self) -> None:
            self.reader = StreamReader(snapshot.source, snapshot.stream)

        def __getattr__(self, name: str) -> object:
            return getattr(self.reader, name)

        def pages(self, cursor: Cursor) -> object:
            source_db.execute("delete from orders where id = 5")
            yield from self.reader.pages(cursor)
            source_db.add_orders([5])

    run = snapshot.poll(Blinking())  # type: ignore[arg-type]
    assert (run.error, run.logged) == (None, 0)


def test_deletes_reach_the_partner_after_the_row(snapshot: Testbed, source_db: SourceDb) -> None:
    snapshot.poll()
    snapshot.deliver()
    source_db.execute("delete from orders where id = 4")
    snapshot.poll()
    snapshot.deliver()
    (delete,) = [record for record in snapshot.records() if record["op"] == "delete"]
    assert (delete["state"], delete["key"]) == ("delivered", {"id": 4})


def test_keys_of_every_type_are_asked_for(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("create table keyed (a text, b numeric, c blob, v integer, primary key (a, b, c)) without rowid")
    rows = [("ä'%:x", 1.5, b"\x00\xff", 1), ("", 2, b"", 2), ("x", -1, b"\x01", 3)]
    source_db.execute_many("insert into keyed values (?, ?, ?, ?)", rows)
    testbed.change_stream(mode="snapshot", table="keyed", key=(), cursor=None, max_delete_share=1.0)
    assert testbed.poll().logged == 3
    assert testbed.poll().logged == 0
    source_db.execute("delete from keyed where v = 1")
    run = testbed.poll()
    assert (run.error, run.logged) == (None, 1)
    (delete,) = testbed.records(op="delete")
    assert delete["key"]["a"] == "ä'%:x"


def test_a_row_without_a_whole_key_is_failed_and_never_deleted(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("create table odd (a text, v integer)")
    source_db.execute_many("insert into odd values (?, ?)", [(None, 1), ("x", 2), ("y", 3)])
    testbed.change_stream(mode="snapshot", table="odd", key=("a",), cursor=None)
    run = testbed.poll()
    assert (run.read, run.logged, run.failed, run.error) == (3, 3, 1, None)
    source_db.execute("delete from odd where a is null or a = 'y'")
    run = testbed.poll()
    assert (run.logged, run.error) == (1, None)
    assert [record["key"]["a"] for record in testbed.records(op="delete")] == ["y"]


def test_a_table_that_was_empty_for_a_moment_is_read_again(snapshot: Testbed, source_db: SourceDb) -> None:
    """A nightly job truncates and reloads: the refusal must not outlive its reason."""
    snapshot.poll()
    source_db.execute("delete from orders")
    assert "30 of 30 known rows are gone" in str(snapshot.poll().error)
    source_db.add_orders(range(1, 31), note="reloaded")
    run = snapshot.poll()
    assert (run.error, run.read, run.logged) == (None, 30, 30)


def test_a_table_whose_keys_were_all_replaced_deletes_nothing_by_itself(snapshot: Testbed, source_db: SourceDb) -> None:
    snapshot.poll()
    source_db.execute("update orders set id = id + 1000")
    assert "30 of 30 known rows are gone" in str(snapshot.poll().error)
    assert snapshot.records(op="delete") == []


def test_a_table_that_is_emptied_during_delete_detection_stops_it(
    snapshot: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.pipeline.polling.delete_detection.KEYS_AT_ONCE", 8)
    snapshot.poll()
    for _ in range(9):
        snapshot.poll(should_stop=lambda: True)
        if snapshot.database.streams.find_one({"_id": "orders"})["cursor"].get("swept"):
            break
    source_db.execute("delete from orders")
    run = snapshot.poll()
    assert "known rows are gone" in str(run.error)
    assert len(snapshot.records(op="delete")) <= 15


def test_a_row_that_cannot_be_read_stops_neither_deletes_nor_polls(snapshot: Testbed, source_db: SourceDb) -> None:
    snapshot.poll()
    source_db.execute("update orders set note = cast(x'ff' as text) where id in (4, 20)")
    source_db.execute("delete from orders where id in (5, 30)")
    run = snapshot.poll()
    assert (run.error, run.logged, run.failed) == (None, 4, 2)
    assert sorted(record["key"]["id"] for record in snapshot.records(op="delete")) == [5, 30]
    again = snapshot.poll()
    assert (again.error, again.logged, again.unchanged) == (None, 0, 28)


def test_a_row_that_cannot_be_read_is_among_the_rows_that_are_looked_up(snapshot: Testbed, source_db: SourceDb) -> None:
    source_db.execute("update orders set note = cast(x'ff' as text) where id = 4")
    with StreamReader(snapshot.source, snapshot.stream) as reader:
        read = {row.key["id"]: row for page in reader.pages(reader.start_cursor()) for row in page.rows}
        found = {row.key["id"]: row for row in reader.find_rows([{"id": number} for number in range(1, 41)])}
    assert found == read
    assert "the database could not read the row" in str(found[4].error)


def test_a_long_sweep_is_no_source_that_does_not_return(snapshot: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncctl.pipeline.polling.delete_detection.KEYS_AT_ONCE", 5)
    snapshot.poll()
    reader: Any = StreamReader(snapshot.source, snapshot.stream)  # type: ignore[arg-type]
    find_missing, moved_at = reader.find_missing, set()

    def find_slowly(keys: Any) -> Any:
        time.sleep(0.3)
        moved_at.add(snapshot.database.streams.find_one({"_id": "orders"})["poll"]["moved_at"])
        return find_missing(keys)

    reader.find_missing = find_slowly
    assert snapshot.poll(reader, lease_seconds=0.4).error is None
    assert len(moved_at) > 3
