"""Children with a cursor: a row whose child has changed is read again, and no change is passed over."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.sql.selectable import FromClause

from syncctl.core.rows import Cursor
from syncctl.core.stream import Child
from syncctl.errors import ConfigurationError, SourceRestored
from syncctl.sources.catalog.relation import Relation
from syncctl.sources.modes.change_tracking import ALIAS, OPERATION, VERSION, TrackingState
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb

LINES = Child(
    name="lines", table="lines", on=(("order_id", "id"),), sort=("line",), columns=("line", "sku"), cursor="changed"
)
CUSTOMER = Child(name="customer", table="customers", on=(("code", "buyer"),), one=True, cursor="changed")
TAXES = Child(name="taxes", table="taxes", on=(("line_id", "line_id"),), sort=("kind",), cursor="changed")


class Source(SourceDb):
    """Orders with lines and buyers; each write takes the next number as its version, or its time."""

    #: The lowest version of an open transaction; None: all have ended.
    held: int | None = None

    def __init__(self, path: Path, *, as_times: bool = False) -> None:
        super().__init__(path)
        self.as_times = as_times
        self.version = 0
        changed = f"changed {'text' if as_times else 'blob'}"
        self.execute(f"create table orders (id integer primary key, note text, buyer text, {changed})")
        self.execute(
            f"create table lines (line_id integer primary key, order_id int, line int, sku text, {changed},"
            " unique (order_id, line))"
        )
        self.execute(f"create table customers (code text collate nocase, city text, {changed})")
        self.execute(f"create table taxes (line_id int, kind text, rate int, {changed})")
        self.execute(f"create table parts (n text, b text, part text, {changed})")
        self.execute(f"create table tags (order_id int, tag text, {changed})")

    def next(self) -> Any:
        self.version += 1
        number = self.version
        return f"2026-01-01 00:{number // 60:02}:{number % 60:02}" if self.as_times else number.to_bytes(8, "big")

    def order(self, id_: int, note: str = "a", buyer: str | None = None) -> None:
        self.execute("insert or replace into orders values (?, ?, ?, ?)", (id_, note, buyer, self.next()))

    def line(self, order: int, line: int, sku: str = "a") -> None:
        self.execute(
            "insert into lines (order_id, line, sku, changed) values (?, ?, ?, ?) on conflict (order_id, line)"
            " do update set sku = excluded.sku, changed = excluded.changed",
            (order, line, sku, self.next()),
        )

    def ceiling(self, _: object) -> bytes:
        return (self.version + 1 if self.held is None else self.held).to_bytes(8, "big")


class Follower:
    """A reader that polls, what it has seen of each row, and which rows the last poll has read."""

    def __init__(self, source: Source, *children: Child, cursor: Cursor | None = None, **settings: Any) -> None:
        fields = {"mode": "increasing" if source.as_times else "rowversion", "cursor": "changed", "key": ("id",)}
        changes = settings.pop("changes", None)
        stream = make_stream(**{**fields, **settings, "children": children})
        self.reader = StreamReader(make_source(source.url), stream, read_ceiling=source.ceiling, changes=changes)
        self.cursor = self.reader.start_cursor() if cursor is None else cursor
        self.seen: dict[Any, Mapping[str, Any]] = {}
        self.read: list[Any] = []

    def poll(self, *, pages: int = 10**6) -> list[Any]:
        """Read some pages, as a poll that is stopped after them; return the ids of their rows."""
        self.read = []
        for page in self.reader.pages(self.cursor):
            for row in page.rows:
                assert row.error is None
                assert row.version is None
                self.seen[row.key["id"]] = row.payload or {}
                self.read.append(row.key["id"])
            self.cursor = page.cursor
            pages -= 1
            if not pages:
                break
        return self.read

    def skus(self, id_: int) -> list[str]:
        return [line["sku"] for line in self.seen[id_]["lines"]]


@pytest.fixture(params=["versions", "times"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return Source(tmp_path / "source.db", as_times=request.param == "times")


@pytest.fixture
def versions(tmp_path: Path) -> Source:
    return Source(tmp_path / "source.db")


@pytest.fixture
def opened() -> Iterator[list[Follower]]:
    followers: list[Follower] = []
    yield followers
    for follower in followers:
        follower.reader.close()


def test_a_changed_child_sends_its_row_again_however_many_changed(source: Source) -> None:
    source.order(1)
    source.order(2)
    source.line(1, 1)
    follower = Follower(source, LINES, lookback_seconds=0.0)
    assert follower.poll() == [1, 2]
    assert follower.poll() == []
    source.line(1, 1, "b")
    source.line(1, 2, "c")
    source.line(2, 1, "d")
    source.line(9, 1, "of no order")
    assert follower.poll() == [1, 2]
    assert (follower.skus(1), follower.skus(2)) == (["b", "c"], ["d"])
    assert follower.poll() == []


def test_a_bulk_update_of_the_children_of_many_rows_is_read(source: Source) -> None:
    """More rows than an expression of the database may have levels."""
    for number in range(1, 1203):
        source.order(number)
        source.line(number, 1)
    follower = Follower(source, LINES)
    follower.poll()
    source.execute("update lines set sku = 'b', changed = ?", (source.next(),))
    assert sorted(follower.poll()) == list(range(1, 1203))
    assert follower.skus(1202) == ["b"]


def test_a_child_that_meets_its_condition_no_more_sends_its_row_again(source: Source) -> None:
    source.order(1)
    source.line(1, 1)
    source.line(1, 2)
    follower = Follower(source, replace(LINES, where="sku <> 'cancelled'"))
    follower.poll()
    source.line(1, 2, "cancelled")
    assert follower.poll() == [1]
    assert follower.skus(1) == ["a"]


def test_children_without_a_cursor_value_are_named(source: Source) -> None:
    source.order(1)
    source.line(1, 1)
    follower = Follower(source, LINES)
    assert not [text for text in follower.reader.warnings() if "lines" in text]
    source.execute("update lines set changed = null")
    (warning,) = [text for text in follower.reader.warnings() if "lines" in text]
    assert warning == "lines: changes of rows without a value in changed are not found: set it in each row"


def test_rows_that_are_read_again_are_marked_and_keep_the_place_of_the_stream(source: Source) -> None:
    source.order(1)
    follower = Follower(source, LINES)
    follower.poll()
    before = follower.cursor
    source.line(1, 1)
    pages = [page for page in follower.reader.pages(follower.cursor) if page.rows]
    assert [row.again for row in pages[-1].rows] == [True]
    assert {name: pages[-1].cursor[name] for name in before if name not in ("children", "lookback")} == {
        name: before[name] for name in before if name not in ("children", "lookback")
    }


def test_a_change_between_the_read_of_a_row_and_its_childs_is_found(source: Source) -> None:
    """The child's place is taken before the first row is read."""
    source.order(1)
    source.order(2)
    follower = Follower(source, LINES, page_size=1)
    pages = follower.reader.pages(follower.cursor)
    first = next(pages)
    source.line(1, 1, "late")
    rest = [*pages]
    lines = {row.key["id"]: (row.payload or {})["lines"] for page in (first, *rest) for row in page.rows}
    assert [line["sku"] for line in lines[1]] == ["late"]


