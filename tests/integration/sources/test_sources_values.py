"""Values of a SQLite file are read exactly, or their row is failed with the reason and the others continue."""

import base64
import json
import math
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.core.stream import Decimals
from syncctl.partner.encoding import encode_body
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream, read


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    return SourceDb(tmp_path / "source.db")


@pytest.fixture(scope="module")
def shared_db(tmp_path_factory: pytest.TempPathFactory) -> SourceDb:
    return SourceDb(tmp_path_factory.mktemp("values") / "source.db")


STORED = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(STORED, min_size=1, max_size=8))
def test_a_stored_value_is_read_unchanged(shared_db: SourceDb, values: list[object]) -> None:
    shared_db.execute("drop table if exists mixed")
    shared_db.execute("create table mixed (id integer primary key, value)")
    shared_db.execute_many("insert into mixed (value) values (?)", [(value,) for value in values])
    rows, _ = read(shared_db, table="mixed", page_size=3)
    expected = [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values]
    found = [row.payload["value"] for row in rows if row.payload is not None]
    assert [(type(each), repr(each)) for each in found] == [(type(each), repr(each)) for each in expected]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cents=st.lists(st.integers(-(10**11), 10**11), min_size=1, max_size=8))
def test_a_declared_decimal_is_a_decimal_with_its_scale(shared_db: SourceDb, cents: list[int]) -> None:
    shared_db.execute("drop table if exists prices")
    shared_db.execute("create table prices (id integer primary key, price decimal(12, 2))")
    expected = [Decimal(cent).scaleb(-2) for cent in cents]
    shared_db.execute_many("insert into prices (price) values (?)", [(str(each),) for each in expected])
    rows, _ = read(shared_db, table="prices")
    assert [str(row.payload["price"]) for row in rows if row.payload] == [f"{each:.2f}" for each in expected]


def test_columns_keep_the_order_of_the_table(db: SourceDb) -> None:
    db.execute('create table wide (z text, id integer primary key, a text, flag boolean, "Odd name" text)')
    db.execute("insert into wide values ('1', 2, '3', 1, '4')")
    (row,), _ = read(db, table="wide")
    assert row.payload is not None
    assert list(row.payload.items()) == [("z", "1"), ("id", 2), ("a", "3"), ("flag", True), ("Odd name", "4")]
    assert (row.version, row.at, row.op, row.error) == (None, "2", "upsert", None)


def test_times_stay_as_they_are_stored(db: SourceDb) -> None:
    db.execute("create table events (id integer primary key, at datetime)")
    stored = ["2026-01-01 00:00:00.1234567+01:00", "2026-01-01T00:00:01Z", "soon"]
    db.execute_many("insert into events (at) values (?)", [(value,) for value in stored])
    rows, _ = read(db, table="events")
    assert [row.payload["at"] for row in rows if row.payload] == stored


@pytest.mark.parametrize("page_size", [1, 2, 3, 10])
def test_a_row_that_the_driver_cannot_read_stops_no_other(db: SourceDb, page_size: int) -> None:
    db.create_orders(5)
    db.execute("update orders set note = cast(x'ff41' as text) where id in (2, 5)")
    rows, cursor = read(db, page_size=page_size)
    assert [(row.key["id"], row.error is None, row.payload is None) for row in rows] == [
        (1, True, False),
        (2, False, True),
        (3, True, False),
        (4, True, False),
        (5, False, True),
    ]
    assert "UTF-8 column 'note'" in (rows[1].error or "")
    assert cursor["at"] == "5"


def test_a_row_without_a_form_in_json_names_its_column(db: SourceDb) -> None:
    db.execute("create table numbers (id integer primary key, ratio real)")
    db.execute_many("insert into numbers (ratio) values (?)", [(1.5,), (math.inf,), (2.5,)])
    rows, _ = read(db, table="numbers")
    assert [row.payload for row in rows] == [{"id": 1, "ratio": 1.5}, None, {"id": 3, "ratio": 2.5}]
    assert rows[1].error == "column ratio: the number is Infinity; JSON cannot represent it"
    assert rows[1].key == {"id": 2}


