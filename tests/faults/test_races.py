"""The races that matter, each with a name and step by step. Each test names the guard without which it fails."""

from collections.abc import Iterator
from typing import Any

import pytest

from syncctl.core.states import State
from syncctl.core.stream import Mode
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from syncctl.local.mongod import Mongod
from syncctl.pipeline.delivery import delivery_lane

from .protocol.actors import GatedDatabase, Process
from .protocol.clock import simulated_time
from .protocol.simulation import Simulation, open_gated_ledger


@pytest.fixture(scope="module")
def gated_ledger(mongo_server: Mongod) -> Iterator[tuple[Ledger, GatedDatabase]]:
    """A ledger that all tests here share, because creating its indexes takes longer than most of them."""
    opened, gates = open_gated_ledger(mongo_server.url("races"), "races")
    with opened:
        yield opened, gates


@pytest.fixture
def simulation(gated_ledger: tuple[Ledger, GatedDatabase]) -> Iterator[Simulation]:
    """A stream whose source keeps no versions of its own: content decides."""
    yield from _open(gated_ledger, mode="increasing")


@pytest.fixture
def versioned_simulation(gated_ledger: tuple[Ledger, GatedDatabase]) -> Iterator[Simulation]:
    """A stream whose source keeps versions, as rowversion does."""
    yield from _open(gated_ledger, mode="rowversion")


@pytest.fixture
def tracked_simulation(gated_ledger: tuple[Ledger, GatedDatabase]) -> Iterator[Simulation]:
    """A stream whose source reports deleted rows."""
    yield from _open(gated_ledger, mode="change_tracking")


@pytest.fixture(
    params=[("strict", "increasing"), ("none", "increasing"), ("strict", "rowversion"), ("none", "rowversion")]
)
def complete_simulation(
    gated_ledger: tuple[Ledger, GatedDatabase], request: pytest.FixtureRequest
) -> Iterator[Simulation]:
    """A stream that sends every version."""
    order, mode = request.param
    yield from _open(gated_ledger, mode=mode, order=order)


@pytest.fixture
def strict_simulation(gated_ledger: tuple[Ledger, GatedDatabase]) -> Iterator[Simulation]:
    """A stream that sends every version, one after another."""
    yield from _open(gated_ledger, mode="increasing", order="strict")


def _open(gated_ledger: tuple[Ledger, GatedDatabase], *, mode: Mode, order: str = "latest") -> Iterator[Simulation]:
    opened, gates = gated_ledger
    with simulated_time():

        class Here(Simulation):
            ledger = opened
            gated = gates

        Here.mode = mode
        Here.order = order
        here = Here()
        here.empty_the_ledger()
        yield here
        for unit in [*here.actors, *here.processes]:
            unit.kill()


def settle_account(simulation: Simulation) -> None:
    """Let everything run out; then the partner must hold what the source holds."""
    simulation.quiesce()
    simulation.check_account()


def write(simulation: Simulation, key: int, content: str | None) -> None:
    simulation.source.commit(simulation.source.begin({key: content}))


def poll(simulation: Simulation) -> None:
    simulation.run("poll", simulation.poll)


def write_and_poll(simulation: Simulation, key: int, content: str | None) -> None:
    write(simulation, key, content)
    poll(simulation)


def deliver(simulation: Simulation) -> None:
    """Let a process deliver all that is due."""
    simulation.start_delivery().finish()


def deliver_up_to(simulation: Simulation, at: str) -> Process:
    """Let a process deliver up to a gate, where it stops."""
    return simulation.start_delivery().step_until(at)


def lapse(simulation: Simulation, process: Process) -> None:
    """Let a process stand still for longer than its leases, and another bring back its records."""
    simulation.pass_time(1.5, [process])
    simulation.end_stream_lease("dispatch")
    simulation.run("rescue", simulation.rescue)


def crash_at(simulation: Simulation, at: str) -> None:
    """Kill a delivering process at a gate, and bring back its records."""
    process = deliver_up_to(simulation, at)
    simulation.kill_delivery(process, on_the_wire=False)
    lapse(simulation, process)


def records(simulation: Simulation, key: int = 1) -> list[dict[str, Any]]:
    return list(simulation.database.records.find({"key.id": key}).sort("seq", 1))


def states(simulation: Simulation, key: int = 1) -> list[str]:
    return [record["state"] for record in records(simulation, key)]


def sent(simulation: Simulation, key: int = 1) -> list[str | None]:
    """Return the contents of a row that were sent to the partner, in order."""
    return [call.content for call in simulation.partner.log if call.key == key]


def test_a_record_counts_only_once_its_key_says_so(simulation: Simulation) -> None:
    """Invariant 5: a poll dies between records and keys, the row changes back, and the logged record must not be sent.

    Fails without the check of `key.seq` in dispatch.
    """
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    write(simulation, 1, "b")
    simulation.start("poll", simulation.poll).step_until("after records.insert_many").kill()
    write(simulation, 1, "a")
    deliver(simulation)
    assert sent(simulation) == ["a"]
    settle_account(simulation)
    assert simulation.partner.holds[1] == "a"


