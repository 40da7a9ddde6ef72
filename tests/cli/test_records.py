"""Records listed and exported; the same filters mean the same in every command."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncctl.console.console import WRITTEN_AT_ONCE
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.cli.catalogue import flags_of
from tests.cli.conftest import ROWS, Settled
from tests.harness.commands import run_on_terminal
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
FILTERS = {"--stream", "--state", "--error", "--key", "--since", "--until", "--limit"}
BUT_FOR = {"report": {"--key"}}
"""Roll-ups know no rows."""


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that refuses every row."""
    with MockPartner(PartnerConfig(reject_rate=1.0)) as server:
        yield server


@pytest.mark.parametrize("command", ["records", "replay", "discard", "show", "failures", "report"])
def test_commands_that_select_records_have_the_same_filters(command: str) -> None:
    assert FILTERS - BUT_FOR.get(command, set()) <= flags_of((command,))


def test_failed_records_are_listed(run_syncctl: Run, settled: Settled) -> None:
    listed = run_syncctl("records", "--state", "failed", "--json", cwd=settled.directory)
    assert (listed.exit_code, listed.json["more"]) == (0, False)
    assert {record["id"] for record in listed.json["records"]} == set(settled.failed_ids)
    assert {record["state"] for record in listed.json["records"]} == {"failed"}
    assert {record["error"]["status"] for record in listed.json["records"]} == {422}
    everything = run_syncctl("records", "--json", cwd=settled.directory).json["records"]
    assert len(everything) == ROWS
    ends = [record["finished_at"] for record in everything]
    assert ends == sorted(ends, reverse=True)


def test_a_table_leads_to_its_first_record(run_syncctl: Run, settled: Settled) -> None:
    table = run_syncctl("records", "--state", "failed", "--oldest-first", cwd=settled.directory)
    header, *rows = table.stdout.splitlines()
    assert header.split()[:5] == ["ID", "STREAM", "KEY", "STATE", "AT"]
    assert {row.split()[0] for row in rows} == set(settled.failed_ids)
    assert table.stderr == f"next: syncctl show {rows[0].split()[0]}\n"
    nothing = run_syncctl("records", "--state", "discarded", cwd=settled.directory)
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "no records\n", "")


def test_a_limit_says_whether_there_is_more(run_syncctl: Run, settled: Settled) -> None:
    two = run_syncctl("records", "--limit", "2", "--json", cwd=settled.directory).json
    assert (len(two["records"]), two["more"]) == (2, True)
    every = run_syncctl("records", "--limit", str(ROWS), "--json", cwd=settled.directory).json
    assert (len(every["records"]), every["more"]) == (ROWS, False)


def test_records_are_exported_as_csv(run_syncctl: Run, settled: Settled) -> None:
    text = run_syncctl("records", "--state", "failed", "--csv", cwd=settled.directory).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["id"] for row in rows} == set(settled.failed_ids)
    for row in rows:
        assert (row["stream"], row["status"], row["state"]) == ("orders", "422", "failed")
        shown = run_syncctl("show", "orders", row["key"], "--json", cwd=settled.directory).json["records"][0]
        assert shown["id"] == row["id"]
        assert shown["error"]["fingerprint"] == row["fingerprint"]


def test_on_a_terminal_ids_are_short_and_can_be_copied(run_syncctl: Run, settled: Settled) -> None:
    import sys

    command = [sys.executable, "-m", "syncctl", "records", "--state", "failed", "--limit", "1"]
    shown = run_on_terminal(command, cwd=settled.directory, env={"NO_COLOR": "1", "COLUMNS": "80"}).stderr
    (short,) = set(re.findall(r"orders-[0-9a-f]{8}(?![0-9a-f])", shown))
    record = run_syncctl("show", short, "--json", cwd=settled.directory).json["records"][0]
    assert record["id"] in settled.failed_ids


def test_a_replay_or_a_discard_takes_what_a_list_shows(run_syncctl: Run, settled: Settled) -> None:
    mark = run_syncctl("failures", "--json", cwd=settled.directory).json["groups"][0]["fingerprint"]
    sample = run_syncctl("show", settled.failed_ids[0], "--json", cwd=settled.directory).json["records"][0]
    for filters in (
        ("--error", mark),
        ("--error", mark[:7]),
        ("--state", "failed", "--limit", "2"),
        ("--state", "failed", "--key", str(sample["key"]["id"])),
        ("--state", "failed", "--since", "1h"),
        ("--state", "failed", "--until", "1h"),
    ):
        listed = run_syncctl("records", *filters, "--json", cwd=settled.directory).json["records"]
        replayed = run_syncctl("replay", *filters, "--dry-run", "--json", cwd=settled.directory).json
        discard = ("discard", *filters, "--reason", "test data", "--dry-run", "--json")
        discarded = run_syncctl(*discard, cwd=settled.directory).json
        assert len(listed) == replayed["matched"] == discarded["matched"], filters
        shown = run_syncctl("show", *filters, "--json", cwd=settled.directory)
        assert (shown.exit_code == 0) == bool(listed)
        if listed:
            assert [record["id"] for record in shown.json["records"]] == [record["id"] for record in listed]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("records", "--state", "faild"), "there is no such state"),
        (("replay", "--state", "pending"), "--state takes delivered, failed, superseded, discarded"),
        (("discard", "--state", "delivered", "--reason", "x"), "--state takes failed, pending, retrying"),
        (("discard", "--reason", "x"), "no record is selected"),
        (("records", "--stream", "orders", "--key", "a=1"), "its key columns are id"),
        (("records", "--json", "--csv"), "stdout carries one document"),
        (("report", "--error", "4f1d2c"), "--error needs --by error"),
        (("records", "--stream", "ordres"), "did you mean orders?"),
    ],
)
def test_a_filter_that_selects_nothing_by_mistake_is_refused(
    run_syncctl: Run, settled: Settled, args: tuple[str, ...], message: str
) -> None:
    result = run_syncctl(*args, cwd=settled.directory)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_report_keeps_to_its_filters(run_syncctl: Run, settled: Settled) -> None:
    report = run_syncctl("report", "--by", "hour", "--limit", "1", "--json", cwd=settled.directory).json
    assert len(report["rows"]) == 1
    none = run_syncctl("report", "--state", "superseded", "--json", cwd=settled.directory).json
    assert (none["rows"], none["totals"]["logged"]) == ([], ROWS)
    some = run_syncctl("report", "--state", "failed", "--json", cwd=settled.directory).json
    assert len(some["rows"]) == 1
    errors = run_syncctl("report", "--by", "error", "--json", cwd=settled.directory).json["rows"]
    mark = errors[0]["fingerprint"]
    args = ("report", "--by", "error", "--error", mark[:6], "--json")
    assert [row["fingerprint"] for row in run_syncctl(*args, cwd=settled.directory).json["rows"]] == [mark]


def test_many_records_are_one_json_document(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    count = 2 * WRITTEN_AT_ONCE + 1
    source_db.create_orders(count)
    run_syncctl("poll", "--once", cwd=settings_dir)
    listed = run_syncctl("records", "--state", "pending", "--oldest-first", "--json", cwd=settings_dir).json
    assert [record["key"]["id"] for record in listed["records"]] == list(range(1, count + 1))
    shown = run_syncctl("records", cwd=settings_dir)
    assert len(shown.stdout.splitlines()) == 51
    assert "more records match" in shown.stderr
