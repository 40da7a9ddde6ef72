"""The races that matter, each by name and step by step. Each test names the guard without which it fails."""

from collections.abc import Iterator

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.pipeline import deliver, dispatch
from tests.harness.servers import name_database

from .protocol.actors import Actor
from .protocol.simulation import LONG_SECONDS, Simulation, open_gated_ledger


@pytest.fixture(autouse=True)
def long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases end where a test says so, however long it takes to come there."""
    monkeypatch.setattr(dispatch, "LEASE_SECONDS", LONG_SECONDS)


@pytest.fixture
def simulation(mongo_url: str) -> Iterator[Simulation]:
    """A stream whose source keeps no versions of its own: content decides."""
    yield from _open(mongo_url, versioned=False)


@pytest.fixture
def versioned_simulation(mongo_url: str) -> Iterator[Simulation]:
    """A stream whose source keeps versions, as rowversion does."""
    yield from _open(mongo_url, versioned=True)


def _open(mongo_url: str, *, versioned: bool) -> Iterator[Simulation]:
    with open_gated_ledger(mongo_url, name_database(mongo_url)) as opened:

        class Here(Simulation):
            ledger = opened

        Here.versioned = versioned
        here = Here()
        here.empty_the_ledger()
        yield here
        for actor in here.actors:
            actor.kill()


def settle_account(simulation: Simulation) -> None:
    """Let everything finish; then the partner must hold the rows of the source."""
    simulation.quiesce()
    simulation.check_account()


def write(simulation: Simulation, key: int, content: str | None) -> None:
    simulation.source.commit(simulation.source.begin({key: content}))


def deliver_next(simulation: Simulation) -> None:
    token, ids = simulation.messages.pop(0)
    simulation._deliver(token, ids)


def start_delivery(simulation: Simulation) -> Actor:
    """Start the delivery of the oldest message as an actor."""
    token, ids = simulation.messages.pop(0)
    return simulation._start("deliver", lambda: simulation._deliver(token, ids))


def records(simulation: Simulation, key: int = 1) -> list[dict[str, object]]:
    return list(simulation.database.records.find({"key.id": key}).sort("seq", 1))


def test_a_record_counts_only_once_its_key_says_so(simulation: Simulation) -> None:
    """Invariant 5: a poll dies between records and keys, the row changes back, and the logged version must not be sent.

    Fails without the check of `key.seq` in dispatch.
    """
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    write(simulation, 1, "b")
    simulation._start("poll", simulation._poll).step_until("after records.insert_many").kill()
    write(simulation, 1, "a")
    simulation._dispatch()
    assert not simulation.messages
    settle_account(simulation)
    assert simulation.partner.holds[1] == "a"


def test_late_writes_of_a_stalled_poll_change_nothing(simulation: Simulation) -> None:
    """Invariant 8: a poll stalls before it writes, another takes over and sees the row go back to what it was.

    Fails without the new observation in a contested epoch, and without comparing `seq` when a key is written.
    """
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    write(simulation, 1, "b")
    stalled = simulation._start("poll", simulation._poll).step_until("before records.insert_many")
    write(simulation, 1, "a")
    simulation.end_leases("poll")
    simulation._poll()
    stalled.finish()
    settle_account(simulation)
    assert simulation.partner.holds[1] == "a"
    write(simulation, 1, "b")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b", "the next change must not look like no change"


def test_a_poll_that_failed_halfway_is_treated_as_stalled(simulation: Simulation) -> None:
    """Invariant 8: its last write may still be under way when it lets go. Fails when an error clears the token."""
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    lease = simulation.ledger.streams.acquire_poll("orders", seconds=60, worker="w")
    assert lease is not None
    simulation.ledger.streams.release_poll(lease, error="MongoDB did not answer in time")
    again = simulation.ledger.streams.acquire_poll("orders", seconds=60, worker="w")
    assert again is not None
    assert again.contested_epoch == again.epoch


def test_a_content_that_comes_back_is_a_third_version(simulation: Simulation) -> None:
    """A → B → A. Fails when a version is named by its content alone."""
    for content in ("a", "b", "a"):
        write(simulation, 1, content)
        simulation._poll()
        while simulation.messages:
            deliver_next(simulation)
        assert simulation.partner.holds[1] == content
    assert [each["payload"]["content"] for each in records(simulation)] == ["a", "b", "a"]  # type: ignore[index]
    assert len({call.idempotency_key for call in simulation.partner.log}) == 3


def test_two_updates_in_one_tick_are_two_versions(simulation: Simulation) -> None:
    """Two changes with the same cursor value, read one after the other, are both seen."""
    write(simulation, 1, "a")
    simulation._poll()
    number, _ = simulation.source.rows[1]
    simulation.source.rows[1] = (number, "b")
    simulation._poll()
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


def test_a_row_that_is_deleted_and_inserted_again_is_sent_again(versioned_simulation: Simulation) -> None:
    """A key that comes back with other content is a new version."""
    simulation = versioned_simulation
    write(simulation, 1, "a")
    simulation._poll()
    write(simulation, 1, None)
    simulation._poll()
    write(simulation, 1, "b")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


def test_a_call_that_outlived_its_lease_has_the_newest_sent_again(simulation: Simulation) -> None:
    """Invariant 5: v1 arrives after v2 was delivered, and its outcome comes late. Fails without `resend`."""
    write(simulation, 1, "a")
    simulation._poll()
    stalled = start_delivery(simulation).step_until("before call")
    simulation.end_leases("records")
    simulation._maintain()
    write(simulation, 1, "b")
    simulation._poll()
    while simulation.messages:
        deliver_next(simulation)
    simulation.settle_calls()
    simulation._maintain()
    while simulation.messages:
        deliver_next(simulation)
    assert simulation.partner.holds[1] == "b"
    stalled.finish()
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    assert any(entry.get("late") for entry in records(simulation)[0]["history"]), "the late outcome is on record"  # type: ignore[union-attr]


def test_an_ambiguous_call_that_arrives_late_has_the_newest_sent_again(simulation: Simulation) -> None:
    """Invariant 5: v1 got no answer, v2 was delivered, then v1 arrives. Fails without `note_unsettled` in deliver."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.partner.answers = ["delayed"]
    deliver_next(simulation)
    write(simulation, 1, "b")
    simulation._poll()
    while simulation.messages:
        deliver_next(simulation)
    assert simulation.partner.delayed
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    newest = records(simulation)[-1]
    assert newest["generation"] == 1, "sent again under a new Idempotency-Key"


