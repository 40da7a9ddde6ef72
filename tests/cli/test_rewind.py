"""`syncctl rewind`: the meaning of `--to`, the preview, the question, and the records that are sent afterwards."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncctl.commands.rewind import parse_place
from syncctl.errors import UsageError
from tests.harness.json_pages import describes, keys_of, read_page
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
ROWS = 9
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def cursor(run_syncctl: Run, directory: Path) -> Any:
    return run_syncctl("status", "--json", cwd=directory).json["streams"][0]["cursor"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("1.5h", NOW - timedelta(hours=1.5)),
        ("2026-04-30", datetime(2026, 4, 30, tzinfo=UTC)),
        ("2026-04-30T08:00:00+02:00", datetime(2026, 4, 30, 6, tzinfo=UTC)),
        ("beginning", "beginning"),
        ("now", "now"),
        ("4711", "4711"),
        ("-5", "-5"),
        ("20260430", "20260430"),
        ("0x00000000000007D1", "0x00000000000007D1"),
        ("cursor:2026-04-30", "2026-04-30"),
        ("cursor:2h", "2h"),
        ("ab-12", "ab-12"),
    ],
)
def test_a_text_is_a_time_only_where_it_reads_as_one(text: str, place: object) -> None:
    assert parse_place(text, now=NOW) == place


def test_a_future_time_is_refused() -> None:
    with pytest.raises(UsageError, match="in the future") as caught:
        parse_place("2026-05-02", now=NOW)
    assert "cursor:2026-05-02" in caught.value.hint


def test_a_dry_run_is_the_plan_and_changes_nothing(run_syncctl: Run, polled: Path) -> None:
    plan = run_syncctl("rewind", "orders", "--to", "4", "--dry-run", cwd=polled)
    assert (plan.exit_code, plan.stdout) == (0, f"would rewind orders from {ROWS} to 4: 6 rows come after it\n")
    assert "--resend" in plan.stderr
    assert cursor(run_syncctl, polled) == str(ROWS)


def test_without_a_terminal_a_rewind_needs_yes(run_syncctl: Run, polled: Path) -> None:
    result = run_syncctl("rewind", "orders", "--to", "beginning", cwd=polled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"rewind orders to beginning, read {ROWS} rows again and send those that have changed?" in result.stderr
    assert cursor(run_syncctl, polled) == str(ROWS)


def test_a_rewind_names_the_next_command_and_the_poll_reads_again(run_syncctl: Run, polled: Path) -> None:
    done = run_syncctl("rewind", "orders", "--to", "beginning", "--yes", cwd=polled)
    assert (done.exit_code, done.stdout) == (0, f"rewound orders from {ROWS} to beginning: {ROWS} rows come after it\n")
    assert done.stderr.endswith("next: syncctl poll orders --once\n")
    (run,) = run_syncctl("poll", "orders", "--once", "--json", cwd=polled).json["runs"]
    assert (run["read"], run["logged"], run["unchanged"]) == (ROWS, 0, ROWS)


def test_its_json_is_what_the_page_says(run_syncctl: Run, polled: Path) -> None:
    args = ("--to", "4", "--resend", "--yes", "--json")
    done = run_syncctl("rewind", "orders", *args, cwd=polled)
    expected = {"stream": "orders", "cursor_before": str(ROWS), "cursor_after": "4", "rows": 6}
    assert done.json == {**expected, "resend": True, "dry_run": False}
    assert keys_of(done.json) == read_page()["rewind"]
    assert describes("rows", "rows")


def test_a_time_is_looked_up_in_the_history_and_an_earlier_one_is_an_error(
    run_syncctl: Run, polled: Path, source_db: SourceDb
) -> None:
    at = datetime.now(UTC).isoformat()
    source_db.add_orders([100])
    run_syncctl("poll", "--once", cwd=polled)
    done = run_syncctl("rewind", "orders", "--to", at, "--yes", "--json", cwd=polled)
    assert (done.json["cursor_before"], done.json["cursor_after"], done.json["rows"]) == ("100", str(ROWS), 1)
    early = run_syncctl("rewind", "orders", "--to", "3h", "--yes", cwd=polled)
    assert early.exit_code == 2
    assert "does not reach back" in early.stderr
    assert "it begins at" in early.stderr


def test_a_rewind_while_a_poll_is_under_way_is_exit_code_75(
    run_syncctl: Run, polled: Path, mongo_database: Any
) -> None:
    streams = mongo_database.streams
    later = datetime.now(UTC) + timedelta(hours=1)
    streams.update_one({"_id": "orders"}, {"$set": {"poll.token": "other", "poll.until": later}})
    result = run_syncctl("rewind", "orders", "--to", "beginning", "--yes", cwd=polled)
    assert (result.exit_code, result.stdout) == (75, "")
    assert cursor(run_syncctl, polled) == str(ROWS)


def test_a_wrong_place_is_refused(run_syncctl: Run, polled: Path) -> None:
    for args in (("orders", "--to", "ab-12"), ("nope", "--to", "beginning"), ("orders",)):
        assert run_syncctl("rewind", *args, "--yes", cwd=polled).exit_code == 2