def test_what_a_stalled_poll_writes_late_changes_nothing(simulation: Simulation) -> None:
    """Invariant 8: a poll stalls before it writes, another takes over and sees the row change back.

    Fails without the new observation in a contested epoch, and without comparing `seq` when a key is written.
    """
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    write(simulation, 1, "b")
    stalled = simulation.start("poll", simulation.poll).step_until("before records.insert_many")
    write(simulation, 1, "a")
    simulation.end_stream_lease("poll")
    poll(simulation)
    stalled.finish()
    settle_account(simulation)
    assert simulation.partner.holds[1] == "a"
    write(simulation, 1, "b")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b", "the next change must not look like no change"


def test_a_poll_that_failed_halfway_counts_as_stalled(simulation: Simulation) -> None:
    """Invariant 8: its last write may be unfinished when it releases the lease. Fails if an error clears the token."""
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    lease = simulation.ledger.polls.acquire("orders", seconds=60, worker="w")
    assert lease is not None
    simulation.ledger.polls.release(lease, error="MongoDB did not answer in time")
    again = simulation.ledger.polls.acquire("orders", seconds=60, worker="w")
    assert again is not None
    assert again.contested_epoch == again.epoch


def test_there_and_back_again_is_three_versions(simulation: Simulation) -> None:
    """A → B → A. Fails if a version is identified by its content alone."""
    for content in ("a", "b", "a"):
        write_and_poll(simulation, 1, content)
        deliver(simulation)
        assert simulation.partner.holds[1] == content
    assert [record["payload"]["content"] for record in records(simulation)] == ["a", "b", "a"]
    assert len({call.idempotency_key for call in simulation.partner.log}) == 3


def test_a_version_that_is_compared_twice_is_logged_once(complete_simulation: Simulation) -> None:
    """A poll has logged a version when the poll that it took over from writes the row's key, so it compares the row
    again. Fails if a version is identified by the last observation of its key."""
    simulation = complete_simulation
    write(simulation, 1, "a")
    simulation.start("poll", simulation.poll).step_until("after keys.bulk_write").kill()
    deliver(simulation)
    simulation.end_stream_lease("poll")
    stalled = simulation.start("poll", simulation.poll).step_until("before keys.bulk_write")
    simulation.end_stream_lease("poll")
    write(simulation, 1, "b")
    second = simulation.start("poll", simulation.poll).step_until("after records.insert_many")
    stalled.finish()
    second.finish()
    settle_account(simulation)
    assert sent(simulation) == ["a", "b"]


def test_a_version_that_a_stalled_poll_has_logged_too_is_sent_once(complete_simulation: Simulation) -> None:
    """A poll that was taken over logs a version that its successor, whose page is older, has not seen; the next poll
    finds it. Fails if a version is identified by the last observation of its key, and if a record that no key has known
    is not adopted."""
    simulation = complete_simulation
    write(simulation, 1, "a")
    simulation.start("poll", simulation.poll).step_until("after keys.bulk_write").kill()
    deliver(simulation)
    simulation.end_stream_lease("poll")
    stalled = simulation.start("poll", simulation.poll).step_until("read ceiling")
    simulation.end_stream_lease("poll")
    second = simulation.start("poll", simulation.poll).step_until("before keys.bulk_write")
    write(simulation, 1, "b")
    stalled.step_until("before records.insert_many")
    second.step_until("after keys.bulk_write")
    stalled.finish()
    second.finish()
    settle_account(simulation)
    assert sent(simulation) == ["a", "b"]


def test_what_only_a_dead_poll_has_seen_is_not_sent_once_the_row_went_back(strict_simulation: Simulation) -> None:
    """Invariant 5: it would be newer than the version that the key knows. Fails without the check of `version_seq`."""
    simulation = strict_simulation
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    write(simulation, 1, "b")
    simulation.start("poll", simulation.poll).step_until("after records.insert_many").kill()
    simulation.end_stream_lease("poll")
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    assert sent(simulation) == ["a"]
    assert states(simulation) == ["delivered", "superseded"]
    write(simulation, 1, "b")
    settle_account(simulation)
    assert sent(simulation) == ["a", "b"]


def test_two_updates_in_one_tick_are_two_versions(simulation: Simulation) -> None:
    """Two changes with the same cursor value, read one after the other, are both seen."""
    write_and_poll(simulation, 1, "a")
    number, _ = simulation.source.rows[1]
    simulation.source.rows[1] = (number, "b")
    poll(simulation)
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


def test_a_row_that_is_deleted_and_inserted_again_is_sent_again(versioned_simulation: Simulation) -> None:
    """A key that comes back with other content is a new version."""
    simulation = versioned_simulation
    write_and_poll(simulation, 1, "a")
    write_and_poll(simulation, 1, None)
    write(simulation, 1, "b")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