def test_a_lost_call_that_arrives_late_has_the_newest_sent_again(simulation: Simulation) -> None:
    """Invariant 5: the worker dies after sending v1, v2 is delivered, then v1 arrives. Fails without `note_unsettled`
    in maintenance."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.partner.answers = ["delayed"]
    start_delivery(simulation).step_until("after call").kill()
    simulation.end_leases("records")
    write(simulation, 1, "b")
    simulation._poll()
    simulation._maintain()
    while simulation.messages:
        deliver_next(simulation)
    assert simulation.partner.holds[1] == "b"
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


def test_an_outcome_without_its_lease_never_sets_the_state(simulation: Simulation) -> None:
    """Invariant 3. Fails when outcomes are written without the token."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.partner.answers = ["reject"]
    stalled = start_delivery(simulation).step_until("after call")
    simulation.end_leases("records")
    simulation._maintain()
    while simulation.messages:
        deliver_next(simulation)
    assert records(simulation)[0]["state"] == "delivered"
    stalled.finish()
    assert records(simulation)[0]["state"] == "delivered"


def test_a_doubled_message_claims_nothing(simulation: Simulation) -> None:
    """Invariant 3. Fails when a claim checks neither the batch's token nor the state."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.messages.append(simulation.messages[0])
    while simulation.messages:
        deliver_next(simulation)
    assert len(simulation.partner.log) == 1


def test_a_claim_that_dies_before_its_first_call_costs_no_call(simulation: Simulation) -> None:
    """Invariant 7: nothing was sent, so nothing is repeated; the claim is on record as lost."""
    write(simulation, 1, "a")
    simulation._poll()
    start_delivery(simulation).step_until("before call").kill()
    settle_account(simulation)
    assert len(simulation.partner.log) == 1
    assert [entry["action"] for entry in records(simulation)[0]["history"]] == ["lost", "attempt"]  # type: ignore[union-attr]


def test_a_claim_that_dies_after_the_answer_repeats_the_same_call(simulation: Simulation) -> None:
    """Invariant 7: at worst the call comes twice, under the same key and with the same bytes."""
    write(simulation, 1, "a")
    simulation._poll()
    start_delivery(simulation).step_until("after call").kill()
    settle_account(simulation)
    assert len(simulation.partner.log) == 2
    assert len({(call.idempotency_key, call.content) for call in simulation.partner.log}) == 1
    assert [call.attempt for call in simulation.partner.log] == [1, 2]


def test_once_an_outcome_cannot_be_written_no_further_call_begins(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 7: only calls that were in progress are repeated. Fails without `gate.shut` in deliver."""

    def refuse(*_: object) -> None:
        raise ServiceUnavailable("cannot reach MongoDB", service="mongodb")

    for key in (1, 2, 3):
        write(simulation, key, "a")
    simulation._poll()
    with monkeypatch.context() as broken:
        broken.setattr(deliver, "WRITE_EVERY_RECORDS", 1)
        broken.setattr(simulation.ledger.delivery_states, "write_transitions", refuse)
        with pytest.raises(ServiceUnavailable):
            deliver_next(simulation)
    assert len(simulation.partner.log) == 1
    settle_account(simulation)
    assert len(simulation.partner.log) == 4


