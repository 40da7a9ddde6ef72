"""The rates of a stream, from what was counted minute by minute."""

from datetime import UTC, datetime, timedelta

from syncctl.core.minute_rates import MINUTES, read_flow, squeeze

NOW = datetime(2026, 1, 31, 8, 30, 15, tzinfo=UTC)
MINUTE = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)


def back(minutes: int) -> datetime:
    return MINUTE - timedelta(minutes=minutes)


def test_the_present_minute_stands_for_the_last_sixty_seconds() -> None:
    sent = [{"at": back(1), "attempts": 200, "accepted": 120}, {"at": back(0), "attempts": 50, "accepted": 30}]
    flow = read_flow({"logged": [{"at": back(2), "logged": 600}], "sent": sent}, NOW)
    assert (flow.attempts[-2:], flow.accepted[-2:]) == ((200, 50 + 150), (120, 30 + 90))
    assert flow.rates == {"logged_per_second": 0.0, "attempts_per_second": 3.33, "accepted_per_second": 2.0}
    assert flow.logged[-3:] == (600, 0, 0)


def test_what_is_older_than_half_an_hour_is_not_shown() -> None:
    logged = [{"at": back(MINUTES), "logged": 7}, {"at": back(MINUTES - 1), "logged": 9}]
    flow = read_flow({"logged": logged}, NOW)
    assert (len(flow.logged), flow.logged[0], sum(flow.logged)) == (MINUTES, 9, 9)
    assert sum(read_flow(None, NOW).logged) == 0


def test_counts_are_squeezed_without_losing_any() -> None:
    counts = list(range(MINUTES))
    for width in (1, 7, 10, 15, 29, 30, 50):
        squeezed = squeeze(counts, width)
        assert len(squeezed) <= width
        assert sum(squeezed) == sum(counts)
    assert squeeze(counts, 15)[-1] == 28 + 29
    assert squeeze(counts, 0) == []