def test_a_call_that_outlived_its_lease_has_the_newest_sent_again(simulation: Simulation) -> None:
    """Invariant 5: the call of v1 lands after v2 was delivered, and its outcome is late. Fails without `resend`."""
    write_and_poll(simulation, 1, "a")
    stalled = deliver_up_to(simulation, "before call")
    lapse(simulation, stalled)
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    simulation.settle_calls()
    deliver(simulation)
    assert simulation.partner.holds[1] == "b"
    stalled.finish()
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    assert any(entry.get("late") for entry in records(simulation)[0]["history"]), "the late outcome is on record"


def test_an_ambiguous_call_that_lands_late_has_the_newest_sent_again(simulation: Simulation) -> None:
    """Invariant 5: v1 got no answer, v2 was delivered, then v1 lands. Fails without `note_unsettled` in deliver."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["delayed"]
    deliver_up_to(simulation, "after records.bulk_write").kill()
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    assert simulation.partner.delayed
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    newest = records(simulation)[-1]
    assert newest["generation"] == 1, "sent again under a new Idempotency-Key"


def test_a_lost_call_that_lands_late_has_the_newest_sent_again(simulation: Simulation) -> None:
    """Invariant 5: the worker dies after sending v1, v2 is delivered, then v1 lands. Fails without `note_unsettled`
    in maintenance."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["delayed"]
    crash_at(simulation, "after call")
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    assert simulation.partner.holds[1] == "b"
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_call_in_another_mapping_that_lands_late_has_its_record_sent_again(
    simulation: Simulation, is_lost: bool
) -> None:
    """Invariant 5: a call got no answer, the mapping changed, the record was delivered under a new key, and then the
    first call lands with the old bytes. Fails if a delivery only takes calls of older versions into account."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["delayed"]
    if is_lost:
        crash_at(simulation, "after call")
    else:
        deliver_up_to(simulation, "after records.bulk_write").kill()
    simulation.mapping += 1
    simulation.testbed.make_retries_due()
    deliver(simulation)
    assert simulation.partner.bodies[1] == "1:a"
    settle_account(simulation)
    assert simulation.partner.bodies[1] == "1:a"


def test_a_late_call_of_the_record_itself_in_another_mapping_has_it_sent_again(simulation: Simulation) -> None:
    """Invariant 5: a call outlived its lease and its deadline, and lands with the old bytes after the record was
    delivered in another mapping. Fails if a late call is only taken into account for newer versions."""
    write_and_poll(simulation, 1, "a")
    stalled = deliver_up_to(simulation, "before call")
    lapse(simulation, stalled)
    simulation.mapping += 1
    simulation.settle_calls()
    deliver(simulation)
    simulation.settle_calls()
    assert (simulation.partner.bodies[1], states(simulation)) == ("1:a", ["delivered"])
    stalled.finish()
    settle_account(simulation)
    assert [entry["action"] for entry in records(simulation)[0]["history"] if entry["action"] == "resent"] == ["resent"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_call_that_landed_before_an_older_one_goes_again_under_a_new_key(
    simulation: Simulation, is_lost: bool
) -> None:
    """Invariant 5: v2 was applied without the ledger's knowledge, then v1 lands after it. Under its old key the partner
    takes the next call of v2 for a repeat. Fails if only the last call of v2 is compared with the calls of v1."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["delayed", "unanswered"]
    deliver_up_to(simulation, "after records.bulk_write").kill()
    write_and_poll(simulation, 1, "b")
    if is_lost:
        crash_at(simulation, "after call")
    else:
        deliver_up_to(simulation, "after call").step_until("after records.bulk_write").kill()
    assert simulation.partner.holds[1] == "b"
    settle_account(simulation)
    assert sent(simulation)[:2] == ["b", "a"]
    assert simulation.partner.holds[1] == "b"


