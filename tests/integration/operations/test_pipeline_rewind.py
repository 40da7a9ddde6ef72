"""rewind: back to a position or a time; rows that are read again are sent again only on request."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.rows import Cursor, Page
from syncctl.errors import LeaseHeld, ServiceUnavailable, SourceError, UsageError
from syncctl.pipeline.operations.rewind import Rewound, plan_rewind, rewind_stream
from syncctl.sources.reader import StreamReader
from tests.harness.meddling_client import MeddlingClient, once
from tests.harness.passing_time import PAST
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed


def rewind(
    testbed: Testbed, to: str | datetime, *, resend: bool = False, reader: StreamReader | None = None
) -> Rewound:
    with reader or StreamReader(testbed.source, testbed.stream) as opened:
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=opened, to=to)
    return rewind_stream(ledger=testbed.ledger, plan=plan, resend=resend, who="ann@host", worker="rewinder")


@pytest.fixture
def delivered(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """Ten rows, delivered in pages of three."""
    source_db.create_orders(10)
    testbed.change_stream(page_size=3)
    testbed.poll()
    testbed.deliver()
    assert set(map(tuple, testbed.states().values())) == {("delivered",)}
    return testbed


def generations(testbed: Testbed) -> dict[int, int]:
    return {record["key"]["id"]: int(record.get("generation", 0)) for record in testbed.records()}


def set_runs(testbed: Testbed, *runs: tuple[int, int | None, int]) -> None:
    """Write a history: (minute at which a run began, the cursor before it, the cursor after it); each took 10 s."""
    testbed.database.runs.delete_many({})
    with StreamReader(testbed.source, testbed.stream) as reader:
        for minute, before, after in runs:
            cursors = [None if at is None else reader.parse_cursor(str(at)) for at in (before, after)]
            started_at = PAST + timedelta(minutes=minute)
            run = {"stream": "orders", "started_at": started_at, "duration_ms": 10_000.0, "read": 1, "error": None}
            testbed.ledger.runs.add({**run, "cursors": dict(zip(("before", "after"), cursors, strict=True))})


# Rows that are read again


def test_unchanged_rows_are_read_again_and_not_sent_again(delivered: Testbed, source_db: SourceDb) -> None:
    source_db.execute("update orders set note = 'late' where id = 7")
    assert delivered.poll().logged == 0
    done = rewind(delivered, "beginning")
    assert (done.cursor_before, done.cursor_after, done.rows) == ("10", "beginning", 10)
    run = delivered.poll()
    assert (run.read, run.logged, run.unchanged) == (10, 1, 9)
    assert delivered.states()[7] == ["delivered", "pending"]


def test_a_rewind_is_in_the_audit_and_in_the_history(delivered: Testbed) -> None:
    rewind(delivered, "5", resend=True)
    (entry,) = delivered.ledger.audit.load(limit=1)
    assert (entry["action"], entry["who"], entry["count"]) == ("rewind", "ann@host", 6)
    assert entry["detail"] == {"stream": "orders", "from": "10", "to": "5", "resend": True}
    (run,) = delivered.ledger.runs.load("orders", limit=1)
    assert (run["action"], run["cursor_before"], run["cursor_after"]) == ("rewind", "10", "5")
    later = datetime.now(UTC) + timedelta(days=2)
    delivered.ledger.runs.remove(before=PAST, empty_before=later)
    (kept,) = (each for each in delivered.ledger.runs.load("orders", limit=9) if each.get("action"))
    assert kept["cursors"]["after"]["at"] == "5"


def test_a_plan_changes_nothing_and_a_stream_under_a_poll_is_left_alone(delivered: Testbed) -> None:
    lease = delivered.ledger.polls.acquire("orders", seconds=60, worker="other")
    assert lease is not None
    with pytest.raises(LeaseHeld):
        rewind(delivered, "beginning")
    assert delivered.cursor() == "10"
    assert delivered.ledger.audit.load(limit=1) == []
    assert delivered.ledger.polls.release(lease, error=None)
    rewind(delivered, "beginning")
    assert delivered.cursor() == "beginning"


def test_a_place_that_no_poll_can_go_on_from_is_refused(delivered: Testbed) -> None:
    delivered.database.runs.update_many({}, {"$set": {"cursors.after.column": "another"}})
    with pytest.raises(SourceError, match="does not fit"):
        rewind(delivered, datetime.now(UTC) + timedelta(minutes=1))
    assert delivered.cursor() == "10"


def test_forward_is_a_rewind_that_says_what_it_skips(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(10)
    testbed.change_stream(start="4")
    testbed.poll()
    source_db.add_orders([11, 12, 13])
    with StreamReader(testbed.source, testbed.stream) as reader:
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=reader, to="now")
    assert (plan.skipped, plan.rows) == (3, 0)


@pytest.mark.parametrize(("to", "floor"), [("7", "4"), ("2", "2"), ("beginning", "beginning")])
def test_the_start_of_a_stream_moves_back_and_never_forward(
    testbed: Testbed, source_db: SourceDb, to: str, floor: str
) -> None:
    source_db.create_orders(10)
    testbed.change_stream(start="4")
    testbed.poll()
    rewind(testbed, to)
    cursor = testbed.ledger.polls.load_cursor("orders")
    assert cursor is not None
    assert cursor["floor"]["at"] == floor


def test_a_stream_that_began_at_the_beginning_has_no_other_start_after_a_rewind(delivered: Testbed) -> None:
    rewind(delivered, "7")
    assert "floor" not in (delivered.ledger.polls.load_cursor("orders") or {})


def test_a_row_that_comes_late_is_still_found_after_a_rewind(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders()
    source_db.add_orders([1, 2, 4, 5, 6, 7, 9])
    testbed.poll()
    rewind(testbed, "6")
    source_db.add_orders([3, 8])
    testbed.poll()
    assert sorted(testbed.states()) == list(range(1, 10))


def test_gaps_of_an_earlier_version_are_still_waited_for(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders()
    source_db.add_orders([1, 2, 4, 5, 7])
    testbed.poll()
    since = datetime.now(UTC).isoformat()
    gaps = [{"from": 3, "to": 3, "at": since}, {"from": 6, "to": 6, "at": since}]
    testbed.database.streams.update_one({"_id": "orders"}, {"$set": {"cursor.gaps": gaps}})
    assert testbed.poll().error is None
    testbed.database.streams.update_one({"_id": "orders"}, {"$set": {"cursor.gaps": gaps}})
    rewind(testbed, "5")
    source_db.add_orders([3, 6])
    assert testbed.poll().error is None
    assert sorted(testbed.states()) == [1, 2, 3, 4, 5, 6, 7]


def test_a_rewind_that_fails_gives_the_lease_back(delivered: Testbed) -> None:
    with StreamReader(delivered.source, delivered.stream) as reader:
        plan = plan_rewind(ledger=delivered.ledger, stream=delivered.stream, reader=reader, to="5")
    dying: Any = Dying(delivered.ledger, "polls", "rewind")
    with pytest.raises(ServiceUnavailable):
        rewind_stream(ledger=dying, plan=plan, resend=False, who="ann@host", worker="rewinder")
    assert delivered.poll().error is None


# To a time


def test_a_time_means_where_the_stream_stood_then(delivered: Testbed) -> None:
    set_runs(delivered, (0, None, 3), (10, 3, 6), (20, 6, 9))
    for minute, second, expected in ((1, 0, "3"), (10, 5, "3"), (10, 10, "6"), (19, 0, "6"), (99, 0, "9")):
        assert rewind(delivered, PAST + timedelta(minutes=minute, seconds=second)).cursor_after == expected
        delivered.database.runs.delete_many({"action": "rewind"})


@pytest.mark.parametrize("ago", [timedelta(hours=1), timedelta(seconds=-5)])
def test_a_time_before_the_history_is_refused_and_told_from_when_on(delivered: Testbed, ago: timedelta) -> None:
    set_runs(delivered, (0, None, 3), (10, 3, 6))
    with pytest.raises(UsageError) as caught:
        rewind(delivered, PAST - ago)
    assert "2020-01-01T00:00:10Z" in caught.value.why
    assert delivered.cursor() == "10"


def test_a_stream_without_history_is_refused(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    with pytest.raises(UsageError) as caught:
        rewind(testbed, PAST)
    assert "no poll" in caught.value.why


@pytest.mark.parametrize("mode", ["snapshot", "flag"])
def test_modes_that_scan_can_be_rewound_only_to_the_beginning(testbed: Testbed, source_db: SourceDb, mode: Any) -> None:
    source_db.create_orders(5)
    acknowledge = "update orders set note = 'sent' where id = :id" if mode == "flag" else None
    testbed.change_stream(mode=mode, cursor=None, where="note = ''", acknowledge=acknowledge)
    assert testbed.poll().error is None
    with pytest.raises(UsageError, match="to a time"):
        rewind(testbed, PAST)
    with pytest.raises(UsageError, match="no place"):
        rewind(testbed, "3")
    assert rewind(testbed, "beginning").rows == 5


# Sent again


@pytest.mark.parametrize("append_only", [False, True])
def test_rows_are_sent_again_once_under_a_new_key(delivered: Testbed, append_only: bool) -> None:
    delivered.change_stream(append_only=append_only)
    if append_only:
        delivered.database.records.delete_many({})
        rewind(delivered, "beginning")
        delivered.poll()
        delivered.deliver()
    rewind(delivered, "8", resend=True)
    assert delivered.poll().unchanged == 3
    delivered.deliver()
    assert generations(delivered) == {**dict.fromkeys(range(1, 8), 0), 8: 1, 9: 1, 10: 1}
    assert set(map(tuple, delivered.states().values())) == {("delivered",)}
    rewind(delivered, "beginning")
    delivered.poll()
    assert max(generations(delivered).values()) == 1


def test_once_a_poll_has_read_to_the_end_nothing_is_sent_again(testbed: Testbed, source_db: SourceDb) -> None:
    """Rows that were not behind the rewind are read again later, for another reason."""
    source_db.create_orders(4)
    testbed.change_stream(cursor="updated_at", page_size=2)
    testbed.poll()
    testbed.deliver()
    rewind(testbed, "2026-01-01 00:00:00.000003", resend=True)
    testbed.poll(should_stop=lambda: True)
    testbed.poll()
    testbed.deliver()
    assert generations(testbed) == {1: 0, 2: 0, 3: 1, 4: 1}
    testbed.change_stream(cursor="id")
    testbed.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
    testbed.poll()
    assert generations(testbed) == {1: 0, 2: 0, 3: 1, 4: 1}


def test_a_row_in_flight_goes_once_more_after_it(delivered: Testbed) -> None:
    rewind(delivered, "10", resend=True)
    delivered.database.records.update_one({"key.id": 10}, {"$set": {"state": "pending", "due_at": PAST, "fresh": True}})
    client = MeddlingClient(delivered, before=once(delivered.poll))
    assert delivered.deliver(client=client) == {"delivered": 2}
    client.close()
    assert delivered.states()[10] == ["delivered"]
    assert generations(delivered)[10] == 1
    (found,) = delivered.records(**{"key.id": 10})
    assert [(event["action"], event.get("state")) for event in found["history"]][-2:] == [
        ("attempt", "pending"),
        ("attempt", "delivered"),
    ]


def test_a_record_that_was_cleaned_up_is_logged_anew(delivered: Testbed) -> None:
    (old,) = delivered.records(**{"key.id": 9})
    delivered.database.records.delete_one({"_id": old["_id"]})
    rewind(delivered, "9", resend=True)
    run = delivered.poll()
    assert (run.logged, run.unchanged) == (1, 1)
    (new,) = delivered.records(**{"key.id": 9})
    assert new["_id"] != old["_id"]
    delivered.deliver()
    assert delivered.states()[9] == ["delivered"]
    rewind(delivered, "9")
    assert delivered.poll().unchanged == 2


class Dying:
    """A ledger whose process dies when it comes to one of its writes."""

    def __init__(self, ledger: Any, part: str, write: str) -> None:
        self._ledger, self._part, self._write = ledger, part, write

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        return Dying(found, "", self._write) if name == self._part else self._die if name == self._write else found

    def _die(self, *_: Any, **__: Any) -> None:
        raise ServiceUnavailable("killed", service="mongodb")


def test_a_crash_between_sending_again_and_the_keys_repeats_it_and_forgets_nothing(delivered: Testbed) -> None:
    delivered.database.records.delete_one({"key.id": 10})
    rewind(delivered, "9", resend=True)
    with pytest.raises(ServiceUnavailable):
        delivered.poll(ledger=Dying(delivered.ledger, "keys", "observe"))
    delivered.deliver()
    assert generations(delivered)[9] == 1
    delivered.poll()
    delivered.deliver()
    assert generations(delivered) == {**dict.fromkeys(range(1, 9), 0), 9: 2, 10: 0}
    assert set(map(tuple, delivered.states().values())) == {("delivered",)}


def test_a_crash_after_the_keys_repeats_nothing(delivered: Testbed) -> None:
    rewind(delivered, "9", resend=True)
    with pytest.raises(ServiceUnavailable):
        delivered.poll(ledger=Dying(delivered.ledger, "polls", "move_cursor"))
    # Its lease was left as if it had been released: its uncontested versions are not observed again.
    delivered.database.streams.update_one({"_id": "orders"}, {"$unset": {"poll.token": True, "poll.until": True}})
    delivered.deliver()
    delivered.poll()
    delivered.deliver()
    assert generations(delivered) == {**dict.fromkeys(range(1, 9), 0), 9: 1, 10: 1}


# A database that was restored


class Versions:
    """Stands in for MIN_ACTIVE_ROWVERSION()."""

    def __init__(self) -> None:
        self.ceiling = 100

    def __call__(self, _: object) -> bytes:
        return self.ceiling.to_bytes(8, "big")


@pytest.fixture
def versions() -> Versions:
    return Versions()


@pytest.fixture
def restored(testbed: Testbed, source_db: SourceDb, versions: Versions) -> Testbed:
    """A table by rowversion, whose rows 1 and 2 were changed, read and sent; then a backup came back."""
    source_db.execute("create table versions (id integer primary key, name text, rv blob)")
    testbed.change_stream(table="versions", mode="rowversion", cursor="rv", page_size=2)
    put(source_db, (1, "old", 10), (2, "old", 11), (3, "old", 12))
    poll(testbed, versions)
    put(source_db, (1, "new", 20), (2, "new", 21))
    poll(testbed, versions)
    testbed.deliver()
    put(source_db, (1, "old", 10), (2, "old", 11))
    return testbed


def put(source_db: SourceDb, *rows: tuple[int, str, int]) -> None:
    source_db.execute_many(
        "insert or replace into versions values (?, ?, ?)",
        [(number, name, version.to_bytes(8, "big")) for number, name, version in rows],
    )


def open_versions(testbed: Testbed, versions: Versions) -> StreamReader:
    return StreamReader(testbed.source, testbed.stream, read_ceiling=versions)


def poll(testbed: Testbed, versions: Versions) -> Any:
    run = testbed.poll(open_versions(testbed, versions))  # type: ignore[arg-type]
    assert run.error is None, run.error
    return run


def newest(testbed: Testbed) -> dict[int, str]:
    return {record["key"]["id"]: record["payload"]["name"] for record in testbed.records(state="delivered")}


def test_a_restored_database_is_read_again_after_a_rewind(
    restored: Testbed, versions: Versions, source_db: SourceDb
) -> None:
    versions.ceiling = 13
    run = restored.poll(open_versions(restored, versions))  # type: ignore[arg-type]
    assert "restored" in str(run.error)
    assert "rewind orders --to beginning" in str(run.hint)
    assert rewind(restored, "beginning", reader=open_versions(restored, versions)).rows == 3
    run = poll(restored, versions)
    assert (run.read, run.logged, run.unchanged) == (3, 2, 1)
    restored.deliver()
    assert newest(restored) == {1: "old", 2: "old", 3: "old"}
    assert poll(restored, versions).logged == 0
    # The database gives the same versions out again, to other contents and to the same.
    put(source_db, (1, "other", 20), (2, "new", 21))
    versions.ceiling = 22
    assert poll(restored, versions).logged == 2
    restored.deliver()
    assert newest(restored) == {1: "other", 2: "new", 3: "old"}


def test_a_database_that_is_restored_twice_is_read_again_twice(
    restored: Testbed, versions: Versions, source_db: SourceDb
) -> None:
    for _ in range(2):
        rewind(restored, "beginning", reader=open_versions(restored, versions))
        assert poll(restored, versions).logged == 2
        put(source_db, (1, "new", 20), (2, "new", 21))
        assert poll(restored, versions).logged == 2
        put(source_db, (1, "old", 10), (2, "old", 11))
    restored.deliver()
    assert newest(restored) == {1: "new", 2: "new", 3: "old"}


def test_without_a_rewind_the_stream_stays_stopped(restored: Testbed, versions: Versions) -> None:
    restored.database.streams.update_one({"_id": "orders"}, {"$set": {"cursor.at": f"0x{9:016x}", "cursor.key": None}})
    run = restored.poll(open_versions(restored, versions))  # type: ignore[arg-type]
    assert "begun again" in str(run.error)
    rewind(restored, "beginning", reader=open_versions(restored, versions))
    poll(restored, versions)


def test_a_restored_table_that_only_appends_is_read_again(
    testbed: Testbed, source_db: SourceDb, versions: Versions
) -> None:
    source_db.create_orders(4)
    testbed.change_stream(append_only=True)
    testbed.poll()
    source_db.execute("update orders set note = 'another' where id > 2")
    testbed.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
    assert "begun again" in str(testbed.poll().error)
    rewind(testbed, "beginning")
    run = testbed.poll()
    assert (run.logged, run.unchanged, run.error) == (2, 2, None)
    rewind(testbed, "beginning")
    assert testbed.poll().unchanged == 4


def test_a_page_is_read_before_the_cursor_moves(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    asked: list[Cursor] = []
    testbed.poll()

    class Asked:
        mode = "increasing"

        def __getattr__(self, name: str) -> Any:
            return getattr(reader, name)

        def pages(self, cursor: Cursor) -> Iterator[Page]:
            asked.append(cursor)
            return reader.pages(cursor)

    with StreamReader(testbed.source, testbed.stream) as reader:
        plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=Asked(), to="2")  # type: ignore[arg-type]
    assert [each["at"] for each in asked] == ["2"]
