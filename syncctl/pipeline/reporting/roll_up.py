"""Roll-up: count the events of the ledger by hour, and add up the hours of a day once it is over."""

import time
from collections.abc import Callable
from datetime import UTC, timedelta

from syncctl.core.time_zone import HOUR, floor_day, floor_hour
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.reports import FREEZE_AFTER, HourCounts, RollUp
from syncctl.pipeline.reporting.report_summary import StreamDays

HOURS_AT_ONCE = 24
DAY = timedelta(days=1)
_RECENT = timedelta(minutes=5)
"""Beat rolls up every minute by default; if that is slow, a roll-up younger than this is recent enough for a report."""
_LONG_SECONDS = 1.0
_REST_FACTOR = 10
"""After a roll-up that takes longer than a second, Beat starts no other one for ten times as long."""
RECORDS_AT_ONCE = 20_000
"""A roll-up of this many changed records takes less than a second."""


def roll_up(*, ledger: Ledger, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Recompute the open hours, and freeze those that are over; return how many were stored. Safe to repeat.

    Args:
        should_stop: Called between days; if true, the next roll-up continues.
    """
    begun = time.monotonic()
    now = ledger.streams.server_time()
    start = ledger.reports.frozen_until() or ledger.reports.first_logged_at()
    if start is None:
        return 0
    start = first = floor_hour(start)
    frozen_until = floor_hour(now - FREEZE_AFTER)
    stored = 0
    while start <= now:
        end = min(start + timedelta(hours=HOURS_AT_ONCE), floor_hour(now) + HOUR)
        hours: list[HourCounts] = ledger.reports.roll_up(start, end, frozen_until=frozen_until)
        done = RollUp(at=now, took_seconds=time.monotonic() - begun) if end > now else None
        ledger.reports.store(hours, frozen_until=min(frozen_until, end), done=done)
        stored += len(hours)
        start = end
        if start <= now and should_stop():
            return stored
    if first < frozen_until:
        ledger.reports.forget_counted(first, frozen_until)
    add_up_days(ledger=ledger, should_stop=should_stop)
    return stored


def add_up_days(*, ledger: Ledger, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Add up the UTC days whose hours are all frozen, from the first day that is not stored. Safe to repeat."""
    frozen_until = ledger.reports.frozen_until()
    start = ledger.report_days.complete_until()
    if start is None:
        first = ledger.reports.first_hour()
        start = None if first is None else floor_day(first, UTC)
    while start is not None and frozen_until is not None and start + DAY <= frozen_until:
        summary = StreamDays()
        for hour in ledger.reports.load(start, start + DAY):
            summary.add(hour)
        ledger.report_days.store(start, summary.to_documents(), until=start + DAY)
        start += DAY
        if should_stop():
            return


def roll_up_when_due(*, ledger: Ledger, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Roll up as Beat does: less often if it takes long, so that it takes at most a tenth of MongoDB's time."""
    known = ledger.reports.last_roll_up()
    if known is not None and ledger.streams.server_time() - known.at < _rest_after(known):
        return 0
    return roll_up(ledger=ledger, should_stop=should_stop)


def _rest_after(done: RollUp) -> timedelta:
    is_long = done.took_seconds >= _LONG_SECONDS
    return timedelta(seconds=_REST_FACTOR * done.took_seconds if is_long else 0)


def bring_up_to_date(*, ledger: Ledger, at_once: int = RECORDS_AT_ONCE) -> bool:
    """Roll up, unless many records have changed and Beat rolled up minutes ago; tell whether it was done.

    Args:
        at_once: The number of changed records up to which they are rolled up in any case.
    """
    known = ledger.reports.last_roll_up()
    is_recent = known is not None and ledger.streams.server_time() - known.at < _RECENT + _rest_after(known)
    if is_recent and ledger.reports.has_more_changes(at_once):
        return False
    roll_up(ledger=ledger)
    return True
