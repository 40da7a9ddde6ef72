"""Batches in flight: their process renews their lease, and another takes them over once it ran out."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from syncctl.core.clock import boot_time
from syncctl.ledger import batches
from syncctl.ledger.batches import Claim
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import new_token
from tests.harness.passing_time import PAST, expire_batch_leases
from tests.harness.testbed import NASTY, claim_records, new_record

IN_FLIGHT = {"lease", "in_flight_key", "in_flight_retry"}


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """One claimed record."""
    ledger.records.log([new_record(1)], PAST)
    return claim_records(ledger, ["orders-1"])


def take(ledger: Ledger, *ids: str, exclusive: bool = True, worker: str = "worker") -> Claim | None:
    return ledger.batches.take(
        "orders", ids, token=new_token(), mapping_hash="m", seconds=60, worker=worker, exclusive=exclusive
    )


def count_in_flight(ledger: Ledger) -> tuple[int, int]:
    in_flight = ledger.batches.find_in_flight("orders")
    return in_flight.count, in_flight.retries


def ids_of(claim: Claim | None) -> list[str]:
    assert claim is not None
    return sorted(record.id for record in claim.records)


# Take.


def test_only_due_records_are_taken(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    database.records.update_one({"_id": "orders-2"}, {"$set": {"due_at": datetime(2100, 1, 1, tzinfo=UTC)}})
    database.records.update_one({"_id": "orders-3"}, {"$set": {"state": "discarded"}})
    ids = ["orders-1", "orders-2", "orders-3", "unknown"]
    claim = take(ledger, *ids)
    assert ids_of(claim) == ["orders-1"]
    assert take(ledger, *ids) is None
    assert claim is not None
    taken = database.records.find_one({"_id": "orders-1"})
    assert (taken["state"], taken["claims"], taken["lease"]["token"]) == ("sending", 1, claim.token)
    (batch,) = database.batches.find()
    assert (batch["_id"], batch["stream"], batch["ids"], batch["begun"]) == (claim.token, "orders", ids, [])
    assert batch["until"] > datetime.now(UTC)
    assert count_in_flight(ledger) == (1, 0)
    assert ledger.batches.count(["orders", "others"]) == {"orders": 1}


def test_two_versions_of_a_key_are_never_in_flight_together(ledger: Ledger, database: Any) -> None:
    """Invariant 5: the unique index prevents it, whoever takes them."""
    ledger.records.log([*(new_record(n, key_id="the key") for n in (1, 2, 3)), new_record(4)], PAST)
    ids = [f"orders-{n}" for n in (1, 2, 3, 4)]
    claim = take(ledger, *ids)
    assert claim is not None
    assert ids_of(claim) == ["orders-1", "orders-4"]
    assert take(ledger, *ids) is None
    assert {document["claims"] for document in database.records.find({"state": "pending"})} == {0}
    ledger.batches.release(claim, ["orders-1"])
    assert ids_of(take(ledger, "orders-2", "orders-4")) == ["orders-2"]


def test_without_an_order_versions_go_side_by_side(ledger: Ledger) -> None:
    ledger.records.log([new_record(n, key_id="the key") for n in (1, 2)], PAST)
    assert ids_of(take(ledger, "orders-1", "orders-2", exclusive=False)) == ["orders-1", "orders-2"]
    assert take(ledger, "orders-1", "orders-2", exclusive=False) is None


@pytest.mark.parametrize("exclusive", [True, False])
def test_of_eight_that_take_the_same_records_each_record_has_one(
    ledger: Ledger, database: Any, exclusive: bool
) -> None:
    """Invariant 3. MongoDB changes many documents one by one: each may get a part."""
    ids = [f"orders-{n}" for n in range(40)]
    ledger.records.log([new_record(n) for n in range(40)], PAST)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda n: take(ledger, *ids, exclusive=exclusive, worker=f"w{n}"), range(8)))
    claims = [each for each in taken if each is not None]
    assert Counter(record.id for each in claims for record in each.records) == Counter(ids)
    tokens = {record.id: each.token for each in claims for record in each.records}
    assert {document["_id"]: document["lease"]["token"] for document in database.records.find()} == tokens
    assert {document["claims"] for document in database.records.find()} == {1}
    assert sorted(document["_id"] for document in database.batches.find()) == sorted(each.token for each in claims)


class CutCollection:
    """A collection to which the connection is cut at its first update of many."""

    def __init__(self, collection: Any, *, after: bool) -> None:
        self._collection = collection
        self._after = after
        self._is_cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def update_many(self, *args: Any, **options: Any) -> Any:
        if self._is_cut:
            return self._collection.update_many(*args, **options)
        self._is_cut = True
        if self._after:
            self._collection.update_many(*args, **options)
        raise AutoReconnect("connection closed")


@pytest.mark.parametrize("after", [True, False])
def test_a_cut_connection_takes_each_record_once(
    ledger: Ledger, database: Any, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    monkeypatch.setattr(ledger.batches, "_records", CutCollection(ledger.batches._records, after=after))
    assert ids_of(take(ledger, "orders-1", "orders-2", "orders-3")) == ["orders-1", "orders-2", "orders-3"]
    assert {document["claims"] for document in database.records.find()} == {1}


def test_a_lease_names_its_worker_literally(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(1)], PAST)
    claim_records(ledger, ["orders-1"], worker=NASTY)
    assert database.records.find_one()["lease"]["worker"] == "$state"
    assert database.batches.find_one()["worker"] == "$state"


def test_a_claim_gives_the_records_in_the_order_in_which_they_were_observed(ledger: Ledger) -> None:
    ledger.records.log([new_record(n, seq=10 - n) for n in range(1, 6)], PAST)
    claim = claim_records(ledger, [f"orders-{n}" for n in range(1, 6)])
    assert [record.seq for record in claim.records] == [5, 6, 7, 8, 9]
    assert [record.attempt for record in claim.records] == [1] * 5


def test_new_bytes_go_under_a_new_key_and_old_bytes_under_the_old_one(ledger: Ledger) -> None:
    """Invariant 7: once, also when the claim of the new mapping was given back."""
    ledger.records.log([new_record(1)], PAST)
    keys = []
    for mapping in ("old", "old", "new", "new", "old"):
        claim = claim_records(ledger, ["orders-1"], mapping_hash=mapping)
        keys.append(claim.records[0].idempotency_key)
        ledger.batches.release(claim, ["orders-1"])
    assert keys == ["orders-1", "orders-1", "orders-1-2", "orders-1-2", "orders-1-3"]


def test_retries_in_flight_are_counted(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    database.records.update_many({"_id": {"$ne": "orders-1"}}, {"$set": {"fresh": False}})
    claim = claim_records(ledger, ["orders-1", "orders-2", "orders-3"])
    assert count_in_flight(ledger) == (3, 2)
    ledger.batches.release(claim, ["orders-2"])
    assert count_in_flight(ledger) == (2, 1)


# Release.


def test_an_unsent_record_goes_back_as_if_it_had_not_been_claimed(ledger: Ledger, claim: Claim, database: Any) -> None:
    ledger.batches.release(claim, ["orders-1"])
    found = database.records.find_one()
    assert (found["state"], found["claims"], found["attempts"], found["due_at"]) == ("pending", 0, 0, PAST)
    assert not IN_FLIGHT & set(found)
    assert claim_records(ledger, ["orders-1"]).records[0].attempt == 1


def test_a_record_that_another_worker_holds_is_not_given_back(ledger: Ledger, claim: Claim, database: Any) -> None:
    database.records.update_one({}, {"$set": {"lease.token": "another's"}})
    ledger.batches.release(claim, ["orders-1"])
    assert database.records.find_one()["state"] == "sending"


# The lease.


def test_a_lease_ends_by_this_machines_clock_before_it_ends_by_mongodbs(ledger: Ledger, database: Any) -> None:
    """A call that begins while the claim is held begins while the lease is."""
    ledger.records.log([new_record(1)], PAST)
    claim = claim_records(ledger, ["orders-1"], seconds=20.0)

    def check(seconds: float) -> None:
        now = ledger.streams.server_time()
        left = claim.ends_at - boot_time()
        assert left <= (database.batches.find_one()["until"] - now).total_seconds() + 0.001 <= seconds + 0.002
        assert left > seconds - 5.0

    check(20.0)
    assert ledger.batches.begin(claim, ["orders-1"], seconds=30.0)
    check(30.0)
    assert ledger.batches.renew([claim], seconds=40.0) == []
    check(40.0)


def test_a_lease_counts_from_before_each_write_that_takes_or_renews_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 3: MongoDB's answer may come late, and the lease has begun before it. Fails when `take`, `begin` or
    `renew` reads the clock afterwards."""
    clock = {"now": 1000.0}

    def answer_late(name: str) -> None:
        write = getattr(Collection, name)

        def late(*args: Any, **options: Any) -> Any:
            answer = write(*args, **options)
            clock["now"] += 100.0
            return answer

        monkeypatch.setattr(Collection, name, late)

    ledger.records.log([new_record(1)], PAST)
    for name in ("update_one", "update_many"):
        answer_late(name)
    monkeypatch.setattr(batches, "boot_time", lambda: clock["now"])
    claim = claim_records(ledger, ["orders-1"], seconds=20.0)
    assert claim.ends_at == 1020.0
    before = clock["now"]
    assert ledger.batches.begin(claim, ["orders-1"], seconds=30.0)
    assert claim.ends_at == before + 30.0
    before = clock["now"]
    assert ledger.batches.renew([claim], seconds=40.0) == []
    assert claim.ends_at == before + 40.0
    assert clock["now"] >= 1400.0