def test_a_mapping_that_changed_after_a_crash_takes_a_new_key(simulation: Simulation) -> None:
    """Invariant 7: other bytes never go under an old key. Fails without the mapping's hash in the claim."""
    write(simulation, 1, "a")
    simulation._poll()
    start_delivery(simulation).step_until("after call").kill()
    simulation.mapping += 1
    settle_account(simulation)
    assert len({call.idempotency_key for call in simulation.partner.log}) == 2


def test_a_record_that_kills_its_worker_each_time_is_poison(simulation: Simulation) -> None:
    """A record lost three times in sending is failed, and the rows behind it arrive."""
    write(simulation, 1, "a")
    write(simulation, 2, "a")
    simulation._poll()
    losses = 0
    for _ in range(10):
        while simulation.messages:
            _, ids = simulation.messages[0]
            poisoned = records(simulation)[0]["_id"] in ids
            actor = start_delivery(simulation)
            if poisoned:
                actor.step_until("before call").kill()
                losses += 1
                assert losses == 1 or len(ids) == 1, "what was lost in sending travels alone"
            else:
                actor.finish()
        simulation.end_leases("records")
        simulation._maintain()
    assert losses == 3
    assert records(simulation)[0]["state"] == "failed"
    assert records(simulation, key=2)[0]["state"] == "delivered"


def test_a_dispatch_that_is_refused_makes_the_holder_look_once_more(simulation: Simulation) -> None:
    """A wake-up that comes while another has just looked is not lost. Fails without `wanted`."""
    write(simulation, 1, "a")
    holder = simulation._start("dispatch", simulation._dispatch)
    simulation.ledger.streams.ensure("orders")
    holder.step_until("before streams.update_one")
    simulation._poll()
    assert not simulation.messages, "the holder has the lease"
    holder.finish()
    assert len(simulation.messages) == 1


