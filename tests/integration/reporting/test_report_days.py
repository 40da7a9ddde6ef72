"""Days of frozen hours: a long report reads them, and tells the same as from the hours."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from syncctl.core.time_zone import HOUR, floor_day
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.reporting.report import build_report
from syncctl.pipeline.reporting.roll_up import add_up_days, bring_up_to_date, roll_up, roll_up_when_due
from tests.harness.passing_time import let_hours_pass
from tests.harness.testbed import new_record

DAYS = 9


@pytest.fixture
def start(ledger: Ledger, database: Any) -> datetime:
    """Store frozen hours of two streams, of which the older ones lack what versions before did not keep."""
    random.seed(7)
    frozen_until = floor_day(ledger.streams.server_time(), UTC) - 5 * HOUR
    start = floor_day(frozen_until, UTC) - timedelta(days=DAYS) + 3 * HOUR
    hours = []
    for number in range((frozen_until - start) // HOUR):
        at = start + number * HOUR
        for stream in ("orders", "returns") if number % 5 else ("orders",):
            some = random.randrange(1, 50)
            hour = {"stream": stream, "window_start": at, "frozen": True, "logged": some, "delivered": some}
            hour |= {"attempts": some + number % 3, "failed": number % 2, "latency": {str(some): some}, "errors": [
                {"fingerprint": f"f{number % 4}", "status": 503, "message": "m", "count": some, "sample_id": "s"}
            ]}  # fmt: skip
            if number > 30:
                hour |= {"delivery": {str(100 + some): some}, "slices": {"retried": {"1": number % 3}}}
            hours.append(hour)
    database.reports.insert_many(hours)
    database.reports.insert_one({"_id": "frozen_until", "at": frozen_until})
    return start


@pytest.mark.parametrize("by", ["stream", "error", "day"])
@pytest.mark.parametrize("begin", [timedelta(), 20 * HOUR, timedelta(days=3)])
def test_a_report_tells_the_same_with_and_without_days(
    ledger: Ledger, database: Any, start: datetime, by: Any, begin: timedelta
) -> None:
    asked: dict[str, Any] = {"since": start + begin, "until": start + timedelta(days=8), "by": by, "compare": True}
    add_up_days(ledger=ledger)
    assert database.report_days.count_documents({"day": {"$exists": True}}) == 2 * DAYS
    database.command("profile", 2)
    fast = build_report(ledger=ledger, **asked)
    database.command("profile", 0)
    read = database["system.profile"].find({"command.filter.window_start": {"$exists": True}, "op": "query"})
    # Two ends of less than a day, in the period and in the one before.
    assert sum(query["nreturned"] for query in read if "stream" not in query["command"]["filter"]) < 2 * 2 * 2 * 24
    database.report_days.delete_many({})
    slow = build_report(ledger=ledger, **asked)
    assert fast.totals == slow.totals
    assert fast.compare is not None
    assert slow.compare is not None
    assert fast.compare.totals == slow.compare.totals
    if by == "error":
        assert {row["fingerprint"]: row["count"] for row in fast.rows} == {
            row["fingerprint"]: row["count"] for row in slow.rows
        }
    else:
        assert (fast.rows, fast.compare.rows) == (slow.rows, slow.compare.rows)


def test_days_of_another_zone_are_cut_from_hours(ledger: Ledger, start: datetime) -> None:
    add_up_days(ledger=ledger)
    rows = build_report(ledger=ledger, since=start, by="day", zone=ZoneInfo("Asia/Tokyo")).rows
    assert {row["window_start"].hour for row in rows} == {15}


def test_a_day_is_added_up_once_all_its_hours_are_frozen(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], ledger.streams.server_time())
    let_hours_pass(database, 12)
    roll_up(ledger=ledger)
    let_hours_pass(database, 24)
    ledger.records.log([new_record(2)], ledger.streams.server_time())
    roll_up(ledger=ledger)
    (day,) = database.report_days.find({"day": {"$exists": True}, "logged": 1})
    assert day["day"] == floor_day(database.records.find_one({"_id": "orders-1"})["logged_at"], UTC)
    until = ledger.report_days.complete_until()
    assert until is not None
    frozen_until = ledger.reports.frozen_until()
    assert frozen_until is not None
    assert until <= frozen_until < until + timedelta(days=1)
    roll_up(ledger=ledger)
    assert database.report_days.count_documents({}) == 2


def test_without_reports_there_are_no_days(ledger: Ledger, database: Any) -> None:
    add_up_days(ledger=ledger)
    assert database.report_days.count_documents({}) == 0


def test_a_report_reads_none_of_the_records_of_frozen_hours(ledger: Ledger, database: Any, start: datetime) -> None:
    """So five million of them cost nothing: what is read are hours, days, and records that changed since."""
    old = {"stream": "orders", "logged_at": start, "updated_at": start, "finished_at": start}
    states = ("delivered", "superseded", "failed")
    database.records.insert_many(
        {**old, "_id": f"old-{number}", "state": states[number % 3], "superseded_at": start, "history": [
            {"action": "attempt", "at": start, "state": states[number % 3], "n": 1, "latency_ms": 1.0}
        ]}
        for number in range(300)
    )  # fmt: skip
    ledger.records.log([new_record(1)], ledger.streams.server_time())
    database.command("profile", 2)
    report = build_report(ledger=ledger, since=ledger.streams.server_time() - HOUR, by="stream")
    database.command("profile", 0)
    assert report.totals["logged"] >= 1
    mine = f"{database.name}.records"
    queries = list(database["system.profile"].find({"ns": mine, "planSummary": {"$exists": True}}))
    assert len(queries) >= 4
    assert not [query["planSummary"] for query in queries if not query["planSummary"].startswith("IXSCAN")]
    assert max(query["docsExamined"] for query in queries) <= 1
    assert max(query["keysExamined"] for query in queries) <= 3
    others = list(database["system.profile"].find({"ns": {"$regex": "report"}, "op": "query"}))
    assert all(query["docsExamined"] <= query["nreturned"] + 1 for query in others)


def test_a_roll_up_that_takes_long_is_made_less_often(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], ledger.streams.server_time())
    assert roll_up_when_due(ledger=ledger) == 1
    assert roll_up_when_due(ledger=ledger) == 1

    database.records.update_one({}, {"$currentDate": {"updated_at": True}})

    def end_long_roll_up(seconds_ago: float) -> None:
        at = ledger.streams.server_time() - timedelta(seconds=seconds_ago)
        database.reports.update_one({"_id": "frozen_until"}, {"$set": {"rolled_up_at": at, "took_seconds": 60.0}})

    end_long_roll_up(500)
    assert roll_up_when_due(ledger=ledger) == 0
    # A report makes do with it: another one would take as long.
    assert not bring_up_to_date(ledger=ledger, at_once=0)
    end_long_roll_up(700)
    assert not bring_up_to_date(ledger=ledger, at_once=0)
    assert roll_up_when_due(ledger=ledger) == 1
    roll_up_again = ledger.reports.last_roll_up()
    assert roll_up_again is not None
    assert roll_up_again.took_seconds < 60
