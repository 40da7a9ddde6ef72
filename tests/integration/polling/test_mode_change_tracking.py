"""Mode change_tracking: the first load, the changes since, and a lost position.

No server here tracks changes, so triggers of a SQLite file keep the account that SQL Server keeps: one line for each
row, with the version of its last change. What is special to SQL Server is tested as the SQL that is sent to it.
"""

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql
from sqlalchemy.sql.selectable import FromClause

from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.catalog.relation import Relation
from syncctl.sources.modes.change_tracking import ALIAS, OPERATION, VERSION, ChangeFeed, TrackingState
from syncctl.sources.pages import PageReader
from syncctl.sources.reader import StreamReader
from tests.harness.http_partner import RowPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed
from tests.integration.polling.test_pipeline_poll import Broken, break_at

_ACCOUNT = f"""
create table tracked (id integer primary key, content text);
create table tracking (id integer primary key, {VERSION} integer, {OPERATION} text);
create table clock (version integer);
insert into clock values (0);
create trigger inserted after insert on tracked begin
  update clock set version = version + 1;
  insert into tracking select new.id, version, 'I' from clock where true
    on conflict (id) do update set {VERSION} = excluded.{VERSION}, {OPERATION} = 'I';
end;
create trigger updated after update on tracked begin
  update clock set version = version + 1;
  insert into tracking select new.id, version, 'U' from clock where true
    on conflict (id) do update set {VERSION} = excluded.{VERSION};
end;
create trigger deleted after delete on tracked begin
  update clock set version = version + 1;
  insert into tracking select old.id, version, 'D' from clock where true
    on conflict (id) do update set {VERSION} = excluded.{VERSION}, {OPERATION} = 'D';
end;
"""  # noqa: S608 - names of columns


class TriggeredChanges:
    """The changes that triggers have recorded."""

    def __init__(self) -> None:
        self.oldest = 0
        self.identity = {"object": "1", "database": "2026"}

    def read_state(self, connection: sa.Connection, _: Relation) -> TrackingState:
        current = connection.exec_driver_sql("select version from clock").scalar_one()
        return TrackingState(current=current, oldest=self.oldest, identity=dict(self.identity))

    def allows_snapshots(self, _: sa.Connection) -> bool:
        return False

    def since(self, _: sa.Connection, __: Relation, version: int, key: tuple[str, ...]) -> FromClause:
        text = sa.text(f"select * from tracking where {VERSION} > {version}")  # noqa: S608
        return text.columns(*(sa.column(each) for each in (*key, VERSION, OPERATION))).subquery(ALIAS)


@pytest.fixture
def feed() -> TriggeredChanges:
    return TriggeredChanges()


@pytest.fixture
def tracked(testbed: Testbed, source_db: SourceDb) -> Testbed:
    with closing(sqlite3.connect(source_db.path)) as connection:
        connection.executescript(_ACCOUNT)
    add(source_db, *range(1, 11))
    testbed.change_stream(mode="change_tracking", table="tracked", cursor=None, page_size=3)
    return testbed


def add(db: SourceDb, *ids: int) -> None:
    db.execute_many("insert into tracked values (?, 'a')", [(record_id,) for record_id in ids])


def poll(testbed: Testbed, feed: TriggeredChanges, **options: Any) -> Any:
    reader = StreamReader(testbed.source, testbed.stream, changes=feed)
    return testbed.poll(reader, **options)  # type: ignore[arg-type]


def operations(testbed: Testbed) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for record in testbed.records():
        found.setdefault(record["key"]["id"], []).append(record["op"])
    return found


def test_the_table_is_loaded_and_then_its_changes(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb
) -> None:
    run = poll(tracked, feed)
    assert (run.read, run.logged, run.error, run.cursor_after) == (10, 10, None, "10")
    source_db.execute("update tracked set content = 'b' where id = 2")
    source_db.execute("delete from tracked where id = 3")
    add(source_db, 11)
    run = poll(tracked, feed)
    assert (run.read, run.logged, run.error, run.cursor_after) == (3, 3, None, "13")
    found = operations(tracked)
    assert [found[2], found[3], found[11]] == [["upsert", "upsert"], ["upsert", "delete"], ["upsert"]]
    assert poll(tracked, feed).read == 0


def test_loaded_and_changed_rows_are_masked(tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb) -> None:
    tracked.change_stream(mask={"content": "drop"})
    assert poll(tracked, feed).logged == 10
    source_db.execute("update tracked set content = 'b' where id = 2")
    source_db.execute("delete from tracked where id = 3")
    add(source_db, 11)
    run = poll(tracked, feed)
    # Row 2 has changed only in columns that are not sent.
    assert (run.read, run.logged, run.unchanged, run.error) == (3, 2, 1, None)
    assert {tuple(record["payload"]) for record in tracked.records(op="upsert")} == {("id",)}
    assert [record["key"] for record in tracked.records(op="delete")] == [{"id": 3}]


