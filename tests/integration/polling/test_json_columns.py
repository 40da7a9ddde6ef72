"""JSON columns on their whole way: read from a real source, kept in a real ledger, sent as the JSON that they are."""

from pathlib import Path
from typing import Any

import pytest

from syncctl.core.json_text import JsonText
from syncctl.core.mapping import parse_fields
from syncctl.core.rows import Row
from syncctl.core.stream import Batching
from syncctl.errors import ConfigurationError
from syncctl.local.mock_partner import MockPartner
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream, read
from tests.harness.testbed import Testbed

pytestmark = pytest.mark.timeout(60)
LINES = '[{"sku": "A\\u00e9", "qty": 1.50, "rate": 1e400, "no": -0}, {"$ref": "\\u0000", "a.b": null}]'
KEPT = '[{"sku":"Aé","qty":1.50,"rate":1e400,"no":-0},{"$ref":"\\u0000","a.b":null}]'
MODES: tuple[dict[str, Any], ...] = (
    {"mode": "increasing", "cursor": "id"},
    {"mode": "increasing", "cursor": "updated_at"},
    {"mode": "snapshot"},
    {"query": "select * from orders", "key": ("id",), "mode": "increasing", "cursor": "id"},
)  # fmt: skip


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    made = SourceDb(tmp_path / "source.db")
    made.create_orders(2)
    made.execute("update orders set note = ?, customer = null", [LINES])
    return made


def read_notes(db: SourceDb, *values: object) -> list[Row]:
    for number, value in enumerate(values, start=1):
        db.execute("update orders set note = ? where id = ?", [value, number])
    rows, _ = read(db, cursor="id", json_columns=("note",))
    return rows


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_each_mode_reads_documents_and_null(db: SourceDb, mode: dict[str, Any]) -> None:
    with open_stream(db, **mode, json_columns=("NOTE", "customer")) as reader:
        rows = [row for page in reader.pages(reader.start_cursor()) for row in page.rows]
        found = [*reader.find_rows([{"id": 1}]), *(row for row in [reader.first_row()] if row)]
        scanned = [each.row for page in reader.scan(None) for each in page]
    payloads = [row.payload or {} for row in [*rows, *found, *scanned]]
    assert [payload["note"] for payload in payloads] == [JsonText(KEPT)] * 6
    assert [payload["customer"] for payload in payloads] == [None] * 6


def test_text_that_is_not_json_fails_its_row_alone_and_names_column_and_place(db: SourceDb) -> None:
    bad, good = read_notes(db, '{"secret": 1,\n "secret": 2}', "[1]")
    assert bad.payload is None
    assert bad.error == "column note: it is not JSON: line 2, column 2: the object has this key already"
    assert (bad.key, bad.nameless) == ({"id": 1}, False)
    assert (good.error, (good.payload or {})["note"]) == (None, JsonText("[1]"))


@pytest.mark.parametrize(
    ("value", "document"),
    [(5, "5"), (1.5, "1.5"), ("", None), (b"[1]", None), ("null", "null"), ("\ufeff[]", "[]"), ("[" * 10_000, None)],
)
def test_whatever_a_column_holds_is_a_document_or_a_failed_row(
    db: SourceDb, value: object, document: str | None
) -> None:
    # A column without a type keeps numbers as numbers.
    db.execute("create table things (id integer primary key, note)")
    db.execute("insert into things values (1, ?)", [value])
    ((row,), _) = read(db, table="things", cursor="id", json_columns=("note",))
    if document is None:
        assert row.payload is None
        assert str(row.error).startswith("column note: it is not JSON: ")
    else:
        assert (row.payload, row.error) == ({"id": 1, "note": JsonText(document)}, None)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ({"json_columns": ("nots",)}, "there is no column nots"),
        ({"json_columns": ("ID",)}, "id is in the key, which must stay text"),
        (
            {"json_columns": ("updated_at",), "cursor": "updated_at"},
            "updated_at is in the cursor, which must stay text",
        ),
    ],
)
def test_a_column_that_cannot_be_a_document_is_refused(db: SourceDb, stream: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.json is wrong") as refused:
        open_stream(db, **stream)
    assert refused.value.why == why


def test_a_column_that_becomes_json_gives_its_rows_another_identity(db: SourceDb) -> None:
    fingerprints = set()
    for columns in ((), ("note",), ("note", "customer")):
        with open_stream(db, json_columns=columns) as reader:
            fingerprints.add(reader.columns_fingerprint)
    assert len(fingerprints) == 3


def poll(testbed: Testbed, source_db: SourceDb, **changes: Any) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set note = ? where id < 3", [LINES])
    testbed.change_stream(json_columns=("note",), **changes)
    testbed.poll()


def test_the_partner_gets_documents_digit_by_digit_and_a_bad_one_fails_alone(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner
) -> None:
    poll(testbed, source_db)
    failed = testbed.database.records.find_one({"state": "failed"})
    assert failed["error"]["message"] == "column note: it is not JSON: the text is empty"
    assert testbed.deliver() == {"delivered": 2}
    assert all(body.endswith(f',"note":{KEPT},"updated_at"'.encode() + body[-30:]) for body in partner.rows().values())


@pytest.mark.parametrize(
    "changes",
    [
        {"fields": parse_fields({"order.lines": "note", "id": "id"})},
        {"body": '{"id": {{ row.id | json }}, "order": {"lines":{{ row.note | json }}}}'},
        {"body": '{"order": {"lines":[{% for n in row.note %}{{ n | json }}{{ "," if not loop.last }}{% endfor %}]}}'},
    ],
)
def test_a_mapping_sends_documents_digit_by_digit(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner, changes: dict[str, Any]
) -> None:
    poll(testbed, source_db, **changes)
    assert testbed.deliver() == {"delivered": 2}
    assert all(f'{{"lines":{KEPT}}}'.encode() in body for body in partner.rows().values())


def test_rows_with_documents_go_in_one_call_and_a_field_in_a_document_is_no_second_key(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner
) -> None:
    source_db.create_orders(2)
    source_db.execute("""update orders set note = '{"idempotency_key": 1.0}'""")
    testbed.change_stream(json_columns=("note",), batching=Batching(size=10))
    testbed.poll()
    assert testbed.deliver() == {"delivered": 2}
    (body,) = partner.rows().values()
    assert body.count(b'"note":{"idempotency_key":1.0}') == 2


def test_other_blanks_are_no_new_version_and_another_digit_is_one(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner
) -> None:
    poll(testbed, source_db, mode="snapshot", cursor=None)
    testbed.deliver()
    source_db.execute("update orders set note = ? where id = 1", [KEPT])
    assert (testbed.poll().logged, len(partner.calls())) == (0, 2)
    source_db.execute("update orders set note = ? where id = 1", [KEPT.replace("1.50", "1.5")])
    assert testbed.poll().logged == 1
    assert testbed.deliver() == {"delivered": 1}
