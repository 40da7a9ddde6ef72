"""Ledgers of earlier versions are upgraded, also while they are used; nothing is lost, and nothing goes twice."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from syncctl.errors import ConfigurationError
from syncctl.ledger import migrations
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.ledger_version import Schema
from syncctl.ledger.migrations import MIGRATIONS, VERSION, Advance, Migration
from syncctl.local.mock_partner import MockPartner
from syncctl.pipeline.monitoring.status import read_status
from syncctl.pipeline.reporting.report import build_report
from syncctl.settings import load_settings
from syncctl.wiring import row_path
from syncctl.wiring.connections import Connections
from tests.harness import earlier_ledgers, passing_time
from tests.harness.earlier_ledgers import DATA, EarlierLedger, read_ledger
from tests.harness.waiting import eventually

FINISHED = {"delivered", "failed", "superseded", "discarded"}
STREAMS = ("orders", "events")


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that accepts everything."""
    with MockPartner() as server:
        yield server


@pytest.fixture
def open_earlier(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mongo_url: str,
    mongo_database: Any,
    redis_url: str,
    redis_prefix: str,
    partner: MockPartner,
) -> Iterator[Callable[[str], tuple[EarlierLedger, Connections]]]:
    """Restore a ledger with its tables, and open the connections of a project that has them."""
    opened: list[Connections] = []

    def open_one(name: str) -> tuple[EarlierLedger, Connections]:
        earlier = read_ledger(name)
        earlier.restore(mongo_database)
        earlier.write_source(tmp_path / "erp.db")
        shutil.copy(DATA / "syncctl.toml", tmp_path)
        lines = {
            "MONGO_URL": mongo_url,
            "REDIS_URL": redis_url,
            "REDIS_PREFIX": redis_prefix,
            "SOURCE_URL": f"sqlite:///{tmp_path}/erp.db",
            "PARTNER_URL": f"{partner.url}/v1",
            "PARTNER_TOKEN": "token",
        }
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        monkeypatch.chdir(tmp_path)
        connections = Connections(load_settings())
        opened.append(connections)
        return earlier, connections

    yield open_one
    for connections in opened:
        connections.close()


def _count(database: Any) -> Counter[tuple[str, str]]:
    return Counter((record["stream"], record["state"]) for record in database.records.find())


def _deliver_all(connections: Connections, database: Any) -> None:
    """Do what workers and Beat do, until no record is left that could be sent."""
    for stream in STREAMS:
        assert row_path.poll(connections, stream).error is None
    connections.ledger.streams.resume("events")
    for _ in range(5):
        passing_time.expire_batch_leases(database)
        row_path.maintain_streams(connections)
        passing_time.make_retries_due(database)
        row_path.deliver(connections, "orders", seconds=20.0)
        if not {state for _, state in _count(database)} - FINISHED:
            return
    pytest.fail(f"not finished: {_count(database)}")


@pytest.mark.parametrize("name", earlier_ledgers.NAMES)
def test_an_earlier_ledger_is_delivered_to_its_end_and_no_row_goes_twice(
    name: str,
    open_earlier: Callable[[str], tuple[EarlierLedger, Connections]],
    mongo_database: Any,
    partner: MockPartner,
) -> None:
    earlier, connections = open_earlier(name)
    records = earlier.documents["records"]
    finished = {record["_id"] for record in records if record["state"] in FINISHED}
    unfinished = {record["_id"] for record in records} - finished
    assert {record["state"] for record in records} >= {*FINISHED, "pending", "sending"}

    connections.prepared_ledger  # noqa: B018 - it upgrades
    assert mongo_database.records.count_documents({"in_flight": True}) == 0
    assert connections.ledger.compare_indexes() == []
    _deliver_all(connections, mongo_database)

    # No row was read as new, and each record that was not finished was sent once, under its first key.
    assert {record["_id"] for record in mongo_database.records.find()} == finished | unfinished
    assert Counter(call.key for call in partner.calls()) == Counter(unfinished)
    before, now = Counter((record["stream"], record["state"]) for record in records), _count(mongo_database)
    for stream in STREAMS:
        sent = sum(record["stream"] == stream for record in records if record["_id"] in unfinished)
        assert now[stream, "delivered"] == before[stream, "delivered"] + sent
    for state in FINISHED - {"delivered"}:
        assert now["orders", state] == before["orders", state], state
    assert mongo_database.batches.count_documents({}) == 0
    status = read_status(ledger=connections.ledger, configured={}, messages=0)
    counts = {stream["stream"]: stream["counts"] for stream in status.streams}
    for stream in STREAMS:
        assert counts[stream]["delivered"] == now[stream, "delivered"], stream
    report = build_report(ledger=connections.ledger, since=datetime.now(UTC) - timedelta(days=5), by="stream")
    reported = {row["stream"]: row for row in report.rows}
    for stream in STREAMS:
        own = list(mongo_database.records.find({"stream": stream}))
        assert reported[stream]["logged"] == len(own), stream
        assert reported[stream]["attempts"] == sum(record["attempts"] for record in own), stream