def test_changes_during_the_load_are_found(tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb) -> None:
    run = poll(tracked, feed, should_stop=lambda: True)
    assert run.read == 3
    source_db.execute("update tracked set content = 'b' where id in (1, 9)")
    source_db.execute("delete from tracked where id in (2, 10)")
    add(source_db, 0)
    poll(tracked, feed)
    found = operations(tracked)
    # Row 10 was gone before it was read: it was never sent.
    assert (found[1], found[2], found[9], found[0]) == (["upsert"] * 2, ["upsert", "delete"], ["upsert"], ["upsert"])
    assert 10 not in found
    contents = {record["key"]["id"]: record["payload"]["content"] for record in tracked.records(op="upsert")}
    assert (contents[1], contents[9]) == ("b", "b")


def test_pages_of_changes_neither_skip_nor_repeat_a_row(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb
) -> None:
    poll(tracked, feed)
    source_db.execute("update tracked set content = 'b'")
    # As one transaction does it: all changes have one version.
    source_db.execute(f"update tracking set {VERSION} = (select version from clock)")  # noqa: S608
    for _ in range(3):
        assert poll(tracked, feed, should_stop=lambda: True).logged == 3
    assert poll(tracked, feed).logged == 1
    assert all(len(found) == 2 for found in operations(tracked).values())


def test_a_row_that_came_and_went_between_two_polls_is_not_logged(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb
) -> None:
    poll(tracked, feed)
    add(source_db, 20)
    source_db.execute("delete from tracked where id = 20")
    run = poll(tracked, feed)
    assert (run.read, run.logged, run.unchanged) == (1, 0, 1)
    add(source_db, 20)
    poll(tracked, feed)
    assert operations(tracked)[20] == ["upsert"]


@pytest.mark.parametrize("order", ["strict", "none"])
def test_a_row_that_an_interrupted_poll_has_logged_is_deleted_at_the_partner(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb, order: str
) -> None:
    tracked.change_stream(order=order, delete_method="DELETE", delete_path="/orders/{id}")
    poll(tracked, feed)
    add(source_db, 20)
    with pytest.raises(Broken):
        poll(tracked, feed, ledger=break_at(tracked, "records", "log", "after"))
    source_db.execute("delete from tracked where id = 20")
    assert poll(tracked, feed).logged == 1
    assert operations(tracked)[20] == ["upsert", "delete"]
    with RowPartner(lambda _: 201) as server:
        deleted: list[str] = []
        server.delete = lambda path: (deleted.append(path), (204, b""))[1]  # type: ignore[method-assign]
        tracked.partner = replace(tracked.partner, url=server.url)
        tracked.deliver()
    assert 20 in server.calls
    assert deleted == ["/orders/20"]


def lose_retention(feed: TriggeredChanges, _: SourceDb) -> None:
    feed.oldest = 11


def lose_database(feed: TriggeredChanges, _: SourceDb) -> None:
    feed.identity["database"] = "2027"


def lose_versions(_: TriggeredChanges, db: SourceDb) -> None:
    db.execute("update clock set version = 4")


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        (lose_retention, "changes are known since version 11, and were read up to 10: they were cleaned up"),
        (lose_database, "this is not the database, or not the table, that was read before (database changed)"),
        (lose_versions, "its changes are at version 4, but were read up to 10 before"),
    ],
)
def test_a_lost_place_stops_the_stream_and_names_the_way_back(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb, lose: Any, why: str
) -> None:
    poll(tracked, feed)
    lose(feed, source_db)
    with StreamReader(tracked.source, tracked.stream, changes=feed) as reader, pytest.raises(SourceRestored) as caught:
        list(reader.pages(tracked.database.streams.find_one({"_id": "orders"})["cursor"]))
    assert caught.value.why == why
    assert "syncctl rewind orders --to beginning" in caught.value.hint
    run = poll(tracked, feed)
    assert (run.read, run.cursor_after) == (0, "10")


def test_a_lost_right_is_not_taken_for_another_database(tracked: Testbed, feed: TriggeredChanges) -> None:
    feed.identity["fork"] = "abc"
    poll(tracked, feed)
    del feed.identity["fork"]
    assert poll(tracked, feed).error is None


