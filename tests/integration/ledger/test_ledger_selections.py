"""Selecting records for an operator: each once, page by page, even while they change."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.core.states import SELECTABLE
from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.selections import ANY, Criteria
from syncctl.pipeline import selection
from syncctl.pipeline.operations.replay import DISCARDABLE
from syncctl.pipeline.selection import Selection, list_records, select_records
from tests.harness.passing_time import PAST
from tests.harness.testbed import new_record


@pytest.fixture
def failed(ledger: Ledger, database: Any) -> list[str]:
    """Seven failed records of two streams, several with the same end."""
    for number in range(1, 8):
        stream = "returns" if number > 5 else "orders"
        ledger.streams.ensure(stream)
        error = f"column {'abc'[number % 3]} cannot be read"
        new = new_record(number, id=f"id-{number}", stream=stream, payload=None, error=error)
        ledger.records.log([new], PAST + timedelta(days=number // 2))
    ledger.records.log([new_record(9)], PAST)
    return [f"id-{number}" for number in range(1, 8)]


def flat(pages: list[list[str]]) -> list[str]:
    return [each for page in pages for each in page]


def found(ledger: Ledger, allowed: Any = None, **fields: Any) -> list[list[str]]:
    pages = select_records(ledger, Selection(**fields), *([allowed] if allowed else []))
    return [[each["_id"] for each in page] for page in pages]


def test_by_default_all_failed_records_are_selected_by_stream_oldest_first(ledger: Ledger, failed: list[str]) -> None:
    assert flat(found(ledger)) == failed


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_pages_hold_each_record_once_even_while_they_are_replayed(
    ledger: Ledger, failed: list[str], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(selection, "RECORDS_AT_ONCE", at_once)
    seen: list[str] = []
    for page in select_records(ledger, Selection()):
        seen += [each["_id"] for each in page]
        assert len(page) <= at_once
        ledger.operations.replay([each["_id"] for each in page], states=["failed"], who="me")
    assert seen == failed


def test_a_record_that_fails_again_is_not_selected_again(ledger: Ledger, failed: list[str], database: Any) -> None:
    """Otherwise a replay of records that keep failing would never end."""
    later = datetime.now(UTC) + timedelta(days=1)
    database.records.update_one({"_id": "id-3"}, {"$set": {"finished_at": later}})
    assert "id-3" not in flat(found(ledger))


def test_records_are_selected_by_stream_error_and_time(ledger: Ledger, failed: list[str], database: Any) -> None:
    assert found(ledger, streams=("returns",)) == [["id-6", "id-7"]]
    mark = database.records.find_one({"_id": "id-1"})["error"]["fingerprint"]
    assert mark != database.records.find_one({"_id": "id-2"})["error"]["fingerprint"]
    assert flat(found(ledger, error=mark)) == ["id-1", "id-4", "id-7"]
    since, until = PAST + timedelta(days=1), PAST + timedelta(days=3)
    assert flat(found(ledger, since=since, until=until)) == ["id-2", "id-3", "id-4", "id-5"]
    assert found(ledger, streams=("unknown",)) == []


def test_a_selection_by_id_takes_only_records_in_the_named_states(ledger: Ledger, failed: list[str]) -> None:
    assert found(ledger, ids=("id-1", "orders-9", "unknown")) == [["id-1"]]
    assert found(ledger, ids=("id-1", "id-6"), streams=("returns",)) == [["id-6"]]
    states = ("failed", "pending")
    assert sorted(found(ledger, DISCARDABLE, ids=("id-1", "orders-9"), states=states)[0]) == ["id-1", "orders-9"]


@pytest.mark.parametrize("state", ["pending", "sending", "lost"])
def test_a_state_that_cannot_be_selected_is_refused(ledger: Ledger, state: str) -> None:
    with pytest.raises(UsageError, match="is not one of delivered, failed, superseded, discarded"):
        found(ledger, states=(state,))


def test_waiting_records_are_selected_for_a_discard_also_those_that_are_due_at_no_time(
    ledger: Ledger, database: Any
) -> None:
    ledger.records.log([new_record(number) for number in range(1, 6)], PAST)
    database.records.update_one({"_id": "orders-2"}, {"$set": {"fresh": False, "due_at": PAST - timedelta(days=1)}})
    database.records.update_one({"_id": "orders-4"}, {"$set": {"waits_for": "x"}, "$unset": {"due_at": True}})
    waiting = flat(found(ledger, DISCARDABLE, states=("pending", "retrying", "failed")))
    assert waiting == ["orders-1", "orders-3", "orders-5", "orders-4", "orders-2"]
    assert flat(found(ledger, DISCARDABLE, states=("retrying",))) == ["orders-2"]


def test_a_record_that_is_logged_during_a_discard_is_not_selected(ledger: Ledger) -> None:
    ledger.records.log([new_record(1)], PAST)
    ledger.records.log([new_record(2)], datetime.now(UTC) + timedelta(days=1))
    assert flat(found(ledger, DISCARDABLE, states=("pending",))) == ["orders-1"]


def test_records_are_selected_by_the_key_of_their_row(ledger: Ledger, failed: list[str]) -> None:
    assert flat(found(ledger, key="3")) == ["id-3"]
    assert flat(found(ledger, key="id=7")) == ["id-7"]
    assert found(ledger, key="3", streams=("returns",)) == []
    with pytest.raises(UsageError, match="is not a key of this stream"):
        found(ledger, key="number=3")


def listed(ledger: Ledger, *, newest_first: bool = True, **fields: Any) -> list[str]:
    fields.setdefault("states", SELECTABLE)
    return [each["_id"] for each in list_records(ledger, Selection(**fields), newest_first=newest_first)]


def test_a_list_has_the_records_of_all_streams_and_states_in_the_order_of_their_time(
    ledger: Ledger, failed: list[str], database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A page holds less than what has the same time.
    monkeypatch.setattr(selection, "RECORDS_AT_ONCE", 1)
    database.records.update_one({"_id": "orders-9"}, {"$set": {"due_at": PAST + timedelta(days=2, hours=1)}})
    lease = {"lease": {"token": "t", "at": PAST + timedelta(days=1, hours=1)}, "in_flight_key": "k", "state": "sending"}
    database.records.update_one({"_id": "id-1"}, {"$set": lease, "$unset": {"finished_at": True}})
    oldest_first = ["id-2", "id-3", "id-1", "id-4", "id-5", "orders-9", "id-6", "id-7"]
    assert listed(ledger, newest_first=False) == oldest_first
    assert listed(ledger) == oldest_first[::-1]
    assert listed(ledger, limit=3) == oldest_first[:-4:-1]
    assert listed(ledger, states=("failed",), limit=2) == ["id-7", "id-6"]
    assert listed(ledger, since=PAST + timedelta(days=1), until=PAST + timedelta(days=1, hours=2)) == [
        "id-1", "id-3", "id-2",
    ]  # fmt: skip
    assert listed(ledger, streams=("returns",), states=("failed", "pending")) == ["id-7", "id-6"]


def test_a_list_reads_no_more_than_its_limit(ledger: Ledger, failed: list[str], database: Any) -> None:
    database.command("profile", 2)
    assert len(listed(ledger, states=("failed",), limit=1)) == 1
    database.command("profile", 0)
    asked = list(database["system.profile"].find({"ns": f"{database.name}.records"}))
    assert asked
    assert all(query["docsExamined"] <= 1 for query in asked)


def test_failures_of_other_states_are_grouped_too(ledger: Ledger, failed: list[str], database: Any) -> None:
    again = {"$set": {"state": "pending", "fresh": False, "due_at": PAST}, "$unset": {"finished_at": True}}
    database.records.update_many({"_id": {"$in": ["id-2", "id-5"]}}, again)
    (group,) = ledger.selections.group_failures({"orders": ANY, "returns": ANY}, states=("retrying",), limit=9)
    assert (group["count"], group["streams"], group["message"]) == (2, ["orders"], "column c cannot be read")
    by_key = Criteria(key_ids=(key_id({"id": 4}),))
    (group,) = ledger.selections.group_failures({"orders": by_key}, limit=9)
    assert (group["count"], group["sample_id"]) == (1, "id-4")


def test_the_beginning_of_a_fingerprint_is_completed(ledger: Ledger, failed: list[str], database: Any) -> None:
    marks = sorted(database.records.distinct("error.fingerprint"))
    for mark in marks:
        assert ledger.selections.find_fingerprints(["orders", "returns"], mark[:6], limit=9) == [mark]
    assert ledger.selections.find_fingerprints(["orders", "returns"], "", limit=9) == marks
    assert ledger.selections.find_fingerprints(["orders"], "", limit=2) == marks[:2]


def test_failures_are_grouped_the_most_frequent_first(ledger: Ledger, failed: list[str]) -> None:
    groups = ledger.selections.group_failures(dict.fromkeys(["orders", "returns"], ANY), limit=10)
    assert [group["count"] for group in groups] == [3, 2, 2]
    assert groups[0]["streams"] == ["orders", "returns"]
    assert groups[0]["message"] == "column b cannot be read"
    assert groups[0]["first_at"] == PAST
    assert groups[0]["last_at"] == PAST + timedelta(days=3)
    assert groups[0]["sample_id"] in {"id-1", "id-4", "id-7"}
    assert len(ledger.selections.group_failures({"orders": ANY}, limit=1)) == 1