def test_a_bad_row_in_a_lookback_keeps_the_cursor_in_place(db: SourceDb) -> None:
    db.execute("create table events (id integer primary key, at text, note text)")
    db.execute_many("insert into events (at) values (?)", [(f"2026-01-01 00:00:0{n}",) for n in range(5)])
    stream = {"table": "events", "cursor": "at", "lookback_seconds": 3.0, "page_size": 2}
    _, cursor = read(db, **stream)
    db.execute("update events set note = cast(x'ff' as text) where id = 3")
    rows, after = read(db, cursor, **stream)
    assert [(row.key["id"], row.error is None) for row in rows] == [(2, True), (3, False), (4, True), (5, True)]
    assert {**after, "lookback": None} == {**cursor, "lookback": None}


def test_a_key_without_a_form_in_json_still_names_its_row(db: SourceDb) -> None:
    db.execute("create table keyed (id real primary key, at integer)")
    db.execute_many("insert into keyed values (?, ?)", [(math.inf, 1), (1.5, 2)])
    rows, _ = read(db, table="keyed", cursor="at")
    assert rows[0].key == {"id": "float:inf"}
    assert rows[0].error == "column id: the number is Infinity; JSON cannot represent it"
    assert rows[1].key == {"id": 1.5}


def test_the_shape_changes_with_the_columns_and_nothing_else(db: SourceDb) -> None:
    db.create_orders(1)
    with open_stream(db) as reader:
        columns_fingerprint = reader.columns_fingerprint
    db.add_orders([2])
    with open_stream(db) as reader:
        assert reader.columns_fingerprint == columns_fingerprint
    db.execute("alter table orders add column extra text")
    with open_stream(db) as reader:
        assert reader.columns_fingerprint != columns_fingerprint


def test_rows_without_a_cursor_value_cause_a_warning(db: SourceDb) -> None:
    db.create_orders(3)
    with open_stream(db, cursor="updated_at") as reader:
        assert reader.warnings() == ()
    db.execute("update orders set updated_at = null where id = 2")
    with open_stream(db, cursor="updated_at") as reader:
        assert reader.warnings() == ("rows without a value in updated_at are never read: set it in each row",)
        assert [row.key["id"] for page in reader.pages(reader.start_cursor()) for row in page.rows] == [1, 3]


def test_a_lookback_over_a_column_that_is_not_a_time_causes_a_warning(db: SourceDb) -> None:
    db.create_orders(3)
    with open_stream(db, cursor="customer", lookback_seconds=300.0) as reader:
        assert "lookback has no effect" in reader.warnings()[0]
    with open_stream(db, cursor="updated_at", lookback_seconds=300.0) as reader:
        assert reader.warnings() == ()


@pytest.mark.parametrize("where", ["id <> 2;", "id <> 2 ; -- not this one", "id <> 2 -- not this one"])
def test_a_condition_may_end_in_a_semicolon_and_a_comment(db: SourceDb, where: str) -> None:
    db.create_orders(3)
    rows, _ = read(db, where=where)
    assert [row.key["id"] for row in rows] == [1, 3]


def test_the_first_poll_says_that_rows_without_a_cursor_are_never_read(db: SourceDb) -> None:
    db.execute("create table stock (id integer primary key, at datetime)")
    with open_stream(db, table="stock", cursor="at") as reader:
        assert reader.first_warnings() == ()
        db.execute("insert into stock values (1, null)")
        (text,) = reader.first_warnings()
        assert text.startswith("rows without a value in at are never read")
        db.execute("drop table stock")
        assert reader.first_warnings() == ()


