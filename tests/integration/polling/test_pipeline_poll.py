"""poll: records, then keys, then the cursor; each row once, each version once, whatever breaks in between."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from syncctl.core.ids import epoch_of, key_id
from syncctl.errors import LeaseHeld, ServiceUnavailable
from syncctl.pipeline.polling import page as pages
from tests.harness.passing_time import PAST
from tests.harness.source_db import SourceDb
from tests.harness.testbed import ListReader, Testbed, id_of, version_row


class Broken(Exception):
    """The process was killed here."""


class Room:
    """A room of the ledger in which something happens before or after a write."""

    def __init__(
        self,
        room: Any,
        name: str,
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._room, self._name, self._before, self._after = room, name, before, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._room, name)
        if name != self._name:
            return found

        def write(*args: Any, **kwargs: Any) -> Any:
            self._before()
            result = found(*args, **kwargs)
            self._after()
            return result

        return write


class Rooms:
    """A ledger of which one room is another."""

    def __init__(self, ledger: Any, **rooms: Any) -> None:
        self.__dict__.update(vars(ledger) | rooms)
        self.ensure_prepared = ledger.ensure_prepared


def break_at(testbed: Testbed, room: str, method: str, when: str) -> Rooms:
    """Return the ledger that breaks before or after a write."""

    def stop() -> None:
        raise Broken

    moments: dict[str, Any] = {when: stop}
    return Rooms(testbed.ledger, **{room: Room(getattr(testbed.ledger, room), method, **moments)})


# Rows, once each.


def test_rows_are_logged_once_with_all_that_is_known_of_them(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(250)
    testbed.change_stream(start="beginning")
    run = testbed.poll()
    assert (run.read, run.logged, run.unchanged, run.failed, run.error) == (250, 250, 0, 0, None)
    assert (run.cursor_before, run.cursor_after, testbed.cursor()) == (None, "250", "250")
    records = testbed.records()
    assert [record["key"] for record in records] == [{"id": number} for number in range(1, 251)]
    assert {record["state"] for record in records} == {"pending"}
    keys = {document["_id"]: document for document in testbed.database.keys.find()}
    for record in records:
        assert keys[f"orders:{record['key_id']}"].items() >= {"seq": record["seq"], "version": record["_id"]}.items()
    again = testbed.poll()
    assert (again.read, again.logged, again.cursor_before, again.cursor_after) == (0, 0, "250", "250")
    source_db.add_orders([251])
    assert (testbed.poll().logged, testbed.cursor()) == (1, "251")


def test_a_run_is_recorded(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    run = testbed.poll(wake=lambda: True)
    (note,) = testbed.ledger.runs.load("orders", limit=5)
    for name in (
        "stream",
        "read",
        "logged",
        "unchanged",
        "failed",
        "dispatched",
        "cursor_before",
        "cursor_after",
        "error",
    ):
        assert note[name] == getattr(run, name)
    assert run.dispatched == 3
    assert note["cursors"]["after"]["at"] == "3"
    assert note["duration_ms"] == run.duration_ms > 0
    health = testbed.database.streams.find_one()["health"]
    assert (health["error"], health["last_poll_at"] >= note["started_at"]) == (None, True)


def test_a_row_that_comes_back_is_three_records(testbed: Testbed) -> None:
    """A → B → A: where the source has no versions of its own, each chains on the version before."""
    for content in ("A", "A", "B", "B", "A", "A"):
        testbed.poll(ListReader([version_row(1, content, None)]))
    records = testbed.records()
    assert [record["payload"]["content"] for record in records] == ["A", "B", "A"]
    assert len({record["_id"] for record in records}) == 3
    assert records[0]["hash"] == records[2]["hash"]


def test_a_change_is_seen_where_its_source_has_versions(testbed: Testbed) -> None:
    for content, version in (("A", "0x1"), ("A", "0x1"), ("B", "0x2"), ("A", "0x3")):
        testbed.poll(ListReader([version_row(1, content, version)]))
    assert [record["_id"] for record in testbed.records()] == [id_of(1, v) for v in ("0x1", "0x2", "0x3")]


def test_a_touch_that_changes_nothing_is_no_new_version(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, "A", "0x1")]))
    run = testbed.poll(ListReader([version_row(1, "A", "0x2")]))
    assert (run.logged, run.unchanged) == (0, 1)
    assert epoch_of(testbed.database.keys.find_one()["seq"]) == 2
    assert len(testbed.records()) == 1


def test_a_delete_is_a_version_too(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, "A", "0x1")]))
    testbed.poll(ListReader([version_row(1, None, "0x2", payload=None, op="delete")]))
    assert [(record["op"], record["payload"]) for record in testbed.records()][1] == ("delete", None)


def test_the_last_version_of_a_row_in_a_page_counts(testbed: Testbed) -> None:
    run = testbed.poll(ListReader([version_row(1, "A", "0x1"), version_row(2, "x", "0x2"), version_row(1, "B", "0x3")]))
    assert (run.read, run.logged, run.unchanged) == (3, 2, 1)
    assert [record["payload"]["content"] for record in testbed.records()] == ["x", "B"]


# The order of writes (invariant 1).


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("room", "method"),
    [("records", "log"), ("keys", "observe"), ("polls", "move_cursor"), ("polls", "release")],
)
@pytest.mark.parametrize("version", [None, "0x1"], ids=["versions by content", "versions of the source"])
def test_a_crash_between_two_writes_loses_and_doubles_nothing(
    testbed: Testbed, room: str, method: str, when: str, version: str | None
) -> None:
    rows = [version_row(number, "a", version) for number in (1, 2, 3)]
    with pytest.raises(Broken):
        testbed.poll(ListReader(rows), ledger=break_at(testbed, room, method, when))
    at = testbed.cursor()
    if at not in (None, "start"):
        # Whatever the cursor has passed is in the ledger, and its keys know it.
        assert testbed.database.records.count_documents({}) == testbed.database.keys.count_documents({}) == 3
    testbed.database.streams.update_one({}, {"$set": {"poll.until": PAST}})
    testbed.poll(ListReader(rows))
    assert testbed.states() == {number: ["pending"] for number in (1, 2, 3)}
    for record in testbed.records():
        assert testbed.database.keys.find_one({"version": record["_id"]})["seq"] >= record["seq"]
    assert sorted(testbed.take_rows()) == [1, 2, 3]


def test_records_whose_keys_were_not_written_are_left_alone_until_a_poll_finds_them(testbed: Testbed) -> None:
    rows = [version_row(1, "a", "0x1")]
    with pytest.raises(Broken):
        testbed.poll(ListReader(rows), ledger=break_at(testbed, "records", "log", "after"))
    assert testbed.states() == {1: ["pending"]}
    assert testbed.take_rows() == []
    run = testbed.poll(ListReader(rows))
    assert (run.logged, testbed.take_rows()) == (1, [1])
    assert epoch_of(testbed.records()[0]["seq"]) == 2


def test_a_key_of_an_earlier_version_tells_what_a_crash_left_from_an_old_version(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, "a", "v1")]))
    testbed.database.keys.update_many({}, {"$unset": {"version_seq": True}})
    with pytest.raises(Broken):
        testbed.poll(ListReader([version_row(1, "b", "v2")]), ledger=break_at(testbed, "keys", "observe", "before"))
    testbed.poll(ListReader([version_row(1, "a", "v1")]))
    assert testbed.poll(ListReader([version_row(1, "b", "v2")])).error is None
    (key,) = testbed.database.keys.find()
    (newest,) = testbed.records(version="v2")
    assert (key["version"], key["version_seq"]) == (newest["_id"], key["seq"])


def test_a_row_that_changed_after_a_crash_supersedes_what_the_crash_left(testbed: Testbed) -> None:
    with pytest.raises(Broken):
        testbed.poll(ListReader([version_row(1, "a", None)]), ledger=break_at(testbed, "records", "log", "after"))
    testbed.poll(ListReader([version_row(1, "b", None)]))
    assert testbed.take_rows() == [1]
    assert testbed.states() == {1: ["superseded", "sending"]}


def test_a_bug_of_ours_is_not_reported_as_an_interruption(testbed: Testbed) -> None:
    with pytest.raises(Broken):
        testbed.poll(ListReader([version_row(1, "a", None)]), ledger=break_at(testbed, "records", "log", "before"))
    (run,) = testbed.ledger.runs.load("orders", limit=1)
    assert run["error"] == "a bug in syncctl: Broken"


# A poll that was taken over.


@pytest.mark.parametrize(
    ("room", "method"), [("keys", "load"), ("records", "log"), ("keys", "observe"), ("polls", "move_cursor")]
)
@pytest.mark.parametrize("old", [None, "0x1"], ids=["versions by content", "versions of the source"])
def test_a_poll_that_was_taken_over_writes_nothing_wrong(
    testbed: Testbed, room: str, method: str, old: str | None
) -> None:
    """It stood still before a write; another poll saw a newer row; then it went on."""
    new = None if old is None else "0x2"

    def take_over() -> None:
        if testbed.database.streams.find_one({"poll.epoch": 1}):
            testbed.database.streams.update_one({}, {"$set": {"poll.until": PAST}})
            newer = testbed.poll(ListReader([version_row(1, "new", new, at="9")]))
            assert newer.error is None

    slow = Rooms(testbed.ledger, **{room: Room(getattr(testbed.ledger, room), method, before=take_over)})
    run = testbed.poll(ListReader([version_row(1, "old", old, at="5")]), ledger=slow)
    assert "taken over" in str(run.error)
    assert testbed.cursor() == "9"
    known = testbed.ledger.keys.load("orders", [key_id({"id": 1})])[key_id({"id": 1})]
    newest = testbed.database.records.find_one({"_id": known.version})
    assert newest["payload"]["content"] == "new"
    claim = testbed.take().claim
    assert claim is not None
    assert [record.id for record in claim.records] == [known.version]


def test_a_poll_under_way_refuses_another(testbed: Testbed) -> None:
    assert testbed.ledger.polls.acquire("orders", seconds=60, worker="other")
    with pytest.raises(LeaseHeld) as caught:
        testbed.poll(ListReader([]))
    assert caught.value.exit_code == 75
    assert "stream orders is being polled already" in str(caught.value)


def test_a_tick_right_after_a_poll_reads_nothing(testbed: Testbed) -> None:
    testbed.change_stream(poll_every_seconds=7200.0)
    testbed.poll(ListReader([]))
    with pytest.raises(LeaseHeld):
        testbed.poll(ListReader([]), tick=True)
    testbed.poll(ListReader([]))


def test_a_slow_page_keeps_its_lease(testbed: Testbed, eventually: Callable[..., Any]) -> None:
    """The lease is prolonged in the background, however long the source takes."""

    class SlowReader(ListReader):
        def pages(self, cursor: Any) -> Any:
            first = testbed.database.streams.find_one()["poll"]["until"]
            eventually(lambda: testbed.database.streams.find_one()["poll"]["until"] > first)
            yield from super().pages(cursor)

    run = testbed.poll(SlowReader([version_row(1, "a", None)]), lease_seconds=0.8)
    assert (run.error, run.logged) == (None, 1)


# A source that runs backwards.


def test_the_same_version_with_other_content_stops_the_stream(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, "A", "0x1")]))
    testbed.database.streams.update_one({}, {"$set": {"cursor": {"at": "before"}}})
    run = testbed.poll(ListReader([version_row(2, "x", "0x2"), version_row(1, "B", "0x1")]))
    assert "stream orders stopped: the source's versions have begun again" in str(run.error)
    assert "row id=1 came back in version 0x1" in str(run.error)
    assert testbed.cursor() == "before"
    assert [record["payload"]["content"] for record in testbed.records(state="pending", key={"id": 1})] == ["A"]
    assert testbed.take_rows() == [1]


def test_an_old_version_that_comes_back_stops_the_stream(testbed: Testbed) -> None:
    for content, version in (("A", "0x1"), ("B", "0x2")):
        testbed.poll(ListReader([version_row(1, content, version)]))
    assert "begun again" in str(testbed.poll(ListReader([version_row(1, "A", "0x1")])).error)
    assert testbed.poll(ListReader([version_row(1, "C", "0x3")])).logged == 1


def test_a_table_that_got_a_column_is_not_taken_for_a_restored_one(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, "A", "0x1")]))
    wider = version_row(1, "A", "0x1", payload={"id": 1, "content": "A", "new": None})
    for logged in (1, 0):
        run = testbed.poll(ListReader([wider], columns_fingerprint="wider"))
        assert (run.error, run.logged) == (None, logged)
    assert [record["payload"].get("new", "none") for record in testbed.records()] == ["none", None]
    assert testbed.take_rows() == [1]


def test_a_row_that_was_cleaned_up_is_still_known(testbed: Testbed) -> None:
    rows = [version_row(1, "A", "0x1")]
    testbed.poll(ListReader(rows))
    testbed.database.records.delete_many({})
    assert testbed.poll(ListReader(rows)).logged == 0
    assert testbed.poll(ListReader([version_row(1, "A", None)])).logged == 0


# Rows that cannot be read.


def test_a_row_without_a_form_in_json_is_failed_and_stops_no_other(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(4)
    source_db.execute("update orders set amount = 9e999 where id = 2")
    source_db.execute("update orders set note = cast(x'ff' as text) where id = 3")
    run = testbed.poll()
    assert (run.read, run.logged, run.failed, run.error, testbed.cursor()) == (4, 4, 2, None, "4")
    assert testbed.states() == {1: ["pending"], 2: ["failed"], 3: ["failed"], 4: ["pending"]}
    assert "amount" in testbed.record(2)["error"]["message"]
    assert testbed.record(2)["payload"] is None
    assert testbed.poll().failed == 0


def test_a_row_that_is_too_large_is_failed_and_stops_no_other(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set note = hex(zeroblob(9000000)) where id = 2")
    run = testbed.poll()
    assert (run.logged, run.failed, testbed.cursor()) == (3, 1, "3")
    assert "the ledger stores at most" in testbed.record(2)["error"]["message"]


def test_a_row_that_was_failed_and_is_put_right_is_a_new_version(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, None, None, payload=None, error="amount is NaN")]))
    testbed.poll(ListReader([version_row(1, "A", None)]))
    assert testbed.states() == {1: ["failed", "pending"]}
    assert testbed.take_rows() == [1]


# Append only.


def test_a_table_that_is_only_appended_to_does_without_keys(testbed: Testbed) -> None:
    testbed.change_stream(append_only=True)
    rows = [version_row(number, "a", None, at=str(number)) for number in (1, 2, 3)]
    assert testbed.poll(ListReader(rows)).logged == 3
    again = testbed.poll(ListReader(rows))
    assert (again.logged, again.unchanged) == (0, 3)
    assert testbed.database.keys.count_documents({}) == 0
    assert testbed.take_rows() == [1, 2, 3]
    run = testbed.poll(ListReader([version_row(1, "other", None, at="1")]))
    assert "begun again" in str(run.error)


def test_a_row_that_changes_in_the_lookback_of_an_append_only_stream_stops_no_other(testbed: Testbed) -> None:
    testbed.change_stream(append_only=True)
    testbed.poll(ListReader([version_row(number, "a", None, at="1") for number in (1, 2)]))
    edited = replace(version_row(1, "other", None, at="1"), again=True)
    rows = [edited, replace(version_row(2, "a", None, at="1"), again=True), version_row(3, "a", None, at="2")]
    run = testbed.poll(ListReader(rows))
    assert (run.logged, run.failed, run.unchanged, run.error) == (2, 1, 1, None)
    assert (testbed.poll(ListReader(rows[:2])).unchanged, testbed.states()[1]) == (2, ["pending", "failed"])
    failed = next(record for record in testbed.records() if record["state"] == "failed")
    assert "append_only says that rows never change" in failed["error"]["message"]
    assert failed["payload"]["content"] == "other", "an operator may send it as it is"


def test_a_crash_costs_an_append_only_stream_nothing(testbed: Testbed) -> None:
    testbed.change_stream(append_only=True)
    rows = [version_row(number, "a", None, at=str(number)) for number in (1, 2, 3)]
    with pytest.raises(Broken):
        testbed.poll(ListReader(rows), ledger=break_at(testbed, "records", "log", "after"))
    testbed.poll(ListReader(rows))
    assert testbed.states() == {number: ["pending"] for number in (1, 2, 3)}
    assert testbed.cursor() == "3"


# Errors.


@pytest.mark.parametrize(("start", "kept"), [("1700-01-01", None), ("now", "start")])
def test_a_start_that_cannot_be_read_from_is_not_kept(testbed: Testbed, start: str, kept: str | None) -> None:
    """Otherwise a corrected setting would never be read."""

    class RefusingReader(ListReader):
        def pages(self, _: Any) -> Any:
            raise ServiceUnavailable("out of range", service="source", why="no such date", hint="correct it")
            yield

    testbed.change_stream(start=start)
    assert testbed.poll(RefusingReader([])).error == "out of range: no such date"
    assert (testbed.ledger.polls.load_cursor("orders") or {}).get("at") == kept
    assert testbed.poll(ListReader([])).error is None
    assert testbed.cursor() == "start"


def test_a_source_that_fails_between_pages_keeps_what_was_logged(testbed: Testbed) -> None:
    class FailingReader(ListReader):
        def pages(self, cursor: Any) -> Any:
            yield from super().pages(cursor)
            raise ServiceUnavailable("cannot reach SQL Server at x:1433", service="source", why="$gone", hint="h")

    reader = FailingReader([version_row(number, "a", None, at=str(number)) for number in (1, 2, 3)], page_size=2)
    run = testbed.poll(reader)
    assert (run.error, run.logged, run.cursor_after) == ("cannot reach SQL Server at x:1433: $gone", 3, "3")
    assert reader.closed
    document = testbed.database.streams.find_one()
    assert document["health"]["error"] == run.error
    assert document["cursor"]["at"] == "3"
    assert testbed.poll(ListReader([])).error is None


def test_a_missing_table_is_the_error_of_the_run(testbed: Testbed) -> None:
    run = testbed.poll()
    assert "orders" in str(run.error)
    assert (run.read, run.logged) == (0, 0)


def test_a_lost_mongodb_is_reported_and_no_row_is_lost(testbed: Testbed) -> None:
    def go() -> None:
        raise ServiceUnavailable("cannot reach MongoDB", service="mongodb")

    gone = Rooms(testbed.ledger, keys=Room(testbed.ledger.keys, "observe", before=go))
    rows = [version_row(1, "a", "0x1")]
    with pytest.raises(ServiceUnavailable, match="MongoDB"):
        testbed.poll(ListReader(rows), ledger=gone)
    assert testbed.poll(ListReader(rows)).logged == 1


def test_a_poll_stops_between_pages(testbed: Testbed) -> None:
    rows = [version_row(number, "a", None, at=str(number)) for number in (1, 2, 3)]
    reader = ListReader(rows, page_size=1)
    run = testbed.poll(reader, should_stop=lambda: True)
    assert (run.logged, run.cursor_after, run.error) == (1, "1", None)
    assert reader.closed


def test_the_blind_spots_of_a_stream_are_logged_once_when_it_begins(
    testbed: Testbed, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        testbed.poll(ListReader([version_row(1, "a", None)], advice=("finds new rows only",)))
    warnings = [record for record in caplog.records if record.message == "poll.first"]
    assert [(warning.levelname, vars(warning)["fields"]) for warning in warnings] == [
        ("WARNING", {"stream": "orders", "warning": "finds new rows only"})
    ]


def test_a_worker_is_woken_after_each_page(testbed: Testbed) -> None:
    rows = [version_row(number, "a", None, at=str(number)) for number in (1, 2, 3)]
    seen: list[int] = []

    def wake() -> bool:
        seen.append(testbed.database.records.count_documents({}))
        return True

    assert testbed.poll(ListReader(rows, page_size=1), wake=wake).dispatched == 3
    assert seen == [1, 2, 3]


def test_a_poll_that_could_wake_nobody_says_so(testbed: Testbed) -> None:
    assert testbed.poll(ListReader([version_row(1, "a", None)]), wake=lambda: False).dispatched == 0


def test_keys_that_never_settle_end_the_poll(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "COMPARISONS_AT_MOST", 2)

    class Restless:
        def __init__(self) -> None:
            self.load = testbed.ledger.keys.load

        def observe(self, _: str, observations: Any) -> list[str]:
            return [observation.key_id for observation in observations]

    run = testbed.poll(ListReader([version_row(1, "a", None)]), ledger=Rooms(testbed.ledger, keys=Restless()))
    assert "did not settle" in str(run.error)


def test_what_the_settings_are_warned_of_goes_with_the_settings(testbed: Testbed) -> None:
    def warned(*advice: str) -> Any:
        testbed.poll(ListReader([version_row(1, "a", "0x01")], advice=advice))
        return testbed.database.streams.find_one()["health"]["warnings"]

    assert warned("lines are not followed") == ["lines are not followed"]
    # Not an hour later, when the source is asked again for what it is warned of.
    assert warned() == []
