"""Commands that only read: report, status, show, failures; and pause and resume."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner
from tests.cli.conftest import ROWS, Settled
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
Start = Callable[..., Any]
Eventually = Callable[..., Any]


def test_reports_agree_with_each_other(run_syncctl: Run, settled: Settled) -> None:
    for by in ("hour", "day", "stream"):
        report = run_syncctl("report", "--by", by, "--json", cwd=settled.directory).json
        assert report["by"] == by
        for state in ("delivered", "failed"):
            assert sum(row[state] for row in report["rows"]) == report["totals"][state] == settled.counts[state]
        assert report["totals"]["logged"] == ROWS
        text = run_syncctl("report", "--by", by, "--csv", cwd=settled.directory).stdout
        rows = list(csv.DictReader(io.StringIO(text)))
        assert sum(int(row["delivered"]) for row in rows) == settled.counts["delivered"]
    errors = run_syncctl("report", "--by", "error", "--json", cwd=settled.directory).json["rows"]
    assert sum(row["count"] for row in errors) == settled.counts["failed"]
    shown = run_syncctl("report", cwd=settled.directory)
    assert "failures count in" not in shown.stderr
    assert shown.stderr.endswith("next: syncctl failures\n")
    shown = shown.stdout.splitlines()[1].split()
    assert shown[:4] == ["orders", *(str(report["totals"][name]) for name in ("logged", "delivered", "failed"))]


def test_a_report_of_another_time_is_empty(run_syncctl: Run, settled: Settled) -> None:
    result = run_syncctl("report", "--since", "2020-01-01", "--until", "2020-02-01", cwd=settled.directory)
    assert result.stdout == "nothing happened in this period\n"
    report = run_syncctl(
        "report", "--since", "2020-01-01", "--until", "2020-02-01", "--json", cwd=settled.directory
    ).json
    assert (report["since"], report["until"]) == ("2020-01-01T00:00:00.000Z", "2020-02-01T00:00:00.000Z")
    assert report["rows"] == []


def test_failures_are_exit_code_1_and_lead_to_a_record(run_syncctl: Run, settled: Settled) -> None:
    result = run_syncctl("failures", cwd=settled.directory)
    assert result.exit_code == 1
    header, first, *_ = result.stdout.splitlines()
    assert header.split()[:2] == ["COUNT", "STREAMS"]
    assert first.split()[:3] == [str(settled.counts["failed"]), "orders", "422"]
    sample = result.stderr.splitlines()[0].removeprefix("next: syncctl show ")
    shown = run_syncctl("show", sample, cwd=settled.directory)
    assert shown.stdout.splitlines()[0] == f"record {sample}"
    assert "422" in shown.stdout
    assert shown.stderr == f"next: syncctl replay --id {sample}\n"


def test_no_failures_are_exit_code_0(run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("failures", cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (0, "no failed records\n")


def test_show_takes_a_key_and_says_if_no_row_has_it(run_syncctl: Run, settled: Settled) -> None:
    by_value = run_syncctl("show", "orders", "5", "--json", cwd=settled.directory).json["records"]
    by_name = run_syncctl("show", "orders", "id=5", "--json", cwd=settled.directory).json["records"]
    assert by_value == by_name
    assert by_value[0]["key"] == {"id": 5}
    for args in (("show", "nope"), ("show", "orders", "-5")):
        result = run_syncctl(*args, cwd=settled.directory)
        assert (result.exit_code, result.stdout) == (1, "")
        assert args[-1] in result.stderr


def test_show_takes_the_beginning_of_an_id(run_syncctl: Run, settled: Settled) -> None:
    whole = settled.failed_ids[0]
    shown = run_syncctl("show", whole[: len("orders-") + 8], cwd=settled.directory)
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (0, f"record {whole}")


def test_show_tells_a_stream_from_an_id(run_syncctl: Run, settled: Settled) -> None:
    keyless = run_syncctl("show", "orders", cwd=settled.directory)
    assert keyless.exit_code == 2
    assert keyless.stderr.startswith("error: orders is a stream, and a key is missing\n")
    unknown = run_syncctl("show", "order", "5", cwd=settled.directory)
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("error: no such stream: order\n  cause: did you mean orders?\n")


def test_status_without_a_worker_names_the_next_command(run_syncctl: Run, settled: Settled) -> None:
    status = run_syncctl("status", "--json", cwd=settled.directory).json
    assert status["workers"] == []
    assert status["queue"]["messages"] == 0
    shown = run_syncctl("status", cwd=settled.directory)
    assert "none; run: syncctl worker" in shown.stdout
    # It may say besides that the last poll is long ago: the tests before it took their time.
    assert shown.stderr.endswith("next: syncctl failures\n")


def test_status_without_redis_still_shows_the_ledger(run_syncctl: Run, settings_dir: Path) -> None:
    result = run_syncctl("status", "--json", cwd=settings_dir, env={"REDIS_URL": "redis://localhost:1/0"})
    assert result.exit_code == 0
    assert result.json["queue"]["messages"] is None
    assert result.stderr.startswith("warning: ")


def test_status_watches_until_it_is_stopped(start_syncctl: Start, settings_dir: Path, eventually: Eventually) -> None:
    watch = start_syncctl("status", "--watch", cwd=settings_dir)
    eventually(lambda: watch.log.count("STREAM") >= 2)
    watch.interrupt()
    assert watch.wait() == 130
    watch = start_syncctl("status", "--watch", cwd=settings_dir)
    watch.wait_for_log("STREAM")
    watch.terminate()
    assert watch.wait() == 143


def test_a_paused_stream_is_read_and_not_delivered_until_it_is_resumed(
    run_syncctl: Run,
    start_syncctl: Start,
    settings_dir: Path,
    source_db: SourceDb,
    partner: MockPartner,
    eventually: Eventually,
) -> None:
    partner.fix()
    source_db.create_orders(2)
    paused = run_syncctl("pause", "orders", "--reason", "maintenance", "--json", cwd=settings_dir)
    stated = {"stream": "orders", "paused": True, "polls_paused": False, "until": None}
    assert paused.json == {"streams": [stated], "partners": []}
    assert paused.stderr == "next: syncctl resume orders, when it may go on\n"
    start_syncctl("worker", "--pool", "threads", "--beat", cwd=settings_dir)
    look = lambda: run_syncctl("status", "--json", cwd=settings_dir).json["streams"][0]  # noqa: E731
    eventually(lambda: look()["counts"]["pending"] == 2)
    assert (look()["paused"], look()["paused_reason"]) == (True, "maintenance")
    shown = run_syncctl("status", cwd=settings_dir)
    assert "orders (paused)" in shown.stdout
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("stream "))
    assert re.fullmatch(
        r"stream   orders is paused since \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: maintenance; syncctl resume orders", line
    )
    assert shown.stderr == "next: syncctl resume orders\n"
    assert partner.calls() == []
    resumed = run_syncctl("resume", "orders", "--json", cwd=settings_dir).json["streams"]
    gone = {"paused": False, "polls_paused": False, "resumed": True, "polls_resumed": False}
    assert resumed == [{"stream": "orders", **gone}]
    eventually(lambda: len(partner.rows()) == 2)


def test_a_pause_has_an_end_and_may_be_of_polls_alone(run_syncctl: Run, settings_dir: Path) -> None:
    env = {"TZ": "America/New_York"}
    pause = lambda *args: run_syncctl("pause", "orders", *args, cwd=settings_dir, env=env)  # noqa: E731
    done = pause("--polls", "--until", "06:00", "--reason", "a new disk")
    assert re.fullmatch(r"paused polls of orders until \S+ 1[01]:00:00Z \(06:00 E[SD]T\)\n", done.stdout)
    assert done.stderr == "next: syncctl resume orders --polls, to end it sooner\n"
    assert pause("--until", "2099-01-31T06:00", "--json").json["streams"][0]["until"] == "2099-01-31T11:00:00.000Z"
    assert (
        pause("--until", "2099-01-31T06:00+01:00", "--json").json["streams"][0]["until"] == "2099-01-31T05:00:00.000Z"
    )
    (stated,) = run_syncctl("status", "--json", cwd=settings_dir).json["streams"]
    assert (stated["paused"], stated["polls_paused"]) == (True, True)
    assert stated["paused_until"] == "2099-01-31T05:00:00.000Z"
    shown = run_syncctl("status", cwd=settings_dir)
    assert "orders (paused, polls paused)" in shown.stdout
    assert re.search(r"orders is paused since \S+ \S+ until 2099-01-31 05:00:00Z: no reason given", shown.stdout)
    polled = run_syncctl("poll", "--once", cwd=settings_dir)
    assert (polled.exit_code, polled.stdout) == (75, "")
    assert "syncctl resume orders --polls" in polled.stderr
    (entry, *_) = run_syncctl("audit", "--action", "pause", "--json", cwd=settings_dir).json["entries"]
    assert entry["detail"]["until"] == "2099-01-31T05:00:00.000Z"
    resumed = run_syncctl("resume", "orders", "--polls", "--json", cwd=settings_dir).json["streams"][0]
    assert (resumed["paused"], resumed["polls_paused"], resumed["polls_resumed"]) == (True, False, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("orders", "--until", "soon"), "error: --until 'soon' is not a time"),
        (("orders", "--until", "2020-01-01"), "error: --until 2020-01-01 has passed"),
        (("orders", "--until", "0s"), "error: --until 0s has passed"),
        (("--partner", "default", "--polls"), "hint: run: syncctl pause orders --polls"),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused(
    run_syncctl: Run, settings_dir: Path, args: tuple[str, ...], said: str
) -> None:
    result = run_syncctl("pause", *args, cwd=settings_dir)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_stream_that_was_not_paused_is_not_resumed(run_syncctl: Run, settings_dir: Path) -> None:
    run_syncctl("pause", "--partner", "default", cwd=settings_dir)
    assert run_syncctl("status", cwd=settings_dir).stderr.endswith("next: syncctl resume --partner default\n")
    mixed = run_syncctl("resume", "orders", "--partner", "default", cwd=settings_dir)
    assert (mixed.exit_code, mixed.stdout) == (0, "resumed partner default\nnot paused: orders\n")
    again = run_syncctl("resume", "--partner", "default", "--json", cwd=settings_dir).json
    assert again["partners"] == [{"partner": "default", "paused": False, "resumed": False}]


def test_an_unknown_partner_is_refused(run_syncctl: Run, settings_dir: Path) -> None:
    for name, hint in (("acme", "use --partner default"), ("orders", "orders is a stream")):
        result = run_syncctl("pause", "--partner", name, cwd=settings_dir)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(
            f"error: no such partner: {name}\n  cause: the partners are default\n   hint: {hint}"
        )


def test_an_unknown_stream_is_refused(run_syncctl: Run, settings_dir: Path) -> None:
    for args in (("pause", "ordres"), ("report", "--stream", "ordres"), ("replay", "--stream", "ordres", "--dry-run")):
        result = run_syncctl(*args, cwd=settings_dir)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "did you mean orders?" in result.stderr