@pytest.mark.parametrize("name", earlier_ledgers.NAMES)
def test_an_upgrade_that_is_cut_off_anywhere_is_finished_by_the_next(
    name: str, mongo_database: Any, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = read_ledger(name)
    earlier.restore(mongo_database)
    monkeypatch.setattr(migrations, "BATCHES_AT_ONCE", 1)
    with Ledger(mongo_url, mongo_database.name) as ledger:
        for cut_after in range(20):
            steps = 0
            write = migrations.write_but_duplicates

            def cut_off(*args: Any, after: int = cut_after, write: Any = write) -> int:
                nonlocal steps
                steps += 1
                if steps > after:
                    raise KeyboardInterrupt
                changed: int = write(*args)
                return changed

            with monkeypatch.context() as patch:
                patch.setattr(migrations, "write_but_duplicates", cut_off)
                try:
                    ledger.prepare()
                    break
                except KeyboardInterrupt:
                    # As after kill -9: nothing was tidied up, and the lease runs out.
                    lease = {"token": "dead", "who": "dead", "until": passing_time.PAST}
                    mongo_database.project.update_one({"_id": "schema"}, {"$set": {"lease": lease}})
        ledger.prepare()
        assert ledger.schema.check().version == VERSION
    sending = [record["_id"] for record in earlier.documents["records"] if record["state"] == "sending"]
    assert mongo_database.records.count_documents({"in_flight": True}) == 0
    tokens = {record["lease"]["token"] for record in mongo_database.records.find({"_id": {"$in": sending}})}
    begun = [
        record for batch in mongo_database.batches.find({"_id": {"$in": list(tokens)}}) for record in batch["begun"]
    ]
    assert set(begun) >= set(sending)
    assert "lease" not in (mongo_database.project.find_one({"_id": "schema"}) or {})


def test_records_that_a_living_worker_of_the_first_version_sends_are_left_to_it(
    mongo_database: Any, mongo_url: str
) -> None:
    read_ledger("ledger-first").restore(mongo_database)
    mongo_database.workers.update_one({"_id": "celery@host1"}, [{"$set": {"at": {"$add": ["$$NOW", 3_600_000]}}}])
    sending = {"state": "sending", "in_flight": True}
    mongo_database.records.update_many(sending, [{"$set": {"lease.until": {"$add": ["$$NOW", 3_600_000]}}}])
    with Ledger(mongo_url, mongo_database.name) as ledger:
        waited: list[Advance] = []
        upgrade = threading.Thread(target=lambda: ledger.upgrade(watch=lambda _, advance: waited.append(advance)))
        upgrade.start()
        eventually(lambda: waited and waited[-1].waits_for, timeout=30)
        assert "celery@host1" in waited[-1].waits_for
        assert waited[-1].left == mongo_database.records.count_documents(sending)
        # It writes the outcomes, as that version did.
        outcome = {"$set": {"state": "delivered"}, "$unset": {"lease": "", "in_flight": "", "exclusive": ""}}
        mongo_database.records.update_many(sending, outcome)
        upgrade.join(60)
        assert not upgrade.is_alive()
        assert ledger.schema.check().version == VERSION
    assert mongo_database.batches.count_documents({}) == 0


def test_the_first_version_finds_no_way_to_an_upgraded_ledger(ledger: Ledger, mongo_url: str) -> None:
    """Its queries name its own index, and each of its processes that starts creates that index."""
    records = ledger._database["records"]
    with pytest.raises(OperationFailure, match="hint"):
        records.count_documents({"stream": "orders", "in_flight": True, "fresh": True}, hint="in_flight")
    keys = [(name, 1) for name in ("stream", "in_flight", "fresh", "state", "lease.until")]
    with pytest.raises(OperationFailure, match="this_ledger_needs_a_newer_syncctl"):
        records.create_indexes([IndexModel(keys, name="in_flight", partialFilterExpression={"in_flight": True})])


def test_two_processes_that_start_at_once_upgrade_it_once(mongo_database: Any, mongo_url: str) -> None:
    read_ledger("ledger-first").restore(mongo_database)
    results: list[int] = []

    def upgrade() -> None:
        with Ledger(mongo_url, mongo_database.name) as ledger:
            results.append(ledger.upgrade()[1].changed)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 4
    (entry,) = mongo_database.audit.find({"action": "upgrade"})
    assert sum(results) == entry["count"] == 6 + 6
    assert entry["ended_at"] is not None


def test_a_ledger_that_a_newer_version_changed_is_refused(mongo_database: Any, mongo_url: str) -> None:
    with Ledger(mongo_url, mongo_database.name) as ledger:
        ledger.prepare()
        written = {"version": VERSION + 2, "oldest": VERSION, "by": "syncctl 9.1.0"}
        mongo_database.project.update_one({"_id": "schema"}, {"$set": written})
        assert ledger.schema.check().version == VERSION + 2
        ledger.ensure_prepared()

        mongo_database.project.update_one({"_id": "schema"}, {"$set": {"oldest": VERSION + 1}})
        with pytest.raises(ConfigurationError, match=f"knows versions up to {VERSION}") as refused:
            ledger.prepare()
        assert "syncctl 9.1.0" in refused.value.why
        assert "syncctl 9.1.0" in refused.value.hint


def test_a_migration_that_earlier_processes_would_not_bear_waits_for_their_end(
    mongo_database: Any, mongo_url: str
) -> None:
    done: list[int] = []

    def change(_: Any) -> Advance:
        done.append(1)
        return Advance(changed=1, left=0)

    strict = Migration(version=VERSION + 1, title="", oldest=VERSION + 1, count=lambda _: 1, advance=change)
    with Ledger(mongo_url, mongo_database.name) as ledger:
        ledger.prepare()
        ledger.streams.ensure("orders")
        ledger.heartbeats.record_worker("old", {"ledger": VERSION})
        schema = Schema(ledger._database, ledger.hosts, migrations=(*MIGRATIONS, strict))
        waited: list[Advance] = []
        upgrade = threading.Thread(target=lambda: schema.upgrade(watch=lambda _, advance: waited.append(advance)))
        upgrade.start()
        eventually(lambda: waited, timeout=30)
        assert "old" in waited[-1].waits_for
        # It is refused from now on, so it ends.
        with pytest.raises(ConfigurationError):
            ledger.schema.check()
        assert not done
        ledger.heartbeats.forget_worker("old")
        upgrade.join(60)
        assert done == [1]
        assert schema.check().version == VERSION + 1
