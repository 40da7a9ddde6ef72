"""Logging records: exact, once, one bad row at a time."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pymongo.write_concern import WriteConcern

from syncctl.core.json_text import JsonText
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.codec import DOCUMENT_BYTES_AT_MOST
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import Duplicate
from tests.harness.passing_time import PAST
from tests.harness.testbed import NASTY, claim_records, new_record

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_record_is_due_at_once_and_a_second_log_changes_nothing(ledger: Ledger, database: Any) -> None:
    assert ledger.records.log([new_record(1)], NOW) == (1, 0, [])
    before = database.records.find_one()
    again = new_record(1, "another content", seq=99)
    assert ledger.records.log([again, new_record(2)], NOW) == (
        1, 0,
        [Duplicate(id="orders-1", seq=1, hash=new_record(1).hash, columns_fingerprint="columns", logged_at=NOW)],
    )  # fmt: skip
    assert database.records.find_one({"_id": "orders-1"}) == before
    assert (before["state"], before["due_at"], before["logged_at"]) == ("pending", NOW, NOW)


def test_logging_no_rows_writes_nothing(ledger: Ledger) -> None:
    assert ledger.records.log([], NOW) == (0, 0, [])


def test_one_page_twice_within_a_list_counts_once(ledger: Ledger, database: Any) -> None:
    sent, failed, duplicates = ledger.records.log([new_record(1), new_record(1), new_record(2)], NOW)
    assert (sent, failed, [duplicate.id for duplicate in duplicates]) == (2, 0, ["orders-1"])
    assert database.records.count_documents({}) == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a" * (DOCUMENT_BYTES_AT_MOST + 1), "the ledger stores at most"),
        ("half a character: \ud83d", "the row cannot be stored"),
    ],
    ids=["too large", "no text"],
)
def test_a_row_that_cannot_be_stored_is_failed_and_stops_no_other(
    ledger: Ledger, database: Any, content: str, why: str
) -> None:
    rows = [new_record(1), new_record(2, content), new_record(3)]
    assert ledger.records.log(rows, NOW) == (2, 1, [])
    failed = database.records.find_one({"_id": "orders-2"})
    assert (failed["state"], failed["payload"], failed["key"]) == ("failed", None, {"id": 2})
    assert why in failed["error"]["message"]
    assert failed["history"][0]["error"] == failed["error"]["message"]
    assert failed["history"][0]["fingerprint"] == failed["error"]["fingerprint"]
    assert failed["failed_at"] == failed["finished_at"] == NOW
    assert "due_at" not in failed
    assert database.records.count_documents({"state": "pending"}) == 2


def test_a_key_that_cannot_be_stored_stands_as_its_text(ledger: Ledger, database: Any) -> None:
    assert ledger.records.log([new_record(1, key={"id": "\ud83d"}), new_record(2)], NOW) == (1, 1, [])
    assert database.records.find_one({"state": "failed"})["key"] == {"id": r"'\ud83d'"}


def test_a_row_that_its_source_could_not_read_is_failed_with_why(ledger: Ledger, database: Any) -> None:
    row = new_record(1, payload=None, error=f"{NASTY} could not be read")
    assert ledger.records.log([row], NOW) == (0, 1, [])
    failed = database.records.find_one()
    assert (failed["state"], failed["error"]["message"]) == ("failed", "$state could not be read")
    assert ledger.records.find_due("orders", fresh=True, limit=10) == []


def test_every_value_survives_until_it_is_sent(ledger: Ledger) -> None:
    payload = {
        "big": 2**63 - 1, "bigger": 2**100, "lowest": -(2**63) - 1, "price": Decimal("1.50"), "zero": Decimal("0E-8"),
        "long": Decimal("1234567890123456789012345678901234567.8"), "whole": Decimal("9" * 38), "float": 0.1,
        "$price": NASTY, "a.b": "$$NOW", "": None, "true": True, "Ærø": "日本語 \0 \U0001f600",
        "doc": JsonText('{"$ref":1.50,"\\u0000":"\0","n":' + "[" * 60 + "1e400" + "]" * 60 + "}"), "none": [],
        "lines": [{"$price": Decimal("1.50"), "a.b": 2**100, "$set": None, "doc": JsonText("null")}],
        "one": {"json": "1"},
    }  # fmt: skip
    ledger.records.log([new_record(1, payload=payload, key={"id": Decimal("1" * 38)})], NOW)
    (sent,) = claim_records(ledger, ["orders-1"]).records
    (shown,) = ledger.records.find(record_id="orders-1")
    for found in (sent.payload, shown["payload"]):
        assert {name: (type(each), each) for name, each in found.items()} == {
            name: (type(each), each) for name, each in payload.items()
        }
        assert list(found) == list(payload)
    assert sent.key == shown["key"] == {"id": Decimal("1" * 38)}


def test_a_delete_has_no_payload(ledger: Ledger) -> None:
    ledger.records.log([new_record(1, payload=None, op="delete")], NOW)
    (sent,) = claim_records(ledger, ["orders-1"]).records
    assert (sent.op, sent.payload, sent.key) == ("delete", None, {"id": 1})


def test_an_unacknowledged_log_is_never_taken_for_a_list_of_duplicates(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an error has a write concern error beside an empty list of write errors."""
    records = ledger.records._records
    monkeypatch.setattr(ledger.records, "_records", records.with_options(write_concern=WriteConcern(w=5)))
    with pytest.raises(ServiceUnavailable) as caught:
        ledger.records.log([new_record(1)], NOW)
    assert caught.value.service == "mongodb"
    assert caught.value.why == "no majority of the replica set acknowledged the write: Not enough data-bearing nodes"


