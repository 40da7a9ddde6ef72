"""The circuit breaker of a stream, shared by all workers: it opens, probes, and closes step by step."""

from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.core.states import BreakerState
from syncctl.core.stream import BreakerRules
from syncctl.ledger.breakers import HALF_OPEN_ENDS_AT, HALF_OPEN_STARTS_AT, BreakerGate, Tally
from syncctl.ledger.ledger import Ledger

RULES = BreakerRules(minimum_calls=10, failure_rate=0.7, open_seconds=30.0, longest_open_seconds=100.0)
PAST = datetime(2020, 1, 1, tzinfo=UTC)
OPEN, HALF, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED


def report(
    ledger: Ledger,
    calls: int,
    failures: int,
    batch: str = "batch",
    *,
    stream: str = "erp",
    rest: float | None = None,
    is_retry: bool = False,
) -> BreakerState:
    reason = "HTTP 503" if failures else ""
    tally = Tally(calls=calls, failures=failures, reason=reason, rest_seconds=rest, is_retry=is_retry)
    return ledger.breakers.report(stream, tally, token=batch, rules=RULES)


def load(ledger: Ledger, stream: str = "erp") -> BreakerGate:
    return ledger.streams.load_gate(stream).breaker


def wait_over(database: Any) -> None:
    """Let the pause be over."""
    database.streams.update_one({"_id": "erp"}, {"$set": {"breaker.until": PAST}})


def pause_seconds(database: Any, ledger: Ledger) -> float:
    until = database.streams.find_one({"_id": "erp"})["breaker"]["until"]
    return float((until.replace(tzinfo=UTC) - ledger.streams.server_time()).total_seconds())


