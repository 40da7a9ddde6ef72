"""What all workers know of a partner together: permits that are exact, and a breaker that opens and closes."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.core.breaker import CLOSED_AT, FIRST_ALLOWED, BreakerRules, BreakerState
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.partners import Tally

RULES = BreakerRules(calls=10, failures=0.7, pause_seconds=30.0, longest_pause_seconds=100.0)
PAST = datetime(2020, 1, 1, tzinfo=UTC)
OPEN, HALF, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED


def report(ledger: Ledger, calls: int, failures: int, batch: str = "batch") -> BreakerState:
    tally = Tally(calls=calls, failures=failures, reason="HTTP 503" if failures else "")
    return ledger.partners.report("erp", tally, token=batch, rules=RULES)


def wait_over(database: Any) -> None:
    """Let the pause be over."""
    database.partners.update_one({"_id": "erp"}, {"$set": {"breaker.until": PAST}})


def pause_seconds(database: Any, ledger: Ledger) -> float:
    until = database.partners.find_one({"_id": "erp"})["breaker"]["until"]
    return float((until.replace(tzinfo=UTC) - ledger.streams.server_time()).total_seconds())


def take(ledger: Ledger, token: str, wanted: int, *, at_most: int = 5, seconds: float = 60.0) -> int:
    return ledger.partners.acquire_permits("erp", token=token, wanted=wanted, at_most=at_most, seconds=seconds)


def test_permits_are_never_more_than_there_are(ledger: Ledger) -> None:
    assert [take(ledger, token, 3) for token in ("a", "b", "c")] == [3, 2, 0]
    ledger.partners.release_permits("erp", token="a")
    ledger.partners.release_permits("erp", token="a")
    assert take(ledger, "c", 9) == 3


def test_permits_are_exact_with_many_at_once(ledger: Ledger) -> None:
    granted: list[int] = []
    threads = [threading.Thread(target=lambda n=n: granted.append(take(ledger, f"t{n}", 3))) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(granted) == 5


def test_a_dead_holders_permits_end_and_a_living_ones_are_renewed(ledger: Ledger, database: Any) -> None:
    take(ledger, "dead", 3)
    take(ledger, "alive", 2)
    database.partners.update_one(
        {"_id": "erp"}, {"$set": {"permits.$[each].until": PAST}}, array_filters=[{"each.token": "dead"}]
    )
    assert ledger.partners.renew_permits("erp", token="alive", seconds=60.0)
    assert not ledger.partners.renew_permits("erp", token="dead", seconds=60.0)
    assert not ledger.partners.renew_permits("nobody", token="dead", seconds=60.0)
    assert take(ledger, "next", 9) == 3


def test_one_partner_says_nothing_of_another(ledger: Ledger) -> None:
    take(ledger, "a", 5)
    assert ledger.partners.acquire_permits("other", token="b", wanted=5, at_most=5, seconds=60.0) == 5
    report(ledger, 20, 20)
    assert ledger.partners.load_gate("other").state is CLOSED


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
    ],
)
def test_the_breaker_opens_when_most_calls_of_a_minute_have_failed(
    ledger: Ledger, reports: list[tuple[int, int]], state: BreakerState
) -> None:
    assert [report(ledger, *each) for each in reports][-1] is state
    assert ledger.partners.load_gate("erp").state is state


def test_failures_of_an_earlier_minute_do_not_count(ledger: Ledger, database: Any) -> None:
    report(ledger, 9, 9)
    database.partners.update_one({"_id": "erp"}, {"$set": {"breaker.window_start": PAST}})
    assert report(ledger, 9, 9) is CLOSED
    assert report(ledger, 1, 1) is OPEN


def test_one_at_a_time_asks_whether_the_partner_is_back(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    gate = ledger.partners.load_gate("erp")
    assert (gate.is_probe_due, gate.admits("batch")) == (False, False)
    assert not ledger.partners.acquire_probe("erp", token="p1", record="r1", seconds=60.0)
    wait_over(database)
    assert ledger.partners.load_gate("erp").is_probe_due
    assert ledger.partners.acquire_probe("erp", token="p1", record="r1", seconds=60.0)
    assert not ledger.partners.acquire_probe("erp", token="p2", record="r2", seconds=60.0)
    gate = ledger.partners.load_gate("erp")
    assert (gate.is_probe_due, gate.admits("p1"), gate.admits("p2"), gate.last_probe) == (False, True, False, "r1")
    ledger.partners.release_probe("erp", token="p1")
    assert ledger.partners.load_gate("erp").is_probe_due


def test_a_probe_that_fails_doubles_the_pause_up_to_the_longest(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    pauses = [pause_seconds(database, ledger)]
    for number in range(3):
        wait_over(database)
        ledger.partners.acquire_probe("erp", token=f"p{number}", record="r", seconds=60.0)
        assert report(ledger, 1, 1, batch=f"p{number}") is OPEN
        pauses.append(pause_seconds(database, ledger))
    assert [round(each / 10) * 10 for each in pauses] == [30, 60, 100, 100]
    assert ledger.partners.load_gate("erp").last_probe == "r"


def test_what_was_under_way_before_says_nothing_once_it_is_open(ledger: Ledger) -> None:
    report(ledger, 10, 10)
    assert report(ledger, 5, 0, batch="old") is OPEN


def test_a_partner_that_is_back_is_called_gently(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    wait_over(database)
    ledger.partners.acquire_probe("erp", token="p", record="r", seconds=60.0)
    assert report(ledger, 1, 0, batch="p") is HALF
    allowed = [ledger.partners.load_gate("erp").allowed]
    while report(ledger, 2, 0) is HALF:
        allowed.append(ledger.partners.load_gate("erp").allowed)
    assert allowed == [FIRST_ALLOWED * 2**n for n in range(len(allowed))]
    assert allowed[-1] < CLOSED_AT
    assert ledger.partners.load_gate("erp").state is CLOSED


def test_half_open_it_opens_again_at_once(ledger: Ledger, database: Any) -> None:
    report(ledger, 10, 10)
    wait_over(database)
    ledger.partners.acquire_probe("erp", token="p", record="r", seconds=60.0)
    report(ledger, 1, 0, batch="p")
    assert report(ledger, 4, 1) is HALF
    assert ledger.partners.load_gate("erp").allowed == FIRST_ALLOWED
    assert report(ledger, 2, 1) is OPEN


def test_an_operator_pauses_and_resumes(ledger: Ledger) -> None:
    report(ledger, 10, 10)
    ledger.partners.pause("erp", who="$me", reason="$why")
    gate = ledger.partners.load_gate("erp")
    assert (gate.paused, gate.admits("batch")) == (True, False)
    assert ledger.partners.load_all()["erp"]["paused"]["reason"] == "$why"
    assert ledger.partners.resume("erp")
    assert not ledger.partners.resume("erp")
    assert ledger.partners.load_gate("erp").admits("batch")
