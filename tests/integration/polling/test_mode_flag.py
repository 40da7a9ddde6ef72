"""Mode flag: rows for which a condition holds, until their delivery is acknowledged in the source."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.states import State
from syncctl.core.stream import Source, Stream
from syncctl.errors import ConfigurationError
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner
from syncctl.local.mock_partner_behaviour import PartnerConfig
from syncctl.local.mongod import Mongod
from syncctl.pipeline.polling.poll import poll_stream
from syncctl.sources.reader import StreamReader
from tests.harness import passing_time
from tests.harness.http_partner import RowPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

ACKNOWLEDGE = "update jobs set exported = 1, exports = exports + 1 where id = :id and edition = :edition"
STAMPING = "update jobs set exported = 1, edition = edition + 1 where id = :id and edition = :edition"
"""As a rowversion does, `edition` changes with each statement."""
LOCKED = (
    "create trigger locked before update on jobs when old.id = 4 begin select raise(abort, 'row 4 is counted'); end"
)
GIVEN_UP = "update jobs set exported = 9 where id = :id and edition = :edition"


@pytest.fixture
def flag(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.execute(
        "create table jobs (id integer primary key, content text, exported integer default 0, edition integer,"
        " exports integer default 0)"
    )
    source_db.execute_many("insert into jobs (id, content, edition) values (?, 'a', 1)", [(n,) for n in range(1, 8)])
    testbed.change_stream(
        mode="flag",
        table="jobs",
        where="exported = 0",
        cursor="edition",
        acknowledge=ACKNOWLEDGE,
        page_size=3,
        # A row that is flagged again looks just as it did before.
        exclude=("exports",),
    )
    return testbed


def flags(db: SourceDb) -> list[tuple[int, ...]]:
    return db.execute("select exported, count(*) from jobs group by exported order by exported")


def work(testbed: Testbed) -> None:
    testbed.poll()
    testbed.deliver()
    testbed.poll()


def test_delivered_rows_are_acknowledged_in_the_source(flag: Testbed, source_db: SourceDb) -> None:
    run = flag.poll()
    assert (run.read, run.logged, run.error) == (7, 7, None)
    assert flags(source_db) == [(0, 7)]
    flag.deliver()
    flag.poll()
    assert flags(source_db) == [(1, 7)]
    assert {record["state"] for record in flag.records()} == {"delivered"}
    assert all(record["acknowledged"]["rows"] == 1 and "acknowledge" not in record for record in flag.records())
    assert flag.poll().read == 0


def test_a_row_that_waits_for_its_delivery_is_logged_once(flag: Testbed) -> None:
    assert [flag.poll().logged for _ in range(3)] == [7, 0, 0]


def test_a_long_acknowledgement_is_no_source_that_does_not_return(
    flag: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.pipeline.polling.acknowledge.ACKNOWLEDGED_AT_ONCE", 1)
    flag.poll()
    flag.deliver()
    reader: Any = StreamReader(flag.source, flag.stream)  # type: ignore[arg-type]
    acknowledge, moved_at = reader.acknowledge, set()

    def acknowledge_slowly(*args: Any) -> Any:
        time.sleep(0.3)
        moved_at.add(flag.database.streams.find_one({"_id": "orders"})["poll"]["moved_at"])
        return acknowledge(*args)

    reader.acknowledge = acknowledge_slowly
    assert flag.poll(reader, lease_seconds=0.4).error is None
    assert len(moved_at) > 3


def test_an_edit_after_the_read_is_not_wiped_out(flag: Testbed, source_db: SourceDb) -> None:
    flag.poll()
    source_db.execute("update jobs set content = 'b', edition = 2 where id = 3")
    flag.deliver()
    flag.poll()
    assert flags(source_db) == [(0, 1), (1, 6)]
    flag.deliver()
    flag.poll()
    assert flags(source_db) == [(1, 7)]
    assert [record["payload"]["content"] for record in flag.records() if record["key"]["id"] == 3] == ["a", "b"]


def test_a_row_that_is_flagged_again_is_sent_again(flag: Testbed, source_db: SourceDb) -> None:
    work(flag)
    source_db.execute("update jobs set exported = 0 where id = 2")
    work(flag)
    assert len([record for record in flag.records() if record["key"]["id"] == 2]) == 2
    assert flags(source_db) == [(1, 7)]
    assert source_db.execute("select exports from jobs where id = 2") == [(2,)]


def test_a_poll_that_read_the_row_before_its_acknowledgement_sends_nothing_again(flag: Testbed) -> None:
    """The page was read before the flag changed; the row looks new, but must not be sent again."""
    flag.poll()
    flag.deliver()
    reader = StreamReader(flag.source, flag.stream)
    stale = list(reader.pages(reader.start_cursor()))
    reader.pages = lambda _: iter(stale)  # type: ignore[method-assign]
    run = flag.poll(reader)  # type: ignore[arg-type]
    assert (run.read, run.logged, run.error) == (7, 0, None)


def test_final_failures_are_acknowledged_where_the_stream_asks_for_it(flag: Testbed, source_db: SourceDb) -> None:
    with MockPartner(PartnerConfig(reject_rate=1.0)) as refusing:
        flag.partner = replace(flag.partner, url=refusing.url)
        work(flag)
    assert flags(source_db) == [(0, 7)]
    flag.change_stream(acknowledge_failed=GIVEN_UP)
    flag.poll()
    assert flags(source_db) == [(9, 7)]


def test_an_acknowledged_failure_that_is_replayed_is_acknowledged_again(flag: Testbed, source_db: SourceDb) -> None:
    flag.change_stream(acknowledge_failed=GIVEN_UP)
    mended = flag.partner
    with MockPartner(PartnerConfig(reject_rate=1.0)) as refusing:
        flag.partner = replace(flag.partner, url=refusing.url)
        work(flag)
    assert flags(source_db) == [(9, 7)]
    flag.partner = mended
    flag.ledger.operations.replay([record["_id"] for record in flag.records()], states=["failed"], who="me")
    flag.deliver()
    flag.poll()
    assert flags(source_db) == [(1, 7)]
    # Rows acknowledged as delivered stay so.
    flag.ledger.operations.replay([record["_id"] for record in flag.records()], states=["delivered"], who="me")
    assert not flag.records(acknowledge={"$exists": True})


def test_a_statement_that_fails_is_run_again_and_stops_no_other(flag: Testbed, source_db: SourceDb) -> None:
    source_db.execute(
        "create trigger locked before update on jobs when old.id = 4"
        " begin select raise(abort, 'row 4 is being counted'); end"
    )
    work(flag)
    assert flags(source_db) == [(0, 1), (1, 6)]
    (waiting,) = flag.records(acknowledge={"$exists": True})
    assert "row 4 is being counted" in waiting["acknowledge"]["error"]
    source_db.execute("drop trigger locked")
    flag.poll()
    assert flags(source_db) == [(0, 1), (1, 6)]
    flag.database.records.update_many({"acknowledge": {"$exists": True}}, {"$unset": {"acknowledge.due_at": True}})
    flag.poll()
    assert flags(source_db) == [(1, 7)]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (
            "update jobs set exported = 1 where id = :id",
            "it does not test :edition, so it could overwrite",
        ),
        ("update jobs set exported = 1 where edition = :edition", "it does not test :id"),
        ("update jobs set exported = :x where id = :id and edition = :edition", ":x is neither in the key nor"),
    ],
)
def test_a_statement_that_could_do_harm_is_refused(flag: Testbed, statement: str, why: str) -> None:
    flag.change_stream(acknowledge=statement)
    with pytest.raises(ConfigurationError) as caught:
        StreamReader(flag.source, flag.stream)
    assert why in caught.value.why
    assert caught.value.hint == "end it with: where id = :id and edition = :edition"


def test_a_long_round_goes_on_where_it_was_stopped(flag: Testbed) -> None:
    seen = [flag.poll(should_stop=lambda: True).read for _ in range(4)]
    assert seen == [3, 3, 1, 0]
    assert flag.poll(should_stop=lambda: True).read == 3


def test_a_statement_that_changes_nothing_sends_nothing_again_and_is_an_error(
    flag: Testbed, source_db: SourceDb
) -> None:
    flag.change_stream(acknowledge=ACKNOWLEDGE + " and content = 'other'")
    for _ in range(3):
        work(flag)
    assert flags(source_db) == [(0, 7)]
    assert len(flag.records()) == 7
    refused = flag.ledger.acknowledgements.find_refused("orders", failed_too=False)
    assert refused is not None
    assert refused[0] == 7
    assert "changes nothing" in refused[1]


# Rows that are written to between the read and the acknowledgement.


def let_acknowledgements_be_due(testbed: Testbed) -> None:
    testbed.database.records.update_many({"acknowledge": {"$exists": True}}, {"$unset": {"acknowledge.due_at": True}})


def sent(testbed: Testbed, number: int) -> int:
    """Return how often a row was delivered."""
    return sum(record["key"]["id"] == number for record in testbed.records(state="delivered"))


def test_a_row_that_was_only_touched_is_acknowledged_and_sent_once(flag: Testbed, source_db: SourceDb) -> None:
    flag.change_stream(exclude=("exports", "edition"))
    flag.poll()
    source_db.execute("update jobs set edition = 2 where id = 3")
    work(flag)
    let_acknowledgements_be_due(flag)
    flag.poll()
    assert flags(source_db) == [(1, 7)]
    assert sent(flag, 3) == 1
    assert flag.poll().read == 0
    # Its next flag is a new one.
    source_db.execute("update jobs set exported = 0 where id = 3")
    work(flag)
    assert (flags(source_db), sent(flag, 3)) == ([(1, 7)], 2)


def test_an_edit_that_was_taken_back_before_it_was_read_is_acknowledged(flag: Testbed, source_db: SourceDb) -> None:
    flag.change_stream(exclude=("exports", "edition"))
    flag.poll()
    source_db.execute("update jobs set content = 'b', edition = 2 where id = 3")
    flag.deliver()
    reader = StreamReader(flag.source, flag.stream)  # type: ignore[arg-type]
    find_rows = reader.find_rows

    def take_back(keys: Any) -> Any:
        rows = find_rows(keys)
        source_db.execute("update jobs set content = 'a', edition = 3 where id = 3")
        return rows

    reader.find_rows = take_back  # type: ignore[method-assign]
    flag.poll(reader)
    assert flags(source_db) == [(0, 1), (1, 6)]
    for _ in range(2):
        let_acknowledgements_be_due(flag)
        flag.poll()
    assert flags(source_db) == [(1, 7)]
    assert sent(flag, 3) == 1


def test_a_flag_that_somebody_took_away_is_a_new_one_when_it_is_back(flag: Testbed, source_db: SourceDb) -> None:
    flag.poll()
    source_db.execute("update jobs set exported = 1, edition = 2 where id = 3")
    work(flag)
    source_db.execute("update jobs set exported = 0, edition = 1 where id = 3")
    work(flag)
    assert (flags(source_db), sent(flag, 3)) == ([(1, 7)], 2)


def test_the_end_of_an_older_version_hides_no_flag_of_the_newest(flag: Testbed, source_db: SourceDb) -> None:
    flag.poll()
    flag.deliver()
    source_db.execute("update jobs set content = 'b', edition = 2 where id = 3")
    work(flag)
    assert flags(source_db) == [(1, 7)]
    let_acknowledgements_be_due(flag)
    flag.poll()
    assert not flag.records(acknowledge={"$exists": True})
    source_db.execute("update jobs set exported = 0 where id = 3")
    work(flag)
    assert (flags(source_db), sent(flag, 3)) == ([(1, 7)], 3)


def test_a_replayed_failure_is_acknowledged_where_the_statement_has_changed_the_version(
    flag: Testbed, source_db: SourceDb
) -> None:
    flag.change_stream(
        exclude=("exports", "edition"), acknowledge=STAMPING, acknowledge_failed=STAMPING.replace("= 1,", "= 9,")
    )
    mended = flag.partner
    with MockPartner(PartnerConfig(reject_rate=1.0)) as refusing:
        flag.partner = replace(flag.partner, url=refusing.url)
        work(flag)
    assert flags(source_db) == [(9, 7)]
    flag.partner = mended
    flag.ledger.operations.replay([record["_id"] for record in flag.records()], states=["failed"], who="me")
    work(flag)
    assert flags(source_db) == [(1, 7)]


# A process that dies while it acknowledges.

POINTS = {
    "before the note": ("acknowledgements", "begin", False),
    "before the commit": ("acknowledgements", "begin", True),
    "after the commit": ("keys", "note_acknowledged", False),
    "before the end": ("acknowledgements", "settle", False),
}


def poll_and_die(url: str, name: str, source: Source, stream: Stream, point: str) -> None:
    """Poll, and be killed at a point."""
    room, method, is_done = POINTS[point]
    with Ledger(url, name) as ledger:
        act: Callable[..., Any] = getattr(getattr(ledger, room), method)

        def die(*args: Any, **options: Any) -> None:
            if is_done:
                act(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(getattr(ledger, room), method, die)
        poll_stream(
            ledger=ledger, stream=stream, open_reader=lambda stream: StreamReader(source, stream), wake=lambda: False,
            worker="dying",
        )  # fmt: skip


def die_while_acknowledging(testbed: Testbed, url: str, point: str) -> None:
    """Let a process of its own poll and be killed at a point, and its lease run out."""
    name = testbed.database.name
    process = multiprocessing.get_context("spawn").Process(
        target=poll_and_die, args=(url, name, testbed.source, testbed.stream, point)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    passing_time.expire_stream_lease(testbed.database, "poll")


NOTHING = "select 1"
FLAG = "update jobs set exported = 0 where id = 3"
TOUCH = "update jobs set edition = edition + 10 where id = 3"
STAMPED_FLAG = "update jobs set exported = 0, edition = edition + 10 where id = 3"


@pytest.mark.parametrize(
    ("point", "statement", "meanwhile", "times"),
    [
        # Whatever was committed, a row that nobody has touched is sent once.
        ("before the note", ACKNOWLEDGE, NOTHING, 1),
        ("before the commit", STAMPING, NOTHING, 1),
        ("after the commit", ACKNOWLEDGE, NOTHING, 1),
        ("after the commit", STAMPING, NOTHING, 1),
        ("before the end", STAMPING, NOTHING, 1),
        # So is one that was touched while its flag was never taken away.
        ("before the note", ACKNOWLEDGE, TOUCH, 1),
        # A flag that was set again is not lost.
        ("after the commit", ACKNOWLEDGE, FLAG, 2),
        ("after the commit", STAMPING, FLAG, 2),
        ("after the commit", STAMPING, STAMPED_FLAG, 2),
        ("before the end", ACKNOWLEDGE, FLAG, 2),
        ("before the end", STAMPING, STAMPED_FLAG, 2),
        # Where the version cannot tell, a flag is taken for a new one.
        ("before the commit", ACKNOWLEDGE, NOTHING, 2),
        ("before the commit", STAMPING, TOUCH, 2),
    ],
)
def test_a_crash_around_the_acknowledgement_loses_no_flag(
    flag: Testbed, mongo_server: Mongod, source_db: SourceDb, point: str, statement: str, meanwhile: str, times: int
) -> None:
    flag.change_stream(acknowledge=statement, exclude=("exports", "edition"))
    flag.poll()
    flag.deliver()
    die_while_acknowledging(flag, mongo_server.url(flag.database.name), point)
    is_committed = point in ("after the commit", "before the end")
    assert flags(source_db) == [(int(is_committed), 7)]
    source_db.execute(meanwhile)
    for _ in range(3):
        work(flag)
        let_acknowledgements_be_due(flag)
    assert flags(source_db) == [(1, 7)]
    assert sent(flag, 3) == times
    assert not flag.records(acknowledge={"$exists": True})
    # The next flag of every row is a new one.
    others = sum(sent(flag, number) for number in range(1, 8))
    source_db.execute("update jobs set exported = 0")
    work(flag)
    assert sum(sent(flag, number) for number in range(1, 8)) == others + 7


def test_a_clean_up_keeps_records_that_are_not_acknowledged(flag: Testbed) -> None:
    flag.poll()
    flag.deliver()
    later = flag.ledger.streams.server_time() + timedelta(days=1)
    assert flag.ledger.operations.count_finished("orders", State.DELIVERED, later) == 0
    flag.poll()
    assert flag.ledger.operations.count_finished("orders", State.DELIVERED, later) == 7


def test_a_clean_up_keeps_failures_that_the_source_refuses_to_be_told_of(flag: Testbed, source_db: SourceDb) -> None:
    flag.change_stream(acknowledge_failed=GIVEN_UP)
    source_db.execute(LOCKED)
    with MockPartner(PartnerConfig(reject_rate=1.0)) as refusing:
        flag.partner = replace(flag.partner, url=refusing.url)
        work(flag)
    later = flag.ledger.streams.server_time() + timedelta(days=1)
    assert flag.ledger.operations.count_finished("orders", State.FAILED, later) == 6
    refused = flag.ledger.acknowledgements.find_refused("orders", failed_too=True)
    assert refused is not None
    assert refused[0] == 1


def refuse_to_be_told(flag: Testbed, source_db: SourceDb) -> None:
    """Let row 4 fail, and its source refuse to be told so."""
    flag.change_stream(acknowledge_failed=GIVEN_UP)
    source_db.execute(LOCKED)
    accepting = flag.partner
    with RowPartner(lambda row: 422 if row == 4 else 201) as refusing:
        flag.partner = replace(flag.partner, url=refusing.url)
        work(flag)
    flag.partner = accepting
    assert flag.ledger.acknowledgements.find_refused("orders", failed_too=True) is not None
    source_db.execute("drop trigger locked")


def test_a_failure_that_a_corrected_row_supersedes_is_told_to_nobody(flag: Testbed, source_db: SourceDb) -> None:
    refuse_to_be_told(flag, source_db)
    source_db.execute("update jobs set content = 'b', edition = 2 where id = 4")
    work(flag)
    assert flags(source_db) == [(1, 7)]
    assert flag.states()[4] == ["superseded", "delivered"]
    assert not flag.records(acknowledge={"$exists": True})
    later = flag.ledger.streams.server_time() + timedelta(days=1)
    assert flag.ledger.operations.count_finished("orders", State.SUPERSEDED, later) == 1


def test_a_waiting_version_that_a_newer_one_supersedes_is_told_to_nobody(flag: Testbed, source_db: SourceDb) -> None:
    flag.poll()
    source_db.execute("update jobs set content = 'b', edition = 2 where id = 4")
    flag.poll()
    flag.deliver()
    assert flag.states()[4] == ["superseded", "delivered"]
    assert not flag.records(state="superseded", acknowledge={"$exists": True})


def test_failures_of_which_the_source_is_not_told_any_more_hold_nothing_up(flag: Testbed, source_db: SourceDb) -> None:
    refuse_to_be_told(flag, source_db)
    flag.change_stream(acknowledge_failed=None)
    flag.poll()
    assert flag.ledger.acknowledgements.find_refused("orders", failed_too=False) is None
    later = flag.ledger.streams.server_time() + timedelta(days=1)
    assert flag.ledger.operations.count_finished("orders", State.FAILED, later) == 0
    later += timedelta(days=30)
    assert flag.ledger.operations.count_finished("orders", State.FAILED, later) == 1
