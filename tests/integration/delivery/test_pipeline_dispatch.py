"""dispatch: the oldest due records are taken into flight, up to the window, one version of a key at a time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.ids import make_seq
from syncctl.core.outcome import Verdict
from syncctl.core.states import State
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import Observation
from syncctl.ledger.polls import PollLease
from syncctl.pipeline.delivery.dispatch import Taken
from tests.harness.passing_time import PAST, expire_stream_lease
from tests.harness.testbed import ListReader, Testbed, claim_records, lose_records, new_record, outcome, version_row


def log(testbed: Testbed, *numbers: int, content: str = "a") -> None:
    """Let a poll have seen these rows."""
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def retried(testbed: Testbed, *numbers: int) -> None:
    """Let these records have been tried, and be due again."""
    testbed.database.records.update_many({"key.id": {"$in": numbers}}, {"$set": {"fresh": False, "due_at": PAST}})


def in_flight(testbed: Testbed) -> list[int]:
    return sorted(record["key"]["id"] for record in testbed.records(state="sending"))


def test_batches_the_oldest_first(testbed: Testbed) -> None:
    testbed.change_stream(batch_size=3)
    log(testbed, 5, 1, 4, 2, 3, 6, 7)
    taken = [testbed.take() for _ in range(4)]
    claims = [each.claim for each in taken if each.claim is not None]
    assert [[record.key["id"] for record in claim.records] for claim in claims] == [[5, 1, 4], [2, 3, 6], [7]]
    assert [each.has_more for each in taken] == [True, True, False, False]
    tokens = {record.id: claim.token for claim in claims for record in claim.records}
    assert {record["_id"]: record["lease"]["token"] for record in testbed.records()} == tokens
    assert len(set(tokens.values())) == testbed.database.batches.count_documents({}) == 3
    assert {record["state"] for record in testbed.records()} == {"sending"}


def test_never_more_than_the_window_is_in_flight(testbed: Testbed) -> None:
    testbed.change_stream(window=4, batch_size=3)
    log(testbed, *range(1, 11))
    first = testbed.take().claim
    assert testbed.take_all() == [[4]]
    assert in_flight(testbed) == [1, 2, 3, 4]
    testbed.give_back(first)
    assert testbed.take_all() == [[1, 2, 3]]


def test_at_least_half_of_the_window_is_for_first_attempts(testbed: Testbed) -> None:
    testbed.change_stream(window=6)
    log(testbed, *range(1, 9))
    retried(testbed, *range(1, 9))
    log(testbed, *range(11, 19))
    testbed.take_all()
    assert in_flight(testbed) == [1, 2, 3, 11, 12, 13]


def test_retries_in_flight_count_towards_their_half(testbed: Testbed) -> None:
    testbed.change_stream(window=6)
    log(testbed, *range(1, 9))
    retried(testbed, *range(1, 9))
    assert testbed.take_all() == [[1, 2, 3]]
    log(testbed, *range(11, 19))
    assert testbed.take_all() == [[11, 12, 13]]


def test_first_attempts_take_the_whole_window_where_nothing_is_retried(testbed: Testbed) -> None:
    testbed.change_stream(window=6)
    log(testbed, *range(1, 9))
    assert testbed.take_all() == [[1, 2, 3, 4, 5, 6]]


def test_records_that_are_not_due_yet_are_left(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    later = testbed.ledger.streams.server_time() + timedelta(hours=1)
    testbed.database.records.update_one({"key.id": 1}, {"$set": {"due_at": later}})
    assert testbed.take_all() == [[2]]


def test_an_overtaken_version_is_superseded_and_makes_way(testbed: Testbed) -> None:
    testbed.change_stream(window=2)
    for content in "abc":
        log(testbed, 1, 2, 3, content=content)
    assert testbed.take_all() == [[1, 2]]
    assert testbed.states() == {
        1: ["superseded", "superseded", "sending"],
        2: ["superseded", "superseded", "sending"],
        3: ["superseded", "superseded", "pending"],
    }
    newest = {record["key"]["id"]: record["_id"] for record in testbed.records()}
    for record in testbed.records(state="superseded"):
        assert record["superseded_by"] == newest[record["key"]["id"]]


def test_a_newer_version_waits_until_the_older_one_is_finished(testbed: Testbed) -> None:
    log(testbed, 1, content="a")
    claim = testbed.take().claim
    log(testbed, 1, content="b")
    assert testbed.take_all() == []
    assert testbed.states() == {1: ["sending", "pending"]}
    testbed.give_back(claim)
    assert testbed.take_all() == [[1]]
    assert testbed.states() == {1: ["superseded", "sending"]}


def test_busy_keys_do_not_block_the_records_behind_them(testbed: Testbed) -> None:
    """Versions of rows in flight are the oldest due records, and fill more than a whole look."""
    testbed.change_stream(batch_size=3)
    log(testbed, *range(1, 10), content="a")
    assert len(testbed.take_all()) == 3
    log(testbed, *range(1, 10), content="b")
    log(testbed, 11, 12, 13, 14)
    assert testbed.take_all() == [[11, 12, 13], [14]]
    assert in_flight(testbed) == [*range(1, 10), 11, 12, 13, 14]


def test_retries_behind_busy_keys_are_found_too(testbed: Testbed) -> None:
    testbed.change_stream(batch_size=3, window=40)
    log(testbed, *range(1, 10), content="a")
    testbed.take_all()
    log(testbed, *range(1, 10), content="b")
    log(testbed, 11, 12)
    retried(testbed, 11, 12)
    testbed.database.records.update_many({"state": "pending"}, {"$set": {"fresh": False, "due_at": PAST}})
    assert testbed.take_all() == [[11, 12]]


def test_without_an_order_every_version_goes(testbed: Testbed) -> None:
    testbed.change_stream(order="none")
    for content in "abc":
        log(testbed, 1, content=content)
    assert testbed.take_all() == [[1, 1, 1]]
    assert testbed.states() == {1: ["sending"] * 3}


@pytest.mark.parametrize("order", ["latest", "none"])
def test_a_record_whose_key_does_not_know_it_is_left_alone(testbed: Testbed, order: str) -> None:
    """Its poll is at work, or was interrupted and will be repeated."""
    testbed.change_stream(order=order)
    new = new_record(1, seq=9)
    testbed.ledger.records.log([new, new_record(2, seq=9)], PAST)
    known = Observation(
        key_id=new.key_id, key=new.key, previous_seq=None, seq=5, version="before", hash="h", op="upsert"
    )
    testbed.ledger.keys.observe("orders", [known])
    assert testbed.take_all() == []
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}


def leave_unknown(testbed: Testbed, *, count: int) -> PollLease:
    """Let a poll have logged records, and not have told their keys."""
    testbed.ledger.streams.ensure("orders")
    lease = testbed.ledger.polls.acquire("orders", seconds=60, worker="dead")
    assert lease is not None
    numbers = range(1, count + 1)
    testbed.ledger.records.log([new_record(number, seq=make_seq(lease.epoch, number)) for number in numbers], PAST)
    return lease


def test_records_that_no_key_knows_hold_no_others_and_come_to_their_end(testbed: Testbed) -> None:
    """However many a poll has logged before it died; with the sizes that are the default. Fails where dispatch looks no
    further than at the head of the queue, and where what waits for a poll is not judged anew."""
    count = 5000
    leave_unknown(testbed, count=count)
    expire_stream_lease(testbed.database, "poll")
    testbed.poll(ListReader([version_row(9001, "a", None)]), should_stop=lambda: True)
    assert testbed.deliver() == {"delivered": 1}
    assert testbed.ledger.sequencing.count(["orders"])["orders"].awaiting_poll == count
    assert not testbed.ledger.records.has_due("orders")
    # No poll has read to the end: they are judged anew, and wait on.
    assert testbed.maintain().released == 2000
    assert testbed.deliver() == {}
    log(testbed, 9002)
    assert testbed.deliver() == {"delivered": 1}
    # That one has. Their rows are gone; they did exist.
    for _ in range(4):
        testbed.maintain()
    testbed.change_stream(lease_seconds=300.0)
    while testbed.deliver():
        pass
    assert testbed.database.records.count_documents({"state": "delivered"}) == count + 2


def test_a_page_whose_poll_is_running_holds_no_others(testbed: Testbed) -> None:
    """Its keys follow in a moment, unless it stands still there. It is not set aside: it would be sent late."""
    log(testbed, 9001)
    testbed.database.records.update_one({}, {"$currentDate": {"due_at": True}})
    leave_unknown(testbed, count=testbed.stream.page_size)
    assert testbed.sizes.batch < 100 * testbed.stream.page_size
    testbed.change_stream(batch_size=10)
    assert testbed.take_rows() == [9001]
    assert testbed.take_rows() == []
    assert testbed.ledger.sequencing.count(["orders"])["orders"].awaiting_poll == 0


def test_a_record_that_a_poll_finds_again_does_not_wait_any_more(testbed: Testbed) -> None:
    """Fails where only maintenance lets it go."""
    reader = ListReader([version_row(1, "a", "0x1")])
    testbed.poll(reader)
    testbed.database["keys"].delete_many({})
    testbed.database.streams.update_one({}, {"$unset": {"poll.complete_epoch": True}})
    assert testbed.take_rows() == []
    assert testbed.ledger.sequencing.count(["orders"])["orders"].awaiting_poll == 1
    testbed.poll(reader, should_stop=lambda: True)
    assert testbed.take_rows() == [1]
    assert "waits_for" not in testbed.record(1)


@pytest.mark.parametrize("order", ["latest", "strict"])
def test_a_probe_is_found_behind_records_that_no_key_knows(testbed: Testbed, order: str) -> None:
    """Fails where only the head of the queue is looked at: the pause would never end."""
    testbed.change_stream(order=order)
    leave_unknown(testbed, count=100)
    expire_stream_lease(testbed.database, "poll")
    testbed.poll(ListReader([version_row(9001, "a", None)]), should_stop=lambda: True)
    testbed.database.records.update_many({}, {"$set": {"fresh": False}})
    testbed.ledger.streams.pause("orders", who="syncctl", reason="refused")
    taken = testbed.take()
    assert taken.is_probe
    assert taken.claim is not None
    assert [record.key["id"] for record in taken.claim.records] == [9001]


def test_a_paused_stream_sends_nothing_and_goes_on_logging(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.ledger.streams.pause("orders", who="me", reason="their maintenance")
    assert testbed.take() == Taken()
    log(testbed, 2)
    assert testbed.states() == {1: ["pending"], 2: ["pending"]}
    testbed.ledger.streams.resume("orders")
    testbed.ledger.partners.pause("default", who="me", reason="their maintenance")
    assert testbed.take() == Taken()
    testbed.ledger.partners.resume("default")
    assert testbed.take_all() == [[1, 2]]


def test_a_record_that_was_lost_in_sending_travels_alone_and_first(testbed: Testbed) -> None:
    log(testbed, 1, 2, 3)
    ids = {record["key"]["id"]: record["_id"] for record in testbed.records()}
    lose_records(testbed.ledger, testbed.database, [ids[1], ids[2]])
    log(testbed, 4)
    taken = testbed.take_all()
    assert sorted(taken[:2]) == [[1], [2]]
    assert taken[2:] == [[3, 4]]


def test_one_record_that_travels_alone_is_enough_at_a_time(testbed: Testbed) -> None:
    """Whoever has one in hand takes others together meanwhile."""
    log(testbed, 1, 2, 3, 4)
    ids = {record["key"]["id"]: record["_id"] for record in testbed.records()}
    lose_records(testbed.ledger, testbed.database, [ids[1], ids[2]])
    assert testbed.take_rows(with_suspects=False) == [3, 4]
    assert testbed.take_rows(with_suspects=False) == []
    assert len(testbed.take_rows()) == 1


def test_a_record_that_was_never_lost_travels_with_others_after_a_retry(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    claim = claim_records(testbed.ledger, [record["_id"] for record in testbed.records()])
    busy = outcome(Verdict.RETRY_LATER, error="busy")
    testbed.ledger.delivery_states.write_transitions(
        claim, [Transition(record=record, state=State.PENDING, outcome=busy) for record in claim.records]
    )
    assert testbed.take_all() == [[1, 2]]


# Several who take.


def test_several_at_once_take_each_record_once(testbed: Testbed) -> None:
    testbed.change_stream(batch_size=5)
    log(testbed, *range(1, 41))

    def take(number: int) -> list[list[int]]:
        taken: list[list[int]] = []
        while sum(map(len, taken)) < 40:
            found = testbed.take(worker=f"w{number}")
            if found.claim is not None:
                taken.append([int(str(record.key["id"])) for record in found.claim.records])
            elif not found.is_contended:
                break
        return taken

    with ThreadPoolExecutor(6) as threads:
        rows = [row for taken in threads.map(take, range(6)) for batch in taken for row in batch]
    assert sorted(rows) == list(range(1, 41))
    assert {record["claims"] for record in testbed.records()} == {1}


def test_whoever_comes_while_another_chooses_is_told_so(testbed: Testbed) -> None:
    log(testbed, 1)
    lease = testbed.ledger.streams.acquire_dispatch("orders", seconds=60, worker="other")
    assert lease is not None
    assert testbed.take() == Taken(is_contended=True)
    testbed.ledger.streams.release_dispatch(lease)
    assert testbed.take_rows() == [1]
    assert "dispatch" not in testbed.database.streams.find_one()


def test_who_dies_while_it_chooses_keeps_the_others_for_a_moment_only(testbed: Testbed) -> None:
    log(testbed, 1)
    assert testbed.ledger.streams.acquire_dispatch("orders", seconds=60, worker="dead") is not None
    assert testbed.take().is_contended
    expire_stream_lease(testbed.database, "dispatch")
    assert testbed.take_rows() == [1]


def test_two_who_chose_the_same_records_take_each_of_them_once(testbed: Testbed) -> None:
    """The dispatch lease of the first ran out while it chose; the second has taken them when it goes on."""
    log(testbed, 1, 2, 3)
    take = testbed.ledger.batches.take
    others: list[Taken] = []

    def take_late(stream: str, ids: Sequence[str], **options: Any) -> Any:
        if not others:
            others.append(Taken())
            expire_stream_lease(testbed.database, "dispatch")
            testbed.change_stream(batch_size=2)
            others[0] = testbed.take(worker="second")
        return take(stream, ids, **options)

    testbed.ledger.batches.take = take_late  # type: ignore[method-assign]
    try:
        late = testbed.take(worker="first")
    finally:
        del testbed.ledger.batches.take  # type: ignore[method-assign]
    second = others[0].claim
    assert late.claim is not None
    assert second is not None
    assert [record.key["id"] for record in second.records] == [1, 2]
    assert [record.key["id"] for record in late.claim.records] == [3]
    assert {record["claims"] for record in testbed.records()} == {1}


def test_a_mongodb_that_is_away_leaves_everything_as_it_is(testbed: Testbed) -> None:
    log(testbed, 1)
    before = testbed.records()

    def fail(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable("cannot reach MongoDB", service="mongodb")

    testbed.ledger.batches.take = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(ServiceUnavailable, match="MongoDB"):
            testbed.take()
    finally:
        del testbed.ledger.batches.take  # type: ignore[method-assign]
    assert testbed.records() == before
    assert testbed.take_rows() == [1]


@pytest.mark.parametrize("kind", ["as many as fit into a batch", "one that travels alone"])
def test_what_is_in_flight_of_a_batch_that_is_gone_holds_up_no_others(testbed: Testbed, kind: str) -> None:
    """Invariant 12, until maintenance gives it back: a claim was cut off, and its batch brought back before."""
    testbed.change_stream(batch_size=4, page_size=4)
    stranded = range(1, 13) if kind == "as many as fit into a batch" else range(1, 2)
    log(testbed, *stranded)
    testbed.take_all()
    testbed.database.batches.delete_many({})
    log(testbed, *stranded, content="b")
    if kind == "one that travels alone":
        testbed.database.records.update_many({"state": "pending"}, {"$set": {"losses": 1, "fresh": False}})
    log(testbed, 21, 22)
    assert testbed.take_all() == [[21, 22]]
    assert sorted(in_flight(testbed)) == [*stranded, 21, 22]
