"""Calls of many rows: one key of their own, the rows' keys in the body, and an outcome for each row."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from email.message import Message
from typing import Any

import pytest

from syncctl.core.breaker import BreakerRules, BreakerState
from syncctl.core.outcome import OutcomeRules, Verdict
from syncctl.core.stream import Batching, RetrySchedule
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
    assert all("solo" not in each for each in batches.records(state="delivered"))


def test_a_row_that_the_answer_leaves_out_goes_again(batches: Testbed) -> None:
    with BatchPartner(lambda rows: said(rows[1:])) as partner:
        meet(batches, partner)
        batches.deliver()
    assert sorted(each["key"]["id"] for each in batches.records(state="pending")) == [1, 5, 9]
    assert batches.record(1)["error"]["message"] == "the response does not mention this row"


@pytest.mark.parametrize("answer", [(200, {"fine": True}), (200, "text"), (200, None)])
def test_an_answer_without_the_list_is_not_an_acceptance(batches: Testbed, answer: tuple[int, Any]) -> None:
    with BatchPartner(lambda _: answer) as partner:
        meet(batches, partner)
        batches.deliver()
    assert {each["state"] for each in batches.records()} == {"pending"}
    assert batches.record(1)["error"]["message"] == "its JSON has no list at results"


def test_a_row_that_the_answer_leaves_out_is_held_where_it_may_not_go_twice(batches: Testbed) -> None:
    batches.change_stream(ambiguous="fail")
    with BatchPartner(lambda rows: said(rows[1:])) as partner:
        meet(batches, partner)
        batches.deliver()
    held = batches.records(state="failed")
    assert sorted(each["key"]["id"] for each in held) == [1, 5, 9]
    assert held[0]["error"]["message"] == (
        "the response does not mention this row; held, because the partner may have it"
    )


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
    assert {each["state"] for each in batches.records()} == {state}
    if state == "pending":
        assert batches.record(1)["error"]["message"] == "its response is longer than 106,496 bytes: lower batch"


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
    firsts = [each["history"][0] for each in batches.records()]
    assert {each["state"] for each in firsts} == {state}
    error = batches.record(5)["history"][0].get("error")
    assert (error is None) if reason is None else (reason in error and len(error) < 300)


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
    assert [each["key"]["id"] for each in batches.records(state="failed")] == [6]
    assert len(batches.records(state="delivered")) == 9


@pytest.mark.parametrize("status", [403, 410])
def test_the_status_of_a_row_never_pauses_a_partner(batches: Testbed, status: int) -> None:
    batches.change_stream(outcomes=OutcomeRules(common={status: Verdict.RETRY_LATER}))
    with BatchPartner(lambda rows: said(rows, row3=status)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert [each["key"]["id"] for each in batches.records(state="pending")] == [3]
    assert not batches.ledger.partners.load_gate("default").paused
    assert not batches.ledger.streams.load_gate("orders").paused


def test_refused_credentials_are_not_read_as_a_list(batches: Testbed) -> None:
    batches.change_stream(batching=replace(ITEMS, size=10))
    with BatchPartner(lambda rows: (401, said(rows)[1])) as partner:
        meet(batches, partner)
        batches.deliver()
        assert len(partner.calls) == 1
    assert {each["state"] for each in batches.records()} == {"pending"}
    assert batches.ledger.partners.load_gate("default").paused


def test_a_conflict_of_a_row_is_taken_as_the_stream_says(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY, outcomes=OutcomeRules(common={409: Verdict.ACCEPTED}))
    with BatchPartner(answer_each(statuses=lambda _: 409)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert {each["state"] for each in batches.records()} == {"delivered"}


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
    assert [each["key"]["id"] for each in batches.records(state="failed")] == [6]
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
    assert [each["state"] for each in batches.records(op="delete")] == ["delivered"] * 2


def test_no_secret_that_a_row_echoes_is_kept(batches: Testbed) -> None:
    batches.change_stream(batching=BY_KEY)
    batches.partner = replace(batches.partner, headers={"X-Api-Key": "s3cr3t-k3y-of-ours"})
    with BatchPartner(answer_each(message="bad key s3cr3t-k3y-of-ours\x1b[31m", statuses=lambda _: 422)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert batches.record(5)["error"]["message"] == "HTTP 422 for this row: bad key *** [31m"
    assert "s3cr3t-k3y-of-ours" not in str(batches.records())


def test_rows_are_told_apart_by_their_own_key_too(batches: Testbed) -> None:
    def answer(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return 207, {
            "results": [{"order": {"id": row["id"]}, "status": 200 + 222 * (row["id"] == 3)} for row in rows][::-1]
        }

    batches.change_stream(batching=replace(ITEMS, result_key="order.id"))
    with BatchPartner(answer) as partner:
        meet(batches, partner)
        batches.deliver()
    assert [each["key"]["id"] for each in batches.records(state="failed")] == [3]
    assert len(batches.records(state="delivered")) == 9


@pytest.mark.parametrize("status", [500, 429])
def test_a_partner_in_trouble_gets_the_same_rows_together_again(batches: Testbed, status: int) -> None:
    with BatchPartner(lambda _: (status, {})) as partner:
        meet(batches, partner)
        batches.deliver()
        assert {each["state"] for each in batches.records()} == {"pending"}
        partner.choose_answer = said
        batches.make_retries_due()
        batches.deliver()
    assert sorted(partner.calls[:3]) == sorted(partner.calls[3:])
    # A call of many rows is one call to the breaker.
    assert batches.database.streams.find_one({"_id": "orders"})["breaker"]["calls"] == 6
    assert {each["state"] for each in batches.records()} == {"delivered"}


def test_items_in_the_order_of_the_rows_and_a_condition_on_each(batches: Testbed) -> None:
    batches.change_stream(
        batching=Batching(size=5, under="rows", key="ref", results="$", result_accepted_when="ok=true")
    )
    with BatchPartner(lambda rows: (200, [{"ok": row["id"] != 2, "error": "duplicate"} for row in rows])) as partner:
        meet(batches, partner)
        batches.deliver()
    rows = [row for _, body in partner.calls for row in json.loads(body)["rows"]]
    assert {row["ref"] for row in rows} == {each["_id"] for each in batches.records()}
    assert batches.record(2)["error"]["message"] == "this row was refused: duplicate"
    assert len(batches.records(state="delivered")) == 9


def test_without_results_the_answer_is_about_all_rows(batches: Testbed) -> None:
    batches.change_stream(batching=Batching(size=10))
    with BatchPartner(lambda _: (204, None)) as partner:
        meet(batches, partner)
        batches.deliver()
    assert len(partner.calls) == 1
    assert {each["state"] for each in batches.records()} == {"delivered"}


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
