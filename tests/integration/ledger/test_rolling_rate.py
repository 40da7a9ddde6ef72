"""A slow rate, kept in the ledger: all calls of a span together, and never more in any span, by MongoDB's clock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.rolling_rate import ENTRIES_PER_SPAN, RollingRate

MakeRate = Callable[..., RollingRate]
DAY = 86_400.0


@pytest.fixture
def rate(ledger: Ledger) -> MakeRate:
    """Return what opens the rate of a partner as one worker: `rate(2, 60.0)`."""
    return lambda calls, seconds, name="default": ledger.open_rate(name, calls=calls, seconds=seconds)


def let_pass(database: Any, seconds: float) -> None:
    """Let all calls have been made so much earlier."""
    by = timedelta(seconds=seconds)
    entries = database.partners.find_one({"_id": "default"})["rate"]["calls"]
    earlier = [{**entry, "from": entry["from"] - by, "at": entry["at"] - by} for entry in entries]
    database.partners.update_one({"_id": "default"}, {"$set": {"rate.calls": earlier}})


def take_all(rate: RollingRate) -> int:
    """Take permits until there is none; return how many there were."""
    taken = 0
    while rate.try_take()[0]:
        taken += 1
    return taken


@pytest.mark.parametrize("most", [1, 7])
def test_the_calls_of_a_span_come_at_once_and_no_more(rate: MakeRate, most: int) -> None:
    """Three workers, thirty calls. Fails where a permit is taken without a look at how many there are."""
    workers = [rate(most, DAY) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        permits = list(threads.map(lambda number: workers[number % 3].try_take(), range(30)))
    assert sum(taken for taken, _ in permits) == most
    taken, seconds = workers[0].try_take()
    assert not taken
    assert DAY - 60 < seconds <= DAY + 1
    assert rate(1, DAY, name="another").try_take() == (True, 0.0)


def test_a_span_begins_at_any_call(rate: MakeRate, database: Any) -> None:
    slow = rate(2, 60.0)
    assert slow.try_take() == (True, 0.0)
    let_pass(database, 30)
    assert take_all(slow) == 1
    let_pass(database, 31)
    assert take_all(slow) == 1, "the first call is more than a span ago, the second is not"
    let_pass(database, 31)
    assert take_all(slow) == 1


def test_a_permit_is_near_only_within_about_a_second(rate: MakeRate, database: Any) -> None:
    slow = rate(1, 60.0)
    assert slow.is_permit_near()
    assert slow.is_permit_near(), "a look takes none"
    assert take_all(slow) == 1
    assert not slow.is_permit_near()
    assert 50 < slow.try_take()[1] <= 60.5
    let_pass(database, 59.8)
    assert slow.is_permit_near()
    assert not slow.try_take()[0]


def test_calls_in_quick_succession_are_few_entries(rate: MakeRate, database: Any) -> None:
    """Thousands of calls a day must not become a document of thousands of entries (invariant 11)."""
    slow = rate(1000, DAY)
    for _ in range(150):
        assert slow.try_take()[0]
    (entry,) = database.partners.find_one({"_id": "default"})["rate"]["calls"]
    assert entry["n"] == 150
    let_pass(database, 1.1 * DAY / ENTRIES_PER_SPAN)
    assert take_all(slow) == 850
    assert [entry["n"] for entry in database.partners.find_one({"_id": "default"})["rate"]["calls"]] == [150, 850]
    let_pass(database, DAY - DAY / ENTRIES_PER_SPAN)
    assert take_all(slow) == 150, "a permit comes when the last call of its entry is a span ago"


def test_a_rate_that_was_lowered_waits_for_all_that_is_too_much(rate: MakeRate, database: Any) -> None:
    assert take_all(rate(3, 60.0)) == 3
    let_pass(database, 30)
    slow = rate(5, 60.0)
    assert take_all(slow) == 2
    slow = rate(2, 60.0)
    assert 59 < slow.try_take()[1] <= 60.5, "the first three going is not enough"


def test_a_clock_that_was_set_back_delays_permits_by_a_span_at_most(rate: MakeRate, database: Any) -> None:
    slow = rate(1, 60.0)
    assert take_all(slow) == 1
    let_pass(database, -3600)
    assert slow.try_take()[1] <= 60.5
    let_pass(database, 61)
    assert take_all(slow) == 1


def test_without_mongodb_no_permit_is_given() -> None:
    with Ledger("mongodb://127.0.0.1:1/?directConnection=true", "p", timeout_seconds=0.5) as away:
        slow = away.open_rate("p", calls=1, seconds=60.0)
        for ask in (slow.try_take, slow.is_permit_near):
            with pytest.raises(ServiceUnavailable, match="cannot reach MongoDB"):
                ask()
