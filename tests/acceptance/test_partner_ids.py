"""A partner with ids of its own, with real workers: no object is created twice, and each is updated under its id."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.maintenance.cleanup import clean_up
from tests.harness.commands import RunningCommand, run_syncctl
from tests.harness.id_partner import DROP, IdPartner, Seen
from tests.harness.passing_time import let_hours_pass
from tests.harness.servers import name_database
from tests.harness.source_db import SourceDb

ROWS = 300
SCHEDULE = {"schedule": ["200ms", "500ms", *["1s"] * 30], "jitter": 0.2}
STREAM = {
    "mode": "increasing",
    "cursor": "updated_at",
    "lookback": "0s",
    "capture": {"id": "data.id"},
    "update_endpoint": "PUT /orders/{remote.id}",
    "delete_endpoint": "DELETE /orders/{remote.id}",
    "retry": SCHEDULE,
}
LOOKUP = {"endpoint": "GET /orders?ref={id}", "capture": {"id": "items[0].id"}}
DELIVERED = {"delivered"}

Start = Callable[..., RunningCommand]


@pytest.fixture
def ledger(mongo_url: str) -> Iterator[Ledger]:
    """The ledger that the workers use."""
    with Ledger(mongo_url, name_database(mongo_url)) as opened:
        yield opened


@pytest.fixture
def database(mongo_url: str, mongo_client: Any) -> Any:
    """The database of that ledger."""
    return mongo_client[name_database(mongo_url)]


@pytest.fixture
def start(make_settings: Callable[..., Path], start_syncctl: Start) -> Callable[..., tuple[Path, RunningCommand]]:
    """Write settings for a partner, poll once, and start a worker and Beat."""

    def start(partner: IdPartner, **changes: Any) -> tuple[Path, RunningCommand]:
        sections = {"partners": {"default": {"timeout_seconds": 2}}}
        directory = make_settings(partner_url=partner.url, stream={**STREAM, **changes}, sections=sections)
        assert run_syncctl("poll", "--once", cwd=directory).exit_code == 0
        worker = start_syncctl("worker", "--concurrency", "3", cwd=directory)
        start_syncctl("beat", cwd=directory)
        return directory, worker

    return start


def states(database: Any) -> set[str]:
    return set(database.records.distinct("state", {"state": {"$ne": "superseded"}}))


def test_a_partner_that_ignores_keys_and_loses_answers_gets_no_row_twice(
    start: Any, start_syncctl: Start, database: Any, source_db: SourceDb, eventually: Callable[..., Any]
) -> None:
    """One call in ten is applied and not answered; a worker is killed on the way."""
    source_db.create_orders(ROWS)
    chance, lock = random.Random(13), threading.Lock()

    def hook(_: Seen) -> Any:
        with lock:
            return DROP if chance.random() < 0.1 else None

    with IdPartner(knows_keys=False, hook=hook) as partner:
        directory, worker = start(partner, lookup=LOOKUP)
        eventually(lambda: len(partner.created) > ROWS // 3, 120)
        worker.kill()
        start_syncctl("worker", "--concurrency", "3", cwd=directory)
        eventually(lambda: states(database) == DELIVERED and len(partner.created) == ROWS, 240)
    assert set(partner.created.values()) == {1}
    assert len(partner.objects) == ROWS
    assert sum(call.method == "GET" for call in partner.seen) > ROWS // 20


@pytest.mark.parametrize("order", ["latest", "strict"])
@pytest.mark.parametrize("rows_per_call", [1, 20])
def test_each_row_is_updated_under_its_own_id_also_after_a_clean_up(
    start: Any,
    ledger: Ledger,
    database: Any,
    source_db: SourceDb,
    eventually: Callable[..., Any],
    order: str,
    rows_per_call: int,
) -> None:
    source_db.create_orders(ROWS)
    bulk = {"rows_per_call": rows_per_call, "batch_shape": {"results": "results", "result_status": "status"}}
    with IdPartner() as partner:
        start(partner, order=order, **(bulk if rows_per_call > 1 else {}))
        eventually(lambda: states(database) == DELIVERED and len(partner.created) == ROWS, 120)
        theirs = {row["id"]: name for name, row in partner.objects.items()}
        for number in range(1, 4):
            if number == 3:
                # The partner has the last call before the ledger has its outcome.
                eventually(lambda: states(database) == DELIVERED, 60)
                let_hours_pass(database, 24)
                clean_up(ledger=ledger, retention_seconds={"delivered": 0.0}, who="me")
                assert database.records.count_documents({}) == 0
            at = f"2026-01-02 00:00:0{number}."
            source_db.execute(f"update orders set note = 'v{number}', updated_at = '{at}' || printf('%06d', id)")  # noqa: S608
            eventually(lambda number=number: {row["note"] for row in partner.objects.values()} == {f"v{number}"}, 120)
        eventually(lambda: states(database) == DELIVERED, 60)
    updates = [call for call in partner.seen if call.method == "PUT"]
    assert len(updates) == 3 * ROWS
    assert {(call.body["id"], call.path.rpartition("/")[2]) for call in updates} == set(theirs.items())
    assert {row["id"]: name for name, row in partner.objects.items()} == theirs
