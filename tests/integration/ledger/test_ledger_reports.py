"""Roll-ups: events in their hour, open hours recomputed whole, frozen hours never rewritten."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.histogram import bucket_of
from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.states import State
from syncctl.core.time_zone import HOUR, floor_hour
from syncctl.ledger.attempt_history import HISTORY_LENGTH
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.reports import HourCounts
from syncctl.pipeline.reporting.report import build_report
from syncctl.pipeline.reporting.roll_up import bring_up_to_date, roll_up
from tests.harness.passing_time import PAST, let_hours_pass, shift
from tests.harness.testbed import claim_records, lose_records, new_record, outcome

BUSY = outcome(Verdict.RETRY_LATER, status=503, error="busy for 7 s", latency_ms=900.0)
REFUSED = outcome(Verdict.REJECTED, status=422, error="row 7 is wrong", latency_ms=90.0)
TAKEN = outcome(latency_ms=9.0)


def log(ledger: Ledger, *numbers: int, **changes: Any) -> None:
    ledger.records.log([new_record(number, **changes) for number in numbers], ledger.streams.server_time())


def call(ledger: Ledger, database: Any, number: int, state: State, answer: Outcome) -> None:
    """Make one attempt of a record."""
    database.records.update_one({"_id": f"orders-{number}", "state": "pending"}, {"$set": {"due_at": PAST}})
    (record,) = (claim := claim_records(ledger, [f"orders-{number}"])).records
    ledger.delivery_states.write_transitions(claim, [Transition(record=record, state=state, outcome=answer)])


def deliver(ledger: Ledger, database: Any, number: int) -> None:
    call(ledger, database, number, State.DELIVERED, TAKEN)


def fail(ledger: Ledger, database: Any, number: int) -> None:
    call(ledger, database, number, State.FAILED, REFUSED)


def hour(database: Any, ago: int = 0) -> Mapping[str, Any]:
    """Return the stored hour `ago` hours before now, without zeros."""
    found = list(database.reports.find({"window_start": {"$exists": True}}))
    now = floor_hour(datetime.now(UTC))
    (stored,) = [each for each in found if each["window_start"] == now - ago * HOUR]
    return {name: each for name, each in stored.items() if each and name not in ("_id", "stream", "window_start")}


@pytest.fixture(autouse=True)
def _hour_that_lasts(eventually: Callable[..., Any]) -> None:
    """Do not begin in the last seconds of an hour: each test's events are to be of one."""
    eventually(lambda: (datetime.now(UTC) + timedelta(seconds=5)).hour == datetime.now(UTC).hour)


def test_each_event_counts_in_the_hour_in_which_it_happens(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, 2, 3)
    call(ledger, database, 1, State.PENDING, BUSY)
    let_hours_pass(database, 1)
    deliver(ledger, database, 1)
    fail(ledger, database, 2)
    ledger.operations.supersede([("orders-3", 3, "orders-9")])
    let_hours_pass(database, 2)
    log(ledger, 4)
    ledger.operations.discard(["orders-2"], states=["failed"], who="me", reason="why")
    assert roll_up(ledger=ledger) == 3
    first, second, now = hour(database, 3), hour(database, 2), hour(database)
    assert first.items() >= {"logged": 3, "attempts": 1, "frozen": True}.items()
    assert "delivered" not in first
    assert second.items() >= {
        "delivered": 1, "failed": 1, "superseded": 1, "attempts": 2, "retries": 1, "frozen": True
    }.items()  # fmt: skip
    assert "logged" not in second
    assert now.items() >= {"logged": 1, "discarded": 1}.items()
    assert not {"frozen", "failed", "attempts"} & set(now)


def test_latencies_and_errors_are_kept_by_hour(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, 2, 3)
    call(ledger, database, 1, State.PENDING, BUSY)
    for number in (1, 2):
        fail(ledger, database, number)
    deliver(ledger, database, 3)
    roll_up(ledger=ledger)
    now = hour(database)
    assert now["latency"] == {str(bucket_of(900.0)): 1, str(bucket_of(90.0)): 2, str(bucket_of(9.0)): 1}
    errors = [(error["count"], error["status"], error["message"]) for error in now["errors"]]
    assert errors == [(2, 422, "row 7 is wrong"), (1, 503, "busy for 7 s")]
    assert now["errors"][0]["sample_id"] in {"orders-1", "orders-2"}


