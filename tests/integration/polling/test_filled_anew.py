"""Numbers and versions that begin anew and have passed the cursor: the stream stops before a row is passed over."""

from collections.abc import Iterable
from typing import Any

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.pipeline.operations.rewind import plan_rewind, rewind_stream
from syncctl.pipeline.polling.poll import Run
from syncctl.sources.reader import StreamReader
from tests.harness.passing_time import let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


def add(source_db: SourceDb, ids: Iterable[int], *, of: str) -> None:
    """Insert one order for each id, of customers and amounts of its own."""
    for number in ids:
        source_db.execute(
            "insert into orders values (?, ?, ?, 'new', ?)",
            (number, f"{of} {number}", float(f"{number}.{len(of)}"), f"2026-01-01 00:00:{number:02}"),
        )


@pytest.fixture
def polled(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """Twenty rows that were read."""
    source_db.create_orders()
    add(source_db, range(1, 21), of="first")
    assert testbed.poll().read == 20
    return testbed


def rewind(testbed: Testbed, to: str) -> None:
    with StreamReader(testbed.source, testbed.stream) as reader:
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=reader, to=to)
    rewind_stream(ledger=testbed.ledger, plan=plan, resend=False, who="me", worker="w")


@pytest.mark.parametrize("append_only", [False, True])
def test_a_table_that_was_filled_anew_past_the_cursor_stops_its_stream(
    polled: Testbed, source_db: SourceDb, append_only: bool
) -> None:
    polled.change_stream(append_only=append_only)
    source_db.execute("delete from orders")
    add(source_db, range(1, 26), of="second")
    for _ in range(2):
        run = polled.poll()
        assert "stream orders cannot go on: the database was restored, or the table was filled anew" in str(run.error)
        assert "with id 18, 19, 20, but now other rows are in their place; if the stream went on" in str(run.error)
        assert "it would pass over such rows up to the cursor 20" in str(run.error)
        assert "syncctl rewind orders --to beginning; or, if these rows were only changed" in str(run.hint)
        assert (run.read, run.cursor_after) == (0, "20")
    rewind(polled, "beginning")
    assert (polled.poll().read, polled.poll().error) == (25, None)


def test_it_stops_too_where_the_table_was_seen_empty_meanwhile(polled: Testbed, source_db: SourceDb) -> None:
    source_db.execute("delete from orders")
    for _ in range(3):
        assert polled.poll().error is None
    add(source_db, range(1, 31), of="second")
    assert "filled anew" in str(polled.poll().error)


def test_rows_that_were_only_changed_go_on_after_a_rewind_to_the_same_place(
    polled: Testbed, source_db: SourceDb
) -> None:
    source_db.execute("update orders set customer = 'x' || id, amount = amount + 1000")
    assert "syncctl rewind orders --to 20" in str(polled.poll().hint)
    rewind(polled, "20")
    assert polled.poll().error is None
    add(source_db, [21], of="first")
    assert (polled.poll().read, polled.poll().error) == (1, None)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from orders where id > 10",
        "delete from orders where id < 20",
        "delete from orders",
        "update orders set customer = 'the same', note = 'changed', updated_at = '2026-02-02'",
        "update orders set amount = amount + 1, note = 'changed', updated_at = '2026-02-02 00:00:' || id",
        "update orders set customer = id || ' renamed', amount = amount + 1 where id > 18",
        "update orders set customer = null, amount = null, note = null where id > 18",
    ],
)
def test_rows_that_are_deleted_or_changed_stop_nothing(polled: Testbed, source_db: SourceDb, statement: str) -> None:
    source_db.execute(statement)
    add(source_db, range(31, 41), of="first")
    for _ in range(2):
        assert polled.poll().error is None
    assert polled.ledger.polls.load_cursor("orders")["at"] == "40"  # type: ignore[index]


def test_rows_that_are_changed_one_after_another_stop_nothing(polled: Testbed, source_db: SourceDb) -> None:
    for number in range(13, 21):
        source_db.execute("update orders set customer = 'y' || id, amount = amount + 1 where id = ?", (number,))
        assert polled.poll().error is None


