"""The lines below the table of a report."""

from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.commands.report import By, _show
from syncctl.pipeline.reporting.report import Report

COUNTS = {"logged": 20, "delivered": 20, "superseded": 0, "attempts": 40, "retries": 6}
LATENCY = {f"{prefix}p{share}_ms": 1.0 for prefix in ("", "delivery_") for share in (50, 95, 99)}


def show(capsys: pytest.CaptureFixture[str], *, failed: int, failed_now: int, by: By = By.STREAM) -> list[str]:
    """Return the lines beside the tables."""
    counts: dict[str, Any] = {**COUNTS, "failed": failed, "delivery_count": 20, **LATENCY}
    errors = [{"fingerprint": "f", "status": 422, "message": "m", "count": failed, "sample_id": "s"}]
    found = Report(
        since=datetime(2026, 1, 1, 3, tzinfo=UTC),
        until=datetime(2026, 1, 2, 4, tzinfo=UTC),
        timezone="UTC",
        rolled_up_at=None,
        by=by.value,
        rows=errors if by is By.ERROR else ({"stream": "orders", "window_start": None, **counts},),  # type: ignore[arg-type]
        totals=counts,
        top_errors=tuple(errors if failed else ()),
        compare=None,
    )
    _show(found, by, failed_now=failed_now)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("by", [By.STREAM, By.ERROR])
def test_replayed_failures_are_told_apart_from_current_ones(capsys: pytest.CaptureFixture[str], by: By) -> None:
    assert show(capsys, failed=14, failed_now=0, by=by) == [
        f"2026-01-01T03:00Z to 2026-01-02T04:00Z, by {by}",
        "failures are counted in the hour in which they happened; still failed: 0",
    ]
    assert show(capsys, failed=14, failed_now=3, by=by)[1:] == [
        "failures are counted in the hour in which they happened; still failed: 3",
        "next: syncctl failures",
    ]


def test_failures_that_are_all_still_there_need_no_explanation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(capsys, failed=14, failed_now=14)[1:] == ["next: syncctl failures"]
    assert show(capsys, failed=0, failed_now=0)[1:] == []
