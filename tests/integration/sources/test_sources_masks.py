"""Masked columns: the values that are read, the masks that are refused, and errors that never hold the value."""

import hashlib
import hmac
import traceback
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.rows import Row
from syncctl.errors import ConfigurationError, SourceError
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream, read
from tests.harness.testbed import Testbed

CANARY = "078-05-1120-canary"
SECRET = "s" * 32
MODES: tuple[dict[str, Any], ...] = (
    {"mode": "increasing", "cursor": "id"},
    {"mode": "increasing", "cursor": "updated_at"},
    {"mode": "snapshot"},
    {"query": "select * from orders", "key": ("id",), "mode": "increasing", "cursor": "id"},
    {"mode": "flag", "where": "amount > 0", "cursor": "updated_at", "acknowledge": "update orders set amount = 0"
     " where id = :id and updated_at = :updated_at"},
)  # fmt: skip


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    made = SourceDb(tmp_path / "source.db")
    made.create_orders(2)
    made.execute("update orders set customer = ?, note = null", [CANARY])
    return made


def hashed(text: str) -> str:
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


def payloads(rows: list[Row]) -> list[dict[str, Any]]:
    assert [row.error for row in rows] == [None] * len(rows)
    return [dict(row.payload or {}) for row in rows]


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_each_mode_masks(db: SourceDb, mode: dict[str, Any]) -> None:
    masks = {"CUSTOMER": "hash", "note": "hash", "amount": "drop"}
    with open_stream(db, **mode, mask=masks, mask_secret=SECRET) as reader:
        pages = list(reader.pages(reader.start_cursor()))
    rows = [row for page in pages for row in page.rows]
    assert [payload["customer"] for payload in payloads(rows)] == [hashed(CANARY)] * 2
    assert [payload["note"] for payload in payloads(rows)] == [None, None]
    assert "amount" not in payloads(rows)[0]
    assert CANARY not in f"{pages}"


@pytest.mark.parametrize(("mask", "sent"), [("drop", None), ("hash", hashed(CANARY)), ("last4", "****nary")])
def test_a_row_looked_up_by_its_key_is_masked_too(db: SourceDb, mask: str, sent: str | None) -> None:
    with open_stream(db, mask={"customer": mask}, mask_secret=SECRET) as reader:
        found = [*reader.find_rows([{"id": 1}]), *(row for row in [reader.first_row()] if row)]
        scanned = [each.row for page in reader.scan(None) for each in page]
    assert [payload.get("customer") for payload in payloads([*found, *scanned])] == [sent] * 4


def test_a_hash_is_of_the_value_that_would_be_sent(db: SourceDb) -> None:
    rows, _ = read(db, cursor="id", mask={"amount": "hash"}, mask_secret=SECRET)
    assert payloads(rows)[0]["amount"] == hashed("1.01")


@pytest.mark.parametrize(
    ("stream", "why", "hint"),
    [
        ({"mask": {"custmer": "drop"}}, "there is no column custmer", "did you mean customer?"),
        ({"mask": {"ID": "drop"}}, "id is in the key, which the ledger must know as it is", "leave it out of mask"),
        (
            {"mask": {"updated_at": "hash"}, "cursor": "updated_at"},
            "updated_at is in the cursor, which the ledger must know as it is",
            "leave it out of mask",
        ),
    ],
)
def test_an_impossible_mask_is_refused(db: SourceDb, stream: dict[str, Any], why: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.mask is wrong") as caught:
        open_stream(db, **stream, mask_secret=SECRET)
    assert caught.value.why == why
    assert caught.value.hint.startswith(hint)


def test_a_hash_without_a_secret_is_refused(db: SourceDb) -> None:
    with pytest.raises(ConfigurationError, match="MASK_SECRET is not set") as caught:
        open_stream(db, mask={"customer": "hash"})
    assert "openssl rand -hex 32" in caught.value.hint


def test_the_shape_follows_the_masks_and_the_secret(db: SourceDb) -> None:
    masks: list[dict[str, str]] = [{}, {"note": "drop"}, {"note": "hash"}, {"note": "last4"}, {"customer": "last4"}]
    fingerprints = set()
    for mask, secret in [*((mask, SECRET) for mask in masks), ({"note": "hash"}, "t" * 32)]:
        with open_stream(db, mask=mask, mask_secret=secret) as reader:
            fingerprints.add(reader.columns_fingerprint)
    assert len(fingerprints) == 6


@pytest.mark.parametrize("mask", ["hash", "last4"])
def test_an_unreadable_row_reveals_no_masked_value(db: SourceDb, mask: str) -> None:
    db.execute("update orders set customer = cast(x'ff' || ? as text) where id = 1", [CANARY])
    (bad, good), _ = read(db, mask={"customer": mask}, mask_secret=SECRET)
    assert bad.key == {"id": 1}
    assert (
        bad.error
        == "the database could not read the row: its message is left out, because it may contain a masked value"
    )
    assert good.error is None
    (first, _), _ = read(db, mask={"customer": "drop"})
    assert first.error is None
    assert CANARY not in f"{bad} {first}"


def test_a_value_without_a_form_in_json_is_reported_without_the_value(db: SourceDb) -> None:
    db.execute("update orders set amount = 9e999 where id = 1")
    (row, _), _ = read(db, mask={"amount": "last4"})
    assert row.error == "column amount: JSON cannot represent its value, which is masked"


def test_an_error_of_the_statement_shows_no_value(db: SourceDb) -> None:
    # A text that is not UTF-8 in the cursor column stops the page itself.
    db.execute("update orders set updated_at = cast(x'ff' || ? as text)", [CANARY])
    with pytest.raises(SourceError) as plain:
        read(db, cursor="updated_at", mode="increasing", mask={})
    assert CANARY in plain.value.why
    with pytest.raises(SourceError) as caught:
        read(db, cursor="updated_at", mode="increasing", mask={"customer": "drop"})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert "left out" in caught.value.why


@pytest.mark.parametrize(("mask", "logged"), [("drop", 0), ("hash", 1), ("last4", 0)])
def test_a_change_that_a_mask_hides_is_no_new_version(
    testbed: Testbed, source_db: SourceDb, mask: str, logged: int
) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set customer = ?", [CANARY])
    testbed.change_stream(mode="snapshot", cursor=None, mask={"customer": mask}, mask_secret=SECRET)
    assert testbed.poll().logged == 3
    source_db.execute("update orders set customer = 'another ' || customer where id = 2")
    run = testbed.poll()
    assert (run.read, run.logged, run.error) == (3, logged, None)
    source_db.execute("update orders set note = 'seen' where id = 2")
    assert testbed.poll().logged == 1


def test_another_secret_or_mask_is_another_content_and_no_restored_source(
    testbed: Testbed, source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    for mask, secret in (({}, ""), ({"customer": "hash"}, SECRET), ({"customer": "hash"}, "t" * 32)):
        testbed.change_stream(mode="snapshot", cursor=None, mask=mask, mask_secret=secret)
        run = testbed.poll()
        assert (run.logged, run.error) == (2, None)
    assert len({record["payload"]["customer"] for record in testbed.records(key={"id": 1})}) == 3
