"""The whole path of an operator on one machine: set up, check, poll, deliver, explain, replay, account."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.harness import servers
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
ROWS = 120
TOKEN = "canary-7c1e-token"


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that requires a token, refuses some rows until it is fixed, and sometimes fails."""
    mood = PartnerConfig(token=TOKEN, reject_rate=0.05, error_rate=0.05, drop_after_rate=0.05, seed=4)
    with MockPartner(mood) as server:
        yield server


@pytest.fixture
def local_services(tmp_path: Path, run_syncctl: Run) -> Iterator[dict[str, Any]]:
    """The servers that `syncctl local up` starts, until `local down`."""
    with servers.serve_redis():
        # Skips if no server is available, like every other test.
        pass
    try:
        up = run_syncctl("local", "up", "--mongo-port", "0", "--redis-port", "0", "--json", cwd=tmp_path)
        assert up.exit_code == 0, up.stderr
        yield up.json
    finally:
        down = run_syncctl("local", "down", "--wipe", "--yes", cwd=tmp_path)
        assert down.exit_code == 0, down.stderr


def test_every_step_from_init_to_the_report_works(
    tmp_path: Path,
    local_services: dict[str, Any],
    run_syncctl: Run,
    start_syncctl: Callable[..., Any],
    source_db: SourceDb,
    partner: MockPartner,
    eventually: Callable[..., Any],
) -> None:
    output: list[str] = []

    def run(*args: str, code: int = 0) -> Any:
        done = run_syncctl(*args, cwd=tmp_path)
        assert done.exit_code == code, (args, done.stdout, done.stderr)
        output.extend((done.stdout, done.stderr))
        return done

    source_db.create_orders(ROWS)
    environment = {"PARTNER_TOKEN": TOKEN, "MONGO_URL": local_services["mongo_url"]}
    environment |= {"REDIS_URL": local_services["redis_url"], "SOURCE_URL": source_db.url, "PARTNER_URL": partner.url}
    stream = ("--stream", "orders", "--table", "orders", "--start", "beginning", "--mode", "increasing")
    made = run_syncctl("init", *stream, "--cursor", "id", "--json", cwd=tmp_path, env=environment)
    assert made.exit_code == 0, made.stderr
    assert (tmp_path / ".env").exists()
    assert (tmp_path / "syncctl.toml").exists()
    # Retries within a test's patience; everything else stays as init wrote it.
    with (tmp_path / ".env").open("a") as file:
        file.write("STREAMS__ORDERS__RETRY__SCHEDULE=100ms,300ms,1s,1s,1s\nSTREAMS__ORDERS__POLL_EVERY=1s\n")
        file.write("BEAT__UPKEEP_EVERY=1s\n")

    before = {check["name"]: check["status"] for check in run("doctor", "--json", code=1).json["checks"]}
    assert {name for name, status in before.items() if status == "fail"} == {"beat", "workers"}
    polled = run("poll", "--once", "--json").json["runs"][0]
    assert (polled["read"], polled["logged"], polled["failed"], polled["error"]) == (ROWS, ROWS, 0, None)

    worker = start_syncctl("worker", "--beat", cwd=tmp_path)
    eventually(lambda: run_syncctl("doctor", cwd=tmp_path).exit_code == 0, 60)
    assert run("add", "2", "3", "--json").json["sum"] == 5
    source_db.add_orders(range(ROWS + 1, ROWS + 11))
    total = ROWS + 10

    def counts() -> dict[str, int]:
        found: dict[str, int] = run_syncctl("status", "--json", cwd=tmp_path).json["streams"][0]["counts"]
        return found

    refused = eventually(lambda: (found := counts())["delivered"] + found["failed"] == total and found, 60)["failed"]
    assert 0 < refused < total / 4
    groups = run("failures", "--json", code=1).json["groups"]
    assert [(group["status"], group["count"]) for group in groups] == [(422, refused)]
    shown = run("show", groups[0]["sample_id"], "--json").json["records"][0]
    assert shown["history"][-1]["status"] == 422

    partner.fix()
    assert run("replay", "--dry-run", "--json").json["matched"] == refused
    replayed = run("replay", "--error", groups[0]["fingerprint"], "--yes", "--wait", "--json").json
    assert (replayed["matched"], replayed["replayed"], replayed["skipped"]) == (refused, refused, 0)
    run("failures")
    report = run("report", "--since", "24h", "--json").json
    assert (report["totals"]["logged"], report["totals"]["delivered"]) == (total, total)
    assert report["totals"]["attempts"] == partner.stats()["calls"]
    assert run("report", "--by", "stream", "--csv").stdout.splitlines()[1].startswith("orders,")

    worker.terminate()
    assert worker.wait() == 0, worker.log
    check_rows(partner, source_db, total)
    assert TOKEN not in "".join([*output, worker.log])


def check_rows(partner: MockPartner, source_db: SourceDb, total: int) -> None:
    """The partner holds each row of the source, value by value, and took each once."""
    stats = partner.stats()
    assert (stats["rows"], stats["distinct_keys"], stats["violation"]) == (total, total, 0)
    bodies = {int(row): json.loads(body, parse_float=Decimal) for row, body in partner.rows().items()}
    rows = source_db.execute("select id, customer, cast(amount as text), note, updated_at from orders")
    for row, customer, amount, note, updated_at in rows:
        body = bodies[row]
        assert (body["id"], body["customer"], body["note"]) == (row, customer, note)
        assert (Decimal(body["amount"]), body["updated_at"]) == (Decimal(amount), updated_at)