def test_a_dispatcher_paused_after_reading_does_not_send_what_changed_since(simulation: Simulation) -> None:
    """A dispatcher that read a record as due continues after it was sent, rejected and discarded."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.messages.clear()
    simulation.end_leases("records")
    simulation._maintain()
    simulation.messages.clear()
    simulation.end_leases("records")
    simulation.run_now(
        lambda: simulation.ledger.lease_rescue.bring_back(
            simulation.ledger.lease_rescue.find_expired("orders", limit=9)
        )
    )
    paused = simulation._start("dispatch", simulation._dispatch).step_until("before records.update_many")
    simulation.end_leases("dispatch")
    simulation._dispatch()
    simulation.partner.answers = ["reject"]
    deliver_next(simulation)
    simulation._discard()
    paused.finish()
    assert not simulation.messages
    assert records(simulation)[0]["state"] == "discarded"


def test_a_replay_of_an_old_version_after_a_newer_was_delivered_and_cleaned_is_skipped(simulation: Simulation) -> None:
    """`keys` outlives the records: the old one cannot pass for the newest."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.partner.answers = ["reject"]
    deliver_next(simulation)
    write(simulation, 1, "b")
    simulation._poll()
    while simulation.messages:
        deliver_next(simulation)
    simulation._clean_up()
    assert [each["payload"]["content"] for each in records(simulation)] == ["a"]  # type: ignore[index]
    simulation._replay(("failed",))
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    assert len(simulation.partner.log) == 1


def test_a_restored_source_stops_its_stream(versioned_simulation: Simulation) -> None:
    """A version that comes back with another content is never a no-op, and the cursor does not move."""
    simulation = versioned_simulation
    write(simulation, 1, "a")
    simulation._poll()
    before = simulation.database.streams.find_one({"_id": "orders"})["cursor"]
    simulation.source.rows[1] = (1, "restored")
    simulation.database.streams.update_one({"_id": "orders"}, {"$set": {"cursor.at": "0"}})
    with pytest.raises(AssertionError, match="versions run again"):
        simulation._poll()
    assert simulation.database.streams.find_one({"_id": "orders"})["cursor"]["at"] == "0"
    assert before["at"] == "1"


def test_records_of_a_dead_poll_are_sent_once_another_poll_finds_them(simulation: Simulation) -> None:
    """Invariant 1: the row stays as the dead poll saw it. Fails when dispatch supersedes what no key knows."""
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    write(simulation, 1, "b")
    simulation._start("poll", simulation._poll).step_until("after records.insert_many").kill()
    simulation._dispatch()
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    assert len(records(simulation)) == 2


def test_a_page_that_was_read_before_another_poll_wrote_is_not_compared_with_what_that_wrote(
    simulation: Simulation,
) -> None:
    """Invariant 8: a poll stalls with an old page in hand, the row changes, another poll logs and delivers it.

    Fails when a page may be compared with keys that a later poll has written: the old content would pass for a change.
    """
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    write(simulation, 1, "b")
    stalled = simulation._start("poll", simulation._poll).step_until("before keys.find")
    write(simulation, 1, "c")
    simulation.end_leases("poll")
    simulation._poll()
    deliver_next(simulation)
    stalled.finish()
    assert [each["payload"]["content"] for each in records(simulation)] == ["a", "c"]  # type: ignore[index]
    assert not simulation.messages
    settle_account(simulation)
    assert simulation.partner.holds[1] == "c"


def test_a_poll_that_stalled_before_its_keys_writes_none_of_them(simulation: Simulation) -> None:
    """Invariant 8: another poll has seen the row since. Fails without comparing `seq` when a key is written."""
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    write(simulation, 1, "b")
    stalled = simulation._start("poll", simulation._poll).step_until("before keys.bulk_write")
    write(simulation, 1, "a")
    simulation.end_leases("poll")
    simulation._poll()
    stalled.finish()
    write(simulation, 1, "b")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b", "the next change must not look like no change"


def test_a_poll_that_was_taken_over_does_not_move_the_cursor_back(versioned_simulation: Simulation) -> None:
    """Invariant 8. Fails when the cursor is written without the lease's token."""
    simulation = versioned_simulation
    write(simulation, 1, "a")
    simulation.ledger.streams.ensure("orders")
    stalled = simulation._start("poll", simulation._poll).step_until("after keys.bulk_write")
    write(simulation, 2, "a")
    simulation.end_leases("poll")
    simulation._poll()
    stalled.finish()
    assert simulation.database.streams.find_one({"_id": "orders"})["cursor"]["at"] == "2"
    settle_account(simulation)


