"""The races that matter, each by name and step by step. Each test says which guard it fails without."""

from collections.abc import Iterator

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.pipeline import deliver, dispatch

from .protocol.world import LONG_SECONDS, World, open_gated_ledger


@pytest.fixture(autouse=True)
def long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases end where a test says so, however long it takes to come there."""
    monkeypatch.setattr(dispatch, "LEASE_SECONDS", LONG_SECONDS)


@pytest.fixture
def world(mongo_url: str) -> Iterator[World]:
    """A stream whose source keeps no versions of its own: content decides."""
    yield from _open(mongo_url, versioned=False)


@pytest.fixture
def versioned_world(mongo_url: str) -> Iterator[World]:
    """A stream whose source keeps versions, as rowversion does."""
    yield from _open(mongo_url, versioned=True)


def _open(mongo_url: str, *, versioned: bool) -> Iterator[World]:
    with open_gated_ledger(mongo_url, mongo_url.rpartition("/")[2].partition("?")[0]) as opened:

        class Here(World):
            ledger = opened

        Here.versioned = versioned
        here = Here()
        here.empty_the_ledger()
        yield here
        for actor in here.actors:
            actor.kill()


def settle_account(world: World) -> None:
    """Let everything run out; then the partner must hold what the source holds."""
    world.quiesce()
    world.check_account()


def write(world: World, key: int, content: str | None) -> None:
    world.source.commit(world.source.begin({key: content}))


def deliver_next(world: World) -> None:
    _, token, ids = world.messages.pop(0)
    world._deliver(token, ids)


def records(world: World, key: int = 1) -> list[dict[str, object]]:
    return list(world.database.records.find({"key.id": key}).sort("seq", 1))


def test_a_record_counts_only_once_its_key_says_so(world: World) -> None:
    """Invariant 5: a poll dies between records and keys, the row goes back, and what it logged must not be sent.

    Fails without the check of `key.seq` in dispatch.
    """
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    write(world, 1, "b")
    world._start("poll", world._poll).step_until("after records.insert_many").kill()
    write(world, 1, "a")
    world._dispatch()
    assert not world.messages
    settle_account(world)
    assert world.partner.holds[1] == "a"


def test_what_a_stalled_poll_writes_late_changes_nothing(world: World) -> None:
    """Invariant 8: a poll stalls before it writes, another takes over and sees the row go back to what it was.

    Fails without the new observation in a contested epoch, and without comparing `seq` when a key is written.
    """
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    write(world, 1, "b")
    stalled = world._start("poll", world._poll).step_until("before records.insert_many")
    write(world, 1, "a")
    world.end_leases("poll")
    world._poll()
    stalled.finish()
    settle_account(world)
    assert world.partner.holds[1] == "a"
    write(world, 1, "b")
    settle_account(world)
    assert world.partner.holds[1] == "b", "the next change must not look like no change"


def test_a_poll_that_failed_halfway_counts_as_stalled(world: World) -> None:
    """Invariant 8: its last write may still be under way when it lets go. Fails when an error clears the token."""
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    lease = world.ledger.streams.acquire_poll("orders", seconds=60, worker="w")
    assert lease is not None
    world.ledger.streams.release_poll(lease, error="MongoDB did not answer in time")
    again = world.ledger.streams.acquire_poll("orders", seconds=60, worker="w")
    assert again is not None
    assert again.contested_epoch == again.epoch


def test_there_and_back_again_is_three_versions(world: World) -> None:
    """A → B → A. Fails when a version is named by its content alone."""
    for content in ("a", "b", "a"):
        write(world, 1, content)
        world._poll()
        while world.messages:
            deliver_next(world)
        assert world.partner.holds[1] == content
    assert [each["payload"]["content"] for each in records(world)] == ["a", "b", "a"]  # type: ignore[index]
    assert len({call.idempotency_key for call in world.partner.log}) == 3


def test_two_updates_in_one_tick_are_two_versions(world: World) -> None:
    """Two changes with the same cursor value, read one after the other, are both seen."""
    write(world, 1, "a")
    world._poll()
    number, _ = world.source.rows[1]
    world.source.rows[1] = (number, "b")
    world._poll()
    settle_account(world)
    assert world.partner.holds[1] == "b"


def test_a_row_that_is_deleted_and_inserted_again_is_sent_again(versioned_world: World) -> None:
    """A key that comes back with other content is a new version."""
    world = versioned_world
    write(world, 1, "a")
    world._poll()
    write(world, 1, None)
    world._poll()
    write(world, 1, "b")
    settle_account(world)
    assert world.partner.holds[1] == "b"


def test_a_call_that_outlived_its_lease_has_the_newest_sent_again(world: World) -> None:
    """Invariant 5: the call of v1 lands after v2 was delivered, and says so late. Fails without `resend`."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    stalled = world._start("deliver", lambda: world._deliver(token, ids)).step_until("before call")
    world.end_leases("records")
    world._keep_up()
    write(world, 1, "b")
    world._poll()
    while world.messages:
        deliver_next(world)
    world.settle_calls()
    world._keep_up()
    while world.messages:
        deliver_next(world)
    assert world.partner.holds[1] == "b"
    stalled.finish()
    settle_account(world)
    assert world.partner.holds[1] == "b"
    assert any(entry.get("late") for entry in records(world)[0]["history"]), "the late outcome is on record"  # type: ignore[union-attr]


