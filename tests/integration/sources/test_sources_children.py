"""Children of rows: which belong to a row, in which form they come, and what a bad one does."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from syncctl.core.rows import Row
from syncctl.core.stream import Child
from syncctl.errors import ConfigurationError, SourceError
from syncctl.sources.children import FETCHED_AT_ONCE
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import list_ids, open_stream, read

CANARY = "078-05-1120-canary"
SECRET = "s" * 32
LINES = Child(name="lines", table="order_lines", on=(("order_id", "id"),), sort=("line",))
CUSTOMER = Child(name="buyer", table="customers", on=(("name", "customer"),), one=True)
NOT_UTF8 = "cast(x'ff41' as text)"


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    made = SourceDb(tmp_path / "source.db")
    made.create_orders(3)
    made.execute(
        "create table order_lines (order_id int, line int, sku text, qty decimal(10, 2), primary key (order_id, line))"
    )
    made.execute("create table customers (name text collate nocase primary key, city text)")
    return made


def add_lines(db: SourceDb, *lines: tuple[Any, ...]) -> None:
    db.execute_many("insert into order_lines values (?, ?, ?, ?)", lines)


def children(rows: list[Row], name: str = "lines") -> list[Any]:
    assert [row.error for row in rows] == [None] * len(rows)
    return [(row.payload or {})[name] for row in rows]


def read_lines(db: SourceDb, child: Child = LINES, /, **settings: Any) -> list[Any]:
    rows, _ = read(db, cursor="id", children=(child,), **settings)
    return children(rows, child.name)


def errors(rows: list[Row]) -> dict[Any, str]:
    return {row.key["id"]: row.error for row in rows if row.error is not None}


def test_a_row_has_its_children_in_their_order_and_a_row_without_has_none(db: SourceDb) -> None:
    add_lines(db, (1, 2, "b", "2.50"), (3, 1, "c", 1), (1, 1, "a", 0.1), (9, 1, "of none", 1))
    assert read_lines(db) == [
        [{"line": 1, "sku": "a", "qty": Decimal("0.10")}, {"line": 2, "sku": "b", "qty": Decimal("2.50")}],
        [],
        [{"line": 1, "sku": "c", "qty": Decimal("1.00")}],
    ]


def test_columns_exclude_where_and_sort_decide_what_comes(db: SourceDb) -> None:
    add_lines(db, (1, 1, "b", 1), (1, 2, "a", 2), (1, 3, "c: 50%?", 3))
    assert read_lines(db, replace(LINES, columns=("ORDER_ID", "sku"), sort=("sku",)))[0] == [
        {"order_id": 1, "sku": "a"},
        {"order_id": 1, "sku": "b"},
        {"order_id": 1, "sku": "c: 50%?"},
    ]
    excluded = replace(LINES, exclude=("qty", "line"), where="qty > 1 and sku <> ':x ? %s' -- :y")
    assert read_lines(db, excluded)[0] == [{"sku": "a"}, {"sku": "c: 50%?"}]


def test_a_query_is_a_child_too(db: SourceDb) -> None:
    add_lines(db, (1, 1, "a", 1), (1, 2, "b", 2), (2, 1, "c", 4))
    query = "select order_id as o, sum(qty) as total, count(*) as n from order_lines group by order_id;"
    total = Child(name="total", query=query, on=(("o", "id"),), one=True)
    assert read_lines(db, total) == [{"total": 3, "n": 2}, {"total": 4, "n": 1}, None]


def test_one_is_an_object_that_several_rows_may_share(db: SourceDb) -> None:
    db.execute("update orders set customer = case id when 1 then 'Ann' when 2 then 'ANN' end")
    db.execute("insert into customers values ('ann', 'Oslo')")
    # The database compares by its own rules: the column does not tell Ann from ANN. NULL equals nothing.
    assert read_lines(db, CUSTOMER) == [{"city": "Oslo"}, {"city": "Oslo"}, None]


def test_a_null_has_no_children_although_a_child_has_one_too(db: SourceDb) -> None:
    db.execute("update orders set customer = null")
    db.execute("create table visits (name text, n int)")
    db.execute("insert into visits values (null, 1)")
    visits = Child(name="visits", table="visits", on=(("name", "customer"),), sort=("n",))
    assert read_lines(db, visits) == [[], [], []]


def test_all_pairs_of_on_must_be_equal(db: SourceDb) -> None:
    db.execute("update orders set note = 'n' || (id % 2)")
    db.execute("create table parts (o int, n text, part text)")
    db.execute_many(
        "insert into parts values (?, ?, ?)", [(1, "n1", "a"), (1, "n0", "x"), (2, "n1", "y"), (3, "n1", "b")]
    )
    parts = Child(name="parts", table="parts", on=(("o", "id"), ("n", "note")), sort=("part",))
    assert read_lines(db, parts) == [[{"part": "a"}], [], [{"part": "b"}]]


def test_a_child_has_children_of_its_own(db: SourceDb) -> None:
    add_lines(db, (1, 1, "a", 1), (1, 2, "b", 1), (2, 1, "c", 1))
    db.execute("create table taxes (o int, l int, kind text, rate decimal(5, 3), code text)")
    db.execute_many(
        "insert into taxes values (?, ?, ?, ?, ?)",
        [(1, 1, "x", "0.1", "k"), (1, 1, "v", 0.25, "k"), (2, 1, "v", 0, "m")],
    )
    db.execute("create table codes (code text, title text)")
    db.execute("insert into codes values ('k', 'K!')")
    code = Child(name="title", table="codes", on=(("code", "code"),), one=True)
    taxes = Child(
        name="taxes", table="taxes", on=(("o", "order_id"), ("l", "line")), sort=("kind",), columns=("rate",),
        children=(code,),
    )  # fmt: skip
    # Neither order_id nor code is sent: they are read because children belong to a row by them.
    assert read_lines(db, replace(LINES, columns=("sku",), children=(taxes,))) == [
        [
            {"sku": "a", "taxes": [
                {"rate": Decimal("0.250"), "title": {"title": "K!"}},
                {"rate": Decimal("0.100"), "title": {"title": "K!"}},
            ]},
            {"sku": "b", "taxes": []},
        ],
        [{"sku": "c", "taxes": [{"rate": Decimal("0.000"), "title": None}]}],
        [],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "increasing", "cursor": "id"},
        {"mode": "increasing", "cursor": "updated_at"},
        {"mode": "snapshot"},
        {"query": "select * from orders", "key": ("id",), "mode": "increasing", "cursor": "id"},
        {"mode": "flag", "where": "amount > 0", "cursor": "updated_at", "acknowledge": "update orders set amount = 0"
         " where id = :id and updated_at = :updated_at"},
    ],
    ids=" ".join,
)  # fmt: skip
def test_each_way_of_reading_a_row_brings_its_children(db: SourceDb, mode: dict[str, Any]) -> None:
    add_lines(db, (2, 1, "a", 1))
    expected = {1: [], 2: [{"line": 1, "sku": "a", "qty": Decimal("1.00")}], 3: []}
    with open_stream(db, **mode, children=(LINES,)) as reader:
        polled = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
        found = reader.find_rows([{"id": number} for number in (1, 2, 3)])
        scanned = [each.row for page in reader.scan(None) for each in page]
        first = reader.first_row()
    for rows in (polled, found, scanned):
        assert {row.key["id"]: row.payload["lines"] for row in rows if row.payload is not None} == expected
    assert first is not None
    assert (first.payload or {})["lines"] == []


def test_children_need_not_be_those_of_columns_that_are_sent(db: SourceDb) -> None:
    db.execute("insert into customers values ('customer 1', 'Oslo')")
    rows, _ = read(db, cursor="id", columns=("id",), children=(CUSTOMER,))
    assert rows[0].payload == {"id": 1, "buyer": {"city": "Oslo"}}


def test_more_parents_than_a_statement_takes_parameters(db: SourceDb) -> None:
    db.add_orders(range(4, 3001))
    add_lines(db, *((number, line, "s", 1) for number in range(1, 3001) for line in (1, 2)))
    db.execute("create table parts (o int, n text)")
    db.execute_many("insert into parts values (?, '')", [(number,) for number in range(1, 3001)])
    parts = Child(name="part", table="parts", on=(("o", "id"), ("n", "note")), one=True, columns=("o",))
    rows, _ = read(db, cursor="id", page_size=3000, children=(replace(LINES, columns=("line",)), parts))
    assert list_ids(rows) == list(range(1, 3001))
    assert children(rows) == [[{"line": 1}, {"line": 2}]] * 3000
    assert children(rows, "part") == [{"o": number} for number in range(1, 3001)]


def test_no_statement_has_more_parameters_than_sql_server_takes(db: SourceDb) -> None:
    db.add_orders(range(4, 2501))
    asked = []
    with open_stream(db, cursor="id", page_size=2500, children=(LINES,)) as reader:
        engine = reader._opened.source.engine
        sa.event.listen(
            engine, "before_cursor_execute", lambda _, __, text, values, *___: asked.append((text, len(values)))
        )
        list(reader.pages(reader.start_cursor()))
    counts = [count for text, count in asked if "order_lines" in text]
    assert len(counts) == 2
    assert max(counts) <= 2000


def test_rows_that_are_equal_in_sort_come_in_one_order(db: SourceDb) -> None:
    db.execute("create table tags (o int, tag text collate nocase, kind text collate nocase)")
    tags = [(1, "b", "X"), (1, "a", "y"), (1, "a", "x"), (1, "a", "X"), (1, "a", "Y")]
    child = Child(name="tags", table="tags", on=(("o", "id"),), sort=("tag",))
    seen = []
    for order in (tags, tags[::-1]):
        db.execute("delete from tags")
        db.execute_many("insert into tags values (?, ?, ?)", order)
        seen.append(read_lines(db, child)[0])
    assert seen[0] == seen[1] == [{"tag": tag, "kind": kind} for tag, kind in
                                  (("a", "X"), ("a", "Y"), ("a", "x"), ("a", "y"), ("b", "X"))]  # fmt: skip


@pytest.mark.parametrize(
    ("child", "error"),
    [
        (replace(LINES, max_rows=2), "lines: more than 2 rows belong to it (streams.orders.children.lines.max_rows)"),
        (
            replace(LINES, one=True),
            "lines: more than one row belongs to it, and streams.orders.children.lines.one allows a single one",
        ),
    ],
)
def test_too_many_children_fail_their_row_alone(db: SourceDb, child: Child, error: str) -> None:
    add_lines(db, *((2, line, "s", 1) for line in (1, 2, 3)), (3, 1, "s", 1))
    rows, _ = read(db, cursor="id", children=(child,))
    assert errors(rows) == {2: error}
    assert [row.payload is None for row in rows] == [False, True, False]


def test_a_row_with_very_many_children_fails_and_the_rows_around_it_come(db: SourceDb) -> None:
    """Its children are not all read: the statement is given up, and the next one counts."""
    db.add_orders(range(4, 8))
    add_lines(db, *((number, line, "s", 1) for number in (1, 2, 4, 7) for line in (1, 2)))
    add_lines(db, *((number, line, "s", 1) for number in (3, 5, 6) for line in range(5 * FETCHED_AT_ONCE)))
    db.execute("delete from order_lines where order_id = 5 and line > 2")
    rows, _ = read(db, cursor="id", children=(replace(LINES, max_rows=3),))
    assert errors(rows).keys() == {3, 6}
    assert {row.key["id"]: len(row.payload["lines"]) for row in rows if row.payload} == {1: 2, 2: 2, 4: 2, 5: 3, 7: 2}


def test_a_value_without_a_form_in_json_fails_its_row_alone(db: SourceDb) -> None:
    add_lines(db, (1, 1, "a", 1), (2, 1, "b", 1), (2, 2, "c", 9e999), (3, 1, "d", 1))
    rows, _ = read(db, cursor="id", children=(LINES,))
    assert errors(rows) == {2: "column lines.qty: the number is Infinity; JSON cannot represent it"}
    deeper = replace(LINES, name="same", on=(("order_id", "order_id"),))
    rows, _ = read(db, cursor="id", children=(replace(LINES, columns=("line",), children=(deeper,)),))
    assert errors(rows) == {2: "column lines.same.qty: the number is Infinity; JSON cannot represent it"}


def test_json_of_a_child_goes_as_json_and_fails_its_row_if_it_is_none(db: SourceDb) -> None:
    add_lines(db, (1, 1, '{"b": 1.10, "a": []}', 1), (2, 1, "{", 1), (3, 1, None, 1))
    child = replace(LINES, columns=("sku",), json_columns=("SKU",))
    rows, _ = read(db, cursor="id", children=(child,))
    assert errors(rows).keys() == {2}
    assert errors(rows)[2].startswith("column lines.sku: it is not JSON: ")
    assert [str(row.payload["lines"][0]["sku"]) for row in rows if row.payload] == ['{"b":1.10,"a":[]}', "None"]


def test_a_child_that_the_database_cannot_read_fails_its_row_alone(db: SourceDb) -> None:
    db.add_orders(range(4, 20))
    add_lines(db, *((number, 1, "s", 1) for number in range(1, 20)))
    db.execute(f"update order_lines set sku = {NOT_UTF8} where order_id in (5, 6)")  # noqa: S608
    rows, _ = read(db, cursor="id", children=(LINES,))
    assert list_ids(rows) == list(range(1, 20))
    failed = errors(rows)
    assert failed.keys() == {5, 6}
    assert failed[5].startswith("the database could not read its lines: ")
    assert "'sku'" in failed[5]
    with open_stream(db, cursor="id", children=(LINES,)) as reader:
        assert errors(reader.find_rows([{"id": number} for number in range(1, 20)])) == failed


def test_a_row_that_the_database_cannot_read_does_not_take_the_children_of_others_away(db: SourceDb) -> None:
    add_lines(db, (1, 1, "a", 1), (2, 1, "b", 1), (3, 1, "c", 1))
    db.execute(f"update orders set note = {NOT_UTF8} where id = 2")  # noqa: S608
    rows, _ = read(db, cursor="id", children=(LINES,))
    assert errors(rows).keys() == {2}
    assert [[line["sku"] for line in row.payload["lines"]] for row in rows if row.payload] == [["a"], ["c"]]


def test_masks_of_a_child_hold_in_values_and_in_errors(db: SourceDb) -> None:
    add_lines(db, (1, 1, CANARY, 1))
    db.execute(f"insert into order_lines values (2, 1, '{CANARY}' || {NOT_UTF8}, 1)")  # noqa: S608
    child = replace(LINES, mask={"SKU": "last4", "qty": "drop"})
    rows, _ = read(db, cursor="id", children=(child,))
    assert rows[0].payload is not None
    assert rows[0].payload["lines"] == [{"line": 1, "sku": "****nary"}]
    assert CANARY not in f"{rows}"
    assert "its message is left out" in errors(rows)[2]
    hashed, _ = read(
        db, cursor="id", where="id = 1", children=(replace(LINES, mask={"sku": "hash"}),), mask_secret=SECRET
    )
    assert len(children(hashed)[0][0]["sku"]) == 64


def test_a_column_of_on_may_be_masked_but_not_dropped(db: SourceDb) -> None:
    db.execute("insert into customers values ('customer 1', 'Oslo')")
    rows, _ = read(db, cursor="id", where="id = 1", mask={"customer": "last4"}, children=(CUSTOMER,))
    assert rows[0].payload is not None
    assert (rows[0].payload["customer"], rows[0].payload["buyer"]) == ("****mer1", {"city": "Oslo"})
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.mask is wrong") as caught:
        open_stream(db, mask={"customer": "drop"}, children=(CUSTOMER,))
    assert caught.value.hint == 'leave it out of mask, and set exclude = ["customer"]: it is not sent'


def test_a_page_is_cut_between_rows_when_their_children_are_large(db: SourceDb) -> None:
    db.add_orders(range(4, 41))
    add_lines(db, *((number, line, "x" * 1000, 1) for number in range(1, 41) for line in (1, 2)))
    with open_stream(db, cursor="id", page_bytes=10_000, children=(LINES,)) as reader:
        pages = [page.rows for page in reader.pages(reader.start_cursor())]
    assert [row.key["id"] for page in pages for row in page] == list(range(1, 41))
    assert max(len(page) for page in pages) <= 5
    assert all(len(lines) == 2 for page in pages for lines in children(list(page)))


def test_one_row_may_be_larger_than_a_page_but_not_than_the_ledger_stores(db: SourceDb) -> None:
    add_lines(db, *((2, line, "x" * 100_000, 1) for line in range(1, 11)))
    rows, _ = read(db, cursor="id", page_bytes=1000, children=(LINES,))
    assert [len(lines) for lines in children(rows)] == [0, 10, 0]
    add_lines(db, *((2, line, "x" * 1_000_000, 1) for line in range(11, 30)))
    rows, _ = read(db, cursor="id", page_bytes=1000, children=(LINES,))
    assert errors(rows) == {2: "its children have more than 16,777,216 bytes"}


def test_pages_grow_again_after_large_rows(db: SourceDb) -> None:
    db.add_orders(range(4, 1001))
    add_lines(db, *((number, 1, "x" * 5_000, 1) for number in range(1, 21)))
    with open_stream(db, cursor="id", page_bytes=50_000, children=(LINES,)) as reader:
        pages = [len(page.rows) for page in reader.pages(reader.start_cursor())]
    assert sum(pages) == 1000
    assert len(pages) < 40


def test_a_row_with_children_has_no_version_and_other_children_are_other_columns(db: SourceDb) -> None:
    prints = set()
    for kids in (
        (),
        (LINES,),
        (replace(LINES, columns=("line",)),),
        (replace(LINES, one=True),),
        (replace(LINES, name="l"),),
    ):
        with open_stream(db, cursor="id", children=kids) as reader:
            prints.add(reader.columns_fingerprint)
    assert len(prints) == 5
    deep = replace(LINES, children=(replace(LINES, on=(("order_id", "order_id"),)),))
    with open_stream(db, cursor="id", children=(deep,)) as reader:
        assert reader.columns_fingerprint not in prints


@pytest.mark.parametrize(
    ("child", "what", "why", "hint"),
    [
        (replace(LINES, on=(("ordr_id", "id"),)), "lines.on is wrong", "table order_lines has no column ordr_id",
         "order_id"),
        (replace(LINES, on=(("order_id", "ID2"),)), "lines.on is wrong", "table orders has no column ID2", "id"),
        (replace(LINES, sort=("lin",)), "lines.sort is wrong", "table order_lines has no column lin",
         "did you mean line?"),
        (replace(LINES, columns=("x",)), "lines.columns is wrong", "there is no column x", ""),
        (replace(LINES, name="note"), "note cannot be sent under its name", "the row has a column note too", "exclude"),
        (
            replace(LINES, children=(replace(LINES, name="sku", on=(("line", "line"),)),)),
            "lines.children.sku cannot be sent under its name", "the row has a column sku too",
            "streams.orders.children.lines.exclude",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_table_is_refused(db: SourceDb, child: Child, what: str, why: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_stream(db, children=(child,))
    assert caught.value.what == f"streams.orders.children.{what}"
    assert caught.value.why == why
    assert hint in caught.value.hint


def test_a_table_that_does_not_exist_is_refused(db: SourceDb) -> None:
    with pytest.raises(SourceError) as caught:
        open_stream(db, children=(replace(LINES, table="order_line"),))
    assert caught.value.hint == "set streams.orders.children.lines.table; did you mean order_lines?"


def test_a_column_of_the_name_may_be_left_out(db: SourceDb) -> None:
    add_lines(db, (1, 1, "a", 1))
    child = replace(LINES, name="note", columns=("sku",))
    rows, _ = read(db, cursor="id", where="id = 1", exclude=("note",), children=(child,))
    payload: Mapping[str, Any] = rows[0].payload or {}
    assert payload["note"] == [{"sku": "a"}]
