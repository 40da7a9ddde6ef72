"""Celery's own commands in a directory with a `.env`: everything on Beat's schedule is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.child import Child
from syncctl.local.mock_partner import MockPartner
from tests.harness.commands import clean_environment, run_python
from tests.harness.passing_time import PAST, shift
from tests.harness.source_db import SourceDb

Eventually = Callable[..., Any]


@pytest.fixture
def start_celery(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start `celery -A syncctl.celery_app …` in a directory; ended after the test."""
    with ExitStack() as running:

        def start(*args: str, cwd: Path) -> Child:
            command = [sys.executable, "-m", "celery", "-A", "syncctl.celery_app", *args]
            child = Child(command, log=tmp_path / f"{args[0]}.log", cwd=cwd, env=clean_environment())
            running.callback(child.kill)
            return child

        yield start


@pytest.fixture
def home(make_settings: Callable[..., Path]) -> Path:
    """A directory whose settings let Beat ask often."""
    often = dict.fromkeys(("upkeep_every", "roll_up_every", "cleanup_every"), "500ms")
    return make_settings(stream={"poll_every": "500ms"}, sections={"beat": often})


def test_worker_and_beat_do_all_that_the_schedule_names(
    home: Path,
    start_celery: Callable[..., Child],
    eventually: Eventually,
    mongo_database: Any,
    source_db: SourceDb,
    partner: MockPartner,
) -> None:
    records = mongo_database.records
    source_db.create_orders(5)
    worker = start_celery("worker", "--concurrency", "2", cwd=home)
    beat = start_celery("beat", cwd=home)

    def see(predicate: Callable[[], Any], what: str) -> Any:
        def look() -> Any:
            for child in (worker, beat):
                assert child.is_running(), child.read_log()
            return predicate()

        try:
            return eventually(look, timeout=40)
        except AssertionError as error:
            pytest.fail(f"{what}: {error}\n{worker.read_log()[-3000:]}\n{beat.read_log()[-3000:]}")

    # The poll of the stream, again and again; the rows it finds are delivered.
    see(lambda: records.count_documents({"state": "delivered"}) == 5, "rows are delivered")
    source_db.add_orders([6])
    see(lambda: records.count_documents({"state": "delivered"}) == 6, "a later row is delivered")
    assert len(partner.rows()) == 6
    assert mongo_database.runs.count_documents({}) >= 2

    # Maintenance: a record whose lease ran out comes back and is sent again.
    lost = records.find_one({"key.id": 1})
    assert lost
    batch = {"stream": "orders", "worker": "dead", "ids": [lost["_id"]], "begun": [lost["_id"]], "until": PAST}
    mongo_database.batches.insert_one({"_id": "dead", **batch})
    held = {
        "state": "sending",
        "in_flight_key": lost["key_id"],
        "lease": {"token": "dead", "worker": "dead", "at": PAST},
    }
    records.update_one({"_id": lost["_id"]}, {"$set": held, "$unset": {"finished_at": True, "delivered_at": True}})
    see(
        lambda: records.find_one({"_id": lost["_id"], "state": "delivered", "history.action": "lost"}),
        "what a dead worker held comes back",
    )

    # The roll-up, and the cleanup; a row that was cleaned up does not come in again.
    see(lambda: mongo_database.reports.find_one({"stream": "orders", "logged": 6}), "hours are rolled up")
    see(lambda: mongo_database.beat.find_one({"_id": "chore:roll_up"}), "roll-up has an entry of its own")
    old = records.find_one({"key.id": 2})
    assert old
    records.replace_one({"_id": old["_id"]}, shift(old, timedelta(days=-40)))
    see(lambda: records.find_one({"_id": old["_id"]}) is None, "old records are removed")
    assert (
        see(lambda: mongo_database.audit.find_one({"action": "cleanup"}), "the cleanup is written down")["who"]
        == "beat"
    )
    assert mongo_database["keys"].count_documents({}) == 6

    # Heartbeats, each of its own process.
    (alive,) = mongo_database.workers.find()
    assert (alive["pid"], alive["concurrency"], alive["queues"]) == (worker.pid, 2, ["control", "deliver", "poll"])
    assert mongo_database.beat.find_one({"_id": "beat"})["pid"] == beat.pid
    assert datetime.now(UTC) - alive["at"] < timedelta(minutes=1)

    # A number goes through the queue and a worker and comes back.
    added = "from syncctl.tasks import add; print(add.delay(2, 3).get(timeout=30))"
    assert run_python(added, home) == "5\n"
