"""A settled stream: every record is delivered or failed. Made once for all tests that only read it."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from tests.harness.commands import RunningCommand, run_syncctl
from tests.harness.settings_files import write_settings
from tests.harness.source_db import SourceDb
from tests.harness.waiting import eventually

ROWS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The directory of the settings, how many records ended how, and the ids of the failed ones."""

    directory: Path
    counts: dict[str, int]
    failed_ids: tuple[str, ...]


def settle(directory: Path, log: Path, records: Any, *, rows: int) -> dict[str, int]:
    """Poll, run a worker until every record is delivered or failed, and return the counts."""
    assert run_syncctl("poll", "--once", cwd=directory).exit_code == 0
    worker = RunningCommand("worker", "--pool", "threads", "--beat", cwd=directory, log=log)
    try:
        eventually(lambda: records.count_documents({"state": {"$in": ["delivered", "failed"]}}) == rows, timeout=90)
        worker.terminate()
        assert worker.wait() == 0, worker.log
    finally:
        worker.close()
    counts: dict[str, int] = run_syncctl("status", "--json", cwd=directory).json["streams"][0]["counts"]
    assert counts["delivered"] + counts["failed"] == rows
    return counts


@pytest.fixture
def polled(request: pytest.FixtureRequest, settings_dir: Path, source_db: SourceDb) -> Path:
    """The settings of a stream whose `ROWS` rows, as the test's module says, were polled; no worker runs."""
    source_db.create_orders(request.module.ROWS)
    assert run_syncctl("poll", "--once", cwd=settings_dir).exit_code == 0
    return settings_dir


@pytest.fixture(scope="session")
def settled(
    tmp_path_factory: pytest.TempPathFactory, mongo_server: Mongod, mongo_client: Any, redis_server: RedisServer
) -> Settled:
    """A stream of which the partner refused some rows for good. No worker runs. Only for looking at."""
    path = tmp_path_factory.mktemp("settled")
    database = f"settled_{uuid.uuid4().hex[:12]}"
    records = mongo_client[database].records
    source = SourceDb(path / "source.db")
    source.create_orders(ROWS)
    with MockPartner(PartnerConfig(reject_rate=0.4)) as partner:
        directory = write_settings(
            path / "settings",
            mongo_url=mongo_server.url(database),
            redis_url=redis_server.url(),
            redis_prefix=f"settled-{uuid.uuid4().hex[:8]}-",
            source_url=source.url,
            partner_url=partner.url,
        )
        counts = settle(directory, path / "worker.log", records, rows=ROWS)
    assert counts["delivered"] > 0
    assert counts["failed"] > 0
    failed = tuple(record["_id"] for record in records.find({"state": "failed"}, sort=[("key.id", 1)]))
    return Settled(directory=directory, counts=counts, failed_ids=failed)
