"""Calls of many rows: one key of their own, the rows' keys in the body, and an outcome for each row."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from typing import Any

import pytest

from syncctl.core.outcome import OutcomeRules, Verdict
from syncctl.core.states import BreakerState
from syncctl.core.stream import Batching, BreakerRules, RetrySchedule
from tests.harness.hostile_partner import HostilePartner, Peer, answering
from tests.harness.http_partner import HttpPartner
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

Answer = Callable[[list[dict[str, Any]]], tuple[int, Any]]
ITEMS = Batching(size=4, results="results", result_key="ref", result_status="status")


class BatchPartner(HttpPartner):
    """Takes lists of rows, and answers as a test wants it; remembers every call under its key, and what was deleted."""

    def __init__(self, choose_answer: Answer) -> None:
        super().__init__()
        self.calls: list[tuple[str, bytes]] = []
        self.deleted: list[str] = []
        self.choose_answer = choose_answer

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:
        self.calls.append((headers["Idempotency-Key"], body))
        document = json.loads(body)
        status, content = self.choose_answer(document["rows"] if isinstance(document, dict) else document)
        return status, json.dumps(content).encode()

    def delete(self, path: str) -> tuple[int, bytes]:
        self.deleted.append(path)
        return 204, b""

    def rows(self) -> list[list[int]]:
        """Return the ids of each call."""
        documents = (json.loads(body) for _, body in self.calls)
        return [
            [row["id"] for row in (document["rows"] if isinstance(document, dict) else document)]
            for document in documents
        ]


def said(rows: list[dict[str, Any]], **statuses: int) -> tuple[int, Any]:
    """Answer each row with its status, 200 where none is named, in another order than it was asked."""
    items = [
        {"ref": row["idempotency_key"], "status": statuses.get(f"row{row['id']}", 200), "message": "no such customer"}
        for row in rows
    ]
    return 207, {"results": items[::-1]}


@pytest.fixture
def batches(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(10)
    testbed.poll()
    testbed.change_stream(batching=ITEMS)
    return testbed


def meet(testbed: Testbed, partner: BatchPartner) -> None:
    testbed.partner = replace(testbed.partner, url=partner.url)


def test_rows_go_together_and_each_has_its_own_outcome(batches: Testbed) -> None:
    with BatchPartner(lambda rows: said(rows, row3=422, row7=503, row8=401)) as partner:
        meet(batches, partner)
        done = batches.deliver()
    assert sorted(len(rows) for rows in partner.rows()) == [2, 4, 4]
    assert done == {"delivered": 7, "failed": 2, "retrying": 1}
    assert [batches.record(n)["state"] for n in (2, 3, 7, 8)] == ["delivered", "failed", "pending", "failed"]
    assert batches.record(3)["error"]["message"] == "HTTP 422 for this row: no such customer"
    # A missing right for one row is no reason to stop calling the partner.
    assert not batches.ledger.partners.load_gate("default").paused


def test_the_key_of_a_call_is_made_of_its_rows_and_theirs_stay_in_the_body(batches: Testbed) -> None:
    with BatchPartner(said) as partner:
        meet(batches, partner)
        batches.deliver()
        keys = [key for key, _ in partner.calls]
        first = json.loads(partner.calls[0][1])[0]
        batches.database.records.update_many(
            {}, {"$set": {"state": "pending", "fresh": True, "due_at": batches.record(1)["logged_at"]}}
        )
        calls = list(partner.calls)
        batches.deliver()
    assert len(set(keys)) == 3
    assert all(key.startswith("orders-batch-") for key in keys)
    assert next(iter(first)) == "idempotency_key"
    assert first["idempotency_key"] == batches.record(first["id"])["_id"]
    # The same rows again: the same bytes under the same key.
    assert sorted(partner.calls[len(calls) :]) == sorted(calls)
    entry = batches.record(1)["history"][0]
    assert entry["idempotency_key"] == batches.record(1)["_id"]
    assert entry["batch_key"] in keys


def test_a_batch_that_is_refused_as_a_whole_fails_no_good_row(batches: Testbed) -> None:
    def refuse(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        bad = any(row["id"] == 6 for row in rows)
        return (400, {"message": "row 6 is bad"}) if bad else said(rows)

    with BatchPartner(refuse) as partner:
        meet(batches, partner)
        for _ in range(3):
            batches.deliver()
            batches.make_retries_due()
    assert sorted(partner.rows()[3:]) == [[5], [6], [7], [8]]
    assert {batches.record(n)["state"] for n in range(1, 11) if n != 6} == {"delivered"}
    assert batches.record(6)["state"] == "failed"
    assert all("solo" not in record for record in batches.records(state="delivered"))


def test_a_row_that_the_answer_leaves_out_goes_again(batches: Testbed) -> None:
    with BatchPartner(lambda rows: said(rows[1:])) as partner:
        meet(batches, partner)
        batches.deliver()
    assert sorted(record["key"]["id"] for record in batches.records(state="pending")) == [1, 5, 9]
    assert batches.record(1)["error"]["message"] == "the response does not mention this row"


@pytest.mark.parametrize("answer", [(200, {"fine": True}), (200, "text"), (200, None)])
def test_an_answer_without_the_list_is_not_an_acceptance(batches: Testbed, answer: tuple[int, Any]) -> None:
    with BatchPartner(lambda _: answer) as partner:
        meet(batches, partner)
        batches.deliver()
    assert {record["state"] for record in batches.records()} == {"pending"}
    assert batches.record(1)["error"]["message"] == "its JSON has no list at results"


def test_a_row_that_the_answer_leaves_out_is_held_where_it_may_not_go_twice(batches: Testbed) -> None:
    batches.change_stream(ambiguous="fail")
    with BatchPartner(lambda rows: said(rows[1:])) as partner:
        meet(batches, partner)
        batches.deliver()
    held = batches.records(state="failed")
    assert sorted(each["key"]["id"] for each in held) == [1, 5, 9]
    assert held[0]["error"]["message"] == (
        "the response does not mention this row; not sent again, because the partner may have it"
    )


@pytest.mark.parametrize("statuses", [(422, 200), (200, 422), (200, 503)])
def test_a_row_with_results_that_differ_is_neither_delivered_nor_failed(
    batches: Testbed, statuses: tuple[int, int]
) -> None:
    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        (status, listed), (first, second) = said(rows), statuses
        (item,) = (item for row in rows if row["id"] == 3 for item in listed["results"] if item["ref"] == named(row))
        others = [each for each in listed["results"] if each is not item]
        return status, {"results": [{**item, "status": first}, *others, {**item, "status": second}]}

    def named(row: dict[str, Any]) -> str:
        return str(row["idempotency_key"])

    batches.change_stream(batching=replace(ITEMS, size=10))
    with BatchPartner(answer) as partner:
        meet(batches, partner)
        done = batches.deliver()
    assert done == {"delivered": 9, "retrying": 1}
    refused = max(statuses)
    assert batches.record(3)["error"]["message"] == (
        f"the response has 2 different results for this row; one of them: HTTP {refused} for this row: no such customer"
    )


@pytest.mark.parametrize(("status", "state"), [(200, "delivered"), (422, "failed")])
def test_a_row_with_several_results_that_agree_has_their_outcome(batches: Testbed, status: int, state: str) -> None:
    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        kind, listed = said(rows, row3=status)
        return kind, {"results": [item for item in listed["results"] for _ in range(2)]}

    with BatchPartner(answer) as partner:
        meet(batches, partner)
        batches.deliver()
    assert batches.record(3)["state"] == state
    assert batches.record(4)["state"] == "delivered"


@pytest.mark.parametrize(("said_of_each", "state"), [(10_000, "delivered"), (30_000, "pending")])
def test_a_long_answer_is_read_as_far_as_its_rows_need(batches: Testbed, said_of_each: int, state: str) -> None:
    """A call of ten rows may be answered with 64 KiB and 4 KiB for each."""

    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        of_each = [{"ref": row["idempotency_key"], "status": 200, "echo": "x" * said_of_each} for row in rows]
        return 200, {"results": of_each}

    batches.change_stream(batching=replace(ITEMS, size=10))
    with BatchPartner(answer) as partner:
        meet(batches, partner)
        batches.deliver()
    assert {record["state"] for record in batches.records()} == {state}
    if state == "pending":
        assert batches.record(1)["error"]["message"] == "its response is longer than 106,496 bytes: lower rows_per_call"


def answer_each(
    *, status: int = 207, statuses: Callable[[int], Any] = lambda _: 200, drop: int = 0, **more: Any
) -> Callable[[list[dict[str, Any]]], tuple[int, Any]]:
    """Answer with a list in the order of the rows, without the first `drop`."""
    return lambda rows: (
        status,
        {"results": [{"ref": row["idempotency_key"], "status": statuses(row["id"]), **more} for row in rows][drop:]},
    )


BY_PLACE = replace(ITEMS, size=10, result_key=None)
BY_KEY = replace(ITEMS, size=10)


@pytest.mark.parametrize(
    ("batching", "answer", "state", "reason"),
    [
        (BY_PLACE, answer_each(drop=1), "pending", "its list at results has 9 items for 10 rows"),
        (replace(BY_PLACE, result_status=None), answer_each(status=400), "pending", "refused with 9 others"),
        (replace(BY_PLACE, result_status=None), answer_each(status=500), "pending", "HTTP 500"),
        (BY_KEY, answer_each(status=500), "pending", "HTTP 500"),
        (BY_KEY, answer_each(statuses=lambda _: 10**20), "pending", "the response has no status for this row"),
        (BY_KEY, answer_each(statuses=lambda _: True), "pending", "the response has no status for this row"),
        (replace(BY_KEY, result_accepted_when="ok=true"), answer_each(ok=False), "failed", "this row was refused"),
        (replace(BY_KEY, result_accepted_when="ok=true"), answer_each(ok=True), "delivered", None),
        (BY_KEY, answer_each(message="half \ud83d of it", statuses=lambda _: 422), "failed", "half ? of it"),
        (
            BY_KEY,
            answer_each(message="x" * 5000, statuses=lambda _: 422),
            "failed",
            "HTTP 422 for this row: " + "x" * 200,
        ),
    ],
)
def test_the_result_of_each_row_decides_its_outcome(
    batches: Testbed, batching: Batching, answer: Answer, state: str, reason: str | None
) -> None:
    batches.change_stream(batching=batching)
    with BatchPartner(answer) as partner:
        meet(batches, partner)
        batches.deliver()
        assert len(partner.rows()[0]) == 10
    firsts = [record["history"][0] for record in batches.records()]
    assert {first["state"] for first in firsts} == {state}
    error = batches.record(5)["history"][0].get("error")
    assert (error is None) if reason is None else (reason in error and len(error) < 300)


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"accepted_when": "ok"}, "its JSON does not meet ok: it has false there"),
        ({"rejected_when": "rolled_back"}, "its JSON meets rolled_back"),
    ],
)
def test_results_do_not_overrule_the_conditions_on_the_whole_answer(
    batches: Testbed, conditions: dict[str, str], reason: str
) -> None:
    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return 200, {"ok": False, "rolled_back": True, **answer_each(statuses=lambda _: 201)(rows)[1]}

    batches.change_stream(batching=BY_KEY, **conditions)
    with BatchPartner(answer) as partner:
        meet(batches, partner)
        batches.deliver()
    firsts = [record["history"][0] for record in batches.records()]
    assert {first["state"] for first in firsts} == {"pending"}
    assert all(reason in first["error"] for first in firsts)
    assert batches.records(state="delivered") == []


@pytest.mark.parametrize("listed", [[6], []])
def test_a_refusal_that_lists_only_the_bad_rows_fails_no_good_one(batches: Testbed, listed: list[int]) -> None:
    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        bad = [row for row in rows if row["id"] == 6]
        if not bad:
            return said(rows)
        return 422, {"results": [{"ref": row["idempotency_key"], "status": 422} for row in bad if row["id"] in listed]}

    with BatchPartner(answer) as partner:
        meet(batches, partner)
        for _ in range(3):
            batches.deliver()
            batches.make_retries_due()
    assert [record["key"]["id"] for record in batches.records(state="failed")] == [6]
    assert len(batches.records(state="delivered")) == 9


@pytest.mark.parametrize("status", [403, 410])
def test_the_status_of_a_row_never_pauses_a_partner(batches: Testbed, status: int) -> None:
    batches.change_stream(outcomes=OutcomeRules(common={status: Verdict.RETRY_LATER}))
    with BatchPartner(lambda rows: said(rows, row3=status)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert [record["key"]["id"] for record in batches.records(state="pending")] == [3]
    assert not batches.ledger.partners.load_gate("default").paused
    assert not batches.ledger.streams.load_gate("orders").paused


def test_refused_credentials_are_not_read_as_a_list(batches: Testbed) -> None:
    batches.change_stream(batching=replace(ITEMS, size=10))
    with BatchPartner(lambda rows: (401, said(rows)[1])) as partner:
        meet(batches, partner)
        batches.deliver()
        assert len(partner.calls) == 1
    assert {record["state"] for record in batches.records()} == {"pending"}
    assert batches.ledger.partners.load_gate("default").paused


def test_a_conflict_of_a_row_is_taken_as_the_stream_says(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY, outcomes=OutcomeRules(common={409: Verdict.ACCEPTED}))
    with BatchPartner(answer_each(statuses=lambda _: 409)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert {record["state"] for record in batches.records()} == {"delivered"}


def test_a_row_to_retry_is_not_sent_earlier_than_the_partner_asked(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY)
    with BatchPartner(answer_each(statuses=lambda _: 429)) as partner:
        partner.headers = {"Retry-After": "900"}
        meet(batches, partner)
        batches.deliver()
    due = batches.record(1)["due_at"].replace(tzinfo=UTC)
    assert (due - batches.ledger.streams.server_time()).total_seconds() > 850


def test_a_503_opens_the_breaker_whatever_the_answer_lists(batches: Testbed) -> None:
    batches.change_stream(batching=replace(ITEMS, size=1))
    batches.change_stream(batching=replace(ITEMS, size=2), batch_size=2, window=2)
    batches.partner = replace(batches.partner, breaker=BreakerRules(minimum_calls=3))
    with BatchPartner(lambda _: (503, {"results": []})) as partner:
        meet(batches, partner)
        batches.deliver()
        assert len(partner.calls) == 3
    assert batches.ledger.streams.load_gate("orders").breaker.state is BreakerState.OPEN


def test_a_bad_row_costs_those_beside_it_no_try(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY, retry=RetrySchedule(delays_seconds=()))
    with BatchPartner(lambda rows: said(rows) if len(rows) == 1 and rows[0]["id"] != 6 else (400, {})) as partner:
        meet(batches, partner)
        batches.deliver()
    assert [record["key"]["id"] for record in batches.records(state="failed")] == [6]
    assert len(batches.records(state="delivered")) == 9


def test_a_row_sent_alone_is_not_a_list_and_its_answer_is_not_read_as_one(
    batches: Testbed, source_db: SourceDb
) -> None:
    batches.change_stream(
        batching=ITEMS, delete_method="DELETE", delete_path="/orders/{id}", mode="snapshot", cursor=None
    )
    with BatchPartner(said) as partner:
        meet(batches, partner)
        batches.deliver()
        batches.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
        source_db.execute("delete from orders where id in (1, 2)")
        assert batches.poll().error is None
        batches.deliver()
        assert sorted(partner.deleted) == ["/orders/1", "/orders/2"]
    assert [record["state"] for record in batches.records(op="delete")] == ["delivered"] * 2


def test_no_secret_that_a_row_echoes_is_kept(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY)
    batches.partner = replace(batches.partner, headers={"X-Api-Key": "s3cr3t-k3y-of-ours"})
    with BatchPartner(answer_each(message="bad key s3cr3t-k3y-of-ours\x1b[31m", statuses=lambda _: 422)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert batches.record(5)["error"]["message"] == "HTTP 422 for this row: bad key *** [31m"
    assert "s3cr3t-k3y-of-ours" not in str(batches.records())


def test_the_beginning_of_a_secret_that_a_refused_row_echoes_is_not_kept(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY)
    batches.partner = replace(batches.partner, headers={"X-Api-Key": "s3cr3t-k3y-of-ours"})
    with BatchPartner(answer_each(message="bad key s3cr3t-k3...", statuses=lambda _: 422)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert "bad key ***..." in str(batches.record(5))
    assert "s3cr3t-k3" not in str(batches.records())


def test_rows_are_told_apart_by_their_own_key_too(batches: Testbed) -> None:
    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return 207, {
            "results": [{"order": {"id": row["id"]}, "status": 200 + 222 * (row["id"] == 3)} for row in rows][::-1]
        }

    batches.change_stream(batching=replace(ITEMS, result_key="order.id"))
    with BatchPartner(answer) as partner:
        meet(batches, partner)
        batches.deliver()
    assert [record["key"]["id"] for record in batches.records(state="failed")] == [3]
    assert len(batches.records(state="delivered")) == 9


@pytest.mark.parametrize("status", [500, 429])
def test_a_partner_in_trouble_gets_the_same_rows_together_again(batches: Testbed, status: int) -> None:
    with BatchPartner(lambda _: (status, {})) as partner:
        meet(batches, partner)
        batches.deliver()
        assert {record["state"] for record in batches.records()} == {"pending"}
        partner.choose_answer = said
        batches.make_retries_due()
        batches.deliver()
    assert sorted(partner.calls[:3]) == sorted(partner.calls[3:])
    # A call of many rows is one call to the breaker.
    assert batches.database.streams.find_one({"_id": "orders"})["breaker"]["calls"] == 6
    assert {record["state"] for record in batches.records()} == {"delivered"}


def test_two_versions_of_a_row_do_not_go_together(testbed: Testbed, source_db: SourceDb) -> None:
    """A partner that names rows by their own key has one name for both, and the call could not be read at all."""
    testbed.change_stream(order="none", mode="increasing", cursor="updated_at", batching=replace(ITEMS, size=10))
    source_db.create_orders(3)
    testbed.poll()
    source_db.execute("update orders set updated_at = '2026-01-02 00:00:00' where id = 2")
    testbed.poll()
    with BatchPartner(lambda rows: (200, {"results": [{"ref": row["id"], "status": 200} for row in rows]})) as partner:
        meet(testbed, partner)
        testbed.deliver()
    assert testbed.states() == {1: ["delivered"], 2: ["delivered"] * 2, 3: ["delivered"]}
    assert sorted(partner.rows()) == [[1, 2, 3], [2]]


@pytest.mark.parametrize(
    "batching",
    [
        Batching(size=10),
        Batching(size=10, results="results", result_status="status"),
        Batching(size=10, results="results", result_key="idempotency_key", result_status="status"),
    ],
)
def test_versions_of_a_row_go_together_where_no_result_names_their_row(
    testbed: Testbed, source_db: SourceDb, batching: Batching
) -> None:
    """With `append_only`, all rows of a page may have one key: each would be a call of its own."""
    source_db.execute("create table measurements (id integer primary key, sensor text)")
    source_db.execute_many("insert into measurements values (?, 's')", [(number,) for number in range(1, 11)])
    testbed.change_stream(table="measurements", key=("sensor",), cursor="id", append_only=True)
    testbed.change_stream(order="none", batching=batching)
    testbed.poll()

    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return 200, {"results": [{"idempotency_key": row["idempotency_key"], "status": 200} for row in rows]}

    with BatchPartner(answer) as partner:
        meet(testbed, partner)
        assert testbed.deliver() == {"delivered": 10}
    assert [len(rows) for rows in partner.rows()] == [10]


def test_items_in_the_order_of_the_rows_and_a_condition_on_each(batches: Testbed) -> None:
    batches.change_stream(
        batching=Batching(size=5, under="rows", key="ref", results="$", result_accepted_when="ok=true")
    )
    with BatchPartner(lambda rows: (200, [{"ok": row["id"] != 2, "error": "duplicate"} for row in rows])) as partner:
        meet(batches, partner)
        batches.deliver()
    rows = [row for _, body in partner.calls for row in json.loads(body)["rows"]]
    assert {row["ref"] for row in rows} == {record["_id"] for record in batches.records()}
    assert batches.record(2)["error"]["message"] == "this row was refused: duplicate"
    assert len(batches.records(state="delivered")) == 9


def test_without_results_the_answer_is_about_all_rows(batches: Testbed) -> None:
    batches.change_stream(batching=Batching(size=10))
    with BatchPartner(lambda _: (204, None)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert len(partner.calls) == 1
    assert {record["state"] for record in batches.records()} == {"delivered"}


def test_a_new_shape_of_batches_is_a_new_key(batches: Testbed) -> None:
    with BatchPartner(lambda _: (500, {})) as partner:
        meet(batches, partner)
        batches.deliver()
        batches.change_stream(batching=replace(ITEMS, under="rows"))
        partner.choose_answer = said
        batches.make_retries_due()
        batches.deliver()
    row = json.loads(partner.calls[-1][1])["rows"][0]
    assert row["idempotency_key"].endswith("-2")


def test_unlike_calls_do_not_go_together(batches: Testbed, source_db: SourceDb) -> None:
    batches.change_stream(batching=ITEMS, delete_method="POST", delete_path="/gone", mode="snapshot", cursor=None)
    with BatchPartner(said) as partner:
        meet(batches, partner)
        batches.deliver()
        batches.database.streams.update_one({"_id": "orders"}, {"$unset": {"cursor": True}})
        source_db.execute("delete from orders where id in (1, 2)")
        source_db.execute("update orders set note = 'new' where id in (3, 4)")
        assert batches.poll().error is None
        calls = len(partner.calls)
        batches.deliver()
    assert sorted(map(len, partner.rows()[calls:])) == [2, 2]


def test_a_row_with_a_field_in_the_place_of_its_key_is_not_sent(batches: Testbed) -> None:
    """A reader that meets a name twice takes the last one: the column would stand for the key."""
    batches.change_stream(batching=Batching(size=4, key="customer"))
    with BatchPartner(said) as partner:
        meet(batches, partner)
        done = batches.deliver()
    assert partner.calls == []
    assert done == {"failed": 10}
    assert batches.record(1)["error"]["message"].startswith("the row has a field customer, where a call of several")


# One row that spoils the call for the others.


def cut_call(peer: Peer) -> None:
    peer.reset()


def answer_never(peer: Peer) -> None:
    peer.hold()


class SpoiledCalls:
    """A partner at which each call with a certain row fails; `calls` are the rows of each call."""

    def __init__(self, row: int, fail: Callable[[Peer], None]) -> None:
        self.calls: list[list[int]] = []
        self._row = row
        self._fail = fail

    def __call__(self, peer: Peer) -> None:
        while request := peer.read_request():
            document = json.loads(request.partition(b"\r\n\r\n")[2])
            rows = [row["id"] for row in document]
            self.calls.append(rows)
            if self._row in rows:
                self._fail(peer)
            else:
                peer.answer("200 OK", json.dumps({"ok": True, "results": [{"status": 200}] * len(rows)}).encode())


def deliver_until_done(testbed: Testbed, *, at_most: int) -> None:
    for _ in range(at_most):
        testbed.deliver()
        if not testbed.records(state="pending"):
            return
        testbed.settle_calls()
        testbed.make_retries_due()
    raise AssertionError([(record["key"]["id"], record["error"]) for record in testbed.records(state="pending")])


@pytest.mark.parametrize("delays", [(60.0, 600.0), (60.0,), ()])
@pytest.mark.parametrize(
    ("fail", "changes"),
    [
        (lambda peer: peer.answer("500 Broken"), {}),
        (lambda peer: peer.answer("504 Gateway Timeout"), {}),
        (lambda peer: peer.answer("200 OK", b'{"ok":false}'), {"accepted_when": "ok=true"}),
        (
            lambda peer: peer.answer("200 OK", b"{}"),
            {"batching": Batching(size=16, results="results", result_status="status")},
        ),
        (cut_call, {}),
        (answer_never, {}),
    ],
    ids=["5xx", "504", "not accepted", "no results", "cut", "hang"],
)
def test_a_row_that_spoils_its_calls_ends_alone_and_takes_no_other_along(
    testbed: Testbed,
    source_db: SourceDb,
    delays: tuple[float, ...],
    fail: Callable[[Peer], None],
    changes: dict[str, Any],
) -> None:
    if fail is answer_never and len(delays) != 1:
        pytest.skip("each of its calls takes a second")
    source_db.create_orders(16)
    testbed.poll()
    options = {"batching": Batching(size=16), "retry": RetrySchedule(delays_seconds=delays, jitter=0.0)}
    testbed.change_stream(**{**options, **changes})
    partner = SpoiledCalls(5, fail)
    with HostilePartner(partner) as server:
        testbed.partner = replace(
            testbed.partner, url=server.url, timeout_seconds=1.0, breaker=BreakerRules(minimum_calls=1000)
        )
        deliver_until_done(testbed, at_most=12)
    assert {record["key"]["id"]: record["state"] for record in testbed.records()} == {
        row: "failed" if row == 5 else "delivered" for row in range(1, 17)
    }
    sizes = [len(rows) for rows in partner.calls if 5 in rows]
    together = min(len(delays), 1) + 1
    assert sizes == [*[16] * together, 8, 4, 2, *[1] * (sizes.count(1))]
    # Alone, it has what is left of its schedule.
    assert testbed.record(5)["tries"] == len(delays) + 1
    assert {record["tries"] for record in testbed.records(state="delivered")} <= {1, 2}
    assert "failed with 15 others, will be sent with at most 7 others next" in str(testbed.record(5)["history"])
    assert all("rows_at_most" not in record for record in testbed.records(state="delivered"))


def test_new_rows_do_not_travel_with_one_that_spoils_calls(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(7)
    testbed.poll()
    testbed.change_stream(batching=Batching(size=8))
    partner = SpoiledCalls(7, cut_call)
    with HostilePartner(partner) as server:
        testbed.partner = replace(testbed.partner, url=server.url, breaker=BreakerRules(minimum_calls=1000))
        for turn in range(6):
            testbed.deliver()
            testbed.settle_calls()
            testbed.make_retries_due()
            source_db.add_orders([100 + turn])
            testbed.poll()
    spoiled = [rows for rows in partner.calls if 7 in rows]
    # Until the second failure nobody knows.
    assert len(spoiled) > 3
    assert max(row for rows in spoiled[2:] for row in rows) == 7
    assert testbed.record(105)["state"] == "pending"
    assert {testbed.record(row)["state"] for row in range(101, 105)} == {"delivered"}


@pytest.mark.parametrize("status", ["429 Slow", "425 Early", "503 Busy"])
def test_a_limit_of_the_partner_halves_nothing(testbed: Testbed, source_db: SourceDb, status: str) -> None:
    source_db.create_orders(8)
    testbed.poll()
    testbed.change_stream(batching=Batching(size=8))
    with HostilePartner(answering(status)) as server:
        testbed.partner = replace(testbed.partner, url=server.url, breaker=BreakerRules(minimum_calls=1000))
        for _ in range(2):
            testbed.deliver()
            testbed.make_retries_due()
    halved = {record.get("rows_at_most") for record in testbed.records()}
    assert halved == ({4} if status.startswith("503") else {None})


def test_rows_that_cannot_be_reached_together_stay_together(testbed: Testbed, source_db: SourceDb) -> None:
    """Nothing was sent: no row can have been the reason."""
    source_db.create_orders(8)
    testbed.poll()
    testbed.change_stream(batching=Batching(size=8))
    testbed.partner = replace(testbed.partner, url="http://127.0.0.1:1", breaker=BreakerRules(minimum_calls=1000))
    for _ in range(2):
        testbed.deliver()
        testbed.make_retries_due()
    assert {record.get("rows_at_most") for record in testbed.records()} == {None}


def test_a_row_whose_credentials_are_refused_in_company_fails_alone_in_the_end(
    testbed: Testbed, source_db: SourceDb
) -> None:
    source_db.create_orders(4)
    testbed.poll()
    testbed.change_stream(batching=Batching(size=2))

    def refuse(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return (403, {}) if any(row["id"] == 3 for row in rows) else (200, {})

    with BatchPartner(refuse) as partner:
        meet(testbed, partner)
        testbed.partner = replace(testbed.partner, max_in_flight=1)
        deliver_until_done(testbed, at_most=8)
    assert testbed.states() == {1: ["delivered"], 2: ["delivered"], 3: ["failed"], 4: ["delivered"]}


class SmallPartner(BatchPartner):
    """Refuses a body of more than so many bytes as too large."""

    def __init__(self, at_most: int) -> None:
        super().__init__(lambda _: (200, {}))
        self.at_most = at_most
        self.refused = 0

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:
        answer = super().answer(headers, body)
        if len(body) <= self.at_most:
            return answer
        self.refused += 1
        return 413, b"{}"


def test_a_body_that_is_too_large_is_halved_and_remembered(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(64)
    testbed.poll()
    testbed.change_stream(batching=Batching(size=64))
    with SmallPartner(3000) as partner:
        meet(testbed, partner)
        for _ in range(4):
            testbed.deliver()
        assert {record["state"] for record in testbed.records()} == {"delivered"}
        assert {record["tries"] for record in testbed.records()} == {1}
        refused = partner.refused
        assert 1 <= refused <= 6
        at_most = testbed.ledger.streams.load_gate("orders").body_at_most
        assert at_most is not None
        assert at_most <= 3000
        # Other rows, and other processes, know from the beginning.
        source_db.add_orders(range(100, 164))
        testbed.poll()
        testbed.deliver()
        assert partner.refused == refused
        assert testbed.record(163)["state"] == "delivered"
        # After a day a larger one is tried again.
        past = datetime(2020, 1, 1, tzinfo=UTC)
        testbed.database.streams.update_one({"_id": "orders"}, {"$set": {"too_large.at": past}})
        assert testbed.ledger.streams.load_gate("orders").body_at_most is None
        assert testbed.ledger.streams.limit_body("orders", refused_bytes=9000, rows=64) == 4500


def test_a_row_that_is_too_large_alone_fails(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set note = ? where id = 2", ("x" * 5000,))
    testbed.poll()
    testbed.change_stream(batching=Batching(size=3))
    with SmallPartner(3000) as partner:
        meet(testbed, partner)
        for _ in range(3):
            testbed.deliver()
    assert testbed.states() == {1: ["delivered"], 2: ["failed"], 3: ["delivered"]}
    assert testbed.record(2)["error"]["status"] == 413
