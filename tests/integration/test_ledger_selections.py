"""Selecting records for an operator: each once, page by page, even while they change."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline import replay
from syncctl.pipeline.replay import DISCARDABLE, Selection, select_records
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
    monkeypatch.setattr(replay, "RECORDS_AT_ONCE", at_once)
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


def test_waiting_records_are_selected_by_id_alone(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="only by their id"):
        found(ledger, DISCARDABLE, states=("pending",))


def test_failures_are_grouped_the_most_frequent_first(ledger: Ledger, failed: list[str]) -> None:
    groups = ledger.operations.group_failures(["orders", "returns"], limit=10)
    assert [group["count"] for group in groups] == [3, 2, 2]
    assert groups[0]["streams"] == ["orders", "returns"]
    assert groups[0]["message"] == "column b cannot be read"
    assert groups[0]["first_at"] == PAST
    assert groups[0]["last_at"] == PAST + timedelta(days=3)
    assert groups[0]["sample_id"] in {"id-1", "id-4", "id-7"}
    assert len(ledger.operations.group_failures(["orders"], limit=1)) == 1