def test_a_table_that_is_read_by_its_key_alone_causes_a_warning(db: SourceDb) -> None:
    db.create_orders(3)
    with open_stream(db, cursor=None, mode=None) as reader:
        (text,) = reader.warnings()
        assert reader.advice == (text,)
    assert text.startswith("finds new rows only, no changed ones; ")
    assert 'in streams.orders set cursor = "updated_at" if every change sets it' in text
    for said in ({"cursor": "id"}, {"cursor": "updated_at"}, {"cursor": None, "append_only": True}):
        with open_stream(db, **said) as reader:
            assert reader.warnings() == (), said


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ("LastModified datetime", "LastModified"),
        ("change_date date", "change_date"),
        ("date_changed text", "date_changed"),
        ("mtime datetime", "mtime"),
        ("changed_by text", None),
        ("exchange datetime", None),
        ("created_at datetime", None),
        ("modified integer", None),
    ],
)
def test_only_a_time_that_changes_set_is_offered_as_the_cursor(db: SourceDb, declared: str, named: str | None) -> None:
    db.execute(f"create table stock (id integer primary key, {declared})")
    with open_stream(db, table="stock", cursor=None, mode=None) as reader:
        (text,) = reader.advice
    assert (f'cursor = "{named}"' in text) if named else ('cursor = "' not in text)


def test_a_time_with_another_name_is_mentioned(db: SourceDb) -> None:
    db.execute("create table stock (id integer primary key, ngay_cap_nhat datetime, ngay_giao date, note text)")
    with open_stream(db, table="stock", cursor=None, mode=None) as reader:
        (text,) = reader.advice
    assert "cursor to a column that every change moves forward (perhaps ngay_cap_nhat or ngay_giao)" in text


def test_a_zone_gives_stored_times_their_offset(db: SourceDb) -> None:
    db.execute("create table events (id integer primary key, at datetime, day date, said text)")
    stored = ["2026-01-01 00:00:00.1234567", "2026-07-01T00:00:01", "2026-07-01 00:00:01Z", "2026-07-01", "soon", 5]
    db.execute_many(
        "insert into events (at, day, said) values (?, '2026-07-01', '2026-07-01 00:00:00')",
        [(value,) for value in stored],
    )
    rows, cursor = read(db, table="events", cursor="at", timezone="Europe/Berlin")
    assert {row.key["id"]: row.payload["at"] for row in rows if row.payload} == {
        1: "2026-01-01 00:00:00.1234567+01:00",
        2: "2026-07-01T00:00:01+02:00",
        3: "2026-07-01 00:00:01Z",
        4: "2026-07-01",
        5: "soon",
        6: 5,
    }
    assert {(row.payload["day"], row.payload["said"]) for row in rows if row.payload} == {
        ("2026-07-01", "2026-07-01 00:00:00")
    }
    assert cursor["at"] == "2026-07-01T00:00:01", "what sorts after every time of now is read, but moves no cursor"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(STORED, min_size=1, max_size=8), decimals=st.sampled_from(["number", "string"]))
def test_a_value_survives_the_way_from_sql_to_json(
    shared_db: SourceDb, values: list[object], decimals: Decimals
) -> None:
    shared_db.execute("drop table if exists mixed")
    shared_db.execute("create table mixed (id integer primary key, value, price decimal(12, 2))")
    rows = [(value, f"{number}.5") for number, value in enumerate(values)]
    shared_db.execute_many("insert into mixed (value, price) values (?, ?)", rows)
    found, _ = read(shared_db, table="mixed")
    for number, (row, value) in enumerate(zip(found, values, strict=True)):
        record = Record(
            id="orders-1", stream="orders", key=row.key, seq=1, op="upsert", payload=row.payload, state=State.PENDING
        )
        sent = json.loads(encode_body(record, decimals), parse_float=str)
        price = f"{number}.50"
        expected = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        got = float(sent["value"]) if isinstance(value, float) else sent["value"]
        assert (got, sent["price"], sent["id"]) == (expected, price, number + 1)
