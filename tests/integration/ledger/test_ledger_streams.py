"""Leases of polls and of the choice of records, cursors and pauses."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from operator import attrgetter
from typing import Any

import pytest

from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import SentCall
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.polls import PollLease
from tests.harness.passing_time import PAST, expire_batch_leases
from tests.harness.testbed import NASTY, claim_records, new_record, outcome


def acquire(ledger: Ledger, **options: Any) -> PollLease:
    lease = ledger.polls.acquire("orders", **{"seconds": 60, "worker": NASTY, **options})
    assert lease is not None
    return lease


@pytest.mark.parametrize("of", ["polls.acquire", "streams.acquire_dispatch"])
def test_only_one_of_many_workers_gets_the_lease(ledger: Ledger, of: str) -> None:
    acquire: Callable[..., object] = attrgetter(of)(ledger)
    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(lambda n: acquire("orders", seconds=60, worker=f"w{n}"), range(8)))
    assert sum(lease is not None for lease in leases) == 1


def test_a_lease_that_ran_out_is_taken_over_and_the_old_holder_can_do_nothing(ledger: Ledger, database: Any) -> None:
    old = acquire(ledger)
    assert ledger.polls.move_cursor(old, {"mode": "m", "at": "1"})
    database.streams.update_one({}, {"$set": {"poll.until": PAST}})
    new = acquire(ledger)
    assert new.epoch == old.epoch + 1
    assert new.contested_epoch == new.epoch
    assert new.cursor == {"mode": "m", "at": "1"}
    assert not ledger.polls.renew(old, seconds=60)
    assert not ledger.polls.move_cursor(old, {"mode": "m", "at": "9"})
    assert not ledger.polls.release(old, error=None)
    assert ledger.polls.renew(new, seconds=60)
    assert database.streams.find_one()["cursor"]["at"] == "1"
    assert database.streams.find_one()["poll"]["token"] == new.token


def test_a_released_lease_is_not_contested(ledger: Ledger) -> None:
    first = acquire(ledger)
    assert ledger.polls.release(first, error=None)
    second = acquire(ledger)
    assert (second.epoch, second.contested_epoch) == (first.epoch + 1, 0)


def test_after_an_error_the_next_poll_starts_at_once_and_observes_anew(ledger: Ledger, database: Any) -> None:
    first = acquire(ledger)
    assert ledger.polls.release(first, error=f"{NASTY} broke")
    assert database.streams.find_one()["health"]["error"] == "$state broke"
    second = acquire(ledger)
    assert second.contested_epoch == second.epoch
    ledger.polls.release(second, error=None)
    assert database.streams.find_one()["health"]["error"] is None
    assert acquire(ledger).contested_epoch == second.epoch


def test_a_tick_right_after_a_poll_is_refused_and_a_person_is_not(ledger: Ledger, database: Any) -> None:
    assert ledger.polls.release(acquire(ledger, not_within_seconds=3600), error=None)
    assert ledger.polls.acquire("orders", seconds=60, worker="w", not_within_seconds=3600) is None
    assert ledger.polls.release(acquire(ledger), error=None)
    database.streams.update_one({}, {"$set": {"poll.ended_at": PAST}})
    acquire(ledger, not_within_seconds=3600)


def test_a_lease_without_an_end_never_ends(ledger: Ledger, database: Any) -> None:
    acquire(ledger)
    database.streams.update_one({}, {"$unset": {"poll.until": True}})
    assert ledger.polls.acquire("orders", seconds=60, worker="w") is None


def test_one_process_at_a_time_chooses_the_records_of_a_stream(ledger: Ledger) -> None:
    streams = ledger.streams
    holder = streams.acquire_dispatch("orders", seconds=60, worker=NASTY)
    assert holder is not None
    assert streams.acquire_dispatch("orders", seconds=60, worker="other") is None
    assert streams.acquire_dispatch("others", seconds=60, worker="other") is not None
    streams.release_dispatch(holder)
    assert streams.acquire_dispatch("orders", seconds=60, worker="other") is not None


def test_a_dispatch_that_was_taken_over_releases_nothing(ledger: Ledger, database: Any) -> None:
    streams = ledger.streams
    old = streams.acquire_dispatch("orders", seconds=60, worker="old")
    database.streams.update_one({}, {"$set": {"dispatch.until": PAST}})
    new = streams.acquire_dispatch("orders", seconds=60, worker="new")
    assert old
    assert new
    streams.release_dispatch(old)
    assert database.streams.find_one()["dispatch"]["token"] == new.token
    streams.release_dispatch(new)
    assert "dispatch" not in database.streams.find_one()


def test_a_pause_says_who_and_why_and_ends(ledger: Ledger, database: Any) -> None:
    assert not ledger.streams.load_gate("new").paused
    ledger.streams.pause("new", who=NASTY, reason="$error")
    assert ledger.streams.load_gate("new").paused
    assert database.streams.find_one({"_id": "new"})["paused"].items() >= {"by": "$state", "reason": "$error"}.items()
    assert ledger.streams.resume("new")
    assert not ledger.streams.resume("new")
    assert not ledger.streams.load_gate("new").paused


def dates_in(value: Any) -> Iterator[datetime]:
    """Yield every date in a document."""
    if isinstance(value, datetime):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from dates_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from dates_in(each)


def test_no_lease_and_no_due_time_is_judged_by_this_machines_clock(ledger: Ledger, database: Any) -> None:
    """Invariant 8: callers send no time of their own; MongoDB compares with its own clock."""
    ledger.records.log([new_record(1), new_record(2)], PAST)
    database.command("profile", 2)
    lease = acquire(ledger, not_within_seconds=1)
    ledger.polls.renew(lease, seconds=60)
    ledger.polls.release(lease, error=None)
    dispatch = ledger.streams.acquire_dispatch("orders", seconds=60, worker="w")
    assert dispatch
    ledger.streams.release_dispatch(dispatch)
    ledger.records.find_due("orders", fresh=True, limit=10)
    claim = claim_records(ledger, ["orders-1", "orders-2"], begun=True)
    ledger.batches.release(claim, ["orders-1"])
    ledger.batches.renew([claim], seconds=60)
    busy = outcome(Verdict.RETRY_LATER, error="busy")
    landed = Transition(record=claim.records[1], state=State.PENDING, outcome=busy, delay_seconds=60)
    ledger.delivery_states.write_transitions(claim, [landed])
    expire_batch_leases(database)
    (batch,) = ledger.batches.seize_expired(["orders"], limit=10)
    ledger.lease_rescue.give_back_unsent(batch)
    ledger.lease_rescue.return_lost(batch, ledger.lease_rescue.find_lost(batch), after_seconds=30)
    ledger.lease_rescue.give_back_stranded("orders")
    ledger.batches.end_if_done(batch)
    ledger.keys.note_unsettled("orders", [SentCall(key_id="k", seq=1, call="call", mapping_hash="mapping")], seconds=30)
    ledger.heartbeats.load_workers(alive_seconds=1)
    ledger.maintenance.acquire("roll_up", seconds=1)
    database.command("profile", 0)
    asked = list(database["system.profile"].find({"op": {"$in": ["update", "query", "command"]}}))
    assert len(asked) > 12
    assert {at for each in asked for at in dates_in(each["command"])} <= {PAST}


def test_a_stream_that_was_never_polled_can_be_dispatched_and_not_polled_by_mistake(ledger: Ledger) -> None:
    assert ledger.streams.acquire_dispatch("new", seconds=60, worker="w")
    assert ledger.polls.acquire("unknown", seconds=60, worker="w") is None