def test_an_outcome_without_its_lease_never_sets_the_state(simulation: Simulation) -> None:
    """Invariant 3. Fails if outcomes are written without the token."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["reject"]
    stalled = deliver_up_to(simulation, "after call")
    lapse(simulation, stalled)
    simulation.settle_calls()
    deliver(simulation)
    assert states(simulation) == ["delivered"]
    stalled.finish()
    assert states(simulation) == ["delivered"]


def test_what_one_process_has_taken_another_leaves_alone(simulation: Simulation) -> None:
    """Invariant 3: a message that comes twice wakes two processes. Fails if a claim does not check the state."""
    write_and_poll(simulation, 1, "a")
    first = deliver_up_to(simulation, "before records.update_many")
    simulation.end_stream_lease("dispatch")
    second = deliver_up_to(simulation, "before call")
    first.finish()
    second.finish()
    assert sent(simulation) == ["a"]


def test_a_batch_whose_calls_never_began_is_due_at_once(simulation: Simulation) -> None:
    """Invariant 13: nothing was sent, so the record waits for nothing, and its history has no entry. Fails without
    `give_back_unsent`."""
    write_and_poll(simulation, 1, "a")
    crash_at(simulation, "after records.update_many")
    deliver(simulation)
    assert sent(simulation) == ["a"]
    assert [entry["action"] for entry in records(simulation)[0]["history"]] == ["attempt"]
    assert records(simulation)[0]["claims"] == 1
    settle_account(simulation)


def test_a_call_that_was_about_to_begin_counts_as_made(simulation: Simulation) -> None:
    """Invariants 4 and 5: it is unknown whether the call was made. Its record waits for the deadline, and the history
    has it as lost. Fails if a call is not noted before it begins."""
    write_and_poll(simulation, 1, "a")
    crash_at(simulation, "call waits")
    deliver(simulation)
    assert sent(simulation) == [], "it is due after the deadline of the call that may have been made"
    simulation.settle_calls()
    deliver(simulation)
    assert sent(simulation) == ["a"]
    assert [entry["action"] for entry in records(simulation)[0]["history"]] == ["lost", "attempt"]
    settle_account(simulation)


def test_only_calls_that_began_are_lost_with_their_process(simulation: Simulation) -> None:
    """Invariant 13: in a batch of three, one call was about to begin; the other two records are due at once."""
    for key in (1, 2, 3):
        write(simulation, key, "a")
    poll(simulation)
    simulation.partner.answers = ["delayed"]
    crash_at(simulation, "after call")
    begun = [key for key in (1, 2, 3) if records(simulation, key)[0].get("losses")]
    assert 0 < len(begun) < 3
    deliver(simulation)
    assert sorted(call.key for call in simulation.partner.log) == sorted({1, 2, 3} - set(begun))
    settle_account(simulation)


def test_a_lease_that_is_renewed_is_nobody_elses(simulation: Simulation) -> None:
    """Invariant 3: a call lasts for many leases, and its process renews. Fails without `renew_leases`."""
    write_and_poll(simulation, 1, "a")
    process = deliver_up_to(simulation, "before call")
    for _ in range(10):
        simulation.pass_time(0.3)
        process.actors[0].step_until("between turns")
        simulation.run("rescue", simulation.rescue)
    assert states(simulation) == ["sending"]
    process.finish()
    assert states(simulation) == ["delivered"]
    assert records(simulation)[0]["attempts"] == 1


def test_a_process_that_stood_still_past_its_lease_begins_no_call(simulation: Simulation) -> None:
    """Invariant 3: its batch was brought back between two renewals. Fails if `begin` does not check that the lease is
    held, and if waiting calls do not."""
    for key in (1, 2, 3):
        write(simulation, key, "a")
    poll(simulation)
    stalled = deliver_up_to(simulation, "call waits")
    lapse(simulation, stalled)
    begun = {key for key in (1, 2, 3) if records(simulation, key)[0].get("losses")}
    assert begun
    stalled.finish()
    assert not begun & {call.key for call in simulation.partner.log}
    settle_account(simulation)
    assert len(simulation.partner.log) == 3


def test_a_lease_counts_from_before_mongodb_was_asked_for_it(simulation: Simulation) -> None:
    """Invariant 3: a process stands still between MongoDB's answer and its own clock, until the lease has run out. The
    oracle judges each call that begins. Fails if `begin` or `renew` reads the clock only after MongoDB's answer."""
    write_and_poll(simulation, 1, "a")
    begins = deliver_up_to(simulation, "after records.update_many").step_until("after batches.update_one")
    simulation.pass_time(1.5, [begins])
    begins.finish()
    settle_account(simulation)
    write_and_poll(simulation, 1, "b")
    renews = deliver_up_to(simulation, "call waits")
    simulation.pass_time(0.4, [renews])
    renews.actors[0].step_until("after batches.update_many")
    simulation.pass_time(1.5, [renews])
    renews.finish()
    settle_account(simulation)


def test_what_a_pause_stops_has_not_begun(simulation: Simulation) -> None:
    """Invariant 13: if its process died now, the call would be taken for lost. Fails if calls are noted although none
    of them may begin."""
    for key in range(1, 7):
        write(simulation, key, "a")
    poll(simulation)
    process = deliver_up_to(simulation, "before call")
    process.actors[0].step_until("between turns")
    begun = list_begun(simulation)
    assert 0 < len(begun) < 6
    simulation.ledger.streams.pause("orders", who="$me", reason="$why")
    process.clock += 1.0
    while not process.done:
        process.step()
        assert list_begun(simulation) <= begun
    settle_account(simulation)


def list_begun(simulation: Simulation) -> set[str]:
    """Return the records whose calls are noted as begun."""
    return {record for batch in simulation.database.batches.find() for record in batch["begun"]}


def test_calls_of_a_batch_that_was_seized_never_begin(simulation: Simulation) -> None:
    """Invariant 3: a process stands still before it notes its calls; another has begun to bring its batch back. Fails
    if `begin` does not check that the lease is held: the oracle judges each call that begins."""
    write_and_poll(simulation, 1, "a")
    stalled = deliver_up_to(simulation, "after records.update_many").step_until("before batches.update_one")
    simulation.pass_time(1.5, [stalled])
    rescue = simulation.start("rescue", simulation.rescue).step_until("after batches.find_one_and_update")
    stalled.finish()
    rescue.finish()
    settle_account(simulation)
    assert sent(simulation) == ["a"], "it is given back unsent, and goes once, with another batch"


