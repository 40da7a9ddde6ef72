"""docs/json.md lists exactly the keys that the commands print."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.uri_parser import parse_uri

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.pipeline.maintenance.archive import archive_records
from tests.cli.catalogue import flags_of, list_commands
from tests.harness.http_partner import RowPartner
from tests.harness.json_pages import describes, keys_of, read_page
from tests.harness.passing_time import PAST
from tests.harness.settings_files import NOWHERE
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed, new_record

Run = Callable[..., Any]
ROWS = 20


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that refuses some rows for good, and answers 500 to some calls."""
    with MockPartner(PartnerConfig(reject_rate=0.3, error_rate=0.3)) as server:
        yield server


def test_every_command_with_json_has_a_section() -> None:
    with_json = {" ".join(path) for path in list_commands() if "--json" in flags_of(path)}
    sections = {name.split(" --")[0] for name in read_page()}
    assert with_json == sections


def test_a_document_of_another_shape_would_be_noticed() -> None:
    keys = keys_of({"runs": [{"read": 1, "cursor": None}], "more": {}})
    assert keys == {"runs", "runs[].read", "runs[].cursor", "more"}
    assert describes("runs[].read", "runs[].read")
    assert describes("runs[].read", "runs")
    assert describes("key.*", "key.id")
    assert not describes("runs[].read", "runs[].readings")
    assert not describes("runs[].read", "runs[].read.more")


def _let_fire(database: Any) -> None:
    """Let an alert fire, whose message no channel takes; it has given up another one, and refused a recipient."""
    since = datetime.now(UTC) - timedelta(hours=3)
    database.streams.update_one({"_id": "orders"}, {"$set": {"paused": {"by": "anna", "at": since, "reason": "r"}}})
    given_up = {"at": datetime.now(UTC), "rule": "paused", "stream": "orders", "partner": None, "state": "firing"}
    channel = {"given_up": {**given_up, "reason": "554 no"}, "refused": [{"recipient": "a@b.c", "reply": "550 no"}]}
    database.alerts.update_one({"_id": "channel:email"}, {"$set": channel}, upsert=True)


@pytest.mark.timeout(300)
def test_the_documents_of_commands_are_what_the_page_says(
    run_syncctl: Run,
    start_syncctl: Callable[..., Any],
    make_settings: Callable[..., Path],
    source_db: SourceDb,
    partner: MockPartner,
    mongo_client: Any,
    mongo_url: str,
    eventually: Callable[..., Any],
) -> None:
    printed: dict[str, Any] = {}
    mail = {"smtp": "smtp://127.0.0.1:1", "email_from": "syncctl@example.com", "email_to": ["oncall@example.com"]}
    settings_dir = make_settings(sections={"alerts": mail})

    def run(section: str, *args: str, exit_code: int = 0) -> Any:
        result = run_syncctl(*section.split(), *args, "--json", cwd=settings_dir)
        assert result.exit_code == exit_code, result.stderr
        printed.setdefault(section, []).append(result.json)
        return result.json

    def is_settled() -> bool:
        counts = run("status")["streams"][0]["counts"]
        return counts["failed"] > 0 and counts["delivered"] + counts["failed"] == ROWS

    source_db.create_orders(ROWS)
    run("poll --once")
    worker = start_syncctl("worker", "--beat", "--pool", "threads", cwd=settings_dir)
    run("add", "-2", "0.5")
    eventually(is_settled, timeout=90)
    eventually(lambda: run("status")["beat"]["last_tick_at"])
    run("health", "beat")
    run("doctor", "configuration", "redis", "mongodb")
    run("report", "--by", "stream")
    run("report", "--by", "hour", "--compare")
    run("report --by error")
    run("records", "--state", "failed", "--limit", "3")
    sample = run("failures", exit_code=1)["groups"][0]["sample_id"]
    run("show", sample)
    run("replay", "--dry-run")
    run("replay", "--yes")
    eventually(is_settled, timeout=90)
    run("show", "orders", "1")
    run("pause", "orders", "--reason", "partner maintenance")
    run("status")
    run("resume", "orders")
    run("pause", "--partner", "default", "--reason", "partner maintenance")
    run("resume", "--partner", "default")
    # What stands still: a queue without a worker, and a job of Beat's that nobody does.
    worker.close()
    source_db.execute("update orders set note = 'changed' where id = 1")
    run("show", "orders", "1")
    database = mongo_client[parse_uri(mongo_url)["database"]]
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    database.workers.delete_many({})
    database.workers.insert_one({"_id": "celery@one", "at": datetime.now(UTC), "queues": ["deliver"]})
    database.beat.update_one({"_id": "beat"}, {"$set": {"since": long_ago, "at": datetime.now(UTC)}})
    database.beat.update_one({"_id": "chore:upkeep"}, {"$set": {"done_at": long_ago}}, upsert=True)
    source_db.execute("alter table orders add column vat text")
    run("poll --once")
    _let_fire(database)
    run("alerts check", exit_code=1)
    run("alerts")
    run("alerts test", exit_code=1)
    database.beat.update_one({"_id": "chore:cleanup"}, {"$set": {"error": "no room"}}, upsert=True)
    run("status")
    run("discard", sample, "--reason", "test data", "--yes")
    source_db.add_orders([ROWS + 1])
    run("send", "orders", str(ROWS + 1), "--force")
    run("audit", "--action", "replay", "--action", "pause", "--limit", "2")
    run("cleanup", "--dry-run")
    run("config")
    run("init", "--indexes")
    run("upgrade")
    # As an earlier version left it.
    database.project.delete_one({"_id": "schema"})
    database.records.drop_index("waiting")
    run("upgrade", "--check", exit_code=1)
    run("upgrade")
    _compare(printed)


