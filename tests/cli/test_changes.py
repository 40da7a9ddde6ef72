"""Commands that change records in bulk: the plan, the question, the change, and the output."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.uri_parser import parse_uri

from syncctl import __version__
from syncctl.ledger.migrations import VERSION
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.cli.conftest import Settled
from tests.harness.commands import answer
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
Start = Callable[..., Any]
Eventually = Callable[..., Any]
ROWS = 3


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that refuses every row until it is fixed."""
    with MockPartner(PartnerConfig(reject_rate=1.0)) as server:
        yield server


@pytest.fixture
def failed_ids(
    run_syncctl: Run,
    start_syncctl: Start,
    settings_dir: Path,
    source_db: SourceDb,
    mongo_database: Any,
    eventually: Eventually,
) -> list[str]:
    """The ids of three records that the partner refused; a worker is running."""
    source_db.create_orders(ROWS)
    run_syncctl("poll", "--once", cwd=settings_dir)
    start_syncctl("worker", "--pool", "threads", "--beat", cwd=settings_dir)
    eventually(lambda: mongo_database.records.count_documents({"state": "failed"}) == ROWS)
    return [record["_id"] for record in mongo_database.records.find(sort=[("key.id", 1)])]


def count(run_syncctl: Run, directory: Path, state: str) -> int:
    """Return how many records of the stream are in a state."""
    return int(run_syncctl("status", "--json", cwd=directory).json["streams"][0]["counts"][state])


def test_without_a_terminal_a_change_needs_yes(run_syncctl: Run, settled: Settled) -> None:
    for args in (("replay",), ("discard", settled.failed_ids[0], "--reason", "test data")):
        result = run_syncctl(*args, cwd=settled.directory)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--yes" in result.stderr
    assert count(run_syncctl, settled.directory, "failed") == settled.counts["failed"]


def test_a_dry_run_is_the_plan_and_changes_nothing(run_syncctl: Run, settled: Settled) -> None:
    failed = settled.counts["failed"]
    plan = run_syncctl("replay", "--dry-run", "--json", cwd=settled.directory)
    assert plan.json == {"matched": failed, "replayed": failed, "skipped": 0, "dry_run": True}
    shown = run_syncctl("replay", "--dry-run", cwd=settled.directory)
    assert shown.stdout == f"would replay {failed} of {failed} records\n"
    args = (*settled.failed_ids, "--reason", "test data", "--dry-run", "--json")
    one = run_syncctl("discard", settled.failed_ids[0], "--reason", "test data", "--dry-run", cwd=settled.directory)
    assert one.stdout == "would discard 1 record\n"
    plan = run_syncctl("discard", *args, cwd=settled.directory)
    assert plan.json == {"matched": failed, "discarded": failed, "dry_run": True}
    assert count(run_syncctl, settled.directory, "failed") == failed


def test_a_replay_means_what_its_flags_say(run_syncctl: Run, settled: Settled) -> None:
    failed, delivered = settled.counts["failed"], settled.counts["delivered"]
    group = run_syncctl("failures", "--json", cwd=settled.directory).json["groups"][0]
    for args, matched in (
        (("--since", "1h"), failed),
        (("--until", "1h"), 0),
        (("--error", "0123456789ab"), 0),
        (("--error", group["fingerprint"]), group["count"]),
        (("--error", group["fingerprint"][:6].upper()), group["count"]),
        (("--state", "delivered"), delivered),
        (("--state", "failed", "--state", "delivered"), failed + delivered),
        (("--id", settled.failed_ids[0], "--id", "nope"), 1),
        (("--stream", "orders"), failed),
    ):
        plan = run_syncctl("replay", *args, "--dry-run", "--json", cwd=settled.directory)
        assert plan.json["matched"] == matched, args


def test_a_replay_warns_of_workers_that_run_something_else(
    run_syncctl: Run, settled: Settled, mongo_client: Any
) -> None:
    url = next(
        line.partition("=")[2]
        for line in (settled.directory / ".env").read_text().splitlines()
        if line.startswith("MONGO_URL=")
    )
    workers = mongo_client[parse_uri(url.strip("'\""))["database"]].workers
    own = {
        "at": datetime.now(UTC) + timedelta(minutes=5),
        "version": __version__,
        "ledger": VERSION,
        "queues": ["deliver"],
    }
    try:
        workers.insert_one({"_id": "new@one", **own})
        assert "warning" not in run_syncctl("replay", "--dry-run", cwd=settled.directory).stderr
        workers.insert_one({"_id": "old@one", **own, "settings": "00000000"})
        workers.insert_one({"_id": "older@one", **own, "version": "0.0.1"})
        warned = run_syncctl("replay", "--dry-run", cwd=settled.directory).stderr
        assert "warning: old@one runs with settings or a schema that differ from the present ones: restart it" in warned
        assert f"warning: older@one runs syncctl 0.0.1, and this is {__version__}: restart it" in warned
        assert "new@one" not in warned
    finally:
        workers.delete_many({})