def test_a_lease_that_ran_out_cannot_be_renewed(simulation: Simulation) -> None:
    """Invariant 3: another process has begun to bring the batch back, and stands still; the owner must not continue.

    The oracle judges each call that begins. Fails if `renew` does not check whether the batch was seized.
    """
    for key in (1, 2, 3):
        write(simulation, key, "a")
    poll(simulation)
    stalled = deliver_up_to(simulation, "before call")
    simulation.pass_time(1.5, [stalled])
    rescue = simulation.start("rescue", simulation.rescue).step_until("before records.update_many")
    # MongoDB's clock is behind for a while, like that of a new primary, so that by it the lease is valid again.
    simulation.shift_leases(-1.5)
    stalled.finish()
    simulation.shift_leases(1.5)
    rescue.finish()
    settle_account(simulation)


def test_a_rescue_that_died_halfway_is_made_again(simulation: Simulation) -> None:
    """Invariant 2: a rescue dies between two of its writes, and another one achieves the same result. Fails if a seized
    batch stays seized."""
    for key in (1, 2, 3):
        write(simulation, key, "a")
    poll(simulation)
    simulation.kill_delivery(deliver_up_to(simulation, "before call"), on_the_wire=True)
    simulation.pass_time(1.5)
    for at in ("after records.update_many", "after keys.bulk_write", "after records.bulk_write"):
        simulation.start("rescue", simulation.rescue).step_until(at).kill()
        simulation.run("rescue", simulation.rescue)
        assert simulation.database.batches.count_documents({}) == 1, "one process at a time"
        simulation.end_stream_lease("rescue")
    simulation.run("rescue", simulation.rescue)
    assert simulation.database.batches.count_documents({}) == 0
    lost = [entry for key in (1, 2, 3) for entry in records(simulation, key)[0].get("history", ())]
    assert [entry["action"] for entry in lost] == ["lost"] * len(lost)
    assert [states(simulation, key) for key in (1, 2, 3)] == [["pending"]] * 3
    settle_account(simulation)


def test_what_was_taken_after_its_batch_had_ended_comes_back(simulation: Simulation) -> None:
    """Invariant 12: a process stands still between the two writes of a claim for so long that others have ended its
    batch; then it takes the records anyway, and dies. Fails without `give_back_stranded`."""
    write_and_poll(simulation, 1, "a")
    stalled = deliver_up_to(simulation, "before records.update_many")
    lapse(simulation, stalled)
    assert simulation.database.batches.count_documents({}) == 0
    stalled.step_until("after records.update_many").kill()
    assert states(simulation) == ["sending"]
    settle_account(simulation)
    assert states(simulation) == ["delivered"]


def test_what_is_taken_while_maintenance_looks_for_such_records_stays_taken(simulation: Simulation) -> None:
    """Invariant 3: a batch exists before its records are taken. Fails if maintenance reads the batches first."""
    write_and_poll(simulation, 1, "a")
    upkeep = simulation.start("upkeep", simulation.maintain).step_until("before records.aggregate")
    process = deliver_up_to(simulation, "before call")
    upkeep.finish()
    assert states(simulation) == ["sending"]
    process.finish()
    settle_account(simulation)
    assert sent(simulation) == ["a"]


def test_a_claim_that_dies_after_the_answer_repeats_the_same_call(simulation: Simulation) -> None:
    """Invariant 7: at worst the call comes twice, under the same key and with the same bytes."""
    write_and_poll(simulation, 1, "a")
    crash_at(simulation, "after call")
    settle_account(simulation)
    assert len(simulation.partner.log) == 2
    assert len({(call.idempotency_key, call.content) for call in simulation.partner.log}) == 1
    assert [call.attempt for call in simulation.partner.log] == [1, 2]


def test_a_crash_between_keys_and_records_repeats_the_same_call(simulation: Simulation) -> None:
    """Invariants 5 and 7: the key knows of a delivery, but the record does not. Fails if records are written before
    keys: then a call without an answer is forgotten, although a newer version must know of it."""
    write_and_poll(simulation, 1, "a")
    crash_at(simulation, "after keys.update_many")
    settle_account(simulation)
    assert len({(call.idempotency_key, call.content) for call in simulation.partner.log}) == 1
    write_and_poll(simulation, 1, "b")
    simulation.partner.answers = ["delayed"]
    deliver_up_to(simulation, "after records.bulk_write").kill()
    write_and_poll(simulation, 1, "c")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "c"