def test_an_ambiguous_call_that_lands_late_has_the_newest_sent_again(world: World) -> None:
    """Invariant 5: v1 got no answer, v2 was delivered, then v1 lands. Fails without `note_unsettled` in deliver."""
    write(world, 1, "a")
    world._poll()
    world.partner.answers = ["delayed"]
    deliver_next(world)
    write(world, 1, "b")
    world._poll()
    while world.messages:
        deliver_next(world)
    assert world.partner.delayed
    settle_account(world)
    assert world.partner.holds[1] == "b"
    newest = records(world)[-1]
    assert newest["generation"] == 1, "sent again under a new Idempotency-Key"


def test_a_lost_call_that_lands_late_has_the_newest_sent_again(world: World) -> None:
    """Invariant 5: the worker dies after sending v1, v2 is delivered, then v1 lands. Fails without `note_unsettled`
    in upkeep."""
    write(world, 1, "a")
    world._poll()
    world.partner.answers = ["delayed"]
    _, token, ids = world.messages.pop(0)
    world._start("deliver", lambda: world._deliver(token, ids)).step_until("after call").kill()
    world.end_leases("records")
    write(world, 1, "b")
    world._poll()
    world._keep_up()
    while world.messages:
        deliver_next(world)
    assert world.partner.holds[1] == "b"
    settle_account(world)
    assert world.partner.holds[1] == "b"


def test_an_outcome_without_its_lease_never_sets_the_state(world: World) -> None:
    """Invariant 3. Fails when outcomes are written without the token."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    world.partner.answers = ["reject"]
    stalled = world._start("deliver", lambda: world._deliver(token, ids)).step_until("after call")
    world.end_leases("records")
    world._keep_up()
    while world.messages:
        deliver_next(world)
    assert records(world)[0]["state"] == "delivered"
    stalled.finish()
    assert records(world)[0]["state"] == "delivered"


def test_a_doubled_message_claims_nothing(world: World) -> None:
    """Invariant 3. Fails when a claim asks neither for the batch's token nor for the state."""
    write(world, 1, "a")
    world._poll()
    world.messages.append(world.messages[0])
    while world.messages:
        deliver_next(world)
    assert len(world.partner.log) == 1