def test_every_write_waits_for_a_majority_and_its_journal(ledger: Ledger) -> None:
    rooms = [
        ledger.records,
        ledger.keys,
        ledger.streams,
        ledger.batches,
        ledger.delivery_states,
        ledger.lease_rescue,
        ledger.operations,
    ]
    collections = [value for room in rooms for value in vars(room).values() if hasattr(value, "write_concern")]
    assert len(collections) >= len(rooms)
    assert all(collection.write_concern.document == {"w": "majority", "j": True} for collection in collections)


def test_due_records_come_oldest_first(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (3, 1, 2, 4, 5)], PAST)
    later = datetime(2100, 1, 1, tzinfo=UTC)
    database.records.update_one({"_id": "orders-4"}, {"$set": {"due_at": later}})
    database.records.update_one({"_id": "orders-5"}, {"$unset": {"due_at": True}})
    database.records.update_one({"_id": "orders-3"}, {"$set": {"due_at": datetime(2019, 1, 1, tzinfo=UTC)}})
    assert [record.id for record in ledger.records.find_due("orders", fresh=True, limit=10)] == [
        "orders-3", "orders-1", "orders-2",
    ]  # fmt: skip
    assert [record.id for record in ledger.records.find_due("orders", fresh=True, limit=1)] == ["orders-3"]
    assert ledger.records.find_due("orders", fresh=False, limit=10) == []
    assert ledger.records.find_due("others", fresh=True, limit=10) == []
    assert ledger.records.find_due("orders", fresh=True, limit=0) == []


def test_a_seq_is_raised_and_never_lowered(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1, seq=5), new_record(2, seq=5)], NOW)
    ledger.records.raise_seq({"orders-1": 9, "orders-2": 3})
    assert [document["seq"] for document in database.records.find({}, sort=[("_id", 1)])] == [9, 5]


def test_a_superseded_record_keeps_its_seq_and_is_named(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1, seq=5), new_record(2, seq=5)], NOW)
    ledger.operations.supersede([("orders-1", 5, "orders-9")])
    assert ledger.records.raise_seq({"orders-1": 9, "orders-2": 9}) == {"orders-1"}
    assert [document["seq"] for document in database.records.find({}, sort=[("_id", 1)])] == [5, 9]


def test_unfinished_records_of_a_stream_are_counted(ledger: Ledger) -> None:
    ledger.records.log([new_record(n) for n in range(1, 7)], PAST)
    ledger.records.log([new_record(7, payload=None, error="unreadable")], PAST)
    claim_records(ledger, ["orders-1", "orders-2", "orders-3"])
    ledger.operations.discard(["orders-4"], states=["pending"], who="me", reason="why")
    counts = ledger.records.count_states(["orders", "others"])
    oldest = counts["orders"].pop("oldest_due_at")
    assert counts["orders"] == {
        "pending": 2, "retrying": 0, "queued": 0, "sending": 3, "failed": 1, "discarded": 1,
    }  # fmt: skip
    assert oldest == PAST
    assert not any(counts["others"].values())


def test_records_are_counted_by_their_state(ledger: Ledger) -> None:
    ledger.records.log([new_record(n) for n in range(1, 5)], NOW)
    claim_records(ledger, ["orders-1"])
    ledger.operations.discard(["orders-2"], states=["pending"], who="me", reason="why")
    counts = ledger.records.count_by_state(["orders-1", "orders-2", "orders-3", "unknown"])
    assert counts == {"sending": 1, "discarded": 1, "pending": 1}
