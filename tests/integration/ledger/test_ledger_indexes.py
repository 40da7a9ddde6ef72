"""Indexes: created, compared, and used by each query that must be fast."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.states import State
from syncctl.errors import ConfigurationError
from syncctl.ledger.indexes import INDEXES, ONE_IN_FLIGHT
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.selections import ANY, Criteria, Scan, list_scans
from tests.harness.passing_time import PAST
from tests.harness.servers import name_database

NAMES = [f"{index.collection}.{index.name}" for index in INDEXES]
NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)
IN_FLIGHT = {"in_flight_key": {"$exists": True}}


@pytest.fixture
def fresh(mongo_url: str) -> Any:
    """A ledger without indexes."""
    with Ledger(mongo_url, name_database(mongo_url)) as opened:
        yield opened


def test_missing_indexes_are_reported_and_created_once(fresh: Ledger) -> None:
    assert sorted(fresh.compare_indexes()) == sorted(f"{name} is missing" for name in NAMES)
    assert sorted(fresh.prepare()) == sorted(NAMES)
    assert fresh.compare_indexes() == []
    assert fresh.prepare() == []
    assert sorted(index["name"] for index in fresh._database.records.list_indexes()) == sorted(
        ["_id_", *(index.name for index in INDEXES if index.collection == "records")]
    )


def test_first_use_creates_the_indexes(fresh: Ledger) -> None:
    fresh.ensure_prepared()
    assert fresh.compare_indexes() == []


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ([("stream", 1)], {"unique": True, "partialFilterExpression": IN_FLIGHT}),
        ([("stream", 1), ("in_flight_key", 1)], {"partialFilterExpression": IN_FLIGHT}),
        ([("stream", 1), ("in_flight_key", 1)], {"unique": True}),
        (
            [("stream", 1), ("in_flight_key", -1)],
            {"unique": True, "partialFilterExpression": IN_FLIGHT},
        ),
    ],
    ids=["other keys", "not unique", "not partial", "other order"],
)
def test_an_index_that_differs_is_reported(fresh: Ledger, keys: Sequence[Any], options: dict[str, Any]) -> None:
    fresh._database.records.create_index(list(keys), name=ONE_IN_FLIGHT, **options)
    fresh.prepare()
    assert fresh.compare_indexes() == [f"records.{ONE_IN_FLIGHT} differs from what it should be"]


def test_a_dropped_index_is_reported_with_the_command_that_creates_it(fresh: Ledger) -> None:
    fresh.prepare()
    fresh._database.records.drop_index("due")
    assert fresh.compare_indexes() == ["records.due is missing"]
    with pytest.raises(ConfigurationError) as caught:
        fresh.records.find_due("orders", fresh=True, limit=1)
    assert "lacks an index" in caught.value.what
    assert "syncctl init --indexes" in caught.value.hint


def make_records() -> list[dict[str, Any]]:
    """Return few records that matter among many that are finished, of this stream and of another."""
    records: list[dict[str, Any]] = []

    def add(state: str, count: int, **fields: Any) -> None:
        for _ in range(count):
            number = len(records)
            records.append(
                {
                    "_id": f"orders-{number}", "stream": "orders", "key": {"id": number}, "key_id": f"k{number}",
                    "seq": number, "hash": "h", "op": "upsert", "payload": {"id": number}, "state": state,
                    "fresh": True, "logged_at": PAST, **fields,
                }
            )  # fmt: skip

    ended = {"finished_at": PAST, "updated_at": PAST}
    error = {"error": {"fingerprint": "f", "status": 422, "message": "no"}, "failed_at": PAST}
    add("delivered", 400, **ended)
    add("delivered", 400, **ended, stream="others")
    add("superseded", 100, **ended)
    add("failed", 200, **ended, **error, stream="others")
    add("failed", 5, **ended, **error)
    add("failed", 2, **ended, error={**error["error"], "fingerprint": "rare"}, failed_at=PAST)
    add("pending", 300, due_at=LATER)
    add("pending", 300, due_at=LATER, fresh=False)
    add("pending", 5, due_at=PAST)
    add("pending", 5, due_at=PAST, fresh=False)
    for number in range(100):
        add("sending", 1, in_flight_key=f"fresh {number}", lease={"token": "t", "at": PAST})
    for number in range(10):
        again = {"fresh": False, "in_flight_retry": True}
        add("sending", 1, in_flight_key=f"again {number}", lease={"token": "t", "at": PAST}, **again)
    add("delivered", 5, finished_at=NOW, updated_at=NOW, logged_at=NOW)
    return records


def scan(state: str) -> Scan:
    """Return the first scan of a state of the stream."""
    return list_scans("orders", state)[0]


QUERIES: dict[str, tuple[Callable[[Ledger], Any], str, int]] = {
    "due": (lambda ledger: ledger.records.find_due("orders", fresh=True, limit=100), "due_at", 7),
    "due again": (lambda ledger: ledger.records.find_due("orders", fresh=False, limit=100), "due_at", 7),
    "due before": (
        lambda ledger: ledger.records.find_due("orders", fresh=True, limit=100, before=NOW),
        "due_at",
        7,
    ),
    "oldest due": (lambda ledger: ledger.records.find_oldest_due("orders"), "due_at", 1),
    "has due": (lambda ledger: ledger.records.has_due("orders"), "due_at", 1),
    "stranded": (lambda ledger: ledger.lease_rescue.give_back_stranded("orders"), "in_flight_key", 112),
    "versions of a row": (lambda ledger: ledger.records.find(stream="orders", key_id="k7"), "key_id", 2),
    "cleanup": (
        lambda ledger: ledger.operations.remove_finished("orders", State.FAILED, NOW, limit=100),
        "finished_at",
        7,
    ),
    "count for cleanup": (
        lambda ledger: ledger.operations.count_finished("orders", State.DELIVERED, LATER),
        "stream",
        406,
    ),
    "selection": (
        lambda ledger: ledger.selections.read_page(scan("failed"), limit=100),
        "finished_at",
        7,
    ),
    "next page of a selection": (
        lambda ledger: ledger.selections.read_page(
            scan("delivered"), after={"finished_at": PAST, "_id": "orders-999"}, limit=100
        ),
        "finished_at",
        410,
    ),
    "newest of a state": (
        lambda ledger: ledger.selections.list_page(scan("delivered"), limit=3),
        "finished_at",
        4,
    ),
    "a period of a state": (
        lambda ledger: ledger.selections.list_page(
            scan("delivered"), criteria=Criteria(since=NOW - timedelta(hours=1)), limit=100
        ),
        "finished_at",
        7,
    ),
    "an error": (
        lambda ledger: ledger.selections.list_page(scan("failed"), criteria=Criteria(error="rare"), limit=10),
        "error.fingerprint",
        4,
    ),
    "waiting for the first attempt": (
        lambda ledger: ledger.selections.list_page(scan("pending"), limit=3, newest_first=False),
        "due_at",
        4,
    ),
    "waiting for another attempt": (
        lambda ledger: ledger.selections.list_page(
            scan("retrying"), criteria=Criteria(until=NOW), limit=100, newest_first=False
        ),
        "due_at",
        7,
    ),
    "being sent": (lambda ledger: ledger.selections.list_page(scan("sending"), limit=3), "in_flight_key", 112),
    "versions of a selected row": (
        lambda ledger: ledger.selections.list_page(
            scan("delivered"), criteria=Criteria(key_ids=("k7", "k8")), limit=10
        ),
        "key_id",
        4,
    ),
    "failures": (
        lambda ledger: ledger.selections.group_failures({"orders": ANY}, limit=10),
        "error.fingerprint",
        9,
    ),
    "beginning of a fingerprint": (
        lambda ledger: ledger.selections.find_fingerprints(["orders"], "ra", limit=5),
        "error.fingerprint",
        2,
    ),
    "still failed": (
        lambda ledger: ledger.selections.count_finished(scan("failed"), Criteria(since=PAST, until=LATER)),
        "finished_at",
        10,
    ),
    "attempts since": (
        lambda ledger: ledger.attempts.read_page(
            changed_since=NOW - timedelta(hours=1), attempts_since=PAST, streams=["orders"], limit=100
        ),
        "updated_at",
        7,
    ),
    "attempts for a row": (
        lambda ledger: ledger.attempts.read_page(
            changed_since=PAST, attempts_since=PAST, streams=["orders"], key_ids=["k7", "k8"], limit=100
        ),
        "key_id",
        4,
    ),
    "latest failures": (lambda ledger: ledger.attempts.find_failures("orders", limit=3), "stream", 4),
    "what went wrong lately": (lambda ledger: ledger.attempts.find_new_failures(limit=3), "updated_at", 4),
    "live counts": (lambda ledger: ledger.records.count_states(["orders"]), "stream", 420),
    "finished since": (lambda ledger: ledger.reports.load_finished(["orders"]), "finished_at", 520),
    "first logged": (lambda ledger: ledger.reports.first_logged_at(), "logged_at", 1),
    "roll-up": (lambda ledger: ledger.reports.roll_up(NOW - timedelta(hours=1), LATER, frozen_until=NOW), "at", 6),
}


COUNTED = ("count for cleanup",)
"""The index alone answers: records are large, and there are millions."""


@pytest.mark.parametrize("name", QUERIES)
def test_a_hot_query_reads_its_index_and_little_else(ledger: Ledger, database: Any, name: str) -> None:
    """No collection scan, no sort in memory, no cost that grows with finished or future records (invariant 11)."""
    ask, field, at_most = QUERIES[name]
    database.records.insert_many(make_records())
    database.command("profile", 2)
    ask(ledger)
    database.command("profile", 0)
    plans = [
        document
        for document in database["system.profile"].find({"ns": f"{database.name}.records", "op": {"$ne": "insert"}})
        if document.get("planSummary") != "IDHACK"
        and not document.get("planSummary", "").startswith("IXSCAN { _id: 1 }")
    ]
    assert plans
    for plan in plans:
        assert "IXSCAN" in plan["planSummary"] or "COUNT_SCAN" in plan["planSummary"], plan["planSummary"]
        assert field in plan["planSummary"]
        assert plan["keysExamined"] <= at_most, (plan["planSummary"], plan["keysExamined"])
        assert plan["docsExamined"] <= (0 if name in COUNTED else at_most)
        # The few groups of an aggregation and the versions of one row may be sorted, other records may not.
        is_few = "$group" in str(plan["command"]) or field == "key_id"
        assert not plan.get("hasSortStage") or is_few, plan["planSummary"]


def test_streams_with_due_records_are_found_with_one_look_at_the_index_for_each(ledger: Ledger, database: Any) -> None:
    """However many records are due, or will be."""
    database.records.insert_many(make_records())
    database.command("profile", 2)
    assert ledger.records.find_due_streams(["orders", "others", "unknown"]) == {"orders"}
    database.command("profile", 0)
    (plan,) = database["system.profile"].find({"op": "command", "command.aggregate": {"$exists": True}})
    assert plan["docsExamined"] <= 2
    assert plan["keysExamined"] <= 4


def test_what_is_in_flight_is_read_by_id(ledger: Ledger, database: Any) -> None:
    """Not by an index from which others were removed a moment ago: those entries are passed until they are history."""
    database.records.insert_many(make_records())
    sending = [record["_id"] for record in database.records.find({"state": "sending"})]
    done = [record["_id"] for record in database.records.find({"state": "delivered"}).limit(20)]
    database.batches.insert_one({"_id": "t", "stream": "orders", "ids": [*sending, *done], "until": LATER})
    database.batches.insert_one({"_id": "u", "stream": "others", "ids": ["others-1"], "until": LATER})
    database.command("profile", 2)
    in_flight = ledger.batches.find_in_flight("orders")
    database.command("profile", 0)
    assert (in_flight.count, in_flight.retries, len(in_flight.key_ids)) == (110, 10, 110)
    (plan,) = database["system.profile"].find({"ns": f"{database.name}.records", "op": "query"})
    assert plan["planSummary"] == "IXSCAN { _id: 1 }"
    assert plan["docsExamined"] == 130


def test_expired_batches_are_found_by_index(ledger: Ledger, database: Any) -> None:
    """However many batches are in flight."""
    database.batches.insert_many(
        {"stream": f"s{n % 5}", "worker": "w", "ids": [], "begun": [], "until": LATER if n % 50 else PAST}
        for n in range(500)
    )
    database.command("profile", 2)
    assert len(ledger.batches.seize_expired(["s0", "s1"], limit=20)) == 10
    database.command("profile", 0)
    asked = list(database["system.profile"].find({"command.findAndModify": "batches"}))
    assert len(asked) == 11
    for each in asked:
        assert "IXSCAN { stream: 1, until: 1 }" in each["planSummary"]
        assert each["docsExamined"] <= 12


def test_runs_and_reports_are_read_by_index(ledger: Ledger, database: Any) -> None:
    hours = [(f"s{n % 5}", PAST + timedelta(hours=n)) for n in range(50)]
    database.runs.insert_many({"stream": name, "started_at": at, "read": 0, "error": None} for name, at in hours)
    database.reports.insert_many({"stream": name, "window_start": at} for name, at in hours)
    database.command("profile", 2)
    assert [run["started_at"] for run in ledger.runs.load("s4", limit=2)] == [
        PAST + timedelta(hours=49), PAST + timedelta(hours=44),
    ]  # fmt: skip
    assert len(list(ledger.reports.load(PAST, PAST + timedelta(hours=10)))) == 10
    ledger.runs.remove(before=PAST + timedelta(hours=3), empty_before=PAST + timedelta(hours=4))
    ledger.audit.load(limit=5)
    database.command("profile", 0)
    plans = [
        document["planSummary"] for document in database["system.profile"].find({"planSummary": {"$exists": True}})
    ]
    assert len(plans) == 5
    assert not [plan for plan in plans if "COLLSCAN" in plan]