def test_a_claim_that_dies_before_its_first_call_costs_no_call(world: World) -> None:
    """Invariant 7: nothing was sent, so nothing is repeated; the claim is on record as lost."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    world._start("deliver", lambda: world._deliver(token, ids)).step_until("before call").kill()
    settle_account(world)
    assert len(world.partner.log) == 1
    assert [entry["action"] for entry in records(world)[0]["history"]] == ["lost", "attempt"]  # type: ignore[union-attr]


def test_a_claim_that_dies_after_the_answer_repeats_the_same_call(world: World) -> None:
    """Invariant 7: at worst the call comes twice, under the same key and with the same bytes."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    world._start("deliver", lambda: world._deliver(token, ids)).step_until("after call").kill()
    settle_account(world)
    assert len(world.partner.log) == 2
    assert len({(call.idempotency_key, call.content) for call in world.partner.log}) == 1
    assert [call.attempt for call in world.partner.log] == [1, 2]


def test_once_an_outcome_cannot_be_written_no_further_call_begins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 7: only so many calls are repeated as were under way. Fails without `halt` in deliver."""

    def refuse(*_: object) -> None:
        raise ServiceUnavailable("cannot reach MongoDB", service="mongodb")

    for key in (1, 2, 3):
        write(world, key, "a")
    world._poll()
    with monkeypatch.context() as broken:
        broken.setattr(deliver, "WRITE_EVERY_RECORDS", 1)
        broken.setattr(world.ledger.delivery_states, "land", refuse)
        with pytest.raises(ServiceUnavailable):
            deliver_next(world)
    assert len(world.partner.log) == 1
    settle_account(world)
    assert len(world.partner.log) == 4


def test_a_mapping_that_changed_after_a_crash_takes_a_new_key(world: World) -> None:
    """Invariant 7: other bytes never go under an old key. Fails without the mapping's hash in the claim."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    world._start("deliver", lambda: world._deliver(token, ids)).step_until("after call").kill()
    world.mapping += 1
    settle_account(world)
    assert len({call.idempotency_key for call in world.partner.log}) == 2


def test_a_record_that_kills_its_worker_each_time_is_poison(world: World) -> None:
    """A record lost three times in sending is failed, and the rows behind it arrive."""
    write(world, 1, "a")
    write(world, 2, "a")
    world._poll()
    losses = 0
    for _ in range(10):
        while world.messages:
            _, token, ids = world.messages.pop(0)
            poisoned = records(world)[0]["_id"] in ids
            actor = world._start("deliver", lambda token=token, ids=ids: world._deliver(token, ids))  # type: ignore[misc]
            if poisoned:
                actor.step_until("before call").kill()
                losses += 1
                assert losses == 1 or len(ids) == 1, "what was lost in sending travels alone"
            else:
                actor.finish()
        world.end_leases("records")
        world._keep_up()
    assert losses == 3
    assert records(world)[0]["state"] == "failed"
    assert records(world, key=2)[0]["state"] == "delivered"


def test_a_dispatch_that_is_refused_makes_the_holder_look_once_more(world: World) -> None:
    """A wake-up that comes while another has just looked is not lost. Fails without `wanted`."""
    write(world, 1, "a")
    holder = world._start("dispatch", world._dispatch)
    world.ledger.streams.ensure("orders")
    holder.step_until("before streams.update_one")
    world._poll()
    assert not world.messages, "the holder has the lease"
    holder.finish()
    assert len(world.messages) == 1


def test_a_dispatcher_paused_after_reading_does_not_send_what_changed_since(world: World) -> None:
    """A dispatcher that read a record as due goes on after it was sent, rejected and discarded."""
    write(world, 1, "a")
    world._poll()
    world.messages.clear()
    world.end_leases("records")
    world._keep_up()
    world.messages.clear()
    world.end_leases("records")
    world.run_now(lambda: world.ledger.returns.return_expired(world.ledger.returns.find_expired("orders", limit=9)))
    paused = world._start("dispatch", world._dispatch).step_until("before records.update_many")
    world.end_leases("dispatch")
    world._dispatch()
    world.partner.answers = ["reject"]
    deliver_next(world)
    world._discard()
    paused.finish()
    assert not world.messages
    assert records(world)[0]["state"] == "discarded"


