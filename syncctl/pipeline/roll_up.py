"""Roll the ledger's events up into one report document per stream and hour."""

from datetime import timedelta

from syncctl.ledger.ledger import Ledger
from syncctl.ledger.reports import FREEZE_AFTER, HOUR, HourCounts, floor_hour

HOURS_AT_ONCE = 24


def roll_up(*, ledger: Ledger) -> int:
    """Recompute the open hours and freeze those that are over; return how many hours were stored. Safe to repeat."""
    now = ledger.streams.server_time()
    start = ledger.reports.frozen_until() or ledger.reports.first_logged_at()
    if start is None:
        return 0
    start = floor_hour(start)
    frozen_until = floor_hour(now - FREEZE_AFTER)
    stored = 0
    while start <= now:
        end = min(start + timedelta(hours=HOURS_AT_ONCE), floor_hour(now) + HOUR)
        hours: list[HourCounts] = ledger.reports.roll_up(start, end, frozen_until=frozen_until)
        ledger.reports.store(hours, frozen_until=min(frozen_until, end))
        stored += len(hours)
        start = end
    return stored
