"""Append-only streams know a row by its record alone: what is read again is known, also long after a cleanup."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.gaps import read_memory
from syncctl.core.records import idempotency_key
from syncctl.errors import UsageError
from syncctl.pipeline.maintenance.cleanup import clean_up
from syncctl.pipeline.operations.reconcile import Reconciliation
from syncctl.pipeline.operations.rewind import plan_rewind, rewind_stream
from syncctl.pipeline.operations.scratch_database import open_scratch
from syncctl.sources.modes.increasing import CLOCK_TOLERANCE
from syncctl.sources.reader import StreamReader
from tests.harness.passing_time import let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

DAY = 86_400.0
KEPT = {"delivered": 30 * DAY, "failed": 90 * DAY, "superseded": 7 * DAY, "discarded": 90 * DAY}


@pytest.fixture
def events(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """An append-only stream by time, with the default lookback."""
    source_db.execute("create table events (id integer primary key, at datetime not null)")
    testbed.change_stream(table="events", cursor="at", append_only=True, lookback_seconds=300.0, page_size=10)
    return testbed


def add(db: SourceDb, at: datetime, *ids: int) -> None:
    db.execute_many("insert into events values (?, ?)", [(n, f"{at:%Y-%m-%d %H:%M:%S}") for n in ids])


def work(testbed: Testbed, polls: int = 1) -> int:
    """Poll and deliver; return how many rows were logged."""
    logged = sum(testbed.poll().logged for _ in range(polls))
    testbed.deliver()
    return logged


def pass_days(testbed: Testbed, days: int, **kept: float) -> int:
    """Let days pass and clean up; return how many records were removed."""
    let_hours_pass(testbed.database, days * 24)
    return sum(clean_up(ledger=testbed.ledger, retention_seconds={**KEPT, **kept}, who="me").deleted.values())


def sent(testbed: Testbed) -> list[int]:
    return sorted(each["key"]["id"] for each in testbed.records())


def test_a_lookback_after_quiet_days_sends_nothing_again(events: Testbed, source_db: SourceDb) -> None:
    began = datetime(2026, 1, 1, 10, tzinfo=UTC)
    add(source_db, began, 1, 2)
    assert work(events, polls=2) == 2
    let_hours_pass(events.database, 1)
    add(source_db, began + timedelta(hours=1), 3, 4)
    assert work(events, polls=2) == 2
    let_hours_pass(events.database, 1)
    add(source_db, began + timedelta(hours=2), 5, 6)
    assert work(events, polls=2) == 2
    discarded = events.record(6)["_id"]
    events.database.records.update_one({"_id": discarded}, {"$set": {"state": "discarded"}})
    # What no lookback can reach any more is removed; the rest stays as long as it may be read again.
    assert pass_days(events, 31) == 2
    assert {5, 6} <= set(sent(events))
    assert pass_days(events, 91) == 0
    add(source_db, began + timedelta(hours=2, minutes=2), 7)
    assert work(events, polls=2) == 1
    for hours in (5, 6, 7):
        add(source_db, began + timedelta(hours=hours), hours + 10)
        assert work(events, polls=2) == 1
    pass_days(events, 91)
    assert not {5, 6, 7} & set(sent(events))
    assert work(events) == 0


def test_a_row_that_commits_late_is_found_all_the_same(events: Testbed, source_db: SourceDb) -> None:
    began = datetime.now(UTC) - timedelta(hours=1)
    add(source_db, began, 1)
    assert work(events, polls=2) == 1
    add(source_db, began + timedelta(minutes=4), 2)
    assert work(events, polls=2) == 1
    add(source_db, began + timedelta(minutes=1), 3)
    assert work(events) == 1


def test_a_lookback_that_is_made_longer_reaches_no_row_whose_record_is_gone(
    events: Testbed, source_db: SourceDb
) -> None:
    began = datetime(2026, 1, 1, 10, tzinfo=UTC)
    for hours in range(4):
        add(source_db, began + timedelta(hours=hours), hours + 1)
        work(events, polls=2)
        let_hours_pass(events.database, 1)
    assert pass_days(events, 31) == 2
    events.change_stream(lookback_seconds=DAY)
    add(source_db, began + timedelta(hours=5), 9)
    assert work(events, polls=3) == 1


def test_a_lookback_that_is_first_set_later_begins_there(events: Testbed, source_db: SourceDb) -> None:
    events.change_stream(lookback_seconds=0.0)
    began = datetime(2026, 1, 1, 10, tzinfo=UTC)
    add(source_db, began, 1, 2)
    work(events, polls=2)
    assert pass_days(events, 31) == 2
    events.change_stream(lookback_seconds=7200.0)
    add(source_db, began + timedelta(minutes=1), 3)
    assert work(events, polls=3) == 1


def test_a_row_ahead_of_the_clock_is_sent_once(events: Testbed, source_db: SourceDb) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    add(source_db, began, 1)
    add(source_db, datetime(9999, 1, 1, tzinfo=UTC), 99)
    assert work(events, polls=2) == 2
    for hours in (1, 2, 3):
        add(source_db, began + timedelta(hours=hours), hours + 1)
        assert work(events, polls=2) == 1
        pass_days(events, 31)
    # It is kept, and keeps no other record.
    assert 99 in sent(events)
    assert 1 not in sent(events)
    assert work(events, polls=2) == 0


def test_a_row_that_the_clock_has_come_to_is_removed_as_any_other(events: Testbed, source_db: SourceDb) -> None:
    ahead = datetime.now(UTC) + CLOCK_TOLERANCE + timedelta(hours=1)
    add(source_db, datetime(2026, 1, 1, tzinfo=UTC), 1)
    add(source_db, ahead, 2)
    assert work(events, polls=2) == 2
    assert events.record(2)["kept"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncctl.sources.modes.increasing.CLOCK_TOLERANCE", CLOCK_TOLERANCE * 2)
        assert work(events) == 0
    assert "kept" not in events.record(2)


def test_rows_between_joined_gaps_are_sent_once(
    testbed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.core.gaps.GAPS_AT_MOST", 2)
    source_db.create_orders()
    testbed.change_stream(append_only=True, gap_timeout_seconds=400 * DAY)
    source_db.add_orders([1, 3, 5, 7, 9, 11])
    assert work(testbed, polls=2) == 6
    cursor = testbed.ledger.polls.load_cursor("orders")
    assert len(read_memory(cursor or {}).gaps) == 2
    pass_days(testbed, 31)
    source_db.add_orders([4])
    assert work(testbed, polls=2) == 1


def test_records_of_a_quiet_stream_without_a_window_are_removed(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(5)
    testbed.change_stream(append_only=True)
    assert work(testbed) == 5
    assert pass_days(testbed, 31) == 5


# What reaches back further than a window.


def compare(testbed: Testbed, days: float, since: datetime | None = None) -> tuple[int, int | None]:
    with open_scratch() as scratch, StreamReader(testbed.source, testbed.stream) as reader:  # type: ignore[arg-type]
        options: dict[str, Any] = {"since": since, "wake": lambda: False, "worker": "me", "show": lambda _: None}
        found = Reconciliation(
            ledger=testbed.ledger, stream=testbed.stream, reader=reader, scratch=scratch,
            retention_seconds=days * DAY, **options,
        ).compare()  # fmt: skip
    return found.source_rows, found.missing


def work_five_days_apart(testbed: Testbed, source_db: SourceDb) -> None:
    """Let five rows be delivered, and two others five days later."""
    testbed.change_stream(append_only=True)
    source_db.create_orders(5)
    work(testbed)
    let_hours_pass(testbed.database, 24 * 5)
    source_db.add_orders([6, 7])
    work(testbed)


def test_a_retention_that_was_raised_makes_no_sent_row_missing(testbed: Testbed, source_db: SourceDb) -> None:
    work_five_days_apart(testbed, source_db)
    assert pass_days(testbed, 3, delivered=7 * DAY) == 5
    assert compare(testbed, 30) == (2, 0)
    testbed.database.records.delete_one({"key.id": 7})
    assert compare(testbed, 30) == (2, 1)


def rewind(testbed: Testbed, to: Any, *, resend: bool = False) -> None:
    with StreamReader(testbed.source, testbed.stream) as reader:  # type: ignore[arg-type]
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=reader, to=to, resend=resend)
    rewind_stream(ledger=testbed.ledger, plan=plan, resend=resend, who="me", worker="me")


def test_a_rewind_over_rows_whose_records_are_gone_needs_a_word(testbed: Testbed, source_db: SourceDb) -> None:
    work_five_days_apart(testbed, source_db)
    rewind(testbed, "beginning")
    assert work(testbed) == 0
    assert pass_days(testbed, 3, delivered=7 * DAY) == 5
    with pytest.raises(UsageError) as caught:
        rewind(testbed, "beginning")
    assert "--resend" in caught.value.hint
    rewind(testbed, "6")
    assert work(testbed) == 0
    rewind(testbed, "beginning", resend=True)
    assert work(testbed) == 5


@pytest.mark.parametrize("has_later_polls", [True, False])
def test_a_poll_that_was_running_at_that_time_has_read_rows_before_it(
    testbed: Testbed, source_db: SourceDb, has_later_polls: bool
) -> None:
    """Their records may be gone, although the poll ended later."""
    testbed.change_stream(append_only=True)
    source_db.create_orders(5)
    work(testbed)
    testbed.database.runs.update_many({}, {"$set": {"duration_ms": 36 * 3_600_000.0}})
    let_hours_pass(testbed.database, 24 * 5)
    if has_later_polls:
        source_db.add_orders([6, 7])
        work(testbed)
    assert pass_days(testbed, 3, delivered=7 * DAY) == 5
    assert compare(testbed, 30) == (2 if has_later_polls else 0, 0)
    with pytest.raises(UsageError, match="would send rows again"):
        rewind(testbed, "beginning")


def test_a_comparison_since_a_time_leaves_out_rows_of_a_poll_whose_records_are_gone(
    testbed: Testbed, source_db: SourceDb
) -> None:
    testbed.change_stream(append_only=True)
    source_db.create_orders(2)
    work(testbed)
    let_hours_pass(testbed.database, 1)
    source_db.add_orders([3, 4, 5])
    work(testbed)
    testbed.database.runs.update_many({"read": 3}, {"$set": {"duration_ms": 36 * 3_600_000.0}})
    let_hours_pass(testbed.database, 24 * 5)
    source_db.add_orders([6, 7])
    work(testbed)
    assert pass_days(testbed, 3, delivered=7 * DAY) == 5
    cleaned = testbed.database.streams.find_one()["cleaned_before"].replace(tzinfo=UTC)
    assert compare(testbed, 30, since=cleaned + timedelta(hours=2)) == (2, 0)


def test_all_rows_are_compared_if_the_polls_before_have_failed(testbed: Testbed, source_db: SourceDb) -> None:
    testbed.change_stream(append_only=True)
    source_db.create_orders(5)
    work(testbed)
    source_db.add_orders([6])
    let_hours_pass(testbed.database, 1)
    work(testbed)
    at = testbed.ledger.streams.server_time() - timedelta(hours=2)
    failed = {"stream": "orders", "started_at": at - timedelta(hours=1), "cursors": {"before": None, "after": None}}
    testbed.database.runs.insert_one(failed)
    assert testbed.ledger.runs.find_cursor_since("orders", at) is None


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_rows_whose_records_are_gone_are_sent_again_once_under_a_new_key(
    testbed: Testbed, source_db: SourceDb, is_interrupted: bool
) -> None:
    testbed.change_stream(append_only=True, page_size=3)
    source_db.create_orders(5)
    work(testbed)
    used: set[str] = set()
    for _ in range(3):
        keys = {idempotency_key(each["_id"], each.get("generation", 0)) for each in testbed.records()}
        assert len(keys - used) == 5
        used |= keys
        assert pass_days(testbed, 31) == 5
        rewind(testbed, "beginning", resend=True)
        before = testbed.ledger.polls.load_cursor("orders")
        assert testbed.poll(should_stop=lambda: True).logged == 3
        if is_interrupted:
            changes = {"cursor": before, "witnesses": None}
            testbed.database.streams.update_one({"_id": "orders"}, {"$set": changes})
        assert work(testbed) == 2


def test_a_rewind_over_rows_that_an_earlier_version_removed_needs_a_word(testbed: Testbed, source_db: SourceDb) -> None:
    """Its documents of streams say nothing of cleanups."""
    testbed.change_stream(append_only=True)
    source_db.create_orders(5)
    work(testbed)
    testbed.database.streams.update_one({"_id": "orders"}, {"$unset": {"cleaned_before": True}})
    let_hours_pass(testbed.database, 24 * 5)
    source_db.add_orders([6, 7])
    work(testbed)
    rewind(testbed, "beginning")
    assert work(testbed) == 0
    assert pass_days(testbed, 3, delivered=7 * DAY) == 5
    source_db.add_orders([8, 9])
    work(testbed)
    testbed.database.streams.update_one({"_id": "orders"}, {"$unset": {"cleaned_before": True}})
    with pytest.raises(UsageError, match="would send rows again"):
        rewind(testbed, "beginning")
    rewind(testbed, "8")
    assert work(testbed) == 0
    testbed.database.records.delete_many({})
    with pytest.raises(UsageError, match="would send rows again"):
        rewind(testbed, "6")


def test_a_clean_up_of_another_stream_refuses_no_rewind(testbed: Testbed, source_db: SourceDb) -> None:
    testbed.change_stream(append_only=True)
    source_db.create_orders(5)
    work(testbed)
    with testbed.ledger.audit.record(action="cleanup", who="beat", detail={}) as entry:
        entry.add(3)
    rewind(testbed, "beginning")
    assert work(testbed) == 0


def test_a_lookback_reaches_no_row_before_the_place_of_a_rewind(events: Testbed, source_db: SourceDb) -> None:
    began = datetime(2026, 1, 1, 10, tzinfo=UTC)
    add(source_db, began, 1, 2)
    work(events, polls=2)
    let_hours_pass(events.database, 24 * 5)
    for minutes in (3, 60, 120):
        add(source_db, began + timedelta(minutes=minutes), minutes)
        work(events, polls=2)
    pass_days(events, 3, delivered=7 * DAY)
    assert sent(events) == [3, 60, 120]
    events.change_stream(page_size=1)
    rewind(events, f"{began + timedelta(minutes=1):%Y-%m-%d %H:%M:%S}")
    # The poll is stopped right behind that place, and the next one looks back from there.
    assert events.poll(should_stop=lambda: True).read == 1
    assert work(events, polls=3) == 0