def test_a_replay_of_an_old_version_after_a_newer_was_delivered_and_cleaned_is_skipped(world: World) -> None:
    """`keys` outlives the records: the old one cannot pass for the newest."""
    write(world, 1, "a")
    world._poll()
    world.partner.answers = ["reject"]
    deliver_next(world)
    write(world, 1, "b")
    world._poll()
    while world.messages:
        deliver_next(world)
    world._clean_up()
    assert [each["payload"]["content"] for each in records(world)] == ["a"]  # type: ignore[index]
    world._replay(("failed",))
    settle_account(world)
    assert world.partner.holds[1] == "b"
    assert len(world.partner.log) == 1


def test_a_restored_source_stops_its_stream(versioned_world: World) -> None:
    """A version that comes back with another content is never a no-op, and the cursor does not move."""
    world = versioned_world
    write(world, 1, "a")
    world._poll()
    before = world.database.streams.find_one({"_id": "orders"})["cursor"]
    world.source.rows[1] = (1, "restored")
    world.database.streams.update_one({"_id": "orders"}, {"$set": {"cursor.at": "0"}})
    with pytest.raises(AssertionError, match="versions run again"):
        world._poll()
    assert world.database.streams.find_one({"_id": "orders"})["cursor"]["at"] == "0"
    assert before["at"] == "1"


def test_what_a_dead_poll_has_logged_is_sent_once_another_poll_finds_it(world: World) -> None:
    """Invariant 1: the row stays as the dead poll saw it. Fails when dispatch sets aside what no key knows yet."""
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    write(world, 1, "b")
    world._start("poll", world._poll).step_until("after records.insert_many").kill()
    world._dispatch()
    settle_account(world)
    assert world.partner.holds[1] == "b"
    assert len(records(world)) == 2


def test_a_page_that_was_read_before_another_poll_wrote_is_not_compared_with_what_that_wrote(world: World) -> None:
    """Invariant 8: a poll stalls with an old page in hand, the row changes, another poll logs and delivers it.

    Fails when a page may be compared with keys that a later poll has written: the old content would pass for a change.
    """
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    write(world, 1, "b")
    stalled = world._start("poll", world._poll).step_until("before keys.find")
    write(world, 1, "c")
    world.end_leases("poll")
    world._poll()
    deliver_next(world)
    stalled.finish()
    assert [each["payload"]["content"] for each in records(world)] == ["a", "c"]  # type: ignore[index]
    assert not world.messages
    settle_account(world)
    assert world.partner.holds[1] == "c"


def test_a_poll_that_stalled_before_its_keys_writes_none_of_them(world: World) -> None:
    """Invariant 8: another poll has seen the row since. Fails without comparing `seq` when a key is written."""
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    write(world, 1, "b")
    stalled = world._start("poll", world._poll).step_until("before keys.bulk_write")
    write(world, 1, "a")
    world.end_leases("poll")
    world._poll()
    stalled.finish()
    write(world, 1, "b")
    settle_account(world)
    assert world.partner.holds[1] == "b", "the next change must not look like no change"


def test_a_poll_that_was_taken_over_does_not_move_the_cursor_back(versioned_world: World) -> None:
    """Invariant 8. Fails when the cursor is written without the lease's token."""
    world = versioned_world
    write(world, 1, "a")
    world.ledger.streams.ensure("orders")
    stalled = world._start("poll", world._poll).step_until("after keys.bulk_write")
    write(world, 2, "a")
    world.end_leases("poll")
    world._poll()
    stalled.finish()
    assert world.database.streams.find_one({"_id": "orders"})["cursor"]["at"] == "2"
    settle_account(world)


