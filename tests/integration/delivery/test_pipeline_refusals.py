"""A refusal is judged by what other calls got: about one record, or about all; pauses of syncctl end by a probe."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.stream import RetrySchedule
from tests.harness import passing_time
from tests.harness.hostile_partner import HostilePartner, answering
from tests.harness.http_partner import RowPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def backlog(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(60)
    testbed.poll()
    return testbed


def meet(testbed: Testbed, url: str) -> None:
    testbed.partner = replace(testbed.partner, url=url)


def let_probe(testbed: Testbed) -> None:
    for name in ("streams", "partners"):
        testbed.database[name].update_many({"paused.until": {"$exists": True}}, {"$set": {"paused.until": PAST}})


def paused(testbed: Testbed, kind: str = "partners") -> dict[str, Any] | None:
    name = {"partners": "default", "streams": "orders"}[kind]
    found: dict[str, Any] = testbed.database[kind].find_one({"_id": name}) or {}
    return found.get("paused")


def count_states(testbed: Testbed) -> dict[str, int]:
    states = [record["state"] for record in testbed.records()]
    return {state: states.count(state) for state in sorted(set(states))}


def deliver_with(testbed: Testbed, choose_status: Callable[[int], int]) -> list[int]:
    with RowPartner(choose_status) as server:
        meet(testbed, server.url)
        testbed.deliver()
    return server.calls


@pytest.mark.parametrize("status", [401, 403])
def test_a_row_that_is_refused_alone_ends_as_failed_and_pauses_nothing(backlog: Testbed, status: int) -> None:
    for _ in range(3):
        deliver_with(backlog, lambda row: status if row == 30 else 201)
        assert paused(backlog) is None
        backlog.make_retries_due()
    assert count_states(backlog) == {"delivered": 59, "failed": 1}
    assert backlog.record(30)["tries"] == 3
    assert backlog.record(30)["error"]["status"] == status


def test_a_limit_told_as_403_with_a_retry_after_is_waited_for(backlog: Testbed) -> None:
    backlog.change_stream(batch_size=10, window=10)
    with HostilePartner(answering("403 Forbidden", b"", "Retry-After: 500")) as server:
        meet(backlog, server.url)
        backlog.deliver()
        assert 10 <= len(server.requests) < 60
    assert paused(backlog) is None
    breaker = backlog.database.streams.find_one({"_id": "orders"})["breaker"]
    assert breaker["state"] == "open"
    left = (breaker["until"].replace(tzinfo=UTC) - backlog.ledger.streams.server_time()).total_seconds()
    assert 400 < left <= 500


def test_refused_credentials_are_probed_at_growing_intervals_until_they_pass(backlog: Testbed) -> None:
    deliver_with(backlog, lambda _: 401)
    assert backlog.deliver() == {}
    waits, probes = [], []
    for _ in range(6):
        let_probe(backlog)
        probes += deliver_with(backlog, lambda _: 401)
        pause = paused(backlog)
        assert pause is not None
        waits.append(round((pause["until"].replace(tzinfo=UTC) - backlog.ledger.streams.server_time()).total_seconds()))
    assert len(probes) == 6
    assert probes[0] != probes[1] != probes[2]
    assert [round(wait / 30) for wait in waits] == [2, 4, 8, 16, 20, 20]
    assert {record["tries"] for record in backlog.records()} == {0}
    let_probe(backlog)
    deliver_with(backlog, lambda _: 201)
    assert paused(backlog) is None
    assert count_states(backlog) == {"delivered": 60}


def test_credentials_that_expire_in_the_middle_pause_the_partner(backlog: Testbed) -> None:
    """The last accepted call is of this minute, and many are refused after it."""
    backlog.partner = replace(backlog.partner, max_in_flight=1)
    calls = deliver_with(backlog, lambda row: 201 if row <= 30 else 401)
    assert paused(backlog) is not None
    assert len(calls) < 60
    assert max(record["tries"] for record in backlog.records(state="pending")) <= 1
    let_probe(backlog)
    backlog.make_retries_due()
    deliver_with(backlog, lambda _: 201)
    assert count_states(backlog) == {"delivered": 60}


def test_many_rows_in_a_row_that_are_refused_for_their_text_do_not_hold_the_others(
    backlog: Testbed, source_db: SourceDb
) -> None:
    for turn in range(8):
        deliver_with(backlog, lambda row: 403 if row <= 25 else 201)
        let_probe(backlog)
        backlog.make_retries_due()
        source_db.add_orders([100 + turn])
        backlog.poll()
    deliver_with(backlog, lambda row: 403 if row <= 25 else 201)
    assert count_states(backlog) == {"delivered": 43, "failed": 25}


def test_a_row_known_to_be_refused_alone_pauses_nothing_when_no_other_is_sent(backlog: Testbed) -> None:
    backlog.change_stream(batch_size=30, window=30)
    backlog.partner = replace(backlog.partner, max_in_flight=1)
    deliver_with(backlog, lambda row: 403 if row == 10 else 201)
    for _ in range(2):
        backlog.database.partners.update_many({}, {"$set": {"accepted_at": PAST}})
        backlog.make_retries_due()
        assert deliver_with(backlog, lambda _: 403) == [10]
    assert backlog.record(10)["state"] == "failed"
    assert paused(backlog) is None


@pytest.mark.parametrize("kind", ["partners", "streams"])
def test_an_operators_pause_stays_until_it_is_resumed(backlog: Testbed, kind: str) -> None:
    deliver_with(backlog, lambda _: 401 if kind == "partners" else 410)
    assert paused(backlog, kind) is not None
    rooms: Any = {"partners": backlog.ledger.partners, "streams": backlog.ledger.streams}
    name = "default" if kind == "partners" else "orders"
    rooms[kind].pause(name, who="me", reason="maintenance")
    let_probe(backlog)
    assert deliver_with(backlog, lambda _: 201) == []
    assert paused(backlog, kind) is not None
    rooms[kind].resume(name)
    deliver_with(backlog, lambda _: 201)
    assert count_states(backlog) == {"delivered": 60}


@pytest.mark.parametrize("status", [301, 404, 405, 410, 422])
def test_an_answer_that_meets_all_holds_the_stream_and_no_record_fails(backlog: Testbed, status: int) -> None:
    calls = deliver_with(backlog, lambda _: status)
    pause = paused(backlog, "streams")
    assert pause is not None
    assert f"HTTP {status}" in pause["reason"]
    assert len(calls) >= (1 if status == 410 else 20)
    assert count_states(backlog) == {"pending": 60}
    assert backlog.deliver() == {}
    let_probe(backlog)
    assert len(deliver_with(backlog, lambda _: status)) == 1
    assert count_states(backlog) == {"pending": 60}
    let_probe(backlog)
    deliver_with(backlog, lambda _: 201)
    assert paused(backlog, "streams") is None
    assert count_states(backlog) == {"delivered": 60}


def test_what_failed_slowly_one_by_one_is_taken_back_with_its_run(backlog: Testbed) -> None:
    backlog.partner = replace(backlog.partner, max_in_flight=1)
    backlog.change_stream(batch_size=4, window=4)
    deliver_with(backlog, lambda _: 404)
    assert paused(backlog, "streams") is not None
    assert count_states(backlog) == {"pending": 60}
    assert "taken_back" in {entry["action"] for record in backlog.records() for entry in record.get("history", ())}


@pytest.mark.parametrize("status", [404, 422])
def test_a_run_of_rows_that_are_bad_themselves_fails_once_another_is_accepted(backlog: Testbed, status: int) -> None:
    for _ in range(6):
        deliver_with(backlog, lambda row: status if row <= 40 else 201)
        let_probe(backlog)
    assert count_states(backlog) == {"delivered": 20, "failed": 40}
    assert paused(backlog, "streams") is None


def test_a_row_whose_own_endpoint_is_gone_holds_the_stream_once(backlog: Testbed, source_db: SourceDb) -> None:
    backlog.change_stream(retry=RetrySchedule(delays_seconds=(60.0,), jitter=0.0))
    for turn in range(4):
        deliver_with(backlog, lambda row: 410 if row == 1 else 201)
        let_probe(backlog)
        backlog.make_retries_due()
        source_db.add_orders([100 + turn])
        backlog.poll()
    deliver_with(backlog, lambda row: 410 if row == 1 else 201)
    assert count_states(backlog) == {"delivered": 63, "failed": 1}
    assert paused(backlog, "streams") is None


def test_refusals_with_successes_between_fail_as_ever(backlog: Testbed) -> None:
    backlog.partner = replace(backlog.partner, max_in_flight=1)
    deliver_with(backlog, lambda row: 201 if row % 10 == 0 else 422)
    assert count_states(backlog) == {"delivered": 6, "failed": 54}


def test_the_run_is_not_counted_where_it_is_switched_off(backlog: Testbed) -> None:
    backlog.change_stream(pause_after_refusals=0)
    deliver_with(backlog, lambda _: 404)
    assert count_states(backlog) == {"failed": 60}


def make_rows_and_deletes(testbed: Testbed, source_db: SourceDb) -> None:
    """Let half of the delivered rows be gone, and the others have changed."""
    testbed.change_stream(
        mode="snapshot", cursor=None, delete_method="DELETE", delete_path="/orders/{id}", pause_after_refusals=5
    )
    source_db.create_orders(20)
    testbed.poll()
    deliver_with(testbed, lambda _: 201)
    source_db.execute("delete from orders where id <= 10")
    source_db.execute("update orders set note = 'changed'")
    testbed.poll()


class WrongAddress(RowPartner):
    """Answers 404 to every address, or another status to one and to the other method."""

    def __init__(self, status: int = 404, *, to_delete: int = 404) -> None:
        super().__init__(lambda _: status)
        self.to_delete = to_delete
        self.deleted: list[str] = []

    def delete(self, path: str) -> tuple[int, bytes]:
        self.deleted.append(path)
        return self.to_delete, b"{}"


class RightAddress(WrongAddress):
    """Takes every upsert and delete."""

    def __init__(self) -> None:
        super().__init__(201, to_delete=204)


def test_deletes_at_a_wrong_address_are_taken_back_with_the_others(testbed: Testbed, source_db: SourceDb) -> None:
    """That a row is gone, a wrong address says too."""
    make_rows_and_deletes(testbed, source_db)
    with WrongAddress() as server:
        meet(testbed, server.url)
        testbed.deliver()
        assert paused(testbed, "streams") is not None
        assert server.deleted
        before = len(server.calls)
        # A delete ends no pause either, and is not the one to probe, not even as the newest.
        source_db.execute("delete from orders where id = 20")
        testbed.poll()
        let_probe(testbed)
        testbed.deliver()
        assert paused(testbed, "streams") is not None
        assert len(server.calls) == before + 1
    assert testbed.database.records.count_documents({"op": "delete", "state": "pending"}) == 11
    let_probe(testbed)
    with RowPartner(lambda _: 201) as server:
        deleted: list[str] = []
        server.delete = lambda path: (deleted.append(path), (204, b""))[1]  # type: ignore[method-assign]
        meet(testbed, server.url)
        testbed.deliver()
    assert sorted(deleted) == sorted(f"/orders/{row}" for row in [*range(1, 11), 20])
    assert paused(testbed, "streams") is None
    assert testbed.database.records.count_documents({"state": {"$nin": ["delivered", "superseded"]}}) == 0


def test_a_delete_of_a_row_that_is_gone_does_not_end_a_run_of_refusals(testbed: Testbed, source_db: SourceDb) -> None:
    make_rows_and_deletes(testbed, source_db)
    with RowPartner(lambda _: 422) as server:
        server.delete = lambda _: (404, b"{}")  # type: ignore[method-assign]
        meet(testbed, server.url)
        testbed.partner = replace(testbed.partner, max_in_flight=1)
        testbed.deliver()
    assert paused(testbed, "streams") is not None
    assert testbed.database.records.count_documents({"state": "failed"}) == 0


@pytest.mark.parametrize(("status", "to_delete"), [(404, 404), (405, 404), (404, 410), (410, 404), (410, 410)])
def test_deletes_that_a_wrong_address_meets_first_are_taken_back_too(
    testbed: Testbed, source_db: SourceDb, status: int, to_delete: int
) -> None:
    """All that is due when the address goes wrong may be deletes; the others come hours later."""
    make_rows_and_deletes(testbed, source_db)
    testbed.database.records.update_many({"op": "upsert"}, {"$set": {"due_at": FAR}})
    with WrongAddress(status, to_delete=to_delete) as server:
        meet(testbed, server.url)
        testbed.deliver()
        assert len(server.deleted) == 10
        assert count_states(testbed)["delivered"] == 30
        passing_time.let_hours_pass(testbed.database, 3)
        testbed.make_retries_due()
        testbed.deliver()
        assert paused(testbed, "streams") is not None
    assert testbed.database.records.count_documents({"op": "delete", "state": "pending"}) == 10
    testbed.ledger.streams.resume("orders")
    with RightAddress() as server:
        meet(testbed, server.url)
        testbed.deliver()
    assert sorted(server.deleted) == sorted(f"/orders/{row}" for row in range(1, 11))
    assert count_states(testbed).keys() == {"delivered"}
    assert "gone" not in testbed.database.streams.find_one({"_id": "orders"})


def test_deletes_that_were_done_before_a_record_was_accepted_stay_done(testbed: Testbed, source_db: SourceDb) -> None:
    make_rows_and_deletes(testbed, source_db)
    with WrongAddress(201) as server:
        meet(testbed, server.url)
        testbed.deliver()
        source_db.add_orders([30])
        testbed.poll()
        testbed.deliver()
        assert "gone" not in testbed.database.streams.find_one({"_id": "orders"})
    source_db.add_orders(range(40, 60))
    testbed.poll()
    deliver_with(testbed, lambda _: 404)
    assert paused(testbed, "streams") is not None
    assert testbed.database.records.count_documents({"op": "delete", "state": "delivered"}) == 10


def test_an_accepted_record_forgets_no_delete_that_was_answered_after_it(testbed: Testbed, database: Any) -> None:
    streams = testbed.ledger.streams
    before = streams.server_time()
    streams.note_gone("orders")
    between = streams.server_time()
    time.sleep(0.01)
    streams.note_gone("orders")
    assert before <= streams.load_gone_since("orders") <= between
    streams.end_gone("orders", accepted_at=between)
    assert streams.load_gone_since("orders") == between
    streams.end_gone("orders", accepted_at=streams.server_time() + timedelta(seconds=1))
    assert streams.load_gone_since("orders") is None
    assert not streams.load_gate("orders").has_gone