def test_a_poll_that_is_stopped_anywhere_loses_no_change(source: Source) -> None:
    for number in (1, 2, 3):
        source.order(number)
    follower = Follower(source, LINES, page_size=1)
    for round_ in range(40):
        source.line(1 + round_ % 3, 1, f"s{round_}")
        if round_ % 5 == 0:
            source.order(1 + round_ % 2, f"n{round_}")
        follower.poll(pages=1 + round_ % 2)
    while follower.poll():
        if len(follower.read) <= 3 and source.as_times:
            break
    stored = dict(source.execute("select order_id, sku from lines"))
    assert {number: follower.skus(number)[0] for number in (1, 2, 3)} == stored


def test_a_row_that_an_open_transaction_has_changed_comes_when_it_has_ended(versions: Source) -> None:
    versions.order(1)
    follower = Follower(versions, LINES)
    follower.poll()
    versions.held = versions.version + 1
    versions.line(1, 1, "above")
    assert follower.poll() == []
    versions.held = None
    assert follower.poll() == [1]
    assert follower.skus(1) == ["above"]


def test_a_late_commit_within_the_lookback_is_found(tmp_path: Path) -> None:
    source = Source(tmp_path / "source.db", as_times=True)
    source.order(1)
    source.line(1, 1)
    early = source.next()
    source.line(1, 2)
    follower = Follower(source, LINES, lookback_seconds=60.0)
    follower.poll()
    # Its transaction was open when the child's place was taken.
    source.execute("insert into lines (order_id, line, sku, changed) values (1, 3, 'late', ?)", (early,))
    follower.poll()
    assert follower.skus(1) == ["a", "a", "late"]


def test_a_shared_parent_sends_all_its_rows_in_pages(source: Source) -> None:
    for number in range(1, 26):
        source.order(number, buyer="ann" if number % 2 else "Bob")
    source.execute(
        "insert into customers values ('ANN', 'Oslo', ?), ('bob', 'Rome', ?)", (source.next(), source.next())
    )
    follower = Follower(source, CUSTOMER, page_size=4, lookback_seconds=0.0)
    assert len(follower.poll()) == 25
    source.execute("update customers set city = 'Bergen', changed = ? where code = 'ann'", (source.next(),))
    before = follower.cursor
    assert follower.poll(pages=2) == [1, 3, 5, 7, 9, 11, 13, 15]
    # Until the last of them was read, the child's place stays: a poll that is stopped repeats them.
    assert follower.cursor["children"] == before["children"]
    assert follower.poll() == list(range(1, 26, 2))
    assert follower.seen[11]["customer"]["city"] == "Bergen"
    assert follower.poll() == []