@pytest.mark.parametrize("error", ["0123456789ab", "012345"])
def test_an_error_that_no_record_has_is_reported(run_syncctl: Run, settled: Settled, error: str) -> None:
    for flags in (("--dry-run",), ("--yes",)):
        result = run_syncctl("replay", "--error", error, *flags, "--json", cwd=settled.directory)
        assert (result.exit_code, result.json["matched"]) == (0, 0)
        assert f"no selected failed record has the error {error}\nnext: syncctl failures\n" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--error", "4f1d2"), "--error 4f1d2 is not the fingerprint of an error"),
        (("--error", "4f1d2c77b05e1"), "a fingerprint has 12 digits, 0 to 9 and a to f"),
        (("--error", "HTTP 422"), "run: syncctl failures"),
        (("--error", "4f1d2c", "--state", "delivered"), "give all 12 digits"),
    ],
)
def test_a_text_that_is_not_a_fingerprint_is_refused(
    run_syncctl: Run, settled: Settled, args: tuple[str, ...], message: str
) -> None:
    result = run_syncctl("replay", *args, "--yes", cwd=settled.directory)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_cleanup_says_what_it_would_delete(run_syncctl: Run, settled: Settled) -> None:
    args = ("--older-than", "0s", "--stream", "orders", "--dry-run", "--json")
    plan = run_syncctl("cleanup", *args, cwd=settled.directory)
    # The hour in which they ended is still open: records that are in no frozen report yet are not deleted.
    assert plan.json["deleted"] == dict.fromkeys(("delivered", "failed", "superseded", "discarded"), 0)
    assert plan.json["dry_run"] is True
    done = run_syncctl("cleanup", "--yes", cwd=settled.directory)
    assert (done.exit_code, done.stdout) == (0, "would delete 0 records\n")


def test_cleanup_does_not_guess_a_unit(run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("cleanup", "--older-than", "5", "--yes", cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --older-than '5' is not a duration\n")


def test_a_replay_waits_until_everything_is_delivered(
    run_syncctl: Run, settings_dir: Path, failed_ids: list[str], partner: MockPartner
) -> None:
    partner.fix()
    result = run_syncctl("replay", "--stream", "orders", "--yes", "--wait", "--json", cwd=settings_dir)
    assert result.exit_code == 0, result.stderr
    assert result.json == {"matched": ROWS, "replayed": ROWS, "skipped": 0, "dry_run": False}
    assert result.stderr.endswith(f"all {ROWS} records are finished: {ROWS} delivered\nnext: syncctl status\n")
    assert len(partner.rows()) == ROWS
    records = [
        run_syncctl("show", record_id, "--json", cwd=settings_dir).json["records"][0] for record_id in failed_ids
    ]
    assert {record["state"] for record in records} == {"delivered"}
    assert "replayed" in [event["action"] for event in records[0]["history"]]
    report = run_syncctl("report", cwd=settings_dir)
    assert "still failed: 0\n" in report.stderr
    assert "next:" not in report.stderr


def test_a_replay_whose_records_fail_again_is_exit_code_1(
    run_syncctl: Run, settings_dir: Path, failed_ids: list[str]
) -> None:
    result = run_syncctl("replay", "--yes", "--wait", cwd=settings_dir)
    assert result.exit_code == 1
    assert result.stderr.endswith(f"all {ROWS} records are finished: {ROWS} failed\nnext: syncctl failures\n")


def test_a_replay_that_does_not_finish_in_time_is_exit_code_1(
    run_syncctl: Run, settings_dir: Path, failed_ids: list[str]
) -> None:
    run_syncctl("pause", "orders", cwd=settings_dir)
    result = run_syncctl("replay", "--yes", "--wait", "--timeout", "1s", cwd=settings_dir)
    assert result.exit_code == 1
    assert "3 of 3 replayed records are not finished" in result.stderr
    assert "3 to go; stream orders is paused: no reason given" in result.stderr
    assert "cause: stream orders is paused: no reason given" in result.stderr
    assert "next:" not in result.stderr


def test_a_state_that_cannot_be_replayed_is_refused(run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("replay", "--state", "pending", "--dry-run", cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pending" in result.stderr


def test_the_beginning_of_an_id_is_enough_for_every_command(run_syncctl: Run, settled: Settled) -> None:
    full = settled.failed_ids[0]
    short, directory = full[:-20], settled.directory
    assert run_syncctl("show", short, "--json", cwd=directory).json["records"][0]["id"] == full
    replay = run_syncctl("replay", "--id", short, "--dry-run", "--json", cwd=directory)
    assert replay.json["matched"] == 1
    discard = run_syncctl("discard", short, full, "--reason", "test data", "--dry-run", "--json", cwd=directory)
    assert (discard.exit_code, discard.json["matched"]) == (0, 1)
    for args in (
        ("show", "orders-"),
        ("replay", "--dry-run", "--id", "orders-"),
        ("discard", "--reason", "x", "orders-"),
    ):
        assert "several ids begin" not in run_syncctl(*args, cwd=directory).stderr


def test_a_discard_keeps_the_reason_and_reports_unknown_ids(
    run_syncctl: Run, settings_dir: Path, failed_ids: list[str]
) -> None:
    done = run_syncctl(
        "discard", failed_ids[0], "nope", "--reason", "order was cancelled", "--yes", "--json", cwd=settings_dir
    )
    assert done.exit_code == 1
    assert done.json == {"matched": 1, "discarded": 1, "dry_run": False}
    assert "1 of 2" in done.stderr
    record = run_syncctl("show", failed_ids[0], "--json", cwd=settings_dir).json["records"][0]
    assert (record["state"], record["reason"]) == ("discarded", "order was cancelled")


def test_on_a_terminal_a_replay_asks_with_the_exact_count(
    run_syncctl: Run, settings_dir: Path, failed_ids: list[str], partner: MockPartner, eventually: Eventually
) -> None:
    refused = answer("n", "replay", cwd=settings_dir)
    assert refused[0] == 1
    assert "replay 3 failed records? [y/N]" in refused[1]
    assert "nothing was changed" in refused[1]
    assert count(run_syncctl, settings_dir, "failed") == ROWS
    partner.fix()
    agreed = answer("y", "replay", cwd=settings_dir)
    assert agreed[0] == 0
    eventually(lambda: len(partner.rows()) == ROWS)