def test_a_newer_version_waits_while_an_older_one_is_in_flight(simulation: Simulation) -> None:
    """Invariant 5. Fails without the unique index on records in flight."""
    write(simulation, 1, "a")
    simulation._poll()
    stalled = start_delivery(simulation).step_until("before call")
    write(simulation, 1, "b")
    simulation._poll()
    assert not simulation.messages
    stalled.finish()
    assert len(simulation.messages) == 1, "the end of the batch is the wake-up"
    settle_account(simulation)
    assert [call.content for call in simulation.partner.log] == ["a", "b"]


def test_an_old_version_that_waits_makes_way_for_a_newer_one(simulation: Simulation) -> None:
    """Invariant 5: it is superseded before a worker claims it. Fails when dispatch does not supersede."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.partner.answers = ["later"]
    start_delivery(simulation).step_until("after records.bulk_write").kill()
    write(simulation, 1, "b")
    simulation._poll()
    older = records(simulation)[0]
    assert older["state"] == "superseded"
    assert older["claims"] == 1
    settle_account(simulation)
    assert [call.content for call in simulation.partner.log] == ["b"]


def test_a_delivered_record_is_replayed_under_a_new_key(simulation: Simulation) -> None:
    """Under the old `Idempotency-Key` the partner would do nothing. Fails when replay keeps it."""
    write(simulation, 1, "a")
    simulation._poll()
    deliver_next(simulation)
    simulation._replay(("delivered",))
    settle_account(simulation)
    assert len({call.idempotency_key for call in simulation.partner.log}) == 2


def test_a_row_that_is_gone_before_another_poll_sees_it_is_still_sent(simulation: Simulation) -> None:
    """Invariant 1: it was logged by a poll that died, and deleted. Fails when dispatch waits for its poll for ever."""
    write(simulation, 1, "a")
    simulation.ledger.streams.ensure("orders")
    simulation._start("poll", simulation._poll).step_until("after records.insert_many").kill()
    write(simulation, 1, None)
    settle_account(simulation)
    assert records(simulation)[0]["state"] == "delivered"
    assert simulation.partner.holds[1] == "a"


def test_a_poll_that_was_stopped_between_pages_has_not_seen_the_rest(simulation: Simulation) -> None:
    """Invariant 5: records of a dead poll wait for a poll that reads to the end. Fails when a stopped poll is taken for
    one."""
    for key in (1, 2, 3, 4):
        write(simulation, key, "a")
    simulation.ledger.streams.ensure("orders")
    simulation._start("poll", simulation._poll).step_until("after records.insert_many").kill()
    write(simulation, 1, "b")
    simulation.end_leases("poll")
    simulation.stopping = True
    simulation._poll()
    simulation._dispatch()
    assert simulation.messages
    assert all(records(simulation)[0]["_id"] not in ids for _, ids in simulation.messages)
    simulation.stopping = False
    settle_account(simulation)
    assert [call.content for call in simulation.partner.log if call.key == 1] == ["b"]


def test_a_lost_record_does_not_wait_for_the_end_of_a_backlog(simulation: Simulation) -> None:
    """Oldest first: the records of a dead worker go before rows that came later. Fails when dispatch sends records
    that travel alone after all batches."""
    write(simulation, 1, "a")
    simulation._poll()
    start_delivery(simulation).step_until("before call").kill()
    for key in range(2, 12):
        write(simulation, key, "a")
    simulation._poll()
    simulation.messages.clear()
    simulation.end_leases("records")
    simulation._maintain()
    assert any(ids == [records(simulation)[0]["_id"]] for _, ids in simulation.messages)


def test_a_call_on_which_a_proxy_gave_up_may_still_arrive(simulation: Simulation) -> None:
    """Invariant 5: v1 got a 504 and arrives after v2. Fails when only a missing answer is ambiguous."""
    write(simulation, 1, "a")
    simulation._poll()
    simulation.partner.answers = ["given up"]
    deliver_next(simulation)
    write(simulation, 1, "b")
    simulation._poll()
    while simulation.messages:
        deliver_next(simulation)
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
