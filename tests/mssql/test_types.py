"""Every type of SQL Server on its way to JSON, digit by digit as the server itself writes it."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import exc

from syncctl.core.records import Record
from syncctl.core.rows import Row
from syncctl.core.states import State
from syncctl.errors import ConfigurationError
from syncctl.partner.encoding import encode_body
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.mssql.conftest import MssqlDb

Spell = Callable[[Any], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A type, literals of it, how the server writes it as text, and how both sides are spelled to be compared."""

    declared: str
    literals: tuple[str, ...]
    text: str = "cast(v as nvarchar(max))"
    spell: Spell = str
    spell_text: Spell = str


def read(url: str, **stream: Any) -> list[Row]:
    stream = {"mode": "increasing", "cursor": "id", "key": ("id",), "gap_timeout_seconds": 0.0, **stream}
    with StreamReader(make_source(url), make_stream(**stream)) as reader:
        return [row for page in reader.pages(reader.start_cursor()) for row in page.rows]


def make_table(db: MssqlDb, declared: str, literals: tuple[str, ...] = (), more: str = "") -> str:
    """Create a table with a column of a type and a row for each literal; skip where the server lacks the type."""
    try:
        table = db.create(f"id int not null primary key, v {declared}{more}")
    except exc.DBAPIError as error:
        pytest.skip(f"this server has no {declared}: {error.orig}")
    known = "sys.columns as c join sys.types as k on k.user_type_id = c.user_type_id"
    if len(db.rows(f"select 1 from {known} where c.object_id = object_id('{table}')")) < 2:  # noqa: S608
        pytest.skip(f"the catalog of this server does not know {declared}")
    for number, literal in enumerate(literals):
        db.execute(f"insert into {table} (id, v) values ({number}, {literal})")  # noqa: S608
    return table


def send(row: Row) -> dict[str, Any]:
    """Return a row as a partner reads it."""
    assert row.error is None
    record = Record(
        id="orders-1", stream="orders", key=row.key, seq=1, op="upsert", payload=row.payload, state=State.PENDING
    )
    found: dict[str, Any] = simplejson.loads(encode_body(record), use_decimal=True)
    return found


def plain(number: object) -> str:
    return f"{Decimal(str(number)):f}"


def spell_time(text: str) -> tuple[str, str, str]:
    """Return a time to the second, the digits behind, and its offset; some servers leave zeros at the end out."""
    match = re.fullmatch(r"(?:(\d{4}-\d\d-\d\d)[T ])?([\d:]{8})(?:\.(\d+))?(?: ?([+-]\d\d:\d\d))?", text)
    assert match is not None, text
    return f"{match[1]}T{match[2]}", (match[3] or "").rstrip("0"), match[4] or ""


def numbers(declared: str, *literals: str, text: str = "cast(v as varchar(60))") -> Case:
    return Case(declared=declared, literals=literals, text=text, spell=plain, spell_text=plain)


def times(declared: str, *values: str, text: str = "cast(v as varchar(40))") -> Case:
    literals = tuple(f"'{value}'" for value in values)
    return Case(declared=declared, literals=literals, text=text, spell=spell_time, spell_text=spell_time)


def binary(declared: str, *literals: str) -> Case:
    text = "cast(v as varbinary(max))"
    return Case(declared=declared, literals=literals, text=text, spell=base64.b64decode, spell_text=bytes)


def texts(declared: str, *literals: str) -> Case:
    return Case(declared=declared, literals=literals)