def test_the_documents_of_local_are_what_the_page_says(run_syncctl: Run, tmp_path: Path) -> None:
    printed = {}
    try:
        up = run_syncctl("local", "up", "--mongo-port", "0", "--redis-port", "0", "--json", cwd=tmp_path)
        if up.exit_code == 69:
            pytest.skip(up.stderr)
        printed["local up"] = [up.json]
        printed["local status"] = [run_syncctl("local", "status", "--json", cwd=tmp_path).json]
    finally:
        down = run_syncctl("local", "down", "--wipe", "--yes", "--json", cwd=tmp_path)
    printed["local down"] = [down.json]
    _compare(printed)


def test_the_documents_of_the_archive_are_what_the_page_says(
    run_syncctl: Run, testbed: Testbed, make_settings: Callable[..., Path], tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    settings = make_settings(**NOWHERE, sections={"retention": {"archive": str(archive)}})
    testbed.ledger.records.log([new_record(1), new_record(2, error="no number")], PAST)
    with RowPartner(lambda _: 200) as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        testbed.change_stream(append_only=True)
        testbed.deliver()
    made = [run_syncctl("archive", "create", "--json", cwd=settings).json for _ in range(2)]
    assert [document["created"] for document in made] == [True, False]
    archive_records(archive, "orders", [*testbed.database.records.find({"state": "delivered"})])
    archive_records(archive, "orders", [*testbed.database.records.find({"state": "failed"})])
    printed: dict[str, Any] = {"archive create": made, "archive show": [], "archive search": []}
    for number in (1, 2):
        printed["archive show"].append(run_syncctl("archive", "show", f"orders-{number}", "--json", cwd=settings).json)
    printed["archive search"].append(run_syncctl("archive", "search", "--limit", "1", "--json", cwd=settings).json)
    printed["archive search"].append(run_syncctl("archive", "search", "--json", cwd=settings).json)
    assert [record["id"] for record in printed["archive search"][1]["records"]] == ["orders-2", "orders-1"]
    _compare(printed)


def _compare(printed: dict[str, Any]) -> None:
    page = read_page()
    for section, documents in printed.items():
        keys = set[str]().union(*(keys_of(document) for document in documents))
        unknown = {key for key in keys if not any(describes(known, key) for known in page[section])}
        assert not unknown, f"docs/json.md does not say what these keys of {section} are"
        missing = {known for known in page[section] if not any(describes(known, key) and key != "" for key in keys)}
        absent = {known for known in missing | (page[section] - keys) if "*" not in known}
        assert not absent, f"{section} did not print these keys of docs/json.md"