def test_a_newer_version_waits_while_an_older_one_is_in_flight(world: World) -> None:
    """Invariant 5. Fails without the unique index on what is in flight."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    flying = world._start("deliver", lambda: world._deliver(token, ids)).step_until("before call")
    write(world, 1, "b")
    world._poll()
    assert not world.messages
    flying.finish()
    assert len(world.messages) == 1, "the end of the batch is the wake-up"
    settle_account(world)
    assert [call.content for call in world.partner.log] == ["a", "b"]


def test_an_old_version_that_waits_makes_way_for_a_newer_one(world: World) -> None:
    """Invariant 5: it is set aside before anybody claims it. Fails when dispatch does not supersede."""
    write(world, 1, "a")
    world._poll()
    world.partner.answers = ["later"]
    _, token, ids = world.messages.pop(0)
    world._start("deliver", lambda: world._deliver(token, ids)).step_until("after records.bulk_write").kill()
    write(world, 1, "b")
    world._poll()
    older = records(world)[0]
    assert older["state"] == "superseded"
    assert older["claims"] == 1
    settle_account(world)
    assert [call.content for call in world.partner.log] == ["b"]


def test_a_delivered_record_is_replayed_under_a_new_key(world: World) -> None:
    """Under the old `Idempotency-Key` the partner would do nothing. Fails when replay keeps it."""
    write(world, 1, "a")
    world._poll()
    deliver_next(world)
    world._replay(("delivered",))
    settle_account(world)
    assert len({call.idempotency_key for call in world.partner.log}) == 2


def test_a_row_that_is_gone_before_another_poll_sees_it_is_sent_all_the_same(world: World) -> None:
    """Invariant 1: it was logged by a poll that died, and deleted. Fails when dispatch waits for its poll for ever."""
    write(world, 1, "a")
    world.ledger.streams.ensure("orders")
    world._start("poll", world._poll).step_until("after records.insert_many").kill()
    write(world, 1, None)
    settle_account(world)
    assert records(world)[0]["state"] == "delivered"
    assert world.partner.holds[1] == "a"


def test_a_poll_that_was_stopped_between_pages_has_not_seen_the_rest(world: World) -> None:
    """Invariant 5: what a dead poll has logged waits for a poll that reads to the end. Fails when a stop counts as
    one."""
    for key in (1, 2, 3, 4):
        write(world, key, "a")
    world.ledger.streams.ensure("orders")
    world._start("poll", world._poll).step_until("after records.insert_many").kill()
    write(world, 1, "b")
    world.end_leases("poll")
    world.stopping = True
    world._poll()
    world._dispatch()
    assert world.messages
    assert all(records(world)[0]["_id"] not in ids for _, _, ids in world.messages)
    world.stopping = False
    settle_account(world)
    assert [call.content for call in world.partner.log if call.key == 1] == ["b"]


def test_what_was_lost_does_not_wait_for_the_end_of_a_backlog(world: World) -> None:
    """Oldest first: what a dead worker held goes before rows that came later. Fails when dispatch sends what travels
    alone after all that travels together."""
    write(world, 1, "a")
    world._poll()
    _, token, ids = world.messages.pop(0)
    world._start("deliver", lambda: world._deliver(token, ids)).step_until("before call").kill()
    for key in range(2, 12):
        write(world, key, "a")
    world._poll()
    world.messages.clear()
    world.end_leases("records")
    world._keep_up()
    assert any(ids == [records(world)[0]["_id"]] for _, _, ids in world.messages)


def test_a_proxy_that_gave_up_counts_as_a_call_that_may_land(world: World) -> None:
    """Invariant 5: v1 got a 504 and lands after v2. Fails when only a missing answer counts."""
    write(world, 1, "a")
    world._poll()
    world.partner.answers = ["given up"]
    deliver_next(world)
    write(world, 1, "b")
    world._poll()
    while world.messages:
        deliver_next(world)
    settle_account(world)
    assert world.partner.holds[1] == "b"
