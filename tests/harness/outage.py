"""Hours in which a partner goes down and comes back: a real run, without the waiting."""

import time
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from syncctl.core.time_zone import floor_hour
from syncctl.ledger.attempt_history import SLICE_MINUTES
from tests.harness.passing_time import let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

UNREACHABLE = "http://127.0.0.1:9"
"""Nothing listens on port 9 (discard)."""
_HOUR_SECONDS = 3600
_SPARE_SECONDS = 60


def run_outage(testbed: Testbed, source_db: SourceDb, *, slices: int, down: Collection[int], rows: int) -> datetime:
    """Let rows appear, be polled and be delivered every five minutes; return the full hour in which that began.

    Args:
        slices: The number of slices of five minutes.
        down: The slices in which the partner cannot be reached, counted from 0.
        rows: The number of new rows in each slice.
    """
    up = testbed.partner
    source_db.create_orders(0)
    for number in range(slices):
        begun = time.monotonic()
        testbed.partner = replace(up, url=UNREACHABLE) if number in down else up
        source_db.add_orders(range(number * rows + 1, (number + 1) * rows + 1))
        testbed.poll()
        testbed.deliver()
        # The time that this took is part of the five minutes, however busy the machine is.
        let_hours_pass(testbed.database, SLICE_MINUTES / 60 - (time.monotonic() - begun) / _HOUR_SECONDS)
    testbed.partner = up
    return _begin_with_an_hour(testbed.database)


def _begin_with_an_hour(database: Any) -> datetime:
    """Move the run back a little, so that its first event is in the first minutes of an hour."""
    first: datetime = database.records.find_one({}, sort=[("logged_at", 1)])["logged_at"]
    by = first - floor_hour(first) - timedelta(seconds=_SPARE_SECONDS)
    let_hours_pass(database, by.total_seconds() / _HOUR_SECONDS)
    return floor_hour(first)
