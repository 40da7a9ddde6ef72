"""`syncctl show`: the story of a row on the screen and in JSON, with and without its source."""

import re
from collections.abc import Callable
from typing import Any

from tests.cli.conftest import Settled

Run = Callable[..., Any]


def test_a_failed_record_shows_its_timeline_and_what_differs(run_syncctl: Run, settled: Settled) -> None:
    shown = run_syncctl("show", settled.failed_ids[0], cwd=settled.directory)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    timeline = lines[lines.index("TIMELINE") + 1 : lines.index("TIMELINE") + 6]
    assert re.fullmatch(r"  \d{4}-\d\d-\d\d UTC", timeline[0])
    assert re.fullmatch(r"  [\d:.]{12}  found +by a poll that read \d+ rows and logged \d+", timeline[1])
    assert re.fullmatch(r"  [\d:.]{12}  logged +upsert, version .*", timeline[2])
    assert re.fullmatch(
        r"  [\d:.]{12}  attempt 1 +failed +422 +[\d,]+ ms  HTTP 422: this row is not valid", timeline[3]
    )
    assert timeline[4].strip().startswith("answer ")
    assert "  source now       read now" in lines
    assert "  delivered        no delivered version is in the ledger" in lines
    assert lines[-1] == "  no field differs between source now and newest version"


def test_the_rest_is_shown_if_the_source_cannot_be_read(run_syncctl: Run, settled: Settled) -> None:
    away = {"SOURCE_URL": "sqlite:////no/such/file.db"}
    shown = run_syncctl("show", "orders", "5", cwd=settled.directory, env=away)
    assert shown.exit_code == 0
    assert shown.stderr.startswith("warning: the row was not read from the source: ")
    assert "TIMELINE" in shown.stdout
    row = run_syncctl("show", "orders", "5", "--json", cwd=settled.directory, env=away).json["row"]
    assert (row["source"], row["compared"][-1:]) == ("unreachable", row["compared"][-1:])
    unasked = run_syncctl("show", "orders", "5", "--no-source", "--json", cwd=settled.directory, env=away)
    assert (unasked.stderr, unasked.json["row"]["source"]) == ("", "not_asked")


def test_several_rows_have_a_timeline_each_and_no_comparison(run_syncctl: Run, settled: Settled) -> None:
    shown = run_syncctl("show", "--state", "failed", cwd=settled.directory).stdout
    assert shown.count("\nTIMELINE\n") == len(settled.failed_ids)
    assert "ROW  " not in shown
    document = run_syncctl("show", "--state", "failed", "--json", cwd=settled.directory).json
    assert document["row"] is None
    assert {event["record"] for event in document["timeline"]} == set(settled.failed_ids)
