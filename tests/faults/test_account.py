"""The account finds every violation that it is meant to find; if it missed one, every run would pass with it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import pytest

from syncctl.local.mock_partner import ReceivedCall
from tests.harness.account import Documents, take_account
from tests.harness.written_source import Line, Version

OLD = Version(1, "customer 1", Decimal("1.10"), "", 1)
NEW = Version(1, "customer 1", Decimal("2.20"), "ü", 2)


def attempt(key: str, number: int, outcome: str = "accepted", status: int | None = 201, **more: Any) -> dict[str, Any]:
    entry = {"action": "attempt", "n": number, "outcome": outcome, "status": status, "idempotency_key": key}
    return entry | more


def record(record_id: str, version: Version, seq: int, *history: dict[str, Any]) -> dict[str, Any]:
    attempts = sum(event["action"] == "attempt" for event in history)
    return {
        "_id": record_id,
        "state": "delivered",
        "key_id": "row",
        "seq": seq,
        "payload": asdict(version),
        "attempts": attempts,
        "history": list(history),
    }


def call(key: str, number: int, *, body: str, fate: str = "applied", status: int | None = 201) -> ReceivedCall:
    return ReceivedCall(0.0, "POST", "/orders", key, number, "1", body, status, fate)  # type: ignore[arg-type]


def make_case() -> dict[str, Any]:
    """One row in two versions; the first call of the newer was lost in a crash and made again."""
    lost = {"action": "lost", "n": 1}
    return {
        "records": [
            record("orders-a", OLD, 1, attempt("orders-a", 1)),
            record("orders-b", NEW, 2, lost, attempt("orders-b", 2)),
        ],
        "keys": [{"key": {"id": 1}, "version": "orders-b", "delivered_seq": 2}],
        "streams": [{"_id": "orders", "poll": {"epoch": 7}}],
        "batches": [],
        "versions": {1: [OLD, NEW]},
        "calls": [
            call("orders-a", 1, body="old"),
            call("orders-b", 1, body="new"),
            call("orders-b", 2, body="new", fate="repeated"),
        ],
        "bodies": {"1": json.dumps({**asdict(NEW), "amount": 2.20}).encode()},
        "order": "latest",
        "failed_allowed": False,
    }


def test_an_exact_account_returns_its_figures() -> None:
    account = take_account(**make_case())
    assert (account.rows, account.records, account.calls, account.distinct_keys) == (1, 2, 3, 2)
    assert (account.repeats, account.lost, account.late, account.resent) == (1, 1, 0, 0)


def test_a_row_that_was_given_up_need_not_have_arrived() -> None:
    case = make_case()
    case["records"][1].update(state="discarded", attempts=0, history=[])
    case["calls"] = case["calls"][:1]
    case["bodies"] = {"1": json.dumps({**asdict(OLD), "amount": 1.1}).encode()}
    assert take_account(**case).states == {"delivered": 1, "discarded": 1}


BREAKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "is pending": lambda case: case["records"][0].update(state="pending"),
    "has failed": lambda case: case["records"][1].update(state="failed"),
    "still has": lambda case: case["records"][0].update(lease={}),
    "still in flight": lambda case: case["batches"].append({"_id": "t", "ids": ["orders-a"]}),
    "lease of a poll": lambda case: case["streams"][0]["poll"].update(token="t"),
    "lease of a dispatch": lambda case: case["streams"][0].update(dispatch={"token": "t"}),
    "in the ledger twice": lambda case: case["records"][0].update(payload=asdict(NEW)),
    "never committed": lambda case: case["records"][0]["payload"].update(changed=9),
    "differs from the source": lambda case: case["records"][0]["payload"].update(amount=Decimal("1.11")),
    "is not in the ledger": lambda case: case["records"].pop(),
    "does not know its newest version": lambda case: case["keys"][0].update(version="orders-a"),
    "newest version was delivered": lambda case: case["keys"][0].update(delivered_seq=1),
    "must never be": lambda case: case["calls"].append(call("orders-c", 1, body="new", fate="violation")),
    "other bytes": lambda case: case["calls"].__setitem__(2, call("orders-b", 2, body="old")),
    "was made twice": lambda case: case["calls"].append(case["calls"][0]),
    "knows nothing of ReceivedCall": lambda case: case["calls"].append(call("orders-b", 3, body="new")),
    "knows nothing of attempt": lambda case: case["calls"].pop(0),
    "counts 5 attempts": lambda case: case["records"][0].update(attempts=5),
    "no call of it was accepted": lambda case: case["records"][0]["history"][0].update(late=True),
    "called again after attempt": lambda case: case["records"][1]["history"].append(attempt("orders-b", 1)),
    "the source never had": lambda case: case["bodies"].update({"2": b"{}"}),
    "never got row": lambda case: case["bodies"].clear(),
    "holds another row": lambda case: case["bodies"].update({"1": json.dumps({**asdict(OLD), "amount": 1.1}).encode()}),
}


@pytest.mark.parametrize("violation", BREAKS)
def test_each_violation_is_reported(violation: str) -> None:
    case = make_case()
    BREAKS[violation](case)
    with pytest.raises(AssertionError, match=violation):
        take_account(**case)


STRICT_BREAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "applied for the first time after a newer": lambda case: case["calls"].append(case["calls"].pop(0)),
    r"orders-a \(delivered\) never reached": lambda case: case["calls"].pop(0),
    r"orders-a \(superseded\) never reached": lambda case: (
        case["records"][0].update(state="superseded", claims=1),
        case["calls"].pop(0),
    ),
    "holds another row": lambda case: case["bodies"].update({"1": json.dumps({**asdict(OLD), "amount": 1.1}).encode()}),
}


@pytest.mark.parametrize("violation", STRICT_BREAKS)
def test_each_violation_of_the_order_is_reported(violation: str) -> None:
    case = make_case() | {"order": "strict"}
    take_account(**case)
    STRICT_BREAKS[violation](case)
    with pytest.raises(AssertionError, match=violation):
        take_account(**case)


OLD_LINE, NEW_LINE = Line(1, 1, "sku 1", 7), Line(1, 1, "sku 2", 8)


def show(line: Line) -> dict[str, Any]:
    return {"line": line.line, "sku": line.sku, "changed": line.changed}


def make_documents_case() -> dict[str, Any]:
    """The newest version of the row was sent twice, because its line has changed since."""
    case = make_case()
    older, newest = case["records"]
    middle = record("orders-c", NEW, 3, attempt("orders-c", 1))
    for logged, lines in ((older, [OLD_LINE]), (newest, [OLD_LINE]), (middle, [NEW_LINE])):
        logged["payload"]["lines"] = [show(line) for line in lines]
        logged["key"] = {"id": 1}
    case["records"].append(middle)
    remote = {"values": {"id": "P-1"}, "seq": 3}
    case["keys"] = [{"key": {"id": 1}, "version": "orders-c", "delivered_seq": 3, "remote": remote}]
    case["calls"].append(call("orders-c", 1, body="newest")._replace(method="PUT", path="/orders/P-1"))
    case["bodies"] = {"1": json.dumps({**asdict(NEW), "amount": 2.20, "lines": [show(NEW_LINE)]}).encode()}
    outcome = {"remote.id": "P-1", "error": None, "record_id": "orders-c", "state": "delivered"}
    case["documents"] = Documents(lines={(1, 1): [OLD_LINE, NEW_LINE]}, written={1: outcome})
    return case


DOCUMENT_BREAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a line that was never committed": lambda case: case["records"][1]["payload"]["lines"][0].update(sku="sku 9"),
    "lines in another order": lambda case: case["records"][1]["payload"]["lines"].append(show(OLD_LINE)),
    "has other lines than its row": lambda case: case["records"][2]["payload"].update(lines=[show(OLD_LINE)]),
    "holds other lines": lambda case: case.update(
        bodies={"1": json.dumps({**asdict(NEW), "amount": 2.20, "lines": [show(OLD_LINE)]}).encode()}
    ),
    "an update of row 1 went to": lambda case: case["calls"].append(case["calls"].pop()._replace(path="/orders/P-2")),
    "knows the partner's id as": lambda case: case["keys"][0]["remote"].update(values={}),
    "was written back as": lambda case: case["documents"].written[1].update(record_id="orders-b"),
}


@pytest.mark.parametrize("violation", DOCUMENT_BREAKS)
def test_each_violation_of_a_document_is_reported(violation: str) -> None:
    case = make_documents_case()
    assert take_account(**case).records == 3
    DOCUMENT_BREAKS[violation](case)
    with pytest.raises(AssertionError, match=violation):
        take_account(**case)
