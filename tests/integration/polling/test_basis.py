"""A kept cursor whose stream reads something else now: refused or told, never passed over in silence."""

from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.stream import Source
from syncctl.errors import UsageError
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import read_status
from syncctl.pipeline.operations.rewind import plan_rewind, rewind_stream
from syncctl.sources.reader import StreamReader
from tests.harness.passing_time import let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


@pytest.fixture
def polled(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """Ten rows that were read."""
    source_db.create_orders(10)
    testbed.poll()
    return testbed


def rewind(testbed: Testbed, to: str) -> None:
    with StreamReader(testbed.source, testbed.stream) as reader:
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=reader, to=to)
    rewind_stream(ledger=testbed.ledger, plan=plan, resend=False, who="me", worker="w")


def read_notes(testbed: Testbed) -> list[str]:
    """Return what `status` shows after one more poll."""
    assert testbed.poll().error is None
    (stream,) = read_status(
        ledger=testbed.ledger, configured={"orders": StreamPlan(partner="default")}, messages=0
    ).streams
    return list(stream["notes"])


def test_another_table_is_refused_until_a_rewind_says_where_to_go_on(polled: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(4, table="invoices")
    polled.change_stream(table="invoices")
    for _ in range(2):
        run = polled.poll()
        assert "it reads table main.invoices now: its cursor 10 belongs to table main.orders" in str(run.error)
        assert "syncctl rewind orders --to beginning (all rows" in str(run.hint)
        assert "syncctl rewind orders --to 10" in str(run.hint)
    (stream,) = read_status(
        ledger=polled.ledger, configured={"orders": StreamPlan(partner="default")}, messages=0
    ).streams
    assert (stream["last_error"], stream["last_hint"]) == (run.error, run.hint)
    rewind(polled, "beginning")
    assert (polled.poll().read, polled.poll().error) == (4, None)


def test_an_undone_change_goes_on_where_it_was(polled: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(4, table="invoices")
    polled.change_stream(table="invoices")
    assert polled.poll().error is not None
    polled.change_stream(table="ORDERS")
    source_db.add_orders([11])
    run = polled.poll()
    assert (run.error, run.read) == (None, 1)


def test_a_query_in_place_of_a_table_is_another_place(polled: Testbed) -> None:
    polled.change_stream(table=None, query="select * from orders", key=("id",), cursor="id")
    assert "it reads a query now" in str(polled.poll().error)


def test_another_database_is_refused(polled: Testbed, source_db: SourceDb, tmp_path: Any) -> None:
    other = SourceDb(tmp_path / "other.db")
    other.create_orders(3)
    polled.source = Source(name="default", url=other.url)
    run = polled.poll()
    assert f"it reads database {other.path} now: its cursor 10 belongs to database {source_db.path}" in str(run.error)
    assert "undo the change of the URL of streams.orders.source" in str(run.hint)
    rewind(polled, "10")
    assert polled.poll().error is None


def test_another_key_is_refused(polled: Testbed) -> None:
    polled.change_stream(cursor="updated_at", lookback_seconds=0.0)
    rewind(polled, "beginning")
    assert polled.poll().error is None
    polled.change_stream(key=("customer", "id"))
    error = str(polled.poll().error)
    assert "it reads rows with the key customer, id now" in error
    assert "belongs to rows with the key id" in error


def test_a_cursor_column_that_holds_text_now_is_refused(testbed: Testbed, source_db: SourceDb) -> None:
    """Fails where a number is compared with text: rows after the cursor are passed over."""
    source_db.execute("create table counted (id integer primary key, n integer)")
    source_db.execute("insert into counted values (1, 8), (2, 9)")
    testbed.change_stream(table="counted", mode="increasing", cursor="n")
    assert testbed.poll().read == 2
    source_db.execute("alter table counted rename to counted_before")
    source_db.execute("create table counted (id integer primary key, n varchar(10))")
    source_db.execute("insert into counted select * from counted_before")
    source_db.execute("insert into counted values (3, 10)")
    run = testbed.poll()
    assert "it is the number 9, and n holds text now" in str(run.error)
    assert "syncctl rewind orders --to beginning" in str(run.hint)
    rewind(testbed, "beginning")
    assert (testbed.poll().read, testbed.poll().error) == (3, None)


def test_rows_that_where_newly_includes_are_told_of_until_they_are_read(polled: Testbed, source_db: SourceDb) -> None:
    polled.change_stream(where="id > 8")
    rewind(polled, "beginning")
    assert read_notes(polled) == []
    polled.change_stream(where="id > 2")
    for number in (11, 12):
        source_db.add_orders([number])
        (note,) = read_notes(polled)
        assert "where has changed: rows before the cursor" in note
        assert "that it did not include so far are not read" in note
        assert f"syncctl rewind orders --to {number - 1}" in note
        assert "to read them: syncctl rewind orders --to beginning" in note
    # Other spaces are no other condition.
    polled.change_stream(where="id  >\n8")
    assert read_notes(polled) == []
    polled.change_stream(where="id > 2")
    assert len(read_notes(polled)) == 1
    rewind(polled, "beginning")
    assert read_notes(polled) == []


def test_a_changed_query_is_told_of_until_it_is_accepted(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(10)
    testbed.change_stream(table=None, query="select id, note from orders where id > 5", key=("id",), cursor="id")
    assert testbed.poll().read == 5
    testbed.change_stream(query="select id, note from orders")
    (note,) = read_notes(testbed)
    assert note.startswith("query has changed")
    rewind(testbed, "10")
    assert read_notes(testbed) == []


def test_a_start_that_has_no_effect_any_more_is_told_of(polled: Testbed) -> None:
    polled.change_stream(start="3")
    (note,) = read_notes(polled)
    assert note.startswith("start = 3 has no effect any more: the stream began at beginning, and is at 10; ")
    assert "to go there: syncctl rewind orders --to 3; to stay: syncctl rewind orders --to 10" in note
    rewind(polled, "3")
    assert read_notes(polled) == []


def test_before_the_first_row_nothing_is_passed_over(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(0)
    testbed.poll()
    source_db.create_orders(3, table="invoices")
    testbed.change_stream(table="invoices", where="id > 0")
    run = testbed.poll()
    assert (run.error, run.read) == (None, 3)
    assert read_notes(testbed) == []


def test_a_mode_that_reads_all_rows_passes_over_none(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(10)
    testbed.change_stream(mode="snapshot", cursor=None, where="id > 1")
    assert testbed.poll().read == 9
    testbed.change_stream(where=None)
    assert testbed.poll().read == 10
    assert read_notes(testbed) == []


def test_a_stream_of_an_earlier_version_takes_what_it_reads_now(polled: Testbed) -> None:
    polled.database.streams.update_one({"_id": "orders"}, {"$unset": {"basis": True}})
    polled.change_stream(where="id > 2")
    assert read_notes(polled) == []
    polled.change_stream(where="id > 3")
    assert len(read_notes(polled)) == 1


def test_the_history_of_another_table_has_no_place_in_this_one(polled: Testbed, source_db: SourceDb) -> None:
    let_hours_pass(polled.database, 5)
    source_db.create_orders(4, table="invoices")
    polled.change_stream(table="invoices")
    assert polled.poll().error is not None
    rewind(polled, "beginning")
    polled.poll()
    let_hours_pass(polled.database, 1)
    at = polled.ledger.streams.server_time() - timedelta(minutes=30)
    with StreamReader(polled.source, polled.stream) as reader:
        plan = plan_rewind(ledger=polled.ledger, stream=polled.stream, reader=reader, to=at)
        assert plan.after["at"] == "4"
        before = polled.ledger.runs.find_history_start("orders")
        assert before is not None
        with pytest.raises(UsageError, match="it read another table"):
            plan_rewind(ledger=polled.ledger, stream=polled.stream, reader=reader, to=before)


def test_rows_of_a_page_with_the_same_key_are_told(testbed: Testbed, source_db: SourceDb) -> None:
    """Only the last of them becomes a record: without a word, the other rows would be missing (invariant 12)."""
    source_db.execute("create table codes (id integer primary key, code text)")
    source_db.execute_many("insert into codes values (?, ?)", [(1, "x"), (2, "y"), (3, "x")])
    testbed.change_stream(table="codes", key=("code",), cursor="id")
    (note,) = read_notes(testbed)
    assert note.startswith("rows of one page have the same key")
    assert len(testbed.records()) == 2


def test_keys_that_rows_share_are_logged_once_in_a_poll_that_has_many_other_notes(
    testbed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("syncctl.pipeline.polling.poll.NOTES_AT_MOST", 0)
    source_db.execute("create table codes (id integer primary key, code text)")
    source_db.execute_many("insert into codes values (?, 'x')", [(number,) for number in range(1, 21)])
    testbed.change_stream(table="codes", key=("code",), cursor="id", page_size=2)
    assert testbed.poll().read == 20
    assert caplog.text.count("poll.note") == 1
