"""The feed of attempts: each once, in order, also those that become visible late and those of an outage."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.inspection import tail
from syncctl.pipeline.inspection.tail import AttemptFeed, AttemptFilter
from tests.harness.passing_time import PAST
from tests.harness.testbed import claim_records, new_record, outcome


def attempt(ledger: Ledger, *numbers: int, status: int = 201) -> None:
    """Attempt these records once, all in one write; they are due again at once if the partner did not accept."""
    claim = claim_records(ledger, [f"orders-{number}" for number in numbers])
    is_accepted = status < 300
    end = outcome(
        Verdict.ACCEPTED if is_accepted else Verdict.RETRY_LATER,
        status=status,
        error=None if is_accepted else f"HTTP {status}: no",
    )
    state = State.DELIVERED if is_accepted else State.PENDING
    transitions = [Transition(record=record, state=state, outcome=end) for record in claim.records]
    assert ledger.delivery_states.write_transitions(claim, transitions) == []
    ledger.batches.end(claim.token)


def follow(ledger: Ledger, *, since: datetime | None = None, **wanted: Any) -> AttemptFeed:
    return AttemptFeed(ledger, AttemptFilter(**wanted), since or ledger.streams.server_time())


def read(feed: AttemptFeed) -> list[tuple[str, int]]:
    """Return the attempts of one reading: the record's number, and which attempt of it."""
    return [(found.id.removeprefix("orders-"), found.attempt) for attempts in feed.read() for found in attempts]


@pytest.fixture
def logged(ledger: Ledger) -> Ledger:
    """Twelve records, due."""
    ledger.streams.ensure("orders")
    ledger.records.log([new_record(number) for number in range(1, 13)], PAST)
    return ledger


@pytest.mark.parametrize("at_once", [1, 2, 500])
def test_each_attempt_comes_once_whatever_the_pages(
    logged: Ledger, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(tail, "RECORDS_AT_ONCE", at_once)
    feed = follow(logged)
    assert read(feed) == []
    attempt(logged, 1, 2, 3)
    assert sorted(read(feed)) == [("1", 1), ("2", 1), ("3", 1)]
    attempt(logged, 4, status=503)
    attempt(logged, 4, status=503)
    attempt(logged, 5)
    assert read(feed) == [("4", 1), ("4", 2), ("5", 1)]
    attempt(logged, 4)
    assert read(feed) == [("4", 3)]
    assert [read(feed) for _ in range(2 * AttemptFeed.LATE_EVERY)] == [[]] * 2 * AttemptFeed.LATE_EVERY


def test_an_attempt_that_becomes_visible_late_is_not_missed(logged: Ledger, database: Any) -> None:
    feed = follow(logged, since=logged.streams.server_time() - timedelta(minutes=5))
    attempt(logged, 1)
    assert read(feed) == [("1", 1)]
    attempt(logged, 2)
    earlier = logged.streams.server_time() - timedelta(seconds=40)
    database.records.update_one({"_id": "orders-2"}, {"$set": {"updated_at": earlier, "history.0.at": earlier}})
    assert [found for _ in range(AttemptFeed.LATE_EVERY) for found in read(feed)] == [("2", 1)]


def test_the_past_comes_in_the_order_of_time_and_without_what_was_before(logged: Ledger, database: Any) -> None:
    attempt(logged, 1)
    database.records.update_one({"_id": "orders-1"}, {"$set": {"updated_at": PAST, "history.0.at": PAST}})
    since = logged.streams.server_time()
    attempt(logged, 2, status=503)
    attempt(logged, 3)
    attempt(logged, 2)
    assert read(follow(logged, since=since)) == [("2", 1), ("3", 1), ("2", 2)]
    assert read(follow(logged, since=PAST))[0] == ("1", 1)


def test_an_outage_in_the_middle_of_a_reading_loses_and_repeats_nothing(
    logged: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "RECORDS_AT_ONCE", 1)
    since = logged.streams.server_time()
    for number in range(1, 5):
        attempt(logged, number)
    feed = follow(logged, since=since)
    read_page, pages = logged.attempts.read_page, []

    def read_until_it_breaks(**options: Any) -> Any:
        pages.append(options)
        if len(pages) == 3:
            raise ServiceUnavailable("cannot reach MongoDB", service="mongodb")
        return read_page(**options)

    monkeypatch.setattr(logged.attempts, "read_page", read_until_it_breaks)
    reading = feed.read()
    assert [found.id for found in next(reading)] == ["orders-1", "orders-2"]
    with pytest.raises(ServiceUnavailable):
        next(reading)
    assert pages[-1]["changed_since"] > since
    attempt(logged, 5)
    assert read(feed) == [("3", 1), ("4", 1), ("5", 1)]
    assert read(feed) == []


def test_attempts_are_filtered_by_stream_state_error_and_key(logged: Ledger) -> None:
    since = logged.streams.server_time()
    attempt(logged, 1, status=503)
    attempt(logged, 2, status=500)
    attempt(logged, 3)
    (down, *_) = next(follow(logged, since=since).read())
    assert (down.state, down.status, down.error, down.stream) == ("retrying", 503, "HTTP 503: no", "orders")
    assert down.fingerprint is not None
    wanted = {
        "streams": ("others",), "states": ("delivered",), "error": down.fingerprint[:6], "key": "2",
    }  # fmt: skip
    found = {name: read(follow(logged, since=since, **{name: value})) for name, value in wanted.items()}
    assert found == {"streams": [], "states": [("3", 1)], "error": [("1", 1)], "key": [("2", 1)]}


def test_a_row_may_be_logged_after_its_key_was_named(ledger: Ledger) -> None:
    feed = follow(ledger, key="7")
    assert read(feed) == []
    ledger.streams.ensure("orders")
    ledger.records.log([new_record(7), new_record(8)], PAST)
    attempt(ledger, 7, 8)
    assert read(feed) == [("7", 1)]


def test_a_stream_may_be_polled_for_the_first_time_after_its_key_was_named(logged: Ledger) -> None:
    feed = follow(logged, key="7")
    attempt(logged, 7)
    assert read(feed) == [("7", 1)]
    logged.streams.ensure("returns")
    row = {"number": 7}
    logged.records.log([new_record(70, stream="returns", key=row, key_id=key_id(row))], PAST)
    attempt(logged, 70)
    assert read(feed) == [("70", 1)]


def test_a_late_outcome_is_an_attempt_too(logged: Ledger) -> None:
    feed = follow(logged)
    claim = claim_records(logged, ["orders-1"])
    logged.delivery_states.add_late_outcomes(claim, [(claim.records[0], outcome(status=201))])
    (found,) = next(feed.read())
    assert (found.late, found.state, found.status) == (True, None, 201)
