"""Write-back: outcomes go into the rows of the source, once the ledger has them."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any

import pytest

from syncctl.core.states import State
from syncctl.core.stream import Child, Source, Stream
from syncctl.errors import ConfigurationError, LeaseHeld, SourceError
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner
from syncctl.local.mock_partner_behaviour import PartnerConfig
from syncctl.local.mongod import Mongod
from syncctl.pipeline.maintenance.cleanup import clean_up
from syncctl.pipeline.operations.replay import Selection, discard_records
from syncctl.pipeline.polling import write_back
from syncctl.pipeline.polling.identity import name_row
from syncctl.pipeline.polling.poll import poll_stream
from syncctl.pipeline.polling.recheck import SourceRow, recheck
from syncctl.sources.reader import StreamReader
from tests.harness.http_partner import RowPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

TABLE = (
    "create table orders (id integer primary key, content text, edition integer default 1, partner_id varchar(20),"
    " sent_at datetime, sync_error varchar(40), record text, state text)"
)
COLUMNS = {
    "partner_id": "remote.id",
    "sent_at": "delivered_at",
    "sync_error": "error",
    "record": "record_id",
    "state": "state",
}
TOUCHED = (
    "create trigger touched after update on orders when new.edition = old.edition"
    " begin update orders set edition = edition + 1 where id = new.id; end"
)
LOCKED = (
    "create trigger locked before update of state on orders when old.id = 4"
    " begin select raise(abort, 'row 4 is counted'); end"
)


@pytest.fixture
def bed(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.execute(TABLE)
    source_db.execute_many("insert into orders (id, content) values (?, 'a')", [(n,) for n in range(1, 8)])
    testbed.change_stream(mode="snapshot", table="orders", cursor=None, page_size=3, write_back=COLUMNS)
    return testbed


def column(db: SourceDb, name: str) -> list[Any]:
    return [value for (value,) in db.execute(f"select {name} from orders order by id")]  # noqa: S608


def work(testbed: Testbed) -> None:
    testbed.poll()
    testbed.deliver()
    testbed.poll()


def let_write_backs_be_due(testbed: Testbed) -> None:
    marked = {"write_back": {"$exists": True}}
    past = datetime.now(UTC) - timedelta(days=1)
    testbed.database.records.update_many(marked, {"$set": {"write_back.due_at": past}})


def capture(testbed: Testbed) -> None:
    """Store for each row the id that the partner answered with."""
    for key in testbed.database.keys.find({"stream": "orders"}):
        number = key["key"]["id"]
        remote = {"values": {"id": f"P-{number}"}, "seq": 1}
        testbed.database.keys.update_one({"_id": key["_id"]}, {"$set": {"remote": remote}})


def sent(testbed: Testbed) -> int:
    return sum(record["attempts"] for record in testbed.records())


@contextmanager
def refusing(testbed: Testbed) -> Iterator[None]:
    """Let the partner refuse every record in the block."""
    usual = testbed.partner
    with MockPartner(PartnerConfig(reject_rate=1.0)) as partner:
        testbed.partner = replace(usual, url=partner.url)
        yield
    testbed.partner = usual


def test_a_delivered_row_gets_its_outcome_and_is_not_sent_again(bed: Testbed, source_db: SourceDb) -> None:
    bed.poll()
    bed.deliver()
    capture(bed)
    assert column(source_db, "state") == [None] * 7
    assert bed.poll().logged == 0
    assert column(source_db, "state") == ["delivered"] * 7
    assert column(source_db, "partner_id") == [f"P-{n}" for n in range(1, 8)]
    assert column(source_db, "record") == [record["_id"] for record in bed.records()]
    assert column(source_db, "sync_error") == [None] * 7
    for text, record in zip(column(source_db, "sent_at"), bed.records(), strict=True):
        assert text == record["delivered_at"].strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        assert "write_back" not in record
        assert record["written_back"]["state"] == "delivered"
        assert record["written_back"]["rows"] == 1
    assert [bed.poll().logged for _ in range(3)] == [0, 0, 0]
    assert sent(bed) == 7


def test_the_columns_written_are_not_sent(bed: Testbed) -> None:
    bed.poll()
    assert {name for record in bed.records() for name in record["payload"]} == {"id", "content", "edition"}


def test_a_stream_that_excluded_the_columns_already_sends_nothing_anew(bed: Testbed) -> None:
    bed.change_stream(write_back={}, exclude=tuple(COLUMNS))
    work(bed)
    before = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    for exclude in (tuple(COLUMNS), ()):
        bed.change_stream(write_back=COLUMNS, exclude=exclude)
        reader = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
        assert reader.columns_fingerprint == before.columns_fingerprint
        assert bed.poll().logged == 0


def test_only_outcomes_from_then_on_are_written(bed: Testbed, source_db: SourceDb) -> None:
    bed.change_stream(write_back={}, exclude=tuple(COLUMNS))
    work(bed)
    assert not bed.records(write_back={"$exists": True})
    bed.change_stream(write_back=COLUMNS)
    source_db.execute("update orders set content = 'b' where id = 3")
    work(bed)
    assert column(source_db, "state") == [None, None, "delivered", None, None, None, None]


def test_failures_say_why_and_keep_the_time_of_the_last_delivery(bed: Testbed, source_db: SourceDb) -> None:
    work(bed)
    sent_at = column(source_db, "sent_at")
    source_db.execute("update orders set content = 'b' where id <= 2")
    with refusing(bed):
        work(bed)
    assert column(source_db, "state") == ["failed"] * 2 + ["delivered"] * 5
    assert column(source_db, "sent_at") == sent_at
    errors = column(source_db, "sync_error")
    assert errors[0] == bed.records(state="failed")[0]["error"]["message"][:40]
    assert errors[2] is None
    bed.ledger.operations.replay([record["_id"] for record in bed.records()], states=["failed"], who="me")
    work(bed)
    assert column(source_db, "state") == ["delivered"] * 7
    assert column(source_db, "sync_error") == [None] * 7
    assert column(source_db, "sent_at")[0] > sent_at[0]


def test_a_row_that_cannot_be_read_gets_why(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("update orders set content = cast(x'ff' as text) where id = 5")
    bed.poll()
    bed.poll()
    assert column(source_db, "state")[4] == "failed"
    assert column(source_db, "sync_error")[4].startswith("the database could not read the row")


def test_a_row_that_cannot_be_sent_gets_why(bed: Testbed, source_db: SourceDb) -> None:
    bed.change_stream(path="/orders/{content}", method="PUT")
    source_db.execute("update orders set content = null where id = 5")
    work(bed)
    assert column(source_db, "state")[4] == "failed"
    assert "content" in column(source_db, "sync_error")[4]


def test_a_record_that_was_given_up_says_so(bed: Testbed, source_db: SourceDb) -> None:
    bed.poll()
    ids = [record["_id"] for record in bed.records()]
    selection = Selection(ids=tuple(ids[:2]), states=("pending",))
    discard_records(ledger=bed.ledger, selection=selection, reason="$sold", who="me", written_back=["orders"])
    others = Selection(ids=tuple(ids[2:3]), states=("pending",))
    discard_records(ledger=bed.ledger, selection=others, reason="no", who="me")
    bed.poll()
    assert column(source_db, "state") == ["discarded"] * 2 + [None] * 5
    assert column(source_db, "sync_error")[:3] == ["$sold", "$sold", None]


def test_a_record_that_killed_its_workers_says_so(bed: Testbed, source_db: SourceDb) -> None:
    bed.change_stream(ambiguous="fail")
    bed.poll()
    claim = bed.take().claim
    assert claim is not None
    bed.ledger.batches.begin(claim, [claim.records[0].id], seconds=60)
    bed.let_leases_expire()
    bed.rescue()
    bed.poll()
    assert column(source_db, "state").count("failed") == 1


def test_the_mark_is_set_with_the_outcome_and_goes_with_what_reopens_it(bed: Testbed) -> None:
    bed.poll()
    assert not bed.records(write_back={"$exists": True})
    bed.deliver()
    assert len(bed.records(write_back={"$exists": True})) == 7
    ids = [record["_id"] for record in bed.records()]
    bed.ledger.operations.replay(ids[:2], states=["delivered"], who="me")
    bed.ledger.delivery_states.resend(ids[2:4])
    assert len(bed.records(write_back={"$exists": True})) == 3
    bed.deliver()
    assert len(bed.records(write_back={"$exists": True})) == 7


def test_a_record_that_is_sent_once_more_has_no_outcome_yet(bed: Testbed) -> None:
    bed.poll()
    (first, *_) = bed.records()
    marked: list[bool] = []

    def resend(row: int) -> int:
        if row == 1 and not marked:
            bed.ledger.delivery_states.resend([first["_id"]])
        if row == 1:
            marked.append(bool(bed.records(_id=first["_id"], write_back={"$exists": True})))
        return 200

    with RowPartner(resend) as partner:
        bed.partner = replace(bed.partner, url=partner.url)
        bed.deliver()
    assert marked == [False, False]
    assert len(bed.records(write_back={"$exists": True})) == 7


def test_a_superseded_failure_is_not_written(bed: Testbed, source_db: SourceDb) -> None:
    with refusing(bed):
        bed.poll()
        bed.deliver()
    source_db.execute("update orders set content = 'b'")
    bed.change_stream(write_back=COLUMNS)
    bed.poll(reader=None, should_stop=lambda: True)
    bed.deliver()
    assert not bed.records(state="superseded", write_back={"$exists": True})


# Which outcome a row ends with.


def test_the_outcome_of_an_older_version_never_replaces_that_of_a_newer(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_back, "WRITTEN_AT_ONCE", 1)
    bed.change_stream(order="none")
    bed.poll()
    old = bed.record(3)["_id"]
    source_db.execute("update orders set content = 'b' where id = 3")
    bed.poll()
    bed.deliver()
    bed.poll()
    newer = bed.records(key_id=bed.records(_id=old)[0]["key_id"])[-1]["_id"]
    assert column(source_db, "record")[2] == newer
    bed.ledger.operations.replay([old], states=["delivered"], who="me")
    work(bed)
    assert column(source_db, "record")[2] == newer
    assert not bed.records(write_back={"$exists": True})


def test_two_versions_that_are_due_together_are_one_write(bed: Testbed, source_db: SourceDb) -> None:
    bed.change_stream(order="none")
    source_db.execute("create table writes (id integer)")
    source_db.execute(
        "create trigger noted after update of state on orders begin insert into writes values (new.id); end"
    )
    bed.change_stream(write_back={})
    bed.change_stream(exclude=tuple(COLUMNS))
    bed.poll()
    source_db.execute("update orders set content = 'b'")
    bed.poll()
    bed.change_stream(write_back=COLUMNS)
    bed.deliver()
    assert len(bed.records(write_back={"$exists": True})) == 14
    bed.poll()
    assert column(source_db, "state") == ["delivered"] * 7
    assert source_db.execute("select count(*) from writes") == [(7,)]


def test_a_poll_that_was_taken_over_writes_nothing(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still with the rows locked: the poll that took over must not find its values later."""
    bed.poll()
    bed.deliver()
    note_written = bed.ledger.write_backs.note_written

    def be_taken_over(*args: Any) -> None:
        note_written(*args)
        bed.database.streams.update_one({"_id": "orders"}, {"$set": {"poll.token": "another"}})

    monkeypatch.setattr(bed.ledger.write_backs, "note_written", be_taken_over)
    run = bed.poll()
    assert "taken over" in str(run.error)
    assert column(source_db, "state") == [None] * 7
    assert len(bed.records(write_back={"$exists": True})) == 7