def test_an_outcome_that_cannot_be_written_is_kept(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 7: a call that is recorded nowhere would be made again. Fails if a failed write drops its outcomes."""
    refused = []

    def refuse(*_: object, **__: object) -> None:
        refused.append(True)
        raise ServiceUnavailable("cannot reach MongoDB", service="mongodb")

    for key in (1, 2, 3):
        write(simulation, key, "a")
    poll(simulation)
    process = simulation.start_delivery()
    process.writes_at_once = True
    with monkeypatch.context() as broken:
        broken.setattr(simulation.ledger.delivery_states, "write_transitions", refuse)
        while len(refused) < 5:
            process.step()
    process.finish()
    assert len(simulation.partner.log) == 3
    assert [states(simulation, key) for key in (1, 2, 3)] == [["delivered"]] * 3
    settle_account(simulation)
    assert len(simulation.partner.log) == 3


def test_a_call_that_was_to_begin_is_made_although_another_could_not_be_noted(simulation: Simulation) -> None:
    """Invariant 12: MongoDB cannot be reached while the calls of a second batch are noted; those of the first are made
    anyway. Fails if they are dropped: their process would hold their records for ever."""
    for key in (1, 2, 3, 4):
        write(simulation, key, "a")
    poll(simulation)
    poll(simulation)
    process = simulation.start_delivery()
    # Two batches are taken; two calls are noted, the third, and then the fourth.
    for _ in range(5):
        process.step_until("before batches.update_one")
    process.actors[0].cut = "before"
    process.finish()
    assert sorted(call.key for call in simulation.partner.log) == [1, 2, 3, 4]
    settle_account(simulation)


def test_a_mapping_that_changed_after_a_crash_takes_a_new_key(simulation: Simulation) -> None:
    """Invariant 7: other bytes never go under an old key. Fails without the mapping's hash in the claim."""
    write_and_poll(simulation, 1, "a")
    crash_at(simulation, "after call")
    simulation.mapping += 1
    settle_account(simulation)
    assert len({call.idempotency_key for call in simulation.partner.log}) == 2


def test_a_record_that_kills_its_worker_each_time_is_poison(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that was lost three times, and alone after the first, is failed; the rows beside it arrive."""
    monkeypatch.setattr(delivery_lane, "BEGIN_AT_ONCE", 16)
    write(simulation, 1, "a")
    write(simulation, 2, "a")
    poll(simulation)
    losses = 0
    for _ in range(20):
        process = simulation.start_delivery()
        while not process.done and not any(is_poison(call) for call in process.under_way):
            process.step()
        if process.done:
            continue
        (batch,) = simulation.database.batches.find({"begun": records(simulation)[0]["_id"]})
        assert len(batch["ids"]) == (2 if losses == 0 else 1), "what was lost in sending travels alone"
        losses += 1
        simulation.kill_delivery(process, on_the_wire=False)
        lapse(simulation, process)
        simulation.settle_calls()
        if states(simulation) == ["failed"]:
            break
    assert losses == 3
    assert states(simulation) == ["failed"]
    settle_account(simulation)
    assert states(simulation, 2) == ["delivered"]
    assert sent(simulation) == []


def is_poison(call: Any) -> bool:
    """Tell whether a call is that of row 1."""
    return any(record.key["id"] == 1 for record in call.bulk.records)


def test_what_is_lost_in_company_is_no_poison(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of the other records may have killed the process. A process that chose the records before their first loss
    still takes them together, and dies too. Fails if each such loss is counted."""
    monkeypatch.setattr(delivery_lane, "BEGIN_AT_ONCE", 16)
    for key in (1, 2):
        write(simulation, key, "a")
    poll(simulation)
    processes = []
    for _ in range(3):
        processes.append(deliver_up_to(simulation, "before batches.update_one"))
        simulation.end_stream_lease("dispatch")
    for process in processes:
        process.step_until("before call")
        simulation.kill_delivery(process, on_the_wire=False)
        lapse(simulation, process)
        simulation.settle_calls()
    assert [len(records(simulation, key)[0]["history"]) for key in (1, 2)] == [3, 3]
    assert [records(simulation, key)[0]["losses"] for key in (1, 2)] == [1, 1]
    settle_account(simulation)
    assert [states(simulation, key) for key in (1, 2)] == [["delivered"], ["delivered"]]


def test_who_finds_another_choosing_looks_again(simulation: Simulation) -> None:
    """A wake-up that comes just after another process has looked for records is not lost. Fails if a refused look is
    treated like one that found nothing."""
    write(simulation, 1, "a")
    holder = deliver_up_to(simulation, "before streams.update_one")
    poll(simulation)
    second = simulation.start_delivery()
    second.step_until("between turns")
    assert not second.done
    holder.actors[0].finish()
    second.finish()
    assert sent(simulation) == ["a"]


def test_a_process_paused_after_reading_does_not_send_what_changed_since(simulation: Simulation) -> None:
    """A process that read a record as due continues after the record was sent, rejected and discarded."""
    write_and_poll(simulation, 1, "a")
    paused = deliver_up_to(simulation, "before records.update_many")
    simulation.end_stream_lease("dispatch")
    simulation.partner.answers = ["reject"]
    deliver(simulation)
    simulation.run("discard", simulation.discard)
    paused.finish()
    assert sent(simulation) == []
    assert states(simulation) == ["discarded"]


def test_a_replay_of_an_old_version_after_a_newer_was_delivered_and_cleaned_is_skipped(simulation: Simulation) -> None:
    """`keys` outlives the records, so that the old version cannot be taken for the newest."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["reject"]
    deliver(simulation)
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    simulation.run("cleanup", lambda: simulation.clean_up((State.DELIVERED,)))
    assert [record["payload"]["content"] for record in records(simulation)] == ["a"]
    simulation.run("replay", lambda: simulation.replay(("failed",)))
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    assert len(simulation.partner.log) == 1


def test_a_restored_source_stops_its_stream(versioned_simulation: Simulation) -> None:
    """A version that comes back with another content is never a no-op, and the cursor does not move."""
    simulation = versioned_simulation
    write_and_poll(simulation, 1, "a")
    before = simulation.database.streams.find_one({"_id": "orders"})["cursor"]
    simulation.source.rows[1] = (1, "restored")
    simulation.database.streams.update_one({"_id": "orders"}, {"$set": {"cursor.at": "0"}})
    with pytest.raises(AssertionError, match="versions have begun again"):
        poll(simulation)
    assert simulation.database.streams.find_one({"_id": "orders"})["cursor"]["at"] == "0"
    assert before["at"] == "1"


def test_what_a_dead_poll_has_logged_is_sent_once_another_poll_finds_it(simulation: Simulation) -> None:
    """Invariant 1: the row stays as the dead poll saw it. Fails if dispatch sets aside records that no key knows."""
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    write(simulation, 1, "b")
    simulation.start("poll", simulation.poll).step_until("after records.insert_many").kill()
    deliver(simulation)
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"
    assert len(records(simulation)) == 2


def test_a_page_that_was_read_before_another_poll_wrote_is_not_compared_with_what_that_wrote(
    simulation: Simulation,
) -> None:
    """Invariant 8: a poll stalls with an old page in hand, the row changes, another poll logs and delivers it.

    Fails if a page may be compared with keys that a later poll has written: the old content would look like a change.
    """
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    write(simulation, 1, "b")
    stalled = simulation.start("poll", simulation.poll).step_until("before keys.find")
    write(simulation, 1, "c")
    simulation.end_stream_lease("poll")
    poll(simulation)
    deliver(simulation)
    stalled.finish()
    assert [record["payload"]["content"] for record in records(simulation)] == ["a", "c"]
    settle_account(simulation)
    assert simulation.partner.holds[1] == "c"


def test_a_poll_that_stalled_before_its_keys_writes_none_of_them(simulation: Simulation) -> None:
    """Invariant 8: another poll has seen the row since. Fails without comparing `seq` when a key is written."""
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    write(simulation, 1, "b")
    stalled = simulation.start("poll", simulation.poll).step_until("before keys.bulk_write")
    write(simulation, 1, "a")
    simulation.end_stream_lease("poll")
    poll(simulation)
    stalled.finish()
    write(simulation, 1, "b")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b", "the next change must not look like no change"


def test_a_poll_that_was_taken_over_does_not_move_the_cursor_back(versioned_simulation: Simulation) -> None:
    """Invariant 8. Fails when the cursor is written without the lease's token."""
    simulation = versioned_simulation
    write(simulation, 1, "a")
    stalled = simulation.start("poll", simulation.poll).step_until("after keys.bulk_write")
    write(simulation, 2, "a")
    simulation.end_stream_lease("poll")
    poll(simulation)
    stalled.finish()
    assert simulation.database.streams.find_one({"_id": "orders"})["cursor"]["at"] == "2"
    settle_account(simulation)


def test_a_newer_version_waits_while_an_older_one_is_in_flight(simulation: Simulation) -> None:
    """Invariant 5. Fails without the unique index on records in flight."""
    write_and_poll(simulation, 1, "a")
    flying = deliver_up_to(simulation, "before call")
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    assert states(simulation) == ["sending", "pending"]
    flying.finish()
    assert sent(simulation) == ["a", "b"], "whoever ends a batch looks for more"
    settle_account(simulation)


def test_a_key_in_flight_keeps_only_its_own_record_back(simulation: Simulation) -> None:
    """Invariant 5: two processes choose at once, and one finds a key taken between its look and its claim. Fails
    without the unique index, and if one duplicate keeps the rest of the batch back."""
    write_and_poll(simulation, 1, "a")
    first = deliver_up_to(simulation, "before records.update_many")
    simulation.end_stream_lease("dispatch")
    write(simulation, 2, "a")
    write_and_poll(simulation, 1, "b")
    # It has seen both versions as due, and is about to set the older one aside.
    second = deliver_up_to(simulation, "before records.bulk_write")
    first.step_until("after records.update_many")
    second.step_until("before call")
    assert states(simulation) == ["sending", "pending"]
    assert states(simulation, 2) == ["sending"]
    settle_account(simulation)


def test_an_old_version_that_waits_makes_way_for_a_newer_one(simulation: Simulation) -> None:
    """Invariant 5: it is set aside before any process claims it. Fails if dispatch does not supersede it."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["later"]
    deliver_up_to(simulation, "after records.bulk_write").kill()
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    older = records(simulation)[0]
    assert older["state"] == "superseded"
    assert older["claims"] == 1
    settle_account(simulation)
    assert sent(simulation) == ["b"]


def test_a_delivered_record_is_replayed_under_a_new_key(simulation: Simulation) -> None:
    """Under the old `Idempotency-Key` the partner would do nothing. Fails when replay keeps it."""
    write_and_poll(simulation, 1, "a")
    deliver(simulation)
    simulation.run("replay", lambda: simulation.replay(("delivered",)))
    settle_account(simulation)
    assert len({call.idempotency_key for call in simulation.partner.log}) == 2


def test_a_row_that_is_gone_before_another_poll_sees_it_is_sent_all_the_same(simulation: Simulation) -> None:
    """Invariant 1: it was logged by a poll that died, and deleted. Fails if dispatch waits for that poll for ever."""
    write(simulation, 1, "a")
    simulation.start("poll", simulation.poll).step_until("after records.insert_many").kill()
    write(simulation, 1, None)
    settle_account(simulation)
    assert records(simulation)[0]["state"] == "delivered"
    assert simulation.partner.holds[1] == "a"


def test_a_poll_that_was_stopped_between_pages_has_not_seen_the_rest(simulation: Simulation) -> None:
    """Invariant 5: the records of a dead poll wait for a poll that reads to the end. Fails if a stopped poll is taken
    for one."""
    for key in (1, 2, 3, 4):
        write(simulation, key, "a")
    simulation.start("poll", simulation.poll).step_until("after records.insert_many").kill()
    write(simulation, 1, "b")
    simulation.end_stream_lease("poll")
    simulation.page_budget = 1
    poll(simulation)
    deliver(simulation)
    assert sorted(call.key for call in simulation.partner.log) == [2, 3, 4]
    simulation.page_budget = 1000
    settle_account(simulation)
    assert sent(simulation) == ["b"]


def test_what_was_lost_does_not_wait_for_the_end_of_a_backlog(simulation: Simulation) -> None:
    """Oldest first: the records of a dead worker are sent before rows that came later. Fails if dispatch takes records
    that are sent alone after all those that are sent together."""
    write_and_poll(simulation, 1, "a")
    crash_at(simulation, "before call")
    for key in range(2, 12):
        write(simulation, key, "a")
    poll(simulation)
    simulation.settle_calls()
    deliver_up_to(simulation, "after records.update_many")
    assert states(simulation) == ["sending"]
    assert all(states(simulation, key) == ["pending"] for key in range(2, 12)), "and alone"
    settle_account(simulation)


def test_a_proxy_that_gave_up_counts_as_a_call_that_may_land(simulation: Simulation) -> None:
    """Invariant 5: v1 got a 504 and lands after v2. Fails if only a call without an answer is taken to land later."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["given up"]
    deliver_up_to(simulation, "after records.bulk_write").kill()
    write_and_poll(simulation, 1, "b")
    deliver(simulation)
    settle_account(simulation)
    assert simulation.partner.holds[1] == "b"


def test_a_renewal_that_comes_between_death_and_rescue_changes_nothing(simulation: Simulation) -> None:
    """Invariant 7: a process that gives its records back while another brings them back does it once."""
    for key in (1, 2, 3):
        write(simulation, key, "a")
    poll(simulation)
    stopping = deliver_up_to(simulation, "call waits")
    simulation.pass_time(1.5, [stopping])
    rescue = simulation.start("rescue", simulation.rescue).step_until("before records.find")
    stopping.is_stopping = True
    stopping.finish()
    rescue.finish()
    assert [records(simulation, key)[0]["claims"] for key in (1, 2, 3)] == [0, 0, 0]
    settle_account(simulation)


def test_a_row_that_comes_back_after_its_key_was_removed_reaches_the_partner(tracked_simulation: Simulation) -> None:
    """Invariant 5: the partner may remember each `Idempotency-Key`, and the bytes sent under it, for ever. Fails if the
    row is sent under a key from before its deletion."""
    simulation = tracked_simulation
    for content in ("a", None):
        write_and_poll(simulation, 1, content)
        deliver(simulation)
    for _ in range(2):
        simulation.run("cleanup", simulation.clean_up)
        simulation.age_deletes()
    assert simulation.database["keys"].count_documents({}) == 0
    write_and_poll(simulation, 1, "a")
    settle_account(simulation)
    assert simulation.partner.holds[1] == "a"


def test_a_crash_between_a_delivery_and_what_it_supersedes_leaves_no_failed_version(simulation: Simulation) -> None:
    """Invariant 5: the versions that a delivery makes out of date are superseded before the delivery is recorded: once
    recorded, neither of the two would be repeated. Fails if `_supersede_failed` follows the transitions."""
    write_and_poll(simulation, 1, "a")
    simulation.partner.answers = ["reject"]
    deliver(simulation)
    assert states(simulation) == ["failed"]
    write_and_poll(simulation, 1, "b")
    process = simulation.start_delivery()
    while states(simulation)[-1] != "delivered":
        process.step()
    simulation.kill_delivery(process, on_the_wire=False)
    settle_account(simulation)
    assert states(simulation) == ["superseded", "delivered"]