def test_a_change_two_levels_down_sends_the_row(source: Source) -> None:
    for number in (1, 2, 3):
        source.order(number)
        source.line(number, 1)
    lines = replace(LINES, cursor=None, children=(TAXES,), where="sku <> 'hidden'")
    follower = Follower(source, lines, lookback_seconds=0.0)
    follower.poll()
    source.execute("insert into taxes values (2, 'vat', 19, ?), (null, 'x', 1, ?)", (source.next(), source.next()))
    assert follower.poll() == [2]
    assert follower.seen[2]["lines"][0]["taxes"][0]["rate"] == 19
    source.execute("update lines set sku = 'hidden' where order_id = 3")
    source.execute("insert into taxes values (3, 'vat', 19, ?)", (source.next(),))
    assert follower.poll() == []
    assert sorted(follower.cursor["children"]) == ["lines/taxes"]


def test_a_composite_on_is_followed_and_the_condition_of_the_stream_holds(source: Source) -> None:
    source.order(1, note="x", buyer="p")
    source.order(2, note="y", buyer="p")
    source.order(3, note="y", buyer="q")
    parts = Child(name="parts", table="parts", on=(("n", "note"), ("b", "buyer")), sort=("part",), cursor="changed")
    follower = Follower(source, parts, where="id <> 3", lookback_seconds=0.0)
    follower.poll()
    rows = [("y", "p", source.next()), ("x", "q", source.next()), ("y", "q", source.next()), (None, "p", source.next())]
    source.execute_many("insert into parts values (?, ?, 'z', ?)", rows)
    assert follower.poll() == [2]


def test_equal_versions_of_rows_without_a_key_are_all_followed(source: Source) -> None:
    for number in range(1, 11):
        source.order(number)
    tags = Child(name="tags", table="tags", on=(("order_id", "id"),), sort=("tag",), cursor="changed")
    follower = Follower(source, tags, page_size=2, lookback_seconds=0.0)
    follower.poll()
    now = source.next()
    source.execute_many("insert into tags values (?, 't', ?)", [(n, now) for n in (*range(1, 11), 1, 1, 2, 2)])
    assert follower.poll() == list(range(1, 11))


def test_a_cursor_that_is_added_later_begins_now(source: Source) -> None:
    source.order(1)
    source.line(1, 1)
    plain = Follower(source, replace(LINES, cursor=None))
    plain.poll()
    source.line(1, 1, "not seen")
    follower = Follower(source, LINES, cursor=plain.cursor, lookback_seconds=0.0)
    assert follower.poll() == []
    assert follower.cursor["children"].keys() == {"lines"}
    source.line(1, 1, "seen")
    assert follower.poll() == [1]
    # As does the cursor of a child that reads other rows now.
    other = Follower(source, replace(LINES, where="line > 0"), cursor=follower.cursor, lookback_seconds=0.0)
    source.line(1, 1, "again")
    assert other.poll() == []
    assert other.cursor["children"]["lines"]["of"] != follower.cursor["children"]["lines"]["of"]
    # Without a cursor, its place is forgotten, so that it does not begin in the past one day.
    plain = Follower(source, replace(LINES, cursor=None), cursor=other.cursor, lookback_seconds=0.0)
    source.order(1, "b")
    plain.poll()
    assert "children" not in plain.cursor


def test_a_start_now_follows_the_children_of_rows_that_were_there_before(source: Source) -> None:
    source.order(1)
    source.line(1, 1)
    follower = Follower(source, LINES, start="now", lookback_seconds=0.0)
    assert follower.poll() == []
    source.line(1, 2)
    assert follower.poll() == [1]


def test_a_place_of_the_stream_is_one_of_its_children_if_both_follow_the_same(source: Source) -> None:
    source.order(1)
    source.line(1, 1)
    at = source.next()
    source.line(1, 2)
    follower = Follower(source, LINES, lookback_seconds=0.0)
    follower.poll()
    text = at if source.as_times else f"0x{at.hex()}"
    cursor = follower.reader.parse_cursor(text)
    assert cursor["children"]["lines"]["at"] == cursor["at"]
    assert follower.reader.parse_cursor("beginning").get("children") is None
    follower.cursor = cursor
    assert follower.poll() == [1]


def test_numbers_of_two_tables_are_not_compared(tmp_path: Path) -> None:
    source = Source(tmp_path / "source.db", as_times=True)
    source.order(1)
    follower = Follower(source, replace(LINES, cursor="line_id"), cursor=None, mode="increasing", lookback_seconds=0.0)
    stream = Follower(source, replace(LINES, cursor="line_id"))
    assert "children" not in stream.reader.parse_cursor("2026-01-01")
    follower.poll()
    source.line(1, 1)
    assert follower.poll() == [1]
    source.line(1, 1, "changed")
    assert follower.poll() == []