@pytest.mark.parametrize(
    ("current", "what"), [(None, "the database does not track changes"), (5, "tracked is not tracked")]
)
def test_a_table_that_is_not_tracked_says_which_statement_changes_that(
    tracked: Testbed, feed: TriggeredChanges, current: int | None, what: str
) -> None:
    feed.read_state = lambda *_: TrackingState(current=current, oldest=None, identity={})  # type: ignore[method-assign]
    with (
        StreamReader(tracked.source, tracked.stream, changes=feed) as reader,
        pytest.raises(ConfigurationError) as caught,
    ):
        reader.start_cursor()
    assert what in caught.value.why
    assert "CHANGE_TRACKING" in caught.value.hint
    assert "GRANT VIEW CHANGE TRACKING ON tracked" in caught.value.hint


@pytest.mark.parametrize(("start", "read"), [("now", 0), ("7", 3), ("beginning", 10)])
def test_a_stream_starts_where_its_setting_says(
    tracked: Testbed, feed: TriggeredChanges, start: str, read: int
) -> None:
    tracked.change_stream(start=start)
    run = poll(tracked, feed)
    assert (run.read, run.error) == (read, None)


@pytest.mark.parametrize("start", ["11", "0x5", "soon"])
def test_a_start_that_is_not_a_version_is_refused(tracked: Testbed, feed: TriggeredChanges, start: str) -> None:
    tracked.change_stream(start=start)
    with (
        StreamReader(tracked.source, tracked.stream, changes=feed) as reader,
        pytest.raises(ConfigurationError) as caught,
    ):
        reader.start_cursor()
    assert "is not a version" in caught.value.why


def test_the_condition_holds_for_rows_and_lets_deletes_through(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb
) -> None:
    tracked.change_stream(where="id > 5")
    poll(tracked, feed)
    assert sorted(operations(tracked)) == [6, 7, 8, 9, 10]
    source_db.execute("update tracked set content = 'b'")
    source_db.execute("delete from tracked where id in (1, 6)")
    poll(tracked, feed)
    found = operations(tracked)
    assert sorted(found) == [6, 7, 8, 9, 10]
    assert found[6][-1] == "delete"


def test_a_row_that_leaves_the_condition_is_gone_for_the_partner(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb
) -> None:
    tracked.change_stream(where="content <> 'closed'")
    poll(tracked, feed)
    source_db.execute("update tracked set content = 'closed' where id = 4")
    poll(tracked, feed)
    assert operations(tracked)[4] == ["upsert", "delete"]


def test_a_place_within_a_version_needs_the_version_before(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb
) -> None:
    poll(tracked, feed)
    source_db.execute("update tracked set content = 'b'")
    source_db.execute(f"update tracking set {VERSION} = 20")  # noqa: S608
    source_db.execute("update clock set version = 20")
    poll(tracked, feed, should_stop=lambda: True)
    feed.oldest = 20
    assert "its place among the changes is lost" in str(poll(tracked, feed).error)


def test_a_stream_that_was_read_in_another_mode_says_so(tracked: Testbed, feed: TriggeredChanges) -> None:
    tracked.change_stream(mode="increasing", cursor="id")
    tracked.poll()
    tracked.change_stream(mode="change_tracking", cursor=None)
    assert "the cursor of orders does not fit the stream any more" in str(poll(tracked, feed).error)


def test_an_unreadable_row_and_one_that_vanishes_end_no_load(
    tracked: Testbed, feed: TriggeredChanges, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_db.execute("update tracked set content = cast(x'ff' as text) where id = 2")
    read_at = PageReader.read_at

    def vanish(self: PageReader, connection: sa.Connection, values: Any, **options: Any) -> Any:
        return [] if values[0] == 3 else read_at(self, connection, values, **options)

    monkeypatch.setattr(PageReader, "read_at", vanish)
    run = poll(tracked, feed)
    # It was there after all, and the next page has it.
    assert (run.logged, run.failed, run.error) == (10, 1, None)


def test_the_statements_for_sql_server_are_complete() -> None:
    table = sa.table("order: lines", sa.column("id"), schema="dbo").alias("t")
    relation = Relation(title="table", clause=table, columns=())

    class Connection:
        dialect = mssql.dialect()  # type: ignore[no-untyped-call]

    changes = ChangeFeed().since(Connection(), relation, 41, ("id", "line no"))  # type: ignore[arg-type]
    text = str(sa.select(changes.c["id"], changes.c[VERSION]).compile(dialect=mssql.dialect()))  # type: ignore[no-untyped-call]
    assert "FROM CHANGETABLE(CHANGES dbo.[order: lines], 41) AS c" in text
    assert f"SELECT c.id, c.[line no], c.{VERSION}, c.{OPERATION}" in text