def test_the_same_rows_filled_in_again_are_the_same_rows(polled: Testbed, source_db: SourceDb) -> None:
    source_db.execute("delete from orders")
    add(source_db, range(1, 26), of="first")
    run = polled.poll()
    assert (run.error, run.read) == (None, 5)


def test_a_look_up_that_takes_too_long_stops_nothing_and_is_not_repeated_at_once(
    polled: Testbed, source_db: SourceDb
) -> None:
    tried: list[int] = []

    def poll(number: int) -> Run:
        def fail(_: object) -> Any:
            tried.append(number)
            raise ServiceUnavailable("the source did not answer a query in time", service="source")

        add(source_db, [number], of="first")
        reader: Any = StreamReader(polled.source, polled.stream)  # type: ignore[arg-type]
        reader.find_again = fail
        return polled.poll(reader)

    for number in (21, 22):
        run = poll(number)
        assert (run.error, run.read) == (None, 1)
        assert "could not be looked up" in run.notes[0]
    assert tried == [21]
    let_hours_pass(polled.database, 1)
    assert poll(23).error is None
    assert tried == [21, 23]
    let_hours_pass(polled.database, 1)
    source_db.execute("delete from orders")
    add(source_db, range(1, 31), of="second")
    assert "filled anew" in str(polled.poll().error)


def test_another_set_of_columns_is_no_other_row(polled: Testbed) -> None:
    polled.change_stream(columns=("note",))
    assert polled.poll().error is None
    polled.change_stream(columns=())
    assert polled.poll().error is None


# Versions


class Versions:
    """The rowversions of a table with a trigger's worth of care: the test gives them out."""

    def __init__(self, source_db: SourceDb) -> None:
        self.given_out = 0
        self._db = source_db
        source_db.execute("create table items (id integer primary key, name text, row_version blob)")

    def __call__(self, _: Any) -> bytes:
        return (self.given_out + 1).to_bytes(8, "big")

    def put(self, *rows: tuple[int, str]) -> None:
        for number, name in rows:
            self.given_out += 1
            version = self.given_out.to_bytes(8, "big")
            self._db.execute("insert or replace into items values (?, ?, ?)", (number, name, version))

    def open(self, testbed: Testbed) -> StreamReader:
        return StreamReader(testbed.source, testbed.stream, read_ceiling=self)  # type: ignore[arg-type]

    def poll(self, testbed: Testbed) -> Any:
        return testbed.poll(self.open(testbed))  # type: ignore[arg-type]


@pytest.fixture
def versions(testbed: Testbed, source_db: SourceDb) -> Versions:
    """Six rows that were read in mode rowversion, of which each was changed once."""
    testbed.change_stream(table="items", mode="rowversion", cursor="row_version", key=())
    versions = Versions(source_db)
    versions.put(*((number, "a") for number in range(1, 7)))
    versions.put(*((number, "b") for number in range(1, 7)))
    assert versions.poll(testbed).error is None
    return versions


def test_a_database_that_was_restored_and_has_grown_past_the_cursor_stops_its_stream(
    testbed: Testbed, source_db: SourceDb, versions: Versions
) -> None:
    source_db.execute("delete from items where id = 6")
    source_db.execute("update items set name = 'a', row_version = ? where id = 5", ((5).to_bytes(8, "big"),))
    versions.given_out = 10
    versions.put(*((number, "new") for number in range(100, 110)))
    run = versions.poll(testbed)
    assert "the database was restored" in str(run.error)
    assert "versions are given out a second time" in str(run.error)
    assert run.read == 0


def test_rows_that_are_changed_or_deleted_have_other_versions_and_stop_nothing(
    testbed: Testbed, source_db: SourceDb, versions: Versions
) -> None:
    for name in ("c", "d"):
        source_db.execute("delete from items where id = 1")
        versions.put(*((number, name) for number in range(2, 5)))
        versions.put((1, "again"))
        run = versions.poll(testbed)
        assert (run.error, run.read) == (None, 4)
    # A page that is cut between two versions of one row.
    testbed.change_stream(page_size=1)
    versions.put((3, "e"), (4, "e"))
    reader = versions.open(testbed)
    assert testbed.poll(reader, should_stop=lambda: True).error is None  # type: ignore[arg-type]
    versions.put((3, "f"), (4, "f"))
    assert versions.poll(testbed).error is None
    assert versions.poll(testbed).error is None
