"""The audit entry of an operation precedes its first change, grows with it, and says how it ended."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.ledger import audit
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline import selection
from syncctl.pipeline.maintenance import cleanup
from syncctl.pipeline.maintenance.cleanup import clean_up
from syncctl.pipeline.operations.replay import discard_records, replay_records
from syncctl.pipeline.operations.rewind import plan_rewind, rewind_stream
from syncctl.pipeline.pause import pause_streams, resume_streams
from syncctl.pipeline.selection import Selection
from syncctl.sources.reader import StreamReader
from tests.harness.passing_time import PAST, let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed
from tests.integration.operations.test_pipeline_reconcile import forget, opened

ROWS = 6
PAGE = 2


def run_cleanup(testbed: Testbed) -> None:
    clean_up(ledger=testbed.ledger, retention_seconds={"delivered": 0.0}, who="ann@host")


def run_replay(testbed: Testbed) -> None:
    chosen = Selection(states=("delivered",))
    replay_records(ledger=testbed.ledger, selection=chosen, streams={"orders": testbed.stream}, who="ann@host")


def run_discard(testbed: Testbed) -> None:
    testbed.database.records.update_many({}, {"$set": {"state": "failed"}})
    discard_records(ledger=testbed.ledger, selection=Selection(), reason="why", who="ann@host")


def run_pause(testbed: Testbed) -> None:
    pause_streams(ledger=testbed.ledger, streams=("orders", "others"), who="ann@host", reason="why")


def run_resume(testbed: Testbed) -> None:
    resume_streams(
        ledger=testbed.ledger,
        streams=("orders", "others"),
        configured={"orders": "default"},
        wake=lambda _: None,
        who="ann@host",
    )


def run_rewind(testbed: Testbed) -> None:
    with StreamReader(testbed.source, testbed.stream) as reader:  # type: ignore[arg-type]
        plan = plan_rewind(ledger=testbed.ledger, stream=testbed.stream, reader=reader, to="beginning")
    rewind_stream(ledger=testbed.ledger, plan=plan, resend=False, who="ann@host", worker="operator")


def run_repair(testbed: Testbed) -> None:
    forget(testbed, *range(1, ROWS + 1))
    with opened(testbed) as work:
        work.compare()
        work.repair(who="ann@host")


#: The action, what an operator does, the write that changes something, and how many the audit counts after one.
OPERATIONS: dict[str, tuple[Callable[[Testbed], None], str, int]] = {
    "cleanup": (run_cleanup, "operations.remove_finished", PAGE),
    "replay": (run_replay, "operations.replay", PAGE),
    "discard": (run_discard, "operations.discard", PAGE),
    "pause": (run_pause, "streams.pause", 1),
    "resume": (run_resume, "streams.resume", 0),
    "rewind": (run_rewind, "polls.rewind", 0),
    "repair": (run_repair, "records.log", PAGE),
}


@pytest.fixture
def delivered(testbed: Testbed, source_db: SourceDb, monkeypatch: pytest.MonkeyPatch) -> Testbed:
    source_db.create_orders(ROWS)
    testbed.poll()
    testbed.deliver()
    let_hours_pass(testbed.database, 3)
    monkeypatch.setattr(selection, "RECORDS_AT_ONCE", PAGE)
    monkeypatch.setattr(cleanup, "RECORDS_AT_ONCE", PAGE)
    monkeypatch.setattr("syncctl.pipeline.operations.scratch_database.ROWS_AT_ONCE", PAGE)
    return testbed


def meddle(testbed: Testbed, monkeypatch: pytest.MonkeyPatch, write: str, act: Callable[[int], None]) -> None:
    """Call `act` with the number of the call, from 1, before each call of a write."""
    part, name = write.split(".")
    owner, calls = getattr(testbed.ledger, part), []
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        act(len(calls))
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("action", OPERATIONS)
def test_the_entry_precedes_the_first_change(delivered: Testbed, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    run, write, _ = OPERATIONS[action]
    seen: list[dict[str, Any]] = []
    meddle(
        delivered, monkeypatch, write, lambda number: seen.extend(delivered.ledger.audit.load(limit=1)[: number < 2])
    )
    run(delivered)
    assert [(entry["action"], entry["who"], entry["count"]) for entry in seen] == [(action, "ann@host", 0)]
    assert "ended_at" not in seen[0]
    (entry,) = delivered.ledger.audit.load(limit=9)
    assert (entry["error"], entry["ended_at"] >= entry["at"]) == (None, True)
    assert entry["count"] == {"pause": 2, "resume": 0}.get(action, ROWS)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ServiceUnavailable])
@pytest.mark.parametrize("action", [action for action, (_, _, counted) in OPERATIONS.items() if counted])
def test_an_operation_that_is_interrupted_says_how_far_it_came(
    delivered: Testbed, monkeypatch: pytest.MonkeyPatch, action: str, ending: type[BaseException]
) -> None:
    run, write, counted = OPERATIONS[action]
    error = ending() if ending is KeyboardInterrupt else ServiceUnavailable("cannot reach MongoDB", service="mongodb")

    def interrupt(number: int) -> None:
        if number == 2:
            raise error

    meddle(delivered, monkeypatch, write, interrupt)
    with pytest.raises(ending):
        run(delivered)
    (entry,) = delivered.ledger.audit.load(limit=9)
    assert (entry["action"], entry["count"]) == (action, counted)
    assert entry["error"] == ("interrupted" if ending is KeyboardInterrupt else "cannot reach MongoDB")
    assert entry["ended_at"] >= entry["at"]


def test_an_operation_that_changes_nothing_has_no_entry(delivered: Testbed) -> None:
    clean_up(ledger=delivered.ledger, retention_seconds={"failed": 0.0}, who="ann@host")
    clean_up(ledger=delivered.ledger, retention_seconds={"delivered": 0.0}, who="ann@host", dry_run=True)
    assert delivered.ledger.audit.load(limit=9) == []


def write_entries(database: Any) -> None:
    """Write an entry of each kind of detail, a minute apart, the first one first."""
    whole = "orders-" + "0" * 32
    details: dict[str, tuple[str, dict[str, Any]]] = {
        "all": ("replay", {"states": ["failed"]}),
        "one": ("replay", {"streams": ["orders"]}),
        "ids": ("discard", {"ids": [whole]}),
        "rewind": ("rewind", {"stream": "orders"}),
        "partner": ("pause", {"streams": [], "partners": ["acme"]}),
        "other": ("pause", {"streams": ["orders_eu"], "partners": []}),
        "other ids": ("discard", {"ids": ["orders_eu-" + "0" * 32]}),
    }
    for number, (name, (action, detail)) in enumerate(details.items()):
        at = PAST + timedelta(minutes=number)
        database.audit.insert_one({"_id": name, "at": at, "action": action, "detail": detail})


def walked(ledger: Ledger, **filters: Any) -> list[str]:
    return [entry["_id"] for entry in ledger.audit.walk(**filters)]


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_entries_are_walked_newest_first_page_by_page(
    ledger: Ledger, database: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    write_entries(database)
    newest_first = ["other ids", "other", "partner", "rewind", "ids", "one", "all"]
    monkeypatch.setattr(audit, "ENTRIES_AT_ONCE", at_once)
    if at_once == 2:
        # Of two at the same time, none is lost and none comes twice.
        database.audit.update_one({"_id": "rewind"}, {"$set": {"at": PAST + timedelta(minutes=4)}})
    assert sorted(walked(ledger)) == sorted(newest_first)
    if at_once != 2:
        assert walked(ledger) == newest_first
        since, until = PAST + timedelta(minutes=1), PAST + timedelta(minutes=3)
        assert walked(ledger, since=since, until=until) == ["ids", "one"]


def test_entries_are_walked_by_action_and_by_what_they_concern(ledger: Ledger, database: Any) -> None:
    write_entries(database)
    assert walked(ledger, actions=("replay",)) == ["one", "all"]
    assert walked(ledger, touching={"orders": None}) == ["rewind", "ids", "one", "all"]
    assert walked(ledger, touching={"orders": "acme"}) == ["partner", "rewind", "ids", "one", "all"]
    assert walked(ledger, touching={"orders_eu": "other"}) == ["other ids", "other", "all"]
