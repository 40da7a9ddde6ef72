"""The columns that are read and sent, of tables and queries, whatever their names."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncctl.errors import ConfigurationError
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream, read

ODD_NAMES = (
    "Order Id",
    "a]b",
    'say "x"',
    "12:30",
    ":id",
    "100%",
    "%(x)s",
    "what?",
    "it's",
    "`t`",
    "select",
    "é",
    "a.b",
)
QUERY = "select id, customer, amount, updated_at from orders"


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    return SourceDb(tmp_path / "source.db")


@pytest.fixture(scope="module")
def shared_db(tmp_path_factory: pytest.TempPathFactory) -> SourceDb:
    return SourceDb(tmp_path_factory.mktemp("columns") / "source.db")


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sent(db: SourceDb, **stream: object) -> list[list[str]]:
    rows, _ = read(db, **stream)
    return [list(row.payload) for row in rows if row.payload is not None]


@pytest.mark.parametrize("origin", [{"table": "orders"}, {"query": QUERY, "key": ("id",), "cursor": "id"}])
def test_columns_and_exclude_choose_what_is_sent(db: SourceDb, origin: dict[str, object]) -> None:
    db.create_orders(1)
    all_of_them = ["id", "customer", "amount", *(["note"] if "table" in origin else []), "updated_at"]
    assert sent(db, **origin) == [all_of_them]
    assert sent(db, **origin, columns=("AMOUNT", "customer")) == [["customer", "amount"]]
    assert sent(db, **origin, exclude=("id", "customer")) == [all_of_them[2:]]
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.exclude is wrong") as caught:
        read(db, **origin, exclude=("amuont",))
    assert caught.value.hint == "did you mean amount?"


def test_the_cursor_and_the_key_are_read_without_being_sent(db: SourceDb) -> None:
    db.create_orders(3)
    rows, cursor = read(db, cursor="updated_at", columns=("amount",), page_size=2)
    assert [row.key for row in rows] == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert [list(row.payload or ()) for row in rows] == [["amount"]] * 3
    assert cursor["at"] == "2026-01-01 00:00:00.000003"


@pytest.mark.parametrize("origin", [{"table": "orders"}, {"query": QUERY, "key": ("id",), "cursor": "id"}])
@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("id > 3", [4, 5]),
        ("id = 1 or id = 5", [1, 5]),
        ("customer <> 'a:b' and customer like '%r 2' -- :x 100%", [2]),
        ("updated_at = '2026-01-01 00:00:00.000004' and 'what?' <> ''", [4]),
    ],
)
def test_where_is_a_condition_word_for_word(
    db: SourceDb, origin: dict[str, object], where: str, ids: list[int]
) -> None:
    db.create_orders(5)
    rows, _ = read(db, **origin, where=where, page_size=1)
    assert [row.key["id"] for row in rows] == ids
    with open_stream(db, **origin, where=where) as reader:
        assert reader.count_behind(reader.start_cursor()) == len(ids)
        assert len(reader.find_rows([{"id": number} for number in range(1, 6)])) == len(ids)


def test_rows_that_where_leaves_out_are_not_missed_for_lack_of_a_cursor_value(db: SourceDb) -> None:
    db.create_orders(3)
    db.execute("update orders set updated_at = null where id = 2")
    with open_stream(db, cursor="updated_at", where="id <> 2") as reader:
        assert reader.warnings() == ()


def test_columns_may_be_called_anything(db: SourceDb) -> None:
    for name in ODD_NAMES:
        db.execute("drop table if exists odd")
        db.execute(f"create table odd ({quote(name)} integer primary key, note text)")
        db.execute_many("insert into odd values (?, ?)", [(1, "a"), (2, "b"), (3, "c")])
        for origin in ({"table": "odd"}, {"query": "select * from odd", "key": (name,), "cursor": name}):
            rows, cursor = read(db, **origin, page_size=2, where=f"{quote(name)} > 1")
            assert [row.payload for row in rows] == [{name: 2, "note": "b"}, {name: 3, "note": "c"}], name
            assert sent(db, **origin, exclude=(name,)) == [["note"]] * 3
            assert (cursor["column"], cursor["at"]) == (name, "3")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.sampled_from("ab:1%]\"'? .[`é\\"), min_size=1, max_size=5), min_size=2, max_size=4))
def test_a_query_names_its_columns_as_they_are_or_is_ambiguous(shared_db: SourceDb, names: list[str]) -> None:
    query = "select " + ", ".join(f"{number} as {quote(name)}" for number, name in enumerate(names))
    stream = {"query": query, "key": (names[0],), "cursor": names[0], "mode": "increasing"}
    if len({name.casefold() for name in names}) < len(names):
        with pytest.raises(ConfigurationError, match="is ambiguous"):
            read(shared_db, **stream)
        return
    rows, _ = read(shared_db, **stream)
    assert [row.payload for row in rows] == [{name: number for number, name in enumerate(names)}]


def test_a_query_may_hold_a_with_an_order_and_values_that_look_like_parameters(db: SourceDb) -> None:
    db.create_orders(5)
    query = "with o as (select * from orders) select id, ':x ? %s' as odd from o where id > 2 order by id desc ; -- all"
    rows, _ = read(db, query=query, key=("id",), cursor="id", page_size=2)
    assert [row.payload for row in rows] == [{"id": number, "odd": ":x ? %s"} for number in (3, 4, 5)]


def test_the_shape_tells_what_is_sent_and_in_which_zone(db: SourceDb) -> None:
    db.create_orders(1)
    fingerprints = set()
    others = {"exclude": ("id",)}, {"exclude": ("note",)}, {"timezone": "Europe/Berlin"}
    for stream in ({}, {"where": "id > 0"}, *others):
        with open_stream(db, **stream) as reader:
            fingerprints.add(reader.columns_fingerprint)
    assert len(fingerprints) == 4