CASES = [
    numbers("tinyint", "0", "255"),
    numbers("smallint", "-32768", "32767"),
    numbers("int", "-2147483648", "2147483647"),
    numbers("bigint", "-9223372036854775808", "9007199254740993", "9223372036854775807"),
    Case(declared="bit", literals=("0", "1"), text="cast(v as int)", spell=int, spell_text=int),
    numbers("decimal(38, 0)", "99999999999999999999999999999999999999", "-1", "0"),
    numbers("decimal(38, 38)", "0.00000000000000000000000000000000000001", "-0.12345678901234567890123456789012345678"),
    numbers("numeric(38, 10)", "1234567890123456789012345678.0123456789", "0.1", "-0.5", "100"),
    numbers("decimal(9, 2)", "1.50", "-0.01"),
    numbers("money", "922337203685477.5807", "-922337203685477.5808", "1.5", text="cast(v as decimal(19, 4))"),
    numbers("smallmoney", "214748.3647", "-214748.3648", "0.1", text="cast(v as decimal(19, 4))"),
    Case(
        declared="float",
        literals=("0.1e0", "1.7976931348623157e308", "-2.2250738585072014e-308", "123456789.12345679e0"),
        text="v",
        spell=float,
        spell_text=float,
    ),
    Case(declared="date", literals=("'0001-01-01'", "'9999-12-31'"), text="convert(varchar(10), v, 23)"),
    times("time(7)", "00:00:00", "23:59:59.1234560", "23:59:59.1234567"),
    times("time(0)", "23:59:58"),
    times("time(3)", "23:59:58.123"),
    times(
        "datetime",
        *("1753-01-01T00:00:00", "2026-01-31T23:59:59.997", "2026-01-31T10:00:00.003", "9999-12-31T00:00:00.007"),
        text="convert(varchar(33), v, 121)",
    ),
    times("smalldatetime", "1900-01-01T00:00:00", "2079-06-06T23:59:00", text="convert(varchar(33), v, 120)"),
    times("datetime2(7)", "0001-01-01T00:00:00", "9999-12-31T23:59:59.1234560", "2026-01-31T23:59:59.1234567"),
    times("datetime2(0)", "2026-01-31T23:59:59"),
    times("datetime2(3)", "2026-01-31T23:59:59.120"),
    times("datetimeoffset(7)", "2026-01-31T23:59:59.1234560+14:00", "2026-01-31T23:59:59.1234567-09:30"),
    times("datetimeoffset(0)", "0001-01-02T00:00:00+00:00"),
    Case(
        declared="uniqueidentifier",
        literals=("'6F9619FF-8B86-D011-B42D-00C04FC964FF'",),
        text="lower(cast(v as varchar(36)))",
    ),
    binary("binary(4)", "0x01", "0xdeadbeef"),
    binary("varbinary(10)", "0x", "0x00ff"),
    binary("varbinary(max)", "cast(replicate(cast('ab' as varchar(max)), 20000) as varbinary(max))"),
    binary("image", "0x00ff10"),
    texts("varchar(20)", "'ab  '", "''", "'12:30 100%'"),
    texts("varchar(max)", "replicate(cast('ab' as varchar(max)), 20000)"),
    texts("nvarchar(20)", "N'Ærø 日本語 𝄞'", "N'\"\\ '"),
    texts("nvarchar(max)", "replicate(cast(N'Ærø ' as nvarchar(max)), 20000)"),
    texts("text", "'ab'"),
    texts("ntext", "N'Ærø 日本語 𝄞'"),
    texts("sysname", "N'dbo'"),
    texts("xml", "N'<a b=\"1\">é</a>'"),
    Case(
        declared="json",
        literals=('N\'{"a":12345678901234567890.10,"b":[null]}\'',),
        text="cast(v as nvarchar(max))",
        spell=lambda document: document,
        spell_text=lambda text: simplejson.loads(text, use_decimal=True),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.declared)
def test_a_value_is_what_the_server_itself_says(mssql_url: str, mssql_db: MssqlDb, case: Case) -> None:
    table = make_table(mssql_db, f"{case.declared} null", (*case.literals, "null"))
    found = [send(row)["v"] for row in read(mssql_url, table=table)]
    said = [text for (text,) in mssql_db.rows(f"select {case.text} from {table} order by id")]  # noqa: S608
    assert len(found) == len(case.literals) + 1
    assert found[-1] is said[-1] is None
    assert [case.spell(each) for each in found[:-1]] == [case.spell_text(each) for each in said[:-1]]


@pytest.mark.parametrize(
    ("declared", "literal", "form"),
    [
        ("datetime", "'2026-01-31T10:00:00'", "2026-01-31T10:00:00.000"),
        ("smalldatetime", "'2026-01-31T10:00:29'", "2026-01-31T10:00:00"),
        ("datetime2(7)", "'2026-01-31T10:00:00.1234560'", "2026-01-31T10:00:00.123456"),
        ("datetimeoffset(7)", "'2026-01-31T10:00:00.1234560+01:00'", "2026-01-31T10:00:00.123456"),
        ("money", "1.5", "1.5000"),
        ("char(5)", "'ab'", "ab   "),
        ("nchar(5)", "N'日本'", "日本   "),
        ("real", "0.1e0", "0.1"),
        ("bit", "1", "True"),
    ],
)
def test_the_form_does_not_depend_on_the_value(
    mssql_url: str, mssql_db: MssqlDb, declared: str, literal: str, form: str
) -> None:
    table = make_table(mssql_db, declared, (literal,))
    (row,) = read(mssql_url, table=table)
    assert str(send(row)["v"]).startswith(form)


@pytest.mark.parametrize("literal", ["0.1e0", "16777217e0", "3.4028234e38", "-1.17549435e-38", "123.456e0"])
def test_a_real_is_the_same_real_again(mssql_url: str, mssql_db: MssqlDb, literal: str) -> None:
    table = make_table(mssql_db, "real", (literal,))
    (row,) = read(mssql_url, table=table)
    shown = send(row)["v"]
    assert mssql_db.rows(f"select id from {table} where v = cast(? as real)", (repr(float(shown)),))  # noqa: S608
    assert len(str(shown)) <= 15


def test_a_rowversion_is_the_number_that_the_server_counts(mssql_url: str, mssql_db: MssqlDb) -> None:
    table = make_table(mssql_db, "rowversion")
    mssql_db.execute(f"insert into {table} (id) values (1)")  # noqa: S608
    (row,) = read(mssql_url, table=table)
    ((number,),) = mssql_db.rows(f"select cast(v as bigint) from {table}")  # noqa: S608
    assert send(row)["v"] == f"0x{number:016x}"


def test_computed_columns_are_read_as_their_results(mssql_url: str, mssql_db: MssqlDb) -> None:
    table = make_table(mssql_db, "decimal(9, 2)", ("1.50", "2.25"), more=", twice as (v * 2)")
    assert [send(row)["twice"] for row in read(mssql_url, table=table)] == [Decimal("3.00"), Decimal("4.50")]


def test_a_user_defined_type_is_read_as_its_base_type(mssql_url: str, mssql_db: MssqlDb) -> None:
    name = f"{mssql_db.create('id int')}_type"
    mssql_db.execute(f"create type {name} from decimal(9, 2)")
    try:
        table = make_table(mssql_db, name, ("1.50",))
        assert [plain(send(row)["v"]) for row in read(mssql_url, table=table)] == ["1.50"]
    finally:
        mssql_db.drop_all()
        mssql_db.execute(f"drop type {name}")


FORMLESS = {
    "sql_variant": "cast(1 as int)",
    "hierarchyid": "'/1/'",
    "geography": "geography::Point(47, -122, 4326)",
    "geometry": "geometry::Point(1, 2, 0)",
    "vector(2)": "'[1, 2]'",
}


@pytest.mark.parametrize("declared", FORMLESS)
def test_a_column_without_a_form_in_json_fails_its_rows_unless_it_is_excluded(
    mssql_url: str, mssql_db: MssqlDb, declared: str
) -> None:
    table = make_table(mssql_db, declared, (FORMLESS[declared],), more=", note varchar(5) default 'x'")
    name = declared.partition("(")[0]
    for stream in ({"table": table}, {"query": f"select id, v, note from {table}"}):  # noqa: S608
        (row,) = read(mssql_url, **stream)
        assert row.error == f'column v: {name} has no JSON form; leave it out: exclude = ["v"]'
        assert (row.key, row.payload) == ({"id": 0}, None)
        (row,) = read(mssql_url, **stream, exclude=("v",))
        assert send(row) == {"id": 0, "note": "x"}
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.key is wrong"):
        read(mssql_url, table=table, key=("v",))


def test_times_without_an_offset_get_that_of_their_zone(mssql_url: str, mssql_db: MssqlDb) -> None:
    more = (
        ", w datetime2(7) default '2026-07-01T12:00:00.1234560', z datetimeoffset(0) default '2026-07-01 00:00 -05:00'"
    )
    table = make_table(mssql_db, "datetime", ("'2026-01-31T10:00:00'",), more=f"{more}, d date default '2026-07-01'")
    (row,) = read(mssql_url, table=table, timezone="Europe/Berlin")
    sent = send(row)
    assert sent["v"] == "2026-01-31T10:00:00.000+01:00"
    assert re.fullmatch(r"2026-07-01T12:00:00\.1234560?\+02:00", sent["w"])
    assert (sent["z"], sent["d"]) == ("2026-07-01T00:00:00-05:00", "2026-07-01")


@pytest.mark.parametrize("declared", ["datetime", "datetime2(7)", "datetimeoffset(7)", "real", "decimal(38, 10)"])
def test_a_cursor_of_any_type_is_compared_as_it_was_read(mssql_url: str, mssql_db: MssqlDb, declared: str) -> None:
    is_time = declared.startswith("date")
    literals = tuple(f"'2026-01-31T10:00:00.{n}'" if is_time else f"{n}.1" for n in (100, 103, 107, 110))
    table = make_table(mssql_db, declared, literals)
    rows = read(mssql_url, table=table, cursor="v", page_size=1)
    assert [row.key["id"] for row in rows] == [0, 1, 2, 3]


COLUMNS = "d decimal(38, 12) null, n bigint null, f float null, t nvarchar(max) null, b varbinary(max) null"
ROWS = st.fixed_dictionaries(
    {
        "d": st.none() | st.decimals(-(10**25), 10**25, places=12),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "f": st.none() | st.floats(-1e300, 1e300, allow_subnormal=False),
        "t": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50),
        "b": st.none() | st.binary(max_size=50),
    }
)


@pytest.fixture
def mixed_table(mssql_db: MssqlDb) -> str:
    return mssql_db.create(f"id int not null primary key, {COLUMNS}")


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=5))
def test_a_value_survives_the_way_from_sql_to_json(
    mssql_url: str, mssql_db: MssqlDb, mixed_table: str, rows: list[dict[str, Any]]
) -> None:
    table = mixed_table
    mssql_db.execute(f"delete from {table}")  # noqa: S608
    for number, row in enumerate(rows):
        binary_or_null = "null" if row["b"] is None else f"0x{row['b'].hex()}"
        mssql_db.execute(
            f"insert into {table} values (?, cast(? as decimal(38, 12)), ?, ?, ?, {binary_or_null})",  # noqa: S608
            (number, None if row["d"] is None else f"{row['d']:f}", row["n"], row["f"], row["t"]),
        )
    found = [send(each) for each in read(mssql_url, table=table, page_size=2)]
    for number, (sent, row) in enumerate(zip(found, rows, strict=True)):
        expected = {**row, "id": number, "b": None if row["b"] is None else base64.b64encode(row["b"]).decode()}
        assert {name: float(value) if name == "f" and value is not None else value for name, value in sent.items()} == (
            expected
        )