def come_back(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    wait_over(database)
    ledger.breakers.acquire_probe("erp", token="p", record="r", seconds=60.0)
    assert report(ledger, 1, 0, batch="p") is HALF


@pytest.mark.parametrize(
    ("reports", "state"),
    [
        ([(9, 9)], CLOSED),
        ([(10, 7)], OPEN),
        ([(10, 6)], CLOSED),
        ([(5, 5), (5, 5)], OPEN),
        ([(50, 0), (10, 10)], CLOSED),
        ([(1, 1)] * 10, OPEN),
        ([(25, 0)] * 200 + [(25, 25)] * 2, CLOSED),
        ([(25, 0)] * 200 + [(25, 25)] * 3, OPEN),
        ([(25, 12)] * 20, CLOSED),
        ([(1, 1)] * 9, CLOSED),
    ],
)
def test_the_breaker_opens_when_most_calls_of_a_minute_have_failed(
    ledger: Ledger, reports: list[tuple[int, int]], state: BreakerState
) -> None:
    assert [report(ledger, *each) for each in reports][-1] is state
    assert load(ledger).state is state


def test_failures_of_an_earlier_minute_do_not_count(ledger: Ledger, database: Any) -> None:
    report(ledger, 9, 9)
    database.streams.update_one({"_id": "erp"}, {"$set": {"breaker.window_start": PAST}})
    assert report(ledger, 9, 9) is CLOSED
    assert report(ledger, 1, 1) is OPEN


def test_only_one_probe_at_a_time_is_allowed(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    gate = load(ledger)
    assert (gate.is_probe_due, gate.admits("batch")) == (False, False)
    assert not ledger.breakers.acquire_probe("erp", token="p1", record="r1", seconds=60.0)
    wait_over(database)
    assert load(ledger).is_probe_due
    assert ledger.breakers.acquire_probe("erp", token="p1", record="r1", seconds=60.0)
    assert not ledger.breakers.acquire_probe("erp", token="p2", record="r2", seconds=60.0)
    gate = load(ledger)
    assert (gate.is_probe_due, gate.admits("p1"), gate.admits("p2"), gate.last_probe) == (False, True, False, "r1")
    ledger.breakers.release_probe("erp", token="p1")
    assert load(ledger).is_probe_due


@pytest.mark.parametrize(
    ("is_retry", "rest", "seconds"), [(True, None, 30), (True, 80.0, 80), (False, None, None), (False, 80.0, None)]
)
def test_after_the_probe_of_a_record_that_had_failed_a_new_one_waits_for_the_shortest_pause(
    ledger: Ledger, database: Any, is_retry: bool, rest: float | None, seconds: float | None
) -> None:
    report(ledger, 10, 10)
    for number in range(2):
        wait_over(database)
        ledger.breakers.acquire_probe("erp", token=f"p{number}", record="r", seconds=60.0)
        report(ledger, 1, 1, batch=f"p{number}", rest=rest, is_retry=is_retry)
    until = database.streams.find_one({"_id": "erp"})["breaker"].get("fresh_until")
    if seconds is None:
        assert until is None
    else:
        left = (until.replace(tzinfo=UTC) - ledger.streams.server_time()).total_seconds()
        assert seconds - 10 < left <= seconds
    assert not load(ledger).is_fresh_probe_due
    assert not ledger.breakers.acquire_probe("erp", token="p", record="new", seconds=60.0)
    if seconds is not None:
        database.streams.update_one({"_id": "erp"}, {"$set": {"breaker.fresh_until": PAST}})
        gate = load(ledger)
        assert (gate.is_probe_due, gate.is_fresh_probe_due) == (False, True)
        assert ledger.breakers.acquire_probe("erp", token="p", record="new", seconds=60.0)
        assert not load(ledger).is_fresh_probe_due, "one probes at a time"


def test_a_probe_that_fails_doubles_the_pause_up_to_the_longest(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    pauses = [pause_seconds(database, ledger)]
    for number in range(3):
        wait_over(database)
        ledger.breakers.acquire_probe("erp", token=f"p{number}", record="r", seconds=60.0)
        assert report(ledger, 1, 1, batch=f"p{number}") is OPEN
        pauses.append(pause_seconds(database, ledger))
    assert [round(pause / 10) * 10 for pause in pauses] == [30, 60, 100, 100]
    assert load(ledger).last_probe == "r"


def test_calls_that_began_before_the_breaker_opened_do_not_count(ledger: Ledger) -> None:
    report(ledger, 10, 10)
    assert report(ledger, 5, 0, batch="old") is OPEN


def test_half_open_limits_the_calls_to_a_recovering_partner(ledger: Ledger, database: Any) -> None:
    come_back(ledger, database)
    allowed = [load(ledger).allowed]
    while report(ledger, allowed[-1], 0) is HALF:
        allowed.append(load(ledger).allowed)
    assert allowed == [HALF_OPEN_STARTS_AT * 2**n for n in range(len(allowed))]
    assert allowed[-1] < HALF_OPEN_ENDS_AT
    assert load(ledger).state is CLOSED


@pytest.mark.parametrize(
    ("reports", "state", "allowed"),
    [
        # The calls that were allowed are judged together, however many reports they come in.
        ([(1, 0)], HALF, 2),
        ([(1, 1)], HALF, 2),
        ([(1, 0), (1, 0)], HALF, 4),
        ([(1, 1), (1, 0)], HALF, 2),
        ([(2, 2)], OPEN, 0),
        ([(1, 0), (1, 0), (4, 1)], HALF, 8),
        ([(1, 0), (1, 0), (4, 2)], HALF, 4),
        ([(1, 0), (1, 0), (2, 2), (2, 1)], OPEN, 0),
    ],
)
def test_half_open_one_bad_record_among_good_ones_does_not_open_the_breaker(
    ledger: Ledger, database: Any, reports: list[tuple[int, int]], state: BreakerState, allowed: int
) -> None:
    come_back(ledger, database)
    for each in reports:
        report(ledger, *each)
    assert (load(ledger).state, load(ledger).allowed) == (state, allowed)


def test_an_answered_probe_resets_the_pauses(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    wait_over(database)
    ledger.breakers.acquire_probe("erp", token="p0", record="r", seconds=60.0)
    report(ledger, 1, 1, batch="p0")
    assert round(pause_seconds(database, ledger) / 10) * 10 == 60
    wait_over(database)
    ledger.breakers.acquire_probe("erp", token="p1", record="r", seconds=60.0)
    assert report(ledger, 1, 0, batch="p1") is HALF
    assert report(ledger, 2, 2) is OPEN
    assert round(pause_seconds(database, ledger) / 10) * 10 == 30


@pytest.mark.parametrize(("asked_for", "pause"), [(50.0, 50), (5.0, 10), (3600.0, 100)])
def test_retry_after_decides_when_the_probe_goes(ledger: Ledger, database: Any, asked_for: float, pause: int) -> None:
    report(ledger, 10, 10, rest=asked_for)
    assert -(-pause_seconds(database, ledger) // 10) * 10 == pause


def test_a_breaker_with_many_minimum_calls_still_opens(ledger: Ledger) -> None:
    rules = BreakerRules(minimum_calls=100, failure_rate=0.7, open_seconds=30.0)
    tally = Tally(calls=1, failures=1, reason="HTTP 503")
    states = [ledger.breakers.report("erp", tally, token="b", rules=rules) for _ in range(100)]
    assert states == [CLOSED] * 99 + [OPEN]


def test_the_answer_counts_of_the_one_that_holds_the_probe(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    wait_over(database)
    assert ledger.breakers.acquire_probe("erp", token="p", record="r", seconds=60.0)
    database.streams.update_one({"_id": "erp"}, {"$set": {"breaker.probe.until": PAST}})
    assert ledger.breakers.acquire_probe("erp", token="other", record="r2", seconds=60.0)
    assert not load(ledger).admits("p")
    assert report(ledger, 1, 0, batch="p") is OPEN
    assert report(ledger, 1, 0, batch="other") is HALF


def test_the_breaker_of_one_stream_does_not_affect_another(ledger: Ledger) -> None:
    report(ledger, 20, 20)
    assert load(ledger, "other").state is CLOSED


def test_the_time_of_recovery_is_remembered(ledger: Ledger, database: Any) -> None:
    assert ledger.streams.load_gate("erp").back_at is None
    come_back(ledger, database)
    first = ledger.streams.load_gate("erp").back_at
    assert first is not None
    report(ledger, 2, 0)
    assert ledger.streams.load_gate("erp").back_at == first
    report(ledger, 4, 4)
    assert ledger.breakers.reset("erp")
    assert not ledger.breakers.reset("erp")
    second = ledger.streams.load_gate("erp").back_at
    assert second is not None
    assert second >= first
    assert load(ledger).admits("any")