def test_a_row_that_could_not_be_stored_and_poison_are_failures_with_their_error(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, payload=None, error="column amount: the number is NaN")
    log(ledger, 2)
    for _ in range(3):
        lose_records(ledger, database, ["orders-2"])
    roll_up(ledger=ledger)
    now = hour(database)
    assert (now["failed"], now["logged"]) == (2, 2)
    assert sorted(error["message"] for error in now["errors"]) == [
        "column amount: the number is NaN", "its worker died or stalled 3 times while sending it",
    ]  # fmt: skip


def test_a_late_outcome_is_an_attempt_and_no_delivery(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    claim = claim_records(ledger, ["orders-1"])
    ledger.delivery_states.add_late_outcomes(claim, [(claim.records[0], TAKEN)])
    roll_up(ledger=ledger)
    assert hour(database)["attempts"] == 1
    assert "delivered" not in hour(database)


def try_often(ledger: Ledger, database: Any, number: int, *, times: int) -> None:
    for _ in range(times):
        call(ledger, database, number, State.PENDING, BUSY)


def test_attempts_that_the_history_no_longer_holds_count_in_their_hour(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    try_often(ledger, database, 1, times=HISTORY_LENGTH + 10)
    deliver(ledger, database, 1)
    roll_up(ledger=ledger)
    now = hour(database)
    total = HISTORY_LENGTH + 11
    assert (now["attempts"], now["retries"], now["delivered"]) == (total, total - 1, 1)
    assert now["latency"] == {str(bucket_of(900.0)): total - 1, str(bucket_of(9.0)): 1}
    assert [(error["count"], error["message"], error["status"]) for error in now["errors"]] == [
        (total - 1, "busy for 7 s", 503)
    ]
    record = database.records.find_one({"_id": "orders-1"})
    assert len(record["history"]) == HISTORY_LENGTH
    # One element for a kind of event and an hour: the first attempt is no retry.
    assert [counted["count"] for counted in record["earlier"]] == [1, 10]


def test_an_hour_whose_attempts_have_left_the_history_does_not_freeze_as_nothing(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    try_often(ledger, database, 1, times=5)
    let_hours_pass(database, 2)
    try_often(ledger, database, 1, times=HISTORY_LENGTH)
    roll_up(ledger=ledger)
    assert hour(database, 2).items() >= {"attempts": 5, "retries": 4, "frozen": True}.items()
    assert hour(database)["attempts"] == HISTORY_LENGTH


def test_counts_of_frozen_hours_leave_the_record(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    try_often(ledger, database, 1, times=HISTORY_LENGTH + 5)
    let_hours_pass(database, 2)
    try_often(ledger, database, 1, times=2)
    roll_up(ledger=ledger)
    assert hour(database, 2)["attempts"] == HISTORY_LENGTH + 5
    assert database.records.find_one({"_id": "orders-1"})["earlier"] == []
    try_often(ledger, database, 1, times=HISTORY_LENGTH)
    roll_up(ledger=ledger)
    assert hour(database)["attempts"] == HISTORY_LENGTH + 2


def test_a_record_that_was_superseded_and_sent_again_within_an_hour_counts_as_both(
    ledger: Ledger, database: Any
) -> None:
    log(ledger, 1)
    ledger.operations.supersede([("orders-1", 1, "orders-9")])
    ledger.operations.replay(["orders-1"], states=["superseded"], who="me")
    roll_up(ledger=ledger)
    assert (hour(database)["superseded"], hour(database)["reopened"]) == (1, {"superseded": 1})
    ledger.operations.supersede([("orders-1", 1, "orders-9")])
    let_hours_pass(database, 2)
    roll_up(ledger=ledger)
    assert ledger.reports.load_finished(["orders"])["orders"]["superseded"] == 1


def test_records_that_are_taken_back_from_a_run_of_refusals_count_once(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    log(ledger, 2, op="delete", payload=None)
    since = ledger.streams.server_time()
    fail(ledger, database, 1)
    call(ledger, database, 2, State.DELIVERED, outcome(status=404))
    assert ledger.operations.take_back_refused("orders", status=422, since=since) == 1
    assert ledger.operations.take_back_gone("orders", since=since) == 1
    roll_up(ledger=ledger)
    assert hour(database)["reopened"] == {"failed": 1, "delivered": 1}
    deliver(ledger, database, 1)
    deliver(ledger, database, 2)
    let_hours_pass(database, 2)
    roll_up(ledger=ledger)
    assert ledger.reports.load_finished(["orders"])["orders"]["delivered"] == 2


def test_open_hours_are_computed_anew_and_never_added_to(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, 2)
    deliver(ledger, database, 1)
    for _ in range(3):
        roll_up(ledger=ledger)
    assert hour(database)["delivered"] == 1
    deliver(ledger, database, 2)
    roll_up(ledger=ledger)
    assert (hour(database)["delivered"], hour(database)["logged"]) == (2, 2)


def test_a_frozen_hour_is_never_rewritten(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    deliver(ledger, database, 1)
    let_hours_pass(database, 3)
    roll_up(ledger=ledger)
    before = hour(database, 3)
    assert before["frozen"]
    assert before["delivered"] == 1
    database.records.delete_many({})
    log(ledger, 2)
    deliver(ledger, database, 2)
    # The records alone move: the hour that was frozen stays where it is.
    for document in list(database.records.find()):
        database.records.replace_one({"_id": document["_id"]}, shift(document, -3 * HOUR))
    start = floor_hour(ledger.streams.server_time()) - 3 * HOUR
    ledger.reports.store(ledger.reports.roll_up(start, start + HOUR, frozen_until=start), frozen_until=start + HOUR)
    ledger.reports.store([HourCounts(stream="orders", window_start=start, delivered=99)], frozen_until=start - 9 * HOUR)
    roll_up(ledger=ledger)
    assert hour(database, 3) == before


@pytest.mark.parametrize(("minutes", "hours_ago"), [(0, 1), (9, 1), (10, 0), (59, 0)])
def test_an_hour_stays_open_for_ten_minutes_after_its_end(ledger: Ledger, minutes: int, hours_ago: int) -> None:
    """A write that began before its end may be acknowledged after it."""
    now = floor_hour(ledger.streams.server_time()) + timedelta(minutes=minutes)

    class At:
        reports = ledger.reports
        report_days = ledger.report_days

        class streams:  # noqa: N801 - a room
            server_time = staticmethod(lambda: now)

    log(ledger, 1)
    roll_up(ledger=At())  # type: ignore[arg-type]
    assert ledger.reports.frozen_until() == floor_hour(now) - hours_ago * HOUR


def test_a_slow_roll_up_never_rewrites_a_frozen_hour(ledger: Ledger) -> None:
    now = floor_hour(ledger.streams.server_time())
    ledger.reports.store([], frozen_until=now)
    ledger.reports.store([], frozen_until=now - 5 * HOUR)
    assert ledger.reports.frozen_until() == now


def test_weeks_without_a_roll_up_are_made_up_for(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    deliver(ledger, database, 1)
    let_hours_pass(database, 24 * 15)
    log(ledger, 2)
    roll_up(ledger=ledger)
    assert database.reports.count_documents({"logged": 1}) == 2
    assert database.reports.find_one({"delivered": 1})["frozen"]
    assert ledger.reports.frozen_until() == floor_hour(ledger.streams.server_time() - timedelta(minutes=10))


def test_before_the_first_record_there_is_nothing_to_roll_up(ledger: Ledger) -> None:
    assert roll_up(ledger=ledger) == 0
    assert ledger.reports.frozen_until() is None
    assert ledger.reports.load_finished(["orders"]) == {"orders": {"delivered": 0, "superseded": 0}}


@pytest.mark.parametrize("rolled_up", [False, True], ids=["before", "after"])
def test_a_replay_counts_as_opened_again_and_each_record_is_delivered_once(
    ledger: Ledger, database: Any, rolled_up: bool
) -> None:
    """The count of delivered records is of records, from frozen hours and from open ones."""

    def delivered() -> int:
        if rolled_up:
            roll_up(ledger=ledger)
        return ledger.reports.load_finished(["orders"])["orders"]["delivered"]

    log(ledger, 1, 2)
    for number in (1, 2):
        deliver(ledger, database, number)
    assert delivered() == 2
    ledger.operations.replay(["orders-1"], states=["delivered"], who="me")
    assert delivered() == 1
    deliver(ledger, database, 1)
    assert delivered() == 2
    let_hours_pass(database, 3)
    roll_up(ledger=ledger)
    assert hour(database, 3).items() >= {"delivered": 3, "reopened": {"delivered": 1}}.items()
    assert delivered() == 2


@pytest.mark.parametrize("adds_up", [False, True], ids=["hours", "totals"])
def test_a_record_delivered_in_a_frozen_hour_and_replayed_is_not_counted_twice(
    ledger: Ledger, database: Any, adds_up: bool
) -> None:
    def delivered() -> int:
        roll_up(ledger=ledger)
        if adds_up:
            ledger.totals.update(frozen_until=ledger.reports.frozen_until())
            # Hours that are in the totals are not read again: there are years of them.
            database.reports.delete_many({"frozen": True})
        return ledger.reports.load_finished(["orders"])["orders"]["delivered"]

    log(ledger, 1, 2, 3)
    for number in (1, 2, 3):
        deliver(ledger, database, number)
    let_hours_pass(database, 3)
    assert delivered() == 3
    ledger.operations.replay(["orders-1"], states=["delivered"], who="me")
    ledger.delivery_states.resend(["orders-2"])
    assert delivered() == 1
    for number in (1, 2):
        deliver(ledger, database, number)
    assert delivered() == 3
    ledger.operations.replay(["orders-1"], states=["delivered"], who="me")
    assert delivered() == 2
    deliver(ledger, database, 1)
    assert delivered() == 3
    let_hours_pass(database, 3)
    assert delivered() == 3


def test_a_report_adds_up_by_hour_day_stream_and_error(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, 2)
    log(ledger, 3, id="orders-3", stream="returns")
    deliver(ledger, database, 1)
    fail(ledger, database, 2)
    let_hours_pass(database, 48)
    log(ledger, 4)
    call(ledger, database, 4, State.PENDING, BUSY)
    since = ledger.streams.server_time() - timedelta(days=7)

    def rows(by: Any, **options: Any) -> list[tuple[Any, ...]]:
        report = build_report(ledger=ledger, since=since, by=by, **options)
        return [(row["stream"], row["logged"], row["delivered"], row["failed"]) for row in report.rows]

    assert rows("hour") == [("orders", 2, 1, 1), ("returns", 1, 0, 0), ("orders", 1, 0, 0)]
    assert rows("day") == rows("hour")
    assert rows("stream") == [("orders", 3, 1, 1), ("returns", 1, 0, 0)]
    assert rows("stream", streams=["returns"]) == [("returns", 1, 0, 0)]
    report = build_report(ledger=ledger, since=since, by="error")
    assert [(row["count"], row["message"]) for row in report.rows] == [(1, "row 7 is wrong"), (1, "busy for 7 s")]
    assert report.top_errors == report.rows
    assert report.totals.items() >= {"logged": 4, "delivered": 1, "failed": 1, "attempts": 3, "retries": 0}.items()
    assert report.totals["p50_ms"] == pytest.approx(90.0, rel=0.05)
    assert report.totals["p99_ms"] == pytest.approx(900.0, rel=0.05)


def test_a_report_begins_and_ends_with_full_hours(ledger: Ledger) -> None:
    def span(since: datetime, until: datetime | None) -> tuple[datetime, datetime]:
        report = build_report(ledger=ledger, since=since, until=until)
        return report.since, report.until

    now = floor_hour(ledger.streams.server_time())
    some_minutes = timedelta(minutes=7)
    assert span(now - HOUR + some_minutes, now - some_minutes) == (now - HOUR, now)
    assert span(now - HOUR, now) == (now - HOUR, now)
    assert span(now - HOUR, None)[1] > ledger.streams.server_time() - some_minutes


def test_a_report_of_nothing_is_empty(ledger: Ledger) -> None:
    report = build_report(ledger=ledger, since=ledger.streams.server_time() - HOUR)
    assert (report.rows, report.top_errors) == ((), ())
    assert report.totals == {
        "logged": 0, "delivered": 0, "failed": 0, "superseded": 0, "attempts": 0, "retries": 0,
        "p50_ms": None, "p95_ms": None, "p99_ms": None,
        "delivery_count": 0, "delivery_p50_ms": None, "delivery_p95_ms": None, "delivery_p99_ms": None,
    }  # fmt: skip


def test_a_report_compares_with_the_period_before(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, 2)
    deliver(ledger, database, 1)
    let_hours_pass(database, 2)
    log(ledger, 3)
    let_hours_pass(database, 1)
    now = ledger.streams.server_time()
    report = build_report(ledger=ledger, since=now - 2 * HOUR, by="stream", compare=True)
    assert report.until == floor_hour(now)
    assert report.compare is not None
    assert (report.compare.since, report.compare.until) == (report.since - 2 * HOUR, report.since)
    assert [row["logged"] for row in report.rows] == [1]
    assert [(row["stream"], row["logged"], row["delivered"]) for row in report.compare.rows] == [("orders", 2, 1)]
    assert report.compare.totals["delivery_count"] == 1


def test_hours_of_older_versions_show_no_times_to_delivery(ledger: Ledger, database: Any) -> None:
    log(ledger, 1)
    deliver(ledger, database, 1)
    let_hours_pass(database, 2)
    roll_up(ledger=ledger)
    database.reports.update_many({}, {"$unset": {"delivery": "", "slices": ""}})
    (row,) = build_report(ledger=ledger, since=ledger.streams.server_time() - 3 * HOUR, by="stream").rows
    assert (row["delivered"], row["delivery_count"], row["delivery_p95_ms"]) == (1, None, None)


def test_roll_ups_of_minutes_ago_do_where_many_records_are_changing(ledger: Ledger, database: Any) -> None:
    log(ledger, 1, 2, 3)
    assert bring_up_to_date(ledger=ledger, at_once=0)
    # As many as a first poll of a large table logs within the hour.
    assert not bring_up_to_date(ledger=ledger, at_once=2)
    database.records.update_many({}, {"$set": {"logged_at": PAST}})
    assert bring_up_to_date(ledger=ledger, at_once=0)
    for number in (1, 2):
        deliver(ledger, database, number)
    assert not bring_up_to_date(ledger=ledger, at_once=1)
    assert "delivered" not in hour(database)
    assert bring_up_to_date(ledger=ledger, at_once=2)
    assert hour(database)["delivered"] == 2
    deliver(ledger, database, 3)
    database.reports.update_one({"_id": "frozen_until"}, {"$set": {"rolled_up_at": PAST}})
    assert bring_up_to_date(ledger=ledger, at_once=0)
    assert hour(database)["delivered"] == 3


def test_totals_that_an_earlier_version_made_are_made_anew(ledger: Ledger, database: Any) -> None:
    def delivered() -> int:
        return ledger.reports.load_finished(["orders"])["orders"]["delivered"]

    log(ledger, 1)
    deliver(ledger, database, 1)
    let_hours_pass(database, 3)
    roll_up(ledger=ledger)
    ledger.totals.update(frozen_until=ledger.reports.frozen_until())
    database.totals.update_one({}, {"$unset": {"frozen.reopened": True}})
    assert delivered() == 1
    ledger.totals.update(frozen_until=ledger.reports.frozen_until())
    assert ledger.totals.load()["orders"].counts["delivered"] == 1
    database.reports.delete_many({"frozen": True})
    assert delivered() == 1