def test_an_outcome_that_changed_while_it_was_written_is_written_again(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.poll()
    bed.deliver()
    settle = bed.ledger.write_backs.settle

    def end_otherwise(*args: Any) -> None:
        monkeypatch.undo()
        ids = [record["_id"] for record in bed.records()]
        bed.ledger.operations.replay(ids[:1], states=["delivered"], who="me")
        with refusing(bed):
            bed.deliver()
        settle(*args)

    monkeypatch.setattr(bed.ledger.write_backs, "settle", end_otherwise)
    assert bed.poll().error is None
    assert column(source_db, "state") == ["failed"] + ["delivered"] * 6


# What goes wrong.


def test_a_row_that_cannot_be_written_stops_no_other_and_is_tried_again(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(LOCKED)
    work(bed)
    assert column(source_db, "state") == ["delivered"] * 3 + [None] + ["delivered"] * 3
    (waiting,) = bed.records(write_back={"$exists": True})
    assert "row 4 is counted" in waiting["write_back"]["error"]
    lag = bed.ledger.write_backs.read_lag("orders")
    assert (lag.records, lag.refused) == (1, 1)
    assert lag.oldest == waiting["delivered_at"]
    source_db.execute("drop trigger locked")
    bed.poll()
    assert column(source_db, "state")[3] is None
    let_write_backs_be_due(bed)
    bed.poll()
    assert column(source_db, "state") == ["delivered"] * 7
    assert bed.ledger.write_backs.read_lag("orders").records == 0


def test_a_row_that_is_gone_is_done(bed: Testbed, source_db: SourceDb) -> None:
    bed.poll()
    bed.deliver()
    source_db.execute("delete from orders where id = 4")
    bed.poll()
    assert column(source_db, "state") == ["delivered"] * 6
    assert not bed.records(write_back={"$exists": True})
    bed.deliver()
    assert not bed.records(write_back={"$exists": True}), "a delete has no row to write to"


def test_a_statement_that_fails_for_every_row_is_tried_for_a_few(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(
        "create trigger closed before update on orders begin select raise(abort, 'the table is closed'); end"
    )
    bed.poll()
    bed.deliver()
    assert bed.poll().error is None
    assert len(bed.records(**{"write_back.error": {"$exists": True}})) == 3
    source_db.execute("drop trigger closed")
    bed.poll()
    assert column(source_db, "state").count("delivered") == 4


def test_a_login_that_may_only_read_stops_no_delivery(bed: Testbed, source_db: SourceDb) -> None:
    bed.poll()
    bed.deliver()
    source_db.execute("update orders set content = 'b'")
    source_db.execute("pragma journal_mode = delete")
    reader = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    with reader._opened.connect() as connection:
        connection.exec_driver_sql("pragma query_only = on")
    run = bed.poll(reader)
    assert (run.error, run.logged) == (None, 7)
    lag = bed.ledger.write_backs.read_lag("orders")
    assert "readonly" in str(lag.error)
    bed.poll()
    let_write_backs_be_due(bed)
    bed.deliver()
    bed.poll()
    assert column(source_db, "state") == ["delivered"] * 7


def test_a_lock_of_another_program_holds_no_poll(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.sources.write_back.LOCK_SECONDS", 0.05)
    bed.poll()
    bed.deliver()
    with closing(sqlite3.connect(source_db.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        other.execute("update orders set content = 'b' where id = 1")
        run = bed.poll()
        assert run.error is None
        # Not that it held the row for as long as a query may take: nothing waits that long here.
        assert len(bed.records(**{"write_back.error": "another program holds the row: database is locked"})) == 3
        other.execute("commit")
    let_write_backs_be_due(bed)
    work(bed)
    assert column(source_db, "state") == ["delivered"] * 7
    assert sent(bed) == 8


def test_rows_that_are_written_alone_take_a_poll_only_a_while(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.sources.write_back.ALONE_SECONDS", 0.0)
    source_db.execute(LOCKED)
    bed.poll()
    bed.deliver()
    bed.poll(should_stop=chain([False], repeat(True)).__next__)
    assert column(source_db, "state").count("delivered") == 1
    for _ in range(8):
        bed.poll()
    assert column(source_db, "state").count("delivered") == 6


def test_outcomes_are_written_between_two_pages(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_back, "BETWEEN_PAGES_SECONDS", 0.0)
    monkeypatch.setattr(write_back.WriteBacks, "write", lambda *_, **__: 0)
    written: list[int] = []
    monkeypatch.setattr(write_back.WriteBacks, "write_between_pages", lambda self: written.append(self._progress.read))
    bed.poll()
    assert written == [3, 6, 7, 7]


def test_a_reconciliation_finds_no_difference_in_what_was_written(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(TOUCHED)
    bed.change_stream(mode="increasing", cursor="edition")
    work(bed)
    bed.poll()
    assert column(source_db, "edition") == [2] * 7
    reader = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    rows = [scanned.row for page in reader.scan(None) for scanned in page]
    suspects = [
        SourceRow(key_id=named.key_id, hash=named.hash, is_ahead=False, at=named.row.at, key=named.row.key)
        for named in (name_row(row, seq=0) for row in rows)
    ]
    assert recheck(bed.ledger, "orders", reader, suspects) == ["accounted"] * 7


def test_a_source_that_is_away_keeps_the_marks(bed: Testbed, source_db: SourceDb) -> None:
    bed.poll()
    bed.deliver()
    away = source_db.path.with_suffix(".away")
    source_db.path.rename(away)
    assert bed.poll().error is not None
    away.rename(source_db.path)
    assert len(bed.records(write_back={"$exists": True})) == 7
    bed.poll()
    assert column(source_db, "state") == ["delivered"] * 7


def test_an_id_that_does_not_fit_is_not_cut(bed: Testbed, source_db: SourceDb) -> None:
    bed.poll()
    bed.deliver()
    capture(bed)
    key = bed.record(2)["key_id"]
    bed.database.keys.update_one({"_id": f"orders:{key}"}, {"$set": {"remote.values": {"id": "x" * 21}}})
    bed.poll()
    assert column(source_db, "partner_id")[1] is None
    (waiting,) = bed.records(write_back={"$exists": True})
    assert waiting["write_back"]["error"] == (
        "column partner_id cannot hold remote.id: it has 21 characters, and the column holds 20"
    )


def test_no_poll_goes_round_because_a_trigger_changes_what_is_sent(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(TOUCHED)
    work(bed)
    (error, *_) = {
        record["write_back"].get("error") for record in bed.records(**{"write_back.error": {"$exists": True}})
    }
    assert "the write changes edition too" in error
    assert column(source_db, "state") == [None] * 7
    assert [bed.poll().logged for _ in range(2)] == [0, 0]
    bed.change_stream(exclude=("edition",))
    let_write_backs_be_due(bed)
    work(bed)
    let_write_backs_be_due(bed)
    for _ in range(3):
        work(bed)
    assert column(source_db, "state") == ["delivered"] * 7
    assert sent(bed) == 14, "once, and once more for the column that is not sent any more"


def test_a_cursor_that_a_trigger_moves_with_each_write_sends_nothing_again(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(TOUCHED)
    bed.change_stream(mode="increasing", cursor="edition")
    for _ in range(4):
        work(bed)
    assert column(source_db, "state") == ["delivered"] * 7
    assert column(source_db, "edition") == [2] * 7
    assert sent(bed) == 7
    source_db.execute("update orders set content = 'b', edition = 9 where id = 3")
    work(bed)
    assert sent(bed) == 8


def test_mode_flag_acknowledges_and_writes_back(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("alter table orders add column exported integer default 0")
    source_db.execute(TOUCHED)
    bed.change_stream(
        mode="flag",
        where="exported = 0",
        cursor="edition",
        acknowledge="update orders set exported = 1 where id = :id and edition = :edition",
    )
    for _ in range(4):
        work(bed)
    assert column(source_db, "state") == ["delivered"] * 7
    assert column(source_db, "exported") == [1] * 7
    assert sent(bed) == 7
    source_db.execute("update orders set exported = 0 where id = 2")
    work(bed)
    assert (sent(bed), column(source_db, "exported")) == (8, [1] * 7)


def test_mode_flag_writes_before_an_acknowledgement_that_is_late(bed: Testbed, source_db: SourceDb) -> None:
    """The write gives the row a new version, for which the statement is run again."""
    source_db.execute("alter table orders add column exported integer default 0")
    source_db.execute(TOUCHED)
    source_db.execute(
        "create trigger counted before update of exported on orders when old.id = 4"
        " begin select raise(abort, 'row 4 is counted'); end"
    )
    bed.change_stream(
        mode="flag",
        where="exported = 0",
        cursor="edition",
        acknowledge="update orders set exported = 1 where id = :id and edition = :edition",
    )
    work(bed)
    assert column(source_db, "exported") == [1, 1, 1, 0, 1, 1, 1]
    assert column(source_db, "state") == ["delivered"] * 7
    source_db.execute("drop trigger counted")
    for _ in range(3):
        bed.database.records.update_many({"acknowledge": {"$exists": True}}, {"$unset": {"acknowledge.due_at": True}})
        work(bed)
    assert column(source_db, "exported") == [1] * 7
    assert sent(bed) == 7


def test_a_row_in_the_midst_of_its_acknowledgement_is_left_alone(bed: Testbed) -> None:
    """A new version would look like an edit to whoever finds out whether the statement was committed."""
    bed.poll()
    bed.deliver()
    now = datetime.now(UTC) + timedelta(minutes=1)
    bed.database.records.update_one(
        {}, {"$set": {"acknowledge": {"version": "int:1", "begun": {"version_after": None}}}}
    )
    assert len(bed.ledger.write_backs.find("orders", now=now, limit=10)) == 6


def test_reading_waits_for_locks_as_before(bed: Testbed) -> None:
    work(bed)
    reader = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    reader.try_write_back()
    with reader._opened.connect() as connection:
        assert connection.exec_driver_sql("pragma busy_timeout").scalar() == 60_000


def test_clean_up_keeps_what_the_source_does_not_have(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(LOCKED)
    work(bed)
    kept = {"delivered": 0.0, "failed": 0.0, "discarded": 0.0}
    old = datetime.now(UTC) - timedelta(hours=5)
    bed.database.records.update_many({}, {"$set": {"finished_at": old, "logged_at": old}})
    for event in ("history",):
        bed.database.records.update_many({}, {"$set": {f"{event}.$[].at": old}})
    clean_up(ledger=bed.ledger, retention_seconds=kept, streams=["orders"], who="me")
    assert [record["key"]["id"] for record in bed.records()] == [4]
    # No poll tries any more.
    tried = datetime.now(UTC) - timedelta(days=31)
    bed.database.records.update_many({}, {"$set": {"write_back.due_at": tried}})
    clean_up(ledger=bed.ledger, retention_seconds=kept, streams=["orders"], who="me")
    assert not bed.records()


# Columns.


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"missing": "state"}, "there is no column missing"),
        ({"id": "state"}, "id is in the key"),
        ({"edition": "state"}, "edition is a integer column, and cannot hold state"),
        ({"edition": "delivered_at"}, "edition is a integer column, and cannot hold delivered_at"),
        ({"partner_id": "record_id"}, "partner_id holds 20 characters, and a record's id has 39"),
    ],
)
def test_a_column_that_cannot_hold_its_value_is_refused(bed: Testbed, columns: dict[str, str], why: str) -> None:
    bed.change_stream(write_back=columns)
    with pytest.raises(ConfigurationError) as caught:
        StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    assert why in caught.value.why
    assert str(caught.value).startswith("streams.orders.write_back is wrong")


def test_values_take_the_form_of_their_columns(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("drop table orders")
    source_db.execute(
        "create table orders (id text primary key, remote integer, day date, at timestamp, written text,"
        " [sync error] varchar(9) not null default '?')"
    )
    source_db.execute("insert into orders (id) values ('ä''1'), ('2')")
    bed.change_stream(
        timezone="Europe/Berlin",
        write_back={
            "remote": "remote.number",
            "day": "delivered_at",
            "at": "delivered_at",
            "WRITTEN": "delivered_at",
            "sync error": "error",
        },
    )
    bed.poll()
    bed.deliver()
    bed.database.keys.update_many({}, {"$set": {"remote": {"values": {"number": "0042"}, "seq": 1}}})
    at = datetime(2026, 1, 31, 23, 30, 0, 123000, tzinfo=UTC)
    bed.database.records.update_many({}, {"$set": {"delivered_at": at}})
    bed.poll()
    written = ("2026-02-01", "2026-02-01 00:30:00.123", "2026-02-01T00:30:00.123+01:00")
    rows = source_db.execute("select remote, day, at, written, [sync error] from orders")
    assert rows == [(42, *written, "")] * 2
    source_db.execute("update orders set remote = 43")
    with refusing(bed):
        assert bed.poll().logged == 0
    # What is no number fails alone.
    bed.database.keys.update_many({}, {"$set": {"remote.values": {"number": "n/a"}}})
    bed.ledger.operations.replay([record["_id"] for record in bed.records()], states=["delivered"], who="me")
    work(bed)
    errors = {record["write_back"]["error"] for record in bed.records()}
    assert len(errors) == 1
    assert errors.pop().startswith("column remote cannot hold remote.number: invalid literal")


def test_a_key_with_a_null_names_no_row(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("drop table orders")
    source_db.execute("create table orders (id integer, content text, state text)")
    source_db.execute("insert into orders (id, content) values (1, 'a'), (null, 'b')")
    bed.change_stream(key=("id",), write_back={"state": "state"})
    work(bed)
    assert {record["state"] for record in bed.records()} == {"delivered", "failed"}
    assert source_db.execute("select id, state from orders order by id") == [(None, None), (1, "delivered")]
    assert not bed.records(write_back={"$exists": True})


# What the doctor finds.


def test_the_doctor_tries_an_update_of_no_row(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("create table log (id integer)")
    source_db.execute("create trigger logged after update on orders begin insert into log values (new.id); end")
    reader = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    reader.try_write_back()
    assert source_db.execute("select count(*) from log") == [(0,)]
    with reader._opened.connect() as connection:
        connection.exec_driver_sql("pragma query_only = on")
    with pytest.raises(SourceError) as caught:
        reader.try_write_back()
    assert "readonly" in caught.value.why
    assert caught.value.hint == "let the user that runs syncctl write to the file and to its directory"


def test_the_doctor_takes_no_lock_for_a_missing_right(
    bed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncctl.sources.write_back.LOCK_SECONDS", 0.05)
    reader = StreamReader(bed.source, bed.stream)  # type: ignore[arg-type]
    with closing(sqlite3.connect(source_db.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        reader.try_write_back()


def test_a_computed_column_is_found_before_any_outcome(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute("alter table orders add column doubled text as (content || content)")
    bed.change_stream(write_back={"doubled": "state"})
    with pytest.raises((SourceError, ConfigurationError)) as caught:
        StreamReader(bed.source, bed.stream).try_write_back()  # type: ignore[arg-type]
    assert "doubled" in caught.value.why


# A process that dies while it writes.

POINTS = {
    "before the note": ("note_written", False),
    "before the commit": ("note_written", True),
    "after the commit": ("settle", False),
    "at the end": ("settle", True),
}


def poll_and_die(url: str, name: str, source: Source, stream: Stream, point: str) -> None:
    method, is_done = POINTS[point]
    with Ledger(url, name) as ledger:
        act: Callable[..., Any] = getattr(ledger.write_backs, method)

        def die(*args: Any, **options: Any) -> None:
            if is_done:
                act(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(ledger.write_backs, method, die)
        poll_stream(
            ledger=ledger,
            stream=stream,
            open_reader=lambda stream: StreamReader(source, stream),
            wake=lambda: False,
            worker="dies",
            lease_seconds=0.5,
        )


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_dies_while_it_writes_loses_no_outcome(
    bed: Testbed, source_db: SourceDb, mongo_server: Mongod, point: str
) -> None:
    bed.poll()
    bed.deliver()
    process = multiprocessing.get_context("spawn").Process(
        target=poll_and_die,
        args=(mongo_server.url(bed.database.name), bed.database.name, bed.source, bed.stream, point),
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    is_written = point in ("after the commit", "at the end")
    assert column(source_db, "state") == ["delivered" if is_written else None] * 7
    # An operator gives an older outcome to a row meanwhile; nothing of it is written over the newer one.
    deadline = time.monotonic() + 20
    while True:
        try:
            run = bed.poll()
            break
        except LeaseHeld:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (run.error, run.logged) == (None, 0)
    assert column(source_db, "state") == ["delivered"] * 7
    assert not bed.records(write_back={"$exists": True})
    assert sent(bed) == 7


def test_rows_that_change_while_they_are_written_are_sent_once_a_change(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute_many("insert into orders (id, content) values (?, 'a')", [(n,) for n in range(8, 301)])
    changes = 0
    stop = threading.Event()

    def change() -> None:
        nonlocal changes
        while not stop.is_set():
            source_db.execute("update orders set content = ? where id = ?", (f"c{changes}", changes % 300 + 1))
            changes += 1
            time.sleep(0.005)

    with RowPartner(lambda _: 200) as partner:
        bed.partner = replace(bed.partner, url=partner.url)
        writer = threading.Thread(target=change)
        writer.start()
        try:
            for _ in range(4):
                bed.poll()
                capture(bed)
                bed.deliver()
        finally:
            stop.set()
            writer.join()
        for _ in range(2):
            work(bed)
        assert len(partner.calls) <= 300 + changes
        quiet = len(partner.calls)
        for _ in range(3):
            work(bed)
        assert len(partner.calls) == quiet
    assert column(source_db, "state") == ["delivered"] * 300
    assert column(source_db, "partner_id") == [f"P-{n}" for n in range(1, 301)]
    newest = {key["_id"].partition(":")[2]: key["version"] for key in bed.database.keys.find()}
    by_row = {record["key"]["id"]: newest[record["key_id"]] for record in bed.records()}
    assert column(source_db, "record") == [by_row[n] for n in range(1, 301)]
    assert {record["state"] for record in bed.records()} <= {State.DELIVERED.value, State.SUPERSEDED.value}


def test_a_changed_line_is_noticed_where_the_row_is_written_to(bed: Testbed, source_db: SourceDb) -> None:
    source_db.execute(TOUCHED)
    source_db.execute("create table lines (order_id integer, line integer, sku text, primary key (order_id, line))")
    source_db.execute_many("insert into lines values (?, 1, 'a')", [(n,) for n in range(1, 8)])
    lines = Child(name="lines", table="lines", on=(("order_id", "id"),), sort=("line",))
    bed.change_stream(exclude=("edition",), children=(lines,))
    work(bed)
    assert column(source_db, "state") == ["delivered"] * 7
    source_db.execute("update lines set sku = 'b' where order_id = 3")
    work(bed)
    assert bed.poll().logged == 0
    assert sent(bed) == 8
    assert column(source_db, "record")[2] == bed.records()[-1]["_id"]