def test_a_restored_database_stops_the_stream_by_its_children_too(versions: Source) -> None:
    versions.order(1)
    versions.line(1, 1)
    follower = Follower(versions, LINES)
    follower.poll()
    versions.line(1, 1)
    follower.poll()
    # Only the child's place is beyond what the database gives out now.
    place = {**follower.cursor["children"]["lines"], "at": "0x00000000000000ff"}
    follower.cursor = {**follower.cursor, "children": {"lines": place}}
    with pytest.raises(SourceRestored) as caught:
        follower.poll()
    assert caught.value.what == "stream orders.children.lines cannot go on: the database was restored"
    assert caught.value.hint.endswith("syncctl rewind orders --to beginning")


@pytest.mark.parametrize(
    ("child", "what", "why"),
    [
        (replace(LINES, cursor="chnged"), "streams.orders.children.lines.cursor is wrong", "has no column chnged"),
        (replace(LINES, cursor="change_tracking"), "streams.orders.children.lines.mode is wrong", "only SQL Server"),
    ],
)
def test_a_cursor_that_cannot_be_followed_is_refused(versions: Source, child: Child, what: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Follower(versions, child)
    assert caught.value.what == what
    assert why in caught.value.why


def test_the_advice_names_each_child_whose_changes_are_not_found(source: Source) -> None:
    taxes = replace(TAXES, cursor=None)
    follower = Follower(source, replace(LINES, children=(taxes,)), CUSTOMER)
    (advice,) = follower.reader.advice
    assert advice.startswith("a change of lines/taxes alone is not found; set ")
    assert "streams.orders.children.lines.children.taxes.cursor" in advice
    whole = Follower(source, replace(LINES, cursor=None), mode="snapshot", cursor=None)
    assert not [advice for advice in whole.reader.advice if "alone" in advice]


class Changes:
    """What triggers have recorded of the lines, as SQL Server's change tracking would."""

    def __init__(self, db: SourceDb, *key: str) -> None:
        self.key = key
        columns = ", ".join(key)
        news, olds = (", ".join(f"{row}.{name}" for name in key) for row in ("new", "old"))
        db.execute(f"create table tracking ({columns}, {VERSION} integer, {OPERATION} text, primary key ({columns}))")
        for event, operation, values in (("insert", "I", news), ("update", "U", news), ("delete", "D", olds)):
            db.execute(
                f"create trigger t{operation} after {event} on lines begin insert or replace into tracking select"  # noqa: S608
                f" {values}, (select count(*) + coalesce(max({VERSION}), 0) from tracking) + 1, '{operation}'; end"
            )

    def read_state(self, connection: sa.Connection, _: Relation) -> TrackingState:
        current = connection.exec_driver_sql(f"select coalesce(max({VERSION}), 0) from tracking").scalar_one()  # noqa: S608
        return TrackingState(current=current, oldest=0, identity={"database": "1"})

    def allows_snapshots(self, _: sa.Connection) -> bool:
        return True

    def since(self, _: sa.Connection, __: Relation, version: int, key: tuple[str, ...]) -> FromClause:
        assert key == self.key
        text = sa.text(f"select * from tracking where {VERSION} > {version}")  # noqa: S608
        return text.columns(*(sa.column(name) for name in (*key, VERSION, OPERATION))).subquery(ALIAS)


@pytest.mark.parametrize("key", [("order_id", "line"), ("line_id",)], ids="-".join)
def test_change_tracking_follows_a_child_and_its_deletes_where_its_key_tells_the_row(
    versions: Source, key: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == ("order_id", "line"):
        versions.execute("drop table lines")
        versions.execute("create table lines (order_id int, line int, sku text, changed, primary key (order_id, line))")
    monkeypatch.setattr("syncctl.sources.sqlite.SqliteDialect.has_change_tracking", True)
    monkeypatch.setattr("sqlalchemy.Connection.execution_options", lambda self, **_: self)
    for number in (1, 2):
        versions.order(number)
        versions.line(number, 1)
    follower = Follower(versions, replace(LINES, cursor="change_tracking"), changes=Changes(versions, *key))
    follower.poll()
    versions.line(2, 1, "b")
    assert follower.poll() == [2]
    versions.execute("delete from lines where order_id = 1")
    sees = key == ("order_id", "line")
    assert follower.poll() == ([1] if sees else [])
    warning = (
        "lines: if one of them is deleted or moved, the row to which it belonged is not found, because the primary"
        " key of the table does not include order_id"
    )
    assert (warning in follower.reader.warnings()) is not sees