def test_a_claim_is_held_until_its_lease_is_over(ledger: Ledger) -> None:
    ledger.records.log([new_record(n) for n in (1, 2)], PAST)
    assert claim_records(ledger, ["orders-1"]).is_held
    short = claim_records(ledger, ["orders-2"], seconds=0.01)
    time.sleep(0.02)
    assert not short.is_held


def test_calls_are_noted_before_they_begin(ledger: Ledger, claim: Claim, database: Any) -> None:
    for ids in (["orders-1"], ["$state", "orders-1"]):
        assert ledger.batches.begin(claim, ids, seconds=60)
    assert sorted(database.batches.find_one()["begun"]) == ["$state", "orders-1"]


def test_no_call_begins_under_a_lease_that_ran_out(ledger: Ledger, claim: Claim, database: Any) -> None:
    """Invariant 3: also before another process has looked."""
    expire_batch_leases(database)
    before = claim.ends_at
    assert not ledger.batches.begin(claim, ["orders-1"], seconds=60)
    assert ledger.batches.renew([claim], seconds=60) == [claim]
    assert (database.batches.find_one()["begun"], claim.ends_at) == ([], before)


def test_one_write_renews_the_batches_that_are_not_lost(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    claims = [claim_records(ledger, [f"orders-{n}"], seconds=20.0) for n in (1, 2, 3)]
    database.batches.update_one({"_id": claims[1].token}, {"$set": {"until": PAST}})
    before = [each.ends_at for each in claims]
    database.command("profile", 2)
    assert ledger.batches.renew(claims, seconds=60.0) == [claims[1]]
    database.command("profile", 0)
    assert [after.ends_at > at for after, at in zip(claims, before, strict=True)] == [True, False, True]
    updates = database["system.profile"].count_documents({"op": "update", "ns": f"{database.name}.batches"})
    assert updates == 1
    assert ledger.batches.renew([], seconds=60.0) == []


def test_a_lease_that_runs_is_left_alone(ledger: Ledger, claim: Claim) -> None:
    assert ledger.batches.seize_expired(["orders"], limit=10) == []


def test_a_batch_whose_lease_ran_out_is_taken_over_once(ledger: Ledger, claim: Claim, database: Any) -> None:
    assert ledger.batches.begin(claim, ["orders-1"], seconds=60)
    expire_batch_leases(database)
    assert ledger.batches.seize_expired(["others"], limit=10) == []
    with ThreadPoolExecutor(8) as threads:
        seized = [
            each
            for found in threads.map(lambda _: ledger.batches.seize_expired(["orders"], limit=10), range(8))
            for each in found
        ]
    (batch,) = seized
    assert (batch.token, batch.stream, batch.worker) == (claim.token, "orders", "worker")
    assert (batch.ids, batch.begun, batch.until) == (("orders-1",), frozenset({"orders-1"}), PAST)


def test_no_more_batches_are_taken_over_at_once_than_asked_for(ledger: Ledger, database: Any) -> None:
    ledger.records.log([new_record(n) for n in (1, 2, 3)], PAST)
    for number in (1, 2, 3):
        claim_records(ledger, [f"orders-{number}"])
    expire_batch_leases(database)
    assert [len(ledger.batches.seize_expired(["orders"], limit=2)) for _ in range(3)] == [2, 1, 0]


def test_the_owner_of_a_batch_that_was_taken_over_cannot_renew_it(ledger: Ledger, claim: Claim, database: Any) -> None:
    """Whatever its clock says."""
    expire_batch_leases(database)
    assert len(ledger.batches.seize_expired(["orders"], limit=10)) == 1
    database.batches.update_one({}, {"$set": {"until": datetime(2100, 1, 1, tzinfo=UTC)}})
    assert not ledger.batches.begin(claim, ["orders-1"], seconds=60)
    assert ledger.batches.renew([claim], seconds=60) == [claim]


def test_who_dies_while_it_brings_a_batch_back_is_followed_by_another(
    ledger: Ledger, claim: Claim, database: Any
) -> None:
    expire_batch_leases(database)
    assert len(ledger.batches.seize_expired(["orders"], limit=10)) == 1
    assert ledger.batches.seize_expired(["orders"], limit=10) == []
    later = database.batches.find_one()["seized_until"]
    assert later - ledger.streams.server_time() < timedelta(seconds=60)
    database.batches.update_one({}, {"$set": {"seized_until": PAST}})
    assert len(ledger.batches.seize_expired(["orders"], limit=10)) == 1


def test_a_batch_without_an_end_of_its_lease_is_not_over(ledger: Ledger, claim: Claim, database: Any) -> None:
    database.batches.update_one({}, {"$unset": {"until": True}})
    assert ledger.batches.seize_expired(["orders"], limit=10) == []


def test_a_batch_is_kept_while_one_of_its_records_is_in_flight(ledger: Ledger, claim: Claim, database: Any) -> None:
    expire_batch_leases(database)
    (batch,) = ledger.batches.seize_expired(["orders"], limit=10)
    assert not ledger.batches.end_if_done(batch)
    assert database.batches.count_documents({}) == 1
    assert ledger.lease_rescue.give_back_unsent(batch) == 1
    assert ledger.batches.end_if_done(batch)
    assert database.batches.count_documents({}) == 0
